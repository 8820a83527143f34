"""Text encoders: padding does not matter, transformers reads them, tokenizers are the same every time."""

import math
from pathlib import Path

import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer

from unlabeled import encoders
from unlabeled.data.text.data import Texts
from unlabeled.encoders.text import NAMES, TextEncoder, TextInput, enclosed, fitted, mean_of_real

LINES = [
    "The cat sat on the mat.",
    "A dog saw the cat. It ran!",
    "Where is the dog? On the mat.",
    "Rain fell.",
]


def texts() -> Texts:
    return Texts([f"{line} {other}" for line in LINES for other in LINES], labels=torch.arange(16) % 2)


def encoder(name: str, length: int = 32) -> TextEncoder:
    torch.manual_seed(0)
    return fitted(name, texts(), length=length).eval()


both = pytest.mark.parametrize("name", ["bert-tiny", "bert-rotary-tiny", "gpt-tiny"])


@both
def test_padding_does_not_matter(name: str) -> None:
    network = encoder(name)
    data = network.evaluation_view(texts())
    together = network.inputs(data.batch(torch.arange(16)))
    assert not together.mask.all()
    for row in range(16):
        alone = network.inputs(data.batch(torch.tensor([row])))
        for layer in (None, *network.map_dims):
            torch.testing.assert_close(
                network.features(alone, layer)[0],
                network.features(together, layer)[row],
                rtol=1e-4,
                atol=1e-5,
            )


@both
def test_features_are_means_over_real_tokens_of_each_layer(name: str) -> None:
    network = encoder(name)
    x = network.inputs(network.evaluation_view(texts()).batch(torch.arange(5)))
    states = network.trunk.states(x)
    assert list(network.map_dims) == ["embedding", "layer1", "layer2"] and len(states) == 3
    slow = torch.stack([row[real].mean(0) for row, real in zip(states[-1], x.mask)])
    torch.testing.assert_close(network(x), slow)
    torch.testing.assert_close(network.features(x, "layer2"), slow)
    assert network(x).shape == (5, network.dim)
    with pytest.raises(ValueError, match="layer must be one of embedding, layer1, layer2, got nonsense"):
        network.features(x, "nonsense")


@both
def test_transformers_loads_model_and_tokenizer_and_gives_equal_features(name: str, tmp_path: Path) -> None:
    network = encoder(name)
    network.write_transformers(tmp_path)
    x = network.inputs(network.evaluation_view(texts()).batch(torch.arange(16)))
    expected = network(x)
    assert expected.std() > 0.1
    torch.testing.assert_close(network.read_transformers(tmp_path, x), expected, rtol=0, atol=1e-5)
    read = network.read_transformers(tmp_path, texts().texts)
    torch.testing.assert_close(read, expected, rtol=0, atol=1e-5)


@both
def test_long_texts_are_cut_alike_by_ours_and_by_transformers(name: str, tmp_path: Path) -> None:
    network, long = encoder(name), Texts([" ".join(texts().texts), "Rain fell."])
    network.write_transformers(tmp_path)
    x = network.inputs(network.evaluation_view(long).batch(torch.arange(2)))
    assert x.mask.sum(1).tolist()[0] == 32
    torch.testing.assert_close(network.read_transformers(tmp_path, long.texts), network(x), rtol=0, atol=1e-5)


@both
def test_saved_encoder_is_the_same_again_with_its_tokenizer(name: str, tmp_path: Path) -> None:
    network = encoder(name)
    network.save(tmp_path / "encoder.safetensors")
    loaded = encoders.load(tmp_path / "encoder.safetensors").eval()
    assert isinstance(loaded, TextEncoder) and loaded.config == network.config
    batch = network.evaluation_view(texts()).batch(torch.arange(4))
    assert torch.equal(loaded(loaded.inputs(batch)), network(network.inputs(batch)))
    assert torch.equal(loaded.raw(batch), network.raw(batch))


@both
def test_tokenizers_of_the_same_texts_are_the_same(name: str) -> None:
    assert encoder(name).config["tokenizer"] == encoder(name).config["tokenizer"]


def test_bert_reads_cls_text_sep_and_gpt_end_of_text_before_a_text() -> None:
    network = encoder("bert-tiny")
    x = network.inputs(network.evaluation_view(texts()).batch(torch.tensor([3])))
    assert network.decode(x.tokens[0]) == "[CLS] the cat sat on the mat. rain fell. [SEP]"
    network = encoder("gpt-tiny")
    x = network.inputs(network.evaluation_view(texts()).batch(torch.tensor([3])))
    assert network.decode(x.tokens[0]) == "<|endoftext|>The cat sat on the mat. Rain fell."


def test_bytes_of_any_language_come_back_from_gpts_tokens() -> None:
    network = encoder("gpt-tiny")
    for text in ("naïve  \n\ttext 你好 🙂", " x", "\x00\x7f"):
        assert network.decode(network.encode([text])[0]) == text


def test_enclosed_puts_tokens_around_the_real_ones() -> None:
    mask = torch.tensor([[True, True, True], [True, False, False]])
    tokens, real = enclosed(torch.tensor([[7, 8, 9], [7, 5, 5]]), mask, 1, 2)
    assert tokens.tolist() == [[1, 7, 8, 9, 2], [1, 7, 2, 0, 0]]
    assert real.sum(1).tolist() == [5, 3]


def test_mean_of_nothing_is_zero() -> None:
    assert mean_of_real(torch.ones(1, 3, 2), torch.zeros(1, 3, dtype=torch.bool)).tolist() == [[0, 0]]


def test_raw_is_tf_idf_as_scikit_learn_has_it() -> None:
    network, data = encoder("bert-tiny", 64), texts()
    names = [network.tokenizer.id_to_token(number) for number in range(network.vocabulary)]

    def pieces(text: str) -> list[str]:
        return [names[token] for token in network.encode([text])[0]]

    expected = TfidfVectorizer(
        tokenizer=pieces, vocabulary=names, lowercase=False, token_pattern=None
    ).fit_transform(data.texts)
    ours = network.raw(network.evaluation_view(data).batch(torch.arange(16)))
    torch.testing.assert_close(ours.double(), torch.from_numpy(expected.toarray()), rtol=1e-5, atol=1e-6)


def test_literal_names_of_special_tokens_are_read_but_break_nothing() -> None:
    network = encoder("bert-tiny")
    data = network.evaluation_view(Texts(["a [MASK] and [SEP] b"]))
    assert network(network.inputs(data.batch(torch.tensor([0])))).isfinite().all()


def test_bad_inputs_are_refused_by_name() -> None:
    network = encoder("bert-tiny")
    with pytest.raises(ValueError, match=r"batch must hold tokens of this encoder"):
        network.inputs(texts().batch(torch.arange(2)))
    with pytest.raises(ValueError, match="batch must hold at most 32 tokens, got 36"):
        network.inputs(texts().blocks(network.encode, 34).batch(torch.tensor([0])) | long_batch(34))
    with pytest.raises(ValueError, match="encoder must be one of bert-tiny"):
        fitted("bert-huge", texts())
    with pytest.raises(ValueError, match="tokenizer must be given to build bert-tiny"):
        encoders.build("bert-tiny", kind="text")
    with pytest.raises(ValueError, match="vocabulary must be at least 512, got 10"):
        fitted("bert-tiny", texts(), vocabulary=10)
    with pytest.raises(ValueError, match="data must be texts"):
        fitted("bert-tiny", network.blocks(texts()))


def long_batch(length: int) -> dict[str, torch.Tensor]:
    return {
        "tokens": torch.ones(1, length, dtype=torch.int64),
        "mask": torch.ones(1, length, dtype=torch.bool),
    }


@pytest.mark.parametrize(("name", "published"), [("bert-base", 109_482_240), ("gpt-base", 124_439_808)])
def test_largest_networks_have_the_published_numbers_of_parameters(name: str, published: int) -> None:
    from transformers import BertConfig, GPT2Config

    layers, width, heads = NAMES[name]
    config = BertConfig() if name.startswith("bert") else GPT2Config()
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (
        layers,
        width,
        heads,
    )
    block = 12 * width**2 + 13 * width
    vocabulary, positions = config.vocab_size, config.max_position_embeddings
    own = (2 * width + 2 * width) if name.startswith("bert") else 2 * width
    pooler = width**2 + width if name.startswith("bert") else 0
    assert layers * block + (vocabulary + positions) * width + own + pooler == published


@both
def test_weights_start_as_in_the_papers(name: str) -> None:
    network = encoder(name)
    cut = 0.88 if "rotary" in name else 1  # a normal distribution without what lies beyond two deviations
    assert network.embeddings.weight.std().item() == pytest.approx(0.02 * cut, rel=0.05)
    assert math.isclose(network.embeddings.weight.mean().item(), 0, abs_tol=1e-3)


def test_segments_reach_bert() -> None:
    network = encoder("bert-tiny")
    x = network.inputs(network.evaluation_view(texts()).batch(torch.arange(2)))
    other = TextInput(x.tokens, x.mask, torch.ones_like(x.tokens))
    assert not torch.allclose(network(x), network(other))


THAI = (
    "วันนี้อากาศดีเราไปเดินเล่นที่สวนสาธารณะเด็กเล่นว่าวริมทะเลสาบผู้สูงอายุเล่นหมากรุกใต้ต้นไม้แล้วเราก็กลับบ้านกันอย่างมีความสุขในตอนเย็น"
)


@pytest.mark.parametrize("text", [THAI, "今天天气很好我们去公园散步孩子们在湖边放风筝老人们在树下下棋" * 5])
def test_sentences_without_spaces_are_many_known_tokens(text):
    assert len(text) > 100
    encoder = fitted("bert-tiny", Texts([text] * 20))
    (tokens,) = encoder.encode([text])
    assert len(tokens) > len(text) / 3 and encoder.special("[UNK]") not in tokens


def test_many_unknown_tokens_are_said(caplog):
    fitted("bert-tiny", Texts(["x" * 150, "y" * 150, "plain words"]))
    assert "50% of the tokens are [UNK]" in caplog.text
    caplog.clear()
    fitted("bert-tiny", Texts(["plain words"]))
    assert not caplog.records
