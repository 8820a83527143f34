"""Classes named by words: scores piece by piece, priors taken off, controls that are what they say."""

import math
import warnings
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from unlabeled.data.text.data import Texts
from unlabeled.encoders.text import TextEncoder, fitted
from unlabeled.evaluation import prompting
from unlabeled.evaluation.labelled import Labelled
from unlabeled.evaluation.model import EvaluatedModel
from unlabeled.evaluation.prompting import (
    Prompts,
    best_shares,
    by_permuted_labels,
    class_scores,
    hits,
    scorers,
)
from unlabeled.evaluation.tasks.few_shot import TASK as FEW_SHOT
from unlabeled.evaluation.tasks.few_shot import draw
from unlabeled.evaluation.tasks.zero_shot import TASK as ZERO_SHOT
from unlabeled.methods.gpt import GPT

CLASSES = ["fruit", "wild_animal"]
THINGS = {"fruit": ["apple", "pear", "plum"], "wild_animal": ["wolf", "bear"]}


def texts(copies: int = 4, classes: Sequence[str] = CLASSES) -> Texts:
    pairs = [(f"a {thing}", number) for number, name in enumerate(CLASSES) for thing in THINGS[name]] * copies
    labels = torch.tensor([label for _, label in pairs])
    return Texts([text for text, _ in pairs], labels=labels, classes=list(classes))


def encoder(length: int = 64) -> TextEncoder:
    torch.manual_seed(0)
    learned = Texts([*texts().texts, *[" fruit and wild animal"] * 20])
    return fitted("gpt-tiny", learned, length=length).eval()


def prompts(network: TextEncoder, data: Texts | None = None) -> Prompts:
    data = data or texts()
    return Prompts(network, Labelled.of(data, data))


def test_prompts_are_examples_with_their_names_and_then_the_text() -> None:
    network = encoder()
    made = prompts(network)
    assert network.decode(made.of([], made.test[0])) == "<|endoftext|>a apple:"
    prompt = made.of([3, 0], made.test[1])
    assert network.decode(prompt) == "<|endoftext|>a wolf: wild animal\n\na apple: fruit\n\na pear:"
    said = network.decode(made.of([3, 0], made.test[1], labels=[0, 0]))
    assert said == "<|endoftext|>a wolf: fruit\n\na apple: fruit\n\na pear:"
    assert made.of([0], made.test[3], labels=[1]) != made.of([0], made.test[3])


def test_texts_are_cut_so_that_the_longest_prompt_with_its_name_fits_exactly() -> None:
    network = encoder(length=64)
    long = Texts([f"{text} " * 60 for text in texts().texts], labels=texts().labels, classes=CLASSES)
    made = prompts(network, long)
    name = max(map(len, made.names))
    label = [len(one) for one in made.names].index(name)
    for count in (0, 1, 2, 3):
        prompt = made.of(list(range(count)), made.test[0], labels=[label] * count)
        assert 64 - count <= len(prompt) + name <= 64, "what cannot be shared equally is left"
    assert made.fit(1) and not made.fit(16)
    assert prompts(network).room(3) > 3 and prompts(network).fit(3), "short texts need less"


def test_scores_are_mean_log_probabilities_of_the_pieces_one_after_the_other() -> None:
    network = encoder()
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.2) if weight.ndim > 1 else None
    made, method = prompts(network), GPT(network).eval()
    score = scorers(EvaluatedModel(network), made, texts())["unlabeled"]
    asked = [made.of([], made.test[0]), made.of([3, 0], made.test[1])]
    found = score(asked)
    assert {len(name) for name in made.names} != {1}, "a name of several pieces"
    for row, prompt in enumerate(asked):
        for column, name in enumerate(made.names):
            total = 0.0
            for number, piece in enumerate(name):
                tokens = torch.tensor([[*prompt, *name[:number]]])
                x = network.inputs({"tokens": tokens, "mask": tokens >= 0, "sentence": tokens})
                with torch.no_grad():
                    total += method.logits(network.states(x))[0, -1].log_softmax(0)[piece].item()
            assert found[row, column].item() == pytest.approx(total / len(name), rel=1e-4)


def test_the_prior_of_a_name_is_taken_off() -> None:
    made = prompts(encoder())

    def likely(asked: Sequence[list[int]]) -> Tensor:
        """The first name is always likelier; a text with more pieces than none makes the second likelier by 1."""
        return torch.tensor([[9.0, 2.0 + (len(prompt) > len(made.of([], [])))] for prompt in asked])

    assert class_scores(likely, made, [0, 1]).tolist() == [[0, 1], [0, 1]]


def test_unigram_by_hand() -> None:
    network = encoder()
    frequencies = torch.full((network.vocabulary,), 1 / network.vocabulary, dtype=torch.double)
    score = prompting.unigram(frequencies, [[5], [6, 0]])([[5, 0, 0, 0]])
    first = math.log((1 / 4 + 1 / network.vocabulary) / 2)
    second = (math.log(1 / network.vocabulary / 2) + math.log((3 / 4 + 1 / network.vocabulary) / 2)) / 2
    assert score[0].tolist() == pytest.approx([first, second], rel=1e-6)


def test_votes_are_shared_where_scores_are_alike() -> None:
    shares = best_shares(torch.tensor([[1.0, 3.0, 3.0], [2.0, 1.0, 0.0], [5.0, 5.0, 5.0]]))
    assert shares.tolist() == [[0, 0.5, 0.5], [1, 0, 0], pytest.approx([1 / 3] * 3)]
    assert hits(shares, torch.tensor([1, 1, 2])).tolist() == pytest.approx([0.5, 0, 1 / 3])


def test_permuted_labels_are_the_mean_over_all_permutations() -> None:
    shares = best_shares(torch.tensor([[2.0, 1.0], [2.0, 1.0], [1.0, 2.0], [1.0, 1.0]]))
    answers = torch.tensor([0, 0, 1, 0])
    every = [hits(shares, answers[list(order)]) for order in permutations(4)]
    torch.testing.assert_close(by_permuted_labels(shares, answers), torch.stack(every).mean(0))
    always = torch.tensor([[1.0, 0.0]]).double().expand(4, -1)
    assert by_permuted_labels(always, answers).mean() == hits(always, answers).mean() == 0.75


def permutations(count: int) -> list[tuple[int, ...]]:
    if count == 0:
        return [()]
    return [(*rest[:at], count - 1, *rest[at:]) for rest in permutations(count - 1) for at in range(count)]


def test_examples_are_of_all_classes_in_turn_and_fewer_are_the_first_of_more() -> None:
    labels = [0] * 20 + [1] * 5 + [2] * 9
    for seed in range(5):
        rows = draw(labels, 16, seed)
        assert len(set(rows)) == 16 and draw(labels, 4, seed) == rows[:4]
        assert sorted(labels[row] for row in rows[:3]) == [0, 1, 2]
        assert [[labels[row] for row in rows[:15]].count(label) for label in range(3)] == [5, 5, 5]
    assert len({tuple(draw(labels, 4, seed)) for seed in range(5)}) == 5
    assert {labels[draw(labels, 1, seed)[0]] for seed in range(30)} == {0, 1, 2}, (
        "the first may be of any class"
    )


def knowing(network: TextEncoder, reads_examples: bool):
    """A scorer that knows the class of the last thing of a prompt, or only looks what the examples call it."""
    names = {thing: number for number, name in enumerate(CLASSES) for thing in THINGS[name]}

    def score(asked: Sequence[list[int]]) -> Tensor:
        rows = []
        for prompt in asked:
            *examples, query = network.decode(prompt).removeprefix("<|endoftext|>").split("\n\n")
            said = dict(example.split(": ") for example in examples)
            thing = query.removesuffix(":")
            true = names.get(thing.removeprefix("a "), -1)
            told = CLASSES.index(said[thing].replace(" ", "_")) if thing in said else -1
            answer = told if reads_examples else true
            rows.append([float(answer == label) for label in range(len(CLASSES))])
        return torch.tensor(rows).double()

    return score


def with_scorer(monkeypatch: pytest.MonkeyPatch, network: TextEncoder, reads_examples: bool = False) -> None:
    """Let ours be a scorer by hand."""
    real = prompting.scorers

    def replaced(*given):
        return real(*given) | {"unlabeled": knowing(network, reads_examples)}

    monkeypatch.setattr(prompting, "scorers", replaced)


def test_zero_shot_stands_beside_its_controls_on_the_same_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    network = encoder()
    with_scorer(monkeypatch, network)
    found = {m.features: m for m in ZERO_SHOT(EvaluatedModel(network), (texts(), texts(2)))}
    assert list(found) == ["unlabeled", "random", "unigram", "permuted labels", "commonest class"]
    assert float(found["unlabeled"].values.mean()) == 1
    assert float(found["permuted labels"].values.mean()) == pytest.approx(0.6**2 + 0.4**2)
    assert float(found["commonest class"].values.mean()) == pytest.approx(0.6)
    assert float(found["unigram"].values.mean()) == 0.5, "no name stands in a text"
    assert all(m.values.shape == (1, 10) and m.range == (0, 1) for m in found.values())
    assert "10 of 10 test texts" in found["unlabeled"].detail


def test_texts_of_one_document_are_one_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    network, test = encoder(), texts(2)
    with_scorer(monkeypatch, network)
    test.groups = torch.arange(10) // 5
    for m in ZERO_SHOT(EvaluatedModel(network), (texts(), test)):
        assert m.groups is not None and m.groups.tolist() == [0] * 5 + [1] * 5 and m.counted == "documents"


def test_few_shot_with_no_example_is_zero_shot_and_random_names_harm_who_reads_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = encoder(length=256)
    model, data = EvaluatedModel(network), (texts(), texts(2))
    found = {(m.unit, m.features): m.values for m in FEW_SHOT(model, data)}
    for m in ZERO_SHOT(model, data):
        if m.features != "commonest class":
            assert torch.equal(found["accuracy with 0 examples", m.features], m.values), m.features
    units = [f"accuracy with {count}" for count in ("0 examples", "1 example", "4 examples", "16 examples")]
    assert list(dict.fromkeys(unit for unit, _ in found)) == units
    assert [len(found[unit, "unlabeled"]) for unit in units] == [1, 3, 3, 3]
    assert ("accuracy with 0 examples", "random names in the examples") not in found
    with_scorer(monkeypatch, network, reads_examples=True)
    found = {(m.unit, m.features): float(m.values.mean()) for m in FEW_SHOT(model, data)}
    assert (
        found["accuracy with 16 examples", "unlabeled"] > 0.9 > found["accuracy with 1 example", "unlabeled"]
    )
    assert found["accuracy with 16 examples", "random names in the examples"] < 0.8
    with_scorer(monkeypatch, network)
    found = {(m.unit, m.features): float(m.values.mean()) for m in FEW_SHOT(model, data)}
    assert found["accuracy with 16 examples", "random names in the examples"] == 1, (
        "who does not is not harmed"
    )


def test_numbers_of_examples_that_do_not_fit_are_omitted_and_said() -> None:
    network = encoder(length=48)
    with pytest.warns(
        UserWarning, match=r"few_shot omits .* window of 48 .*16 \(room for 0 pieces of each text\)"
    ):
        found = FEW_SHOT(EvaluatedModel(network), (texts(), texts(2)))
    assert "accuracy with 16 examples" not in {m.unit for m in found}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ZERO_SHOT(EvaluatedModel(network), (texts(), texts(2)))


def test_what_cannot_be_asked_is_refused_in_words() -> None:
    network = encoder()
    with pytest.raises(ValueError, match="classes must be named by words, got 0, 1"):
        prompts(network, texts(classes=["0", "1"]))
    for name in ("bert-tiny", "nplm-tiny"):
        other = EvaluatedModel(fitted(name, texts()))
        message = f"zero_shot needs a causal transformer, such as gpt-mini, got {name}"
        with pytest.raises(ValueError, match=message):
            ZERO_SHOT(other, (texts(), texts()))
    with pytest.raises(
        ValueError, match="names of classes must leave room for 8 pieces of a text in a window of 12"
    ):
        long = texts(classes=["quite an extraordinarily long name", "another"])
        long.texts = [text * 20 for text in long.texts]
        prompts(encoder(length=12), long)
