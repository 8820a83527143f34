"""Perplexity: closed forms, probabilities that sum to one, and controls that are what they say."""

import gzip
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from unlabeled.data.text.data import Texts
from unlabeled.encoders.text import TextEncoder, fitted
from unlabeled.evaluation.byte_model import ByteModel, gzip_nats
from unlabeled.evaluation.model import EvaluatedModel
from unlabeled.evaluation.sources import Source
from unlabeled.evaluation.tasks.perplexity import TASK, bits_per_byte, per_piece, surprise
from unlabeled.methods.gpt import GPT
from unlabeled.methods.neural_language_model import NeuralLanguageModel

CPU = torch.device("cpu")
WORDS = ["cat", "dog", "tree", "river", "stone", "bird", "house", "road", "field", "lake"]


def texts(seed: int, documents: int = 6) -> Texts:
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(len(WORDS), (documents, 12, 2), generator=generator).tolist()
    return Texts([" ".join(f"The {WORDS[a]} is near {WORDS[b]}ö." for a, b in pairs) for pairs in draws])


def encoder() -> TextEncoder:
    torch.manual_seed(0)
    return fitted("gpt-tiny", texts(0), length=32)


def test_equal_logits_have_the_perplexity_of_the_vocabulary_and_its_bits_per_byte() -> None:
    network = encoder()
    network.trunk.model.ln_f.weight.data.zero_()
    network.trunk.model.ln_f.bias.data.zero_()
    data = texts(1)
    blocks = network.blocks(data)
    nats = surprise(GPT(network), blocks, blocks.documents.unique(), CPU)
    pieces = torch.zeros(6).index_add_(0, blocks.documents, (blocks.lengths - 1).float())
    sizes = torch.tensor([len(text.encode()) for text in data.texts])
    assert per_piece(nats, pieces) == pytest.approx(network.vocabulary, rel=1e-5)
    expected = math.log2(network.vocabulary) * float(pieces.sum()) / int(sizes.sum())
    assert bits_per_byte(nats, sizes) == pytest.approx(expected, rel=1e-5)


def test_closed_forms() -> None:
    nats, pieces = torch.tensor([2.0, 6.0]), torch.tensor([1, 3])
    assert per_piece(nats, pieces) == pytest.approx(math.exp(2))
    assert bits_per_byte(nats, torch.tensor([4, 4])) == pytest.approx(1 / math.log(2))


def test_every_piece_of_every_text_is_predicted_exactly_once() -> None:
    network, data = encoder(), texts(1)
    blocks = network.blocks(data)
    for number, text in enumerate(data.texts):
        rows = blocks.subset(blocks.documents == number)
        tokens = [
            token for row in range(len(rows)) for token in rows.batch(torch.tensor([row]))["tokens"][0, 1:]
        ]
        assert network.decode(torch.stack(tokens)) == text


@pytest.mark.parametrize("order", [1, 2, 3])
def test_probabilities_of_bytes_sum_to_one(order: int) -> None:
    model = ByteModel([b"abracadabra " * 5, b"banana bandana"])
    every = np.arange(256)
    for context in (b"ab", b"na", b"zz", b"az", b"\n\n"):
        first, second = np.full(256, context[0]), np.full(256, context[1])
        assert model.probabilities(first, second, every, order).sum() == pytest.approx(1, rel=1e-12)


def test_byte_model_agrees_with_counting_by_hand_and_profits_from_context() -> None:
    model = ByteModel([b"aab"])
    # Contexts: \n\n -> a, \na -> a, aa -> b. Bytes: a twice, b once.
    single = (2 + 1) / (3 + 256)
    pair = (1 + 1 * single) / (1 + 1)  # behind \n only a, once
    assert math.exp(-model.nats(b"a", 1)) == pytest.approx(single)
    assert math.exp(-model.nats(b"a", 2)) == pytest.approx(pair)
    assert math.exp(-model.nats(b"a", 3)) == pytest.approx((1 + pair) / 2)
    text = "".join(texts(0).texts).encode()
    model = ByteModel([text])
    assert model.nats(text, 3) < model.nats(text, 2) < model.nats(text, 1)


def test_gzip_is_that_of_one_file_divided_among_the_documents() -> None:
    documents = [text.encode() for text in texts(0).texts]
    nats = gzip_nats(documents)
    whole = len(gzip.compress(b"".join(documents), 9))
    assert float(nats.sum()) == pytest.approx(8 * math.log(2) * whole)
    assert nats[0] > nats[-1], "later documents profit from earlier ones"


def test_ours_stands_beside_its_random_twin_and_all_controls() -> None:
    torch.manual_seed(0)
    network = encoder()
    method = GPT(network)
    blocks = method.training_view(texts(0))
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        method(blocks.sample(16, seed=1)).backward()
        optimizer.step()
    found = TASK(EvaluatedModel(network, method), (texts(0), texts(1)))
    numbers = {(m.unit, m.features): float(m.values) for m in found}
    assert {name for unit, name in numbers if unit == "perplexity"} == {
        "unlabeled",
        "random",
        "piece unigram",
        "Kneser-Ney 5-grams",
    }
    assert {name for unit, name in numbers if unit == "bits per byte"} == {
        *("unlabeled", "random", "gzip -9", "byte unigram", "byte trigram", "Kneser-Ney 5-grams")
    }
    assert numbers["perplexity", "unlabeled"] < numbers["perplexity", "piece unigram"]
    assert numbers["perplexity", "Kneser-Ney 5-grams"] < numbers["perplexity", "piece unigram"]
    assert numbers["perplexity", "random"] == pytest.approx(network.vocabulary, rel=0.1)
    assert numbers["bits per byte", "unlabeled"] < numbers["bits per byte", "random"]
    for m in found:
        assert m.better == "lower" and m.left_out is not None and m.left_out.units == m.samples == 6
        assert m.left_out.values.min() <= m.values <= m.left_out.values.max()


def test_documents_that_are_one_in_parts_are_counted_as_one() -> None:
    network = encoder()
    parts = texts(1)
    joined = Texts(parts.texts, documents=torch.tensor([0, 0, 1, 1, 2, 2]))
    found = TASK(EvaluatedModel(network), (texts(0), joined))
    assert {m.samples for m in found} == {3} == {m.left_out.units for m in found if m.left_out}
    assert f"{sum(len(text.encode()) for text in joined.whole())} bytes" in found[0].detail


def test_data_without_a_test_part_is_no_measure_of_unseen_texts_and_says_so() -> None:
    warning = "a part of texts cut off: no unseen texts for what was trained on all of it"
    with pytest.warns(UserWarning, match=warning):
        found = TASK(EvaluatedModel(encoder()), texts(0, documents=10))
    assert warning in found[0].detail and found[0].samples == 2
    found = TASK(EvaluatedModel(encoder()), (texts(0), texts(1)))
    assert warning not in found[0].detail


def test_texts_are_opened_with_the_options_of_the_run_and_known_to_be_divided(tmp_path: Path) -> None:
    rows = [f"{row % 2},the note {row},a much longer text of sample {row}" for row in range(20)]
    (tmp_path / "texts.csv").write_text("\n".join(["label,note,body", *rows]))
    options = {"kind": "text", "text_column": "note?", "levels": {}, "max_broken": 0.5}
    parts = TASK.open(Source(tmp_path / "texts.csv", None, options))
    assert parts.source.is_divided()
    assert all(text.startswith("the note") for text in parts.test.texts)  # type: ignore[attr-defined]
    (tmp_path / "train.csv").write_text("\n".join(["label,note,body", *rows]))
    (tmp_path / "texts.csv").rename(tmp_path / "test.csv")
    parts = TASK.open(Source(tmp_path, None, options))
    assert not parts.source.is_divided() and parts.test is not None and len(parts.test) == 20


def test_pieces_that_nobody_predicts_cost_the_counting_control_nothing() -> None:
    network, short = encoder(), Texts(["cat", "dog"])
    found = TASK(EvaluatedModel(network), (Texts(["cat"] * 10_000), short))
    control = next(m for m in found if m.features == "piece unigram")
    seen, pieces = network.encode(["cat"])[0], network.encode(["cat", "dog"])
    total = 10_000 * len(seen) + network.vocabulary
    costs = [math.log(total / (10_000 * seen.count(piece) + 1)) for ids in pieces for piece in ids]
    assert float(control.values) == pytest.approx(math.exp(sum(costs) / len(costs)))


def test_encoders_that_look_ahead_are_refused() -> None:
    with pytest.raises(ValueError, match="perplexity needs a causal encoder, such as gpt-mini, got"):
        TASK(EvaluatedModel(fitted("bert-tiny", texts(0))), (texts(0), texts(1)))


def test_documents_of_one_book_are_one_unit() -> None:
    network, test = encoder(), texts(1)
    test.groups = torch.tensor([5, 5, 5, 9, 9, 9])
    found = TASK(EvaluatedModel(network), (texts(0), test))
    for m in found:
        assert m.left_out is not None and (m.left_out.units, m.samples) == (2, 6)
        assert m.counted == "groups of documents"
    test.groups = torch.arange(6)
    assert {m.counted for m in TASK(EvaluatedModel(network), (texts(0), test))} == {"documents"}


def test_a_window_is_measured_with_the_head_of_its_method_and_refused_without() -> None:
    torch.manual_seed(0)
    method = NeuralLanguageModel(fitted("nplm-tiny", texts(0), length=32))
    model = EvaluatedModel(method.encoder, method)
    found = {(m.unit, m.features): m for m in TASK(model, (texts(0), texts(1)))}
    by_gpt = {(m.unit, m.features): m for m in TASK(EvaluatedModel(encoder()), (texts(0), texts(1)))}
    assert found.keys() == by_gpt.keys()
    for unit, features in (("perplexity", "piece unigram"), ("perplexity", "Kneser-Ney 5-grams")):
        ours, theirs = (float(one[unit, features].values) for one in (found, by_gpt))
        assert ours == pytest.approx(theirs, rel=1e-6), "the same pieces, however they are cut into blocks"
    for features in ("unlabeled", "random"):
        perplexity = float(found["perplexity", features].values)
        assert perplexity == pytest.approx(method.encoder.vocabulary, rel=0.02)
    with pytest.raises(
        ValueError, match="perplexity of nplm-tiny needs the run or method whose head predicts"
    ):
        TASK(EvaluatedModel(method.encoder), (texts(0), texts(1)))
