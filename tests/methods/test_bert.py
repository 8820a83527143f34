"""BERT: parity with transformers, dynamic masks, and no way to cheat."""

import math

import pytest
import torch
from torch import Tensor

from unlabeled.data.notes import note
from unlabeled.data.text.data import Texts
from unlabeled.encoders.text import TextEncoder, TextInput, fitted
from unlabeled.methods.bert import BERT
from unlabeled.parts.sentence_pairs import draw, join
from unlabeled.parts.tokens import IGNORED
from unlabeled.run import load
from unlabeled.training.train import pretrain

NOUNS = "cat dog tree river stone bird house road field lake".split(" ")  # noqa: SIM905


def story(number: int, sentences: int) -> str:
    """Sentences of one document speak of its own noun."""
    generator = torch.Generator().manual_seed(number)
    own = NOUNS[number % len(NOUNS)]
    draws = torch.randint(len(NOUNS), (sentences, 2), generator=generator).tolist()
    return " ".join(f"The {own} is near the {NOUNS[a]} and a {NOUNS[b]}." for a, b in draws)


def texts(documents: int = 10, sentences: int = 12) -> Texts:
    return Texts([story(number, sentences) for number in range(documents)])


def encoder(data: Texts | None = None, length: int = 32, name: str = "bert-tiny") -> TextEncoder:
    torch.manual_seed(0)
    return fitted(name, data or texts(), length=length)


def batches(method: BERT, data: Texts, size: int) -> list[dict[str, Tensor]]:
    return list(method.training_view(data).batches(size))


def task(method: BERT, batch: dict[str, Tensor]) -> tuple[TextInput, Tensor, Tensor, Tensor]:
    x, chosen, tokens, label = method.task(batch)
    assert label is not None
    return x, chosen, tokens, label


def test_loss_equals_that_of_transformers_on_the_same_weights_masks_and_labels() -> None:
    from transformers import BertForPreTraining

    method = BERT(encoder()).eval()
    batch = batches(method, texts(), 16)[0]
    other = BertForPreTraining(method.encoder.trunk.model.config).eval()
    other.bert.load_state_dict(method.encoder.trunk.model.state_dict(), strict=False)
    heads = {
        "predictions.bias": method.words.bias,
        "predictions.decoder.bias": method.words.bias,
        "predictions.decoder.weight": method.encoder.embeddings.weight,
        "predictions.transform.dense": method.words.dense,
        "predictions.transform.LayerNorm": method.words.norm,
        "seq_relationship": method.next.last,
    }
    state = {}
    for name, value in heads.items():
        if isinstance(value, Tensor):
            state[name] = value
        else:
            state |= {f"{name}.{key}": tensor for key, tensor in value.state_dict().items()}
    other.cls.load_state_dict(state)
    other.bert.pooler.dense.load_state_dict(method.next.dense.state_dict())
    torch.manual_seed(1)
    ours = method(batch)
    torch.manual_seed(1)
    x, chosen, tokens, label = task(method, batch)
    assert (label >= 0).all()
    theirs = other(
        input_ids=x.tokens,
        attention_mask=x.mask.long(),
        token_type_ids=x.segment,
        labels=tokens.where(chosen, -100),
        next_sentence_label=label,
    )
    assert ours.item() == pytest.approx(theirs.loss.item(), rel=1e-6)


def test_loss_of_modernberts_recipe_equals_that_of_transformers() -> None:
    from transformers import ModernBertForMaskedLM

    method = BERT(encoder(name="bert-rotary-tiny"), hidden_ratio=0.3, next_sentence=False).eval()
    batch = batches(method, texts(), 8)[0]
    other = ModernBertForMaskedLM(method.encoder.trunk.model.config).eval()
    other.model.load_state_dict(method.encoder.trunk.model.state_dict())
    with torch.no_grad():
        method.words.dense.bias.zero_()  # as both are from the start; theirs has none
        other.head.dense.weight.copy_(method.words.dense.weight)
        other.decoder.bias.copy_(method.words.bias.normal_())
    torch.manual_seed(1)
    ours = method(batch)
    torch.manual_seed(1)
    x, chosen, truth, label = method.task(batch)
    lengths = x.mask.sum(1).tolist()
    assert label is None and chosen.sum(1).tolist() == [max(1, round(0.3 * n)) for n in lengths]
    labels = truth.where(chosen, -100)
    theirs = other(input_ids=x.tokens, attention_mask=x.mask.long(), labels=labels)
    assert ours.item() == pytest.approx(theirs.loss.item(), rel=1e-5)


def test_rotary_encoders_are_told_the_two_texts_of_a_pair_by_sep_alone() -> None:
    method = BERT(encoder(name="bert-rotary-tiny"))
    batch = batches(method, texts(), 8)[0]
    assert method(batch).isfinite() and method.metrics.keys() == {"hidden_accuracy", "next_accuracy"}


def hidden_share(order: str) -> float:
    """Share of hidden words that are filled in rightly on new texts, after a short training."""

    def words(seed: int) -> Texts:
        numbers = torch.randint(10, (48, 8), generator=torch.Generator().manual_seed(seed))
        if order == "known":
            numbers = torch.arange(8).expand(48, -1)
        return Texts([" ".join(NOUNS[number] for number in row) for row in numbers.tolist()])

    method = BERT(encoder(words(0), length=10), next_sentence=False)
    train(method, words(0), 40)
    shares = []
    for seed in range(4):
        torch.manual_seed(seed)
        method.eval()(method.training_view(words(1)).batch(torch.arange(48)))
        shares.append(method.metrics["hidden_accuracy"].item())
    return sum(shares) / 4


def test_random_words_stay_at_chance_and_words_in_a_known_order_do_not() -> None:
    hidden = 4 * 48 * round(0.15 * 10)
    assert abs(hidden_share("random") - 0.1) < 4 * math.sqrt(0.1 * 0.9 / hidden)
    assert hidden_share("known") > 0.3


def test_first_loss_is_the_log_of_the_vocabulary_and_of_two() -> None:
    method = BERT(encoder())
    expected = math.log(method.encoder.vocabulary) + math.log(2)
    assert method(batches(method, texts(), 32)[0]).item() == pytest.approx(expected, abs=0.15)
    assert method.chance(32) == pytest.approx(expected)
    alone = BERT(encoder(), next_sentence=False)
    assert alone(batches(alone, texts(), 32)[0]).item() == pytest.approx(expected - math.log(2), abs=0.15)


def test_chance_is_the_entropy_of_the_pieces_once_they_are_counted() -> None:
    method = BERT(encoder())
    data = method.training_view(texts())
    method.prepare(data)
    pieces = torch.cat([batch["tokens"][batch["mask"]] for batch in data.batches(8)])
    shares = pieces.bincount().double() / len(pieces)
    expected = -(shares[shares > 0] * shares[shares > 0].log()).sum().item()
    assert method.chance(8) == pytest.approx(expected + math.log(2), rel=1e-5)


def test_masks_are_dynamic_and_follow_the_seed() -> None:
    method = BERT(encoder())
    batch = batches(method, texts(), 8)[0]
    torch.manual_seed(3)
    first, second = task(method, batch)[1], task(method, batch)[1]
    torch.manual_seed(3)
    again = task(method, batch)[1]
    assert torch.equal(first, again) and not torch.equal(first, second)


def test_special_pieces_and_padding_are_never_asked_for() -> None:
    method = BERT(encoder())
    for batch in batches(method, texts(), 8):
        x, chosen, tokens, _ = task(method, batch)
        assert not chosen[~x.mask].any()
        assert not (tokens[chosen] < 5).any(), "the first five numbers are special"
        lengths = x.mask.sum(1)
        assert chosen.sum(1).tolist() == [max(1, round(0.15 * n)) for n in lengths.tolist()]


def test_hidden_pieces_never_reach_the_encoder() -> None:
    method = BERT(encoder(), next_sentence=False)
    batch = batches(method, texts(), 8)[0]
    torch.manual_seed(2)
    x, chosen, tokens, _ = method.task(batch)
    shown = x.tokens[chosen]
    masked = shown == method.encoder.special("[MASK]")
    changed = batch["tokens"].clone()
    hide = (chosen & (x.tokens != tokens))[:, 1:-1][:, : changed.shape[1]]
    changed[hide] = 9
    torch.manual_seed(2)
    other, again, _, _ = method.task({**batch, "tokens": changed})
    assert torch.equal(again, chosen) and torch.equal(other.tokens, x.tokens) and masked.float().mean() > 0.6


def test_pieces_that_are_not_hidden_get_no_gradient_from_their_own_prediction() -> None:
    method = BERT(encoder(), next_sentence=False)
    batch = batches(method, texts(), 8)[0]
    kept = []
    method.encoder.trunk.register_forward_hook(lambda *_: None)
    states = method.encoder.states

    def seen(x: TextInput) -> Tensor:
        kept.append(states(x).detach().requires_grad_())
        return kept[0]

    method.encoder.states = seen  # type: ignore[method-assign]
    torch.manual_seed(4)
    method(batch).backward()
    torch.manual_seed(4)
    chosen = method.task(batch)[1]
    assert not kept[0].grad[~chosen].any() and (kept[0].grad[chosen].abs().sum(1) > 0).all()


def test_a_late_word_changes_early_states() -> None:
    method = BERT(encoder()).eval()
    x = method.encoder.inputs(batches(method, texts(), 2)[0])
    other = x.tokens.clone()
    other[:, 20] = 9
    assert not torch.allclose(
        method.encoder.states(x)[:, 3], method.encoder.states(x._replace(tokens=other))[:, 3], atol=1e-6
    )


def train(method: BERT, data: Texts, steps: int, size: int = 16) -> None:
    blocks = method.training_view(data)
    optimizer = torch.optim.AdamW(method.parameters(), lr=2e-3)
    for step in range(steps):
        torch.manual_seed(step)
        loss = method(blocks.batch(torch.randint(len(blocks), (size,))))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.no_grad()
def next_accuracy(method: BERT, data: Texts, rounds: int) -> tuple[float, int]:
    blocks, right, count = method.training_view(data), 0.0, 0
    for number in range(rounds):
        torch.manual_seed(1000 + number)
        batch = blocks.batch(torch.randint(len(blocks), (32,)))
        label = draw(batch["sentence"], batch["document"]).label
        torch.manual_seed(1000 + number)
        batch = blocks.batch(torch.randint(len(blocks), (32,)))
        method(batch)
        known = int((label != IGNORED).sum())
        right, count = right + method.metrics["next_accuracy"].item() * known, count + known
    return right / count, count


def pairs_of(
    network: TextEncoder, data: Texts, rounds: int
) -> tuple[list[list[int]], list[list[int]], Tensor]:
    """First texts, second texts and labels of many pairs."""
    blocks, first, second, labels = network.blocks(data, pairs=True), [], [], []
    for seed in range(rounds):
        torch.manual_seed(seed)
        batch = blocks.batch(torch.randint(len(blocks), (64,)))
        pair = draw(batch["sentence"], batch["document"])
        both, mask, segment = join(batch["tokens"], pair, 2, 3)
        for row in (pair.label >= 0).nonzero().flatten().tolist():
            first.append(both[row][mask[row] & (segment[row] == 0)][1:-1].tolist())
            second.append(both[row][segment[row] == 1][:-1].tolist())
            labels.append(int(pair.label[row]))
    return first, second, torch.tensor(labels)


def test_documents_that_differ_can_be_told_apart() -> None:
    """A pair of one document shares its noun more often: what is asked can be known."""
    data = texts(40)
    network = encoder(data)
    first, second, labels = pairs_of(network, data, 20)
    numbers = [network.encode([noun])[0][0] for noun in NOUNS]
    counts = torch.tensor(
        [[[a.count(n) for n in numbers], [b.count(n) for n in numbers]] for a, b in zip(first, second)]
    )
    alike = (counts[:, 0] * counts[:, 1]).sum(1).double() / counts.sum(2).prod(1).clamp_min(1)
    guess = (alike < alike.median()).long()
    assert (guess == labels).double().mean() > 0.65


def same_world(seed: int, documents: int = 150) -> Texts:
    """Documents that differ in nothing but chance: nobody can know which of them goes on."""
    sentences = [
        "The cat is here.",
        "A dog saw the old bird.",
        "It is a tree near the big stone house.",
        "Why?",
    ]
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, 40, (documents,), generator=generator).tolist()
    orders = [torch.randint(4, (length,), generator=generator).tolist() for length in lengths]
    return Texts([" ".join(sentences[number] for number in order) for order in orders])


def test_nothing_about_a_pair_gives_its_label_away() -> None:
    """Trees on lengths, first and last pieces of both texts stay at chance where documents are all the same."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    network = encoder(same_world(0))
    rows, labels = {}, {}
    for seed in (0, 1):  # other documents, else the pairs themselves would be remembered
        first, second, labels[seed] = pairs_of(network, same_world(seed), 60)
        ends = [
            [len(a), len(b), *(a * 2)[:2], *(a * 2)[-2:], *(b * 2)[:2], *(b * 2)[-2:]]
            for a, b in zip(first, second)
        ]
        rows[seed] = torch.tensor(ends)
    trees = HistGradientBoostingClassifier(max_depth=3, max_iter=40, random_state=0).fit(rows[0], labels[0])
    accuracy, count = trees.score(rows[1], labels[1]), len(rows[1])
    assert count > 2000 and abs(accuracy - 0.5) < 3 * math.sqrt(0.25 / count), accuracy


def test_pairs_of_documents_that_are_all_the_same_stay_a_coin_throw() -> None:
    method = BERT(encoder(same_world(0)), hidden_ratio=0.05)
    train(method, same_world(0), 20)
    accuracy, count = next_accuracy(method.eval(), same_world(1), 12)
    assert count > 300 and abs(accuracy - 0.5) < 3 * math.sqrt(0.25 / count), accuracy


def test_pictures_show_what_was_hidden_what_was_guessed_and_the_truth() -> None:
    method = BERT(encoder()).eval()
    pictures = method.pictures(batches(method, texts(), 4)[0])
    assert list(pictures) == ["masked", "predicted", "true", "pair"]
    assert all(len(rows) == 4 for rows in pictures.values())
    masked, true = pictures["masked"][0], pictures["true"][0]
    assert "[MASK]" in "".join(pictures["masked"]) and true.startswith("[CLS] ") and true.endswith(" [SEP]")
    assert isinstance(masked, str) and masked.count("[") == true.count("[")


def test_whole_blocks_are_read_where_pairs_are_off() -> None:
    method = BERT(encoder(), next_sentence=False)
    blocks = method.training_view(Texts(["Only one sentence of the cat here", "And the dog there"]))
    assert len(blocks) == 2
    value = method(blocks.batch(torch.arange(2)))
    assert value.isfinite() and method.metrics.keys() == {"hidden_accuracy"}


@pytest.mark.parametrize(("single", "paired"), [(6, False), (5, True), (0, True)])
def test_pairs_are_off_where_most_texts_have_one_sentence_unless_they_are_asked_for(single, paired, caplog):
    note.cache_clear()
    data = Texts([story(number, 1 if number < single else 4) for number in range(10)])
    method, asked = BERT(encoder()), BERT(encoder(), next_sentence=True)
    blocks = method.training_view(data)
    assert method.chosen == {"next_sentence": paired} == method.built_with[1]
    assert len(blocks.documents.unique()) == (10 - single if paired else 10)
    off = f"next_sentence is off, as {single} of 10 texts have a single sentence; --next-sentence switches it on"
    left_out = f"{single} of 10 texts have a single sentence and are left out, as next_sentence needs two; "
    assert (off in caplog.text) == (not paired) and (left_out in caplog.text) == (paired and single > 0)
    assert len(asked.training_view(data).documents.unique()) == 10 - single and not asked.chosen
    assert (left_out in caplog.text) == (single > 0)
    held_out = method.training_view(Texts([story(1, 3), story(2, 3)]))  # what is chosen stays
    assert (method.next is not None) == paired and len(held_out) > 0
    alone = BERT(encoder())
    alone.prepare(alone.training_view(Texts([story(0, 20)])))
    assert alone.next is None and "there is a single document" in caplog.text


def test_a_run_stores_whether_pairs_were_on_and_is_opened_with_it(tmp_path):
    data = Texts([story(number, 1) for number in range(12)])
    run = pretrain("bert", data, out=tmp_path / "run", steps=1, batch_size=4, quiet=True)
    assert run.config["options"]["next_sentence"] is False and "next_sentence" in run.config["chosen"]
    assert load(tmp_path / "run").method.next is None
    pretrain("bert", data, out=tmp_path / "run", steps=2, resume=True, quiet=True)
    stories = Texts([story(number, 4) for number in range(12)])
    again = pretrain(
        "bert", stories, config=run.path / "run.toml", batch_size=5, out=tmp_path / "b", quiet=True
    )
    assert again.config["options"]["next_sentence"] is True


def test_unfit_data_and_encoders_are_refused_in_words() -> None:
    method = BERT(encoder(), next_sentence=True)
    with pytest.raises(ValueError, match="must have texts of at least 2 sentences"):
        method.training_view(Texts(["one", "two"]))
    with pytest.raises(ValueError, match="next_sentence must be off for a single document"):
        method.prepare(method.training_view(Texts([story(0, 20)])))
    with pytest.raises(ValueError, match="encoder must be bidirectional, such as bert-mini, got gpt-tiny"):
        BERT(fitted("gpt-tiny", texts()))
    alone = method.training_view(texts()).batch(torch.tensor([0]))
    with pytest.raises(ValueError, match="batch_size must be at least 2 for next_sentence"):
        method(alone)
    assert method.eval()(alone).isfinite()
    for ratio in (0.0, 1.5, math.nan):
        with pytest.raises(ValueError, match="hidden_ratio must be"):
            BERT(encoder(), hidden_ratio=ratio)


def test_training_step_in_bfloat16_is_finite() -> None:
    method = BERT(encoder())
    with torch.autocast("cpu", torch.bfloat16):
        value = method(batches(method, texts(), 8)[0])
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite()
