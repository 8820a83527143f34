"""Similarity and analogies: hand-made vectors, the oracle's own scores, and lists as they are found."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from unlabeled import encoders
from unlabeled.encoders.word_vectors import WordEncoder, build
from unlabeled.evaluation.measurement import interval_of
from unlabeled.evaluation.model import EvaluatedModel
from unlabeled.evaluation.tasks.analogies import TASK as ANALOGIES
from unlabeled.evaluation.tasks.analogies import _without_pairs, answers
from unlabeled.evaluation.tasks.similarity import TASK as SIMILARITY
from unlabeled.evaluation.tasks.similarity import spearman
from unlabeled.evaluation.word_lists import read_pairs, read_questions

LISTS = Path(__file__).parents[2] / "../shared/data/text_similarity/word_sim"


def model(vectors: dict[str, list[float]] | None = None, words: list[str] | None = None) -> EvaluatedModel:
    if vectors is None:
        assert words
        torch.manual_seed(0)
        return EvaluatedModel(build("words-30", vocabulary=words).eval())
    encoder = build(f"words-{len(next(iter(vectors.values())))}", vocabulary=list(vectors))
    encoder.vectors.copy_(torch.tensor(list(vectors.values())))
    return EvaluatedModel(encoder.eval())


@pytest.mark.parametrize("size, ties", [(5, False), (100, False), (100, True)])
def test_spearman_is_that_of_scipy(size, ties):
    from scipy.stats import spearmanr

    generator = torch.Generator().manual_seed(size)
    first, second = torch.randn(2, size, generator=generator, dtype=torch.double)
    second = second + first
    if ties:
        first, second = first.round(), second.round()
    assert spearman(first, second) == pytest.approx(float(spearmanr(first, second).statistic), abs=1e-12)


def test_spearman_by_hand():
    assert spearman(torch.tensor([1.0, 2, 30]), torch.tensor([0.1, 5, 7])) == pytest.approx(1)
    assert spearman(torch.tensor([1.0, 2, 30]), torch.tensor([7.0, 5, 1])) == pytest.approx(-1)
    assert spearman(torch.tensor([1.0, 2, 2, 3]), torch.tensor([1.0, 2, 3, 4])) == pytest.approx(
        3 / math.sqrt(10)
    )
    assert math.isnan(spearman(torch.ones(3), torch.arange(3.0)))


def test_lists_are_read_in_all_their_forms(tmp_path):
    file = tmp_path / "pairs"
    for text in (
        "# comment\nWord 1\tWord 2\tHuman\nTiger\tcat\t7.35\nbook\tpaper\t7",
        "Word 1,Word 2,Human (mean)\nTiger,cat,7.35\n\nbook,paper,7.0\n",
        "tiger cat 7.35\nbook paper 7\n",
    ):
        file.write_text(text)
        assert read_pairs(file) == [("tiger", "cat", 7.35), ("book", "paper", 7.0)]
    file.write_text(
        ": capitals\nAthens Greece Oslo Norway\n: gram1\nbig bigger low lower\nhot hotter low lower\n"
    )
    sections = read_questions(file)
    assert list(sections) == ["capitals", "gram1"] and sections["capitals"] == [
        ("athens", "greece", "oslo", "norway")
    ]
    assert len(sections["gram1"]) == 2


@pytest.mark.parametrize(
    "read, text, words",
    [
        (read_pairs, "", "pairs of words"),
        (read_pairs, "a\tb\t1\nc\td\tmuch\n", "line 2"),
        (read_pairs, "one two\n", "line 1"),
        (read_questions, "", "questions of four words"),
        (read_questions, "a b c\n", "got 3 in line 1"),
    ],
)
def test_other_files_are_refused(read, text, words, tmp_path):
    (tmp_path / "list").write_text(text)
    with pytest.raises(ValueError, match=words):
        read(tmp_path / "list")


def test_marks_at_the_start_are_no_letters_and_other_bytes_are_refused(tmp_path):
    (tmp_path / "list").write_bytes(b"\xef\xbb\xbf: capitals\nathens greece oslo norway\n")
    assert list(read_questions(tmp_path / "list")) == ["capitals"]
    (tmp_path / "list").write_bytes(b"caf\xe9\ttea\t7\n")
    with pytest.raises(ValueError, match="data must be text in UTF-8, got byte 3 of"):
        read_pairs(tmp_path / "list")


@pytest.mark.parametrize("task", [SIMILARITY, ANALOGIES])
def test_what_is_no_list_or_no_word_encoder_is_refused(task, tmp_path):
    words = model(words=["a", "b", "c"])
    with pytest.raises(ValueError, match="data must be a text file"):
        task(words, tmp_path / "missing")
    with pytest.raises(ValueError, match="data must be a text file"):
        task(words, 3)
    (tmp_path / "list").write_text("x y 1\n" if task is SIMILARITY else "x y z w\n")
    with pytest.raises(ValueError, match="known words"):
        task(words, tmp_path / "list")
    with pytest.raises(ValueError, match="encoder must be one of word vectors"):
        task(EvaluatedModel(encoders.build("conv4", image_size=8)), tmp_path / "list")


def test_similarity_ranks_cosines_and_counts_what_is_unknown(tmp_path):
    vectors = {"a": [1.0, 0], "b": [5.0, 0.1], "c": [1.0, 1], "d": [-1.0, 0.2]}
    (tmp_path / "pairs").write_text("A B 9\na c 5\na d 1\na unknown 4\n")
    found = SIMILARITY(model(vectors), tmp_path / "pairs")
    assert [some.features for some in found] == ["unlabeled", "random", "shared letters"]
    ours = found[0]
    assert ours.values.item() == pytest.approx(1) and ours.samples == 3 and ours.unit == "Spearman"
    assert "3 of 4 pairs known" in ours.detail
    assert all(some.left_out is not None and some.left_out.units == 3 for some in found)
    (tmp_path / "pairs").write_text("a b 1\na c 5\na d 9\n")
    assert SIMILARITY(model(vectors), tmp_path / "pairs")[0].values.item() == pytest.approx(-1)


def test_random_vectors_know_nothing(tmp_path):
    words = [f"word{number}" for number in range(400)]
    generator = torch.Generator().manual_seed(1)
    scores = torch.rand(200, generator=generator).tolist()
    lines = [f"{words[2 * row]} {words[2 * row + 1]} {score}" for row, score in enumerate(scores)]
    (tmp_path / "pairs").write_text("\n".join(lines))
    for some in SIMILARITY(model(words=words), tmp_path / "pairs")[:2]:
        assert abs(some.values.item()) < 0.2
        own = interval_of(some)
        assert own.low is not None and own.high is not None
        assert own.high - own.low == pytest.approx(2 * 1.97 * 200**-0.5, rel=0.2)


def grid() -> dict[str, list[float]]:
    """Words that differ by one step in number and another in kind, at different lengths."""
    kinds = {"cat": [1.0, 0, 0], "dog": [0.0, 1, 0], "cow": [0.6, 0.6, 0.5]}
    vectors = {}
    for row, (kind, vector) in enumerate(kinds.items()):
        vectors[kind] = [value * (1 + row) for value in vector] + [0.0]
        vectors[f"{kind}s"] = [*vector, 0.7]
    return vectors


def test_analogies_are_solved_without_the_words_of_the_question(tmp_path):
    (tmp_path / "questions").write_text(
        ": animals\ncat dog cats dogs\n: gram\ncat cats dog dogs\ndog dogs cow cows\ncat cats zebra zebras\n"
    )
    found = ANALOGIES(model(grid()), tmp_path / "questions")
    assert [some.features for some in found] == ["unlabeled", "random", "nearest to the third word"]
    assert found[0].values.shape == (1, 3) and found[0].values.tolist() == [[1, 1, 1]]
    assert "3 of 4 questions known" in found[0].detail
    assert "meaning 100.0% of 1, grammar 100.0% of 2" in found[0].detail
    assert all(some.values.shape == (1, 3) for some in found)
    assert all(some.left_out is not None and some.left_out.units == 5 for some in found)


def test_questions_of_a_pair_of_words_are_not_independent():
    """Six pairs in all combinations: only the pairs with one of the six are right, as if one word were unknown."""
    pairs = [(first, second) for first in range(6) for second in range(6) if first != second]
    rows = torch.tensor([[2 * a, 2 * a + 1, 2 * b, 2 * b + 1] for a, b in pairs])
    right = torch.tensor([float(a == 0 or b == 0) for a, b in pairs], dtype=torch.double)
    left_out = _without_pairs(right, rows)
    slow = [
        right[[row for row, (a, b) in enumerate(pairs) if pair not in (a, b)]].mean() for pair in range(6)
    ]
    assert torch.allclose(left_out.values, torch.stack(slow)) and left_out.units == 6
    assert left_out.fractions.tolist() == pytest.approx([10 / 30] * 6)


def test_answers_equal_a_brute_force_over_all_words():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(40, 8, generator=generator)
    questions = torch.randint(40, (700, 3), generator=generator)

    def brute(a: int, b: int, c: int) -> int:
        unit: Tensor = vectors / vectors.norm(dim=1, keepdim=True)
        target = unit[b] - unit[a] + unit[c]
        cosines = [
            float(unit[row] @ target / target.norm()) if row not in (a, b, c) else -2 for row in range(40)
        ]
        return max(range(40), key=cosines.__getitem__)

    found = answers(vectors, questions)
    rows = range(0, 700, 7)
    assert found[::7].tolist() == [brute(*questions[row].tolist()) for row in rows]


def test_scores_are_those_of_gensim(tmp_path):
    models = pytest.importorskip("gensim.models")
    utils = pytest.importorskip("gensim.test.utils")
    pairs, questions = utils.datapath("wordsim353.tsv"), utils.datapath("questions-words.txt")
    some_words = sorted({word for pair in read_pairs(pairs)[:150] for word in pair[:2]})
    asked = [row for rows in read_questions(questions).values() for row in rows[:30]]
    some_words += sorted({word for row in asked for word in row} - set(some_words))
    torch.manual_seed(2)
    encoder: WordEncoder = build("words-12", vocabulary=some_words)
    stems = {
        word[:2]: torch.randn(12) for word in some_words
    }  # related spellings, so that some answers are right
    encoder.vectors.copy_(torch.stack([stems[word[:2]] + 0.5 * torch.randn(12) for word in some_words]))
    encoder.save_word2vec(tmp_path / "vectors.txt")
    theirs = models.KeyedVectors.load_word2vec_format(str(tmp_path / "vectors.txt"))
    ours = EvaluatedModel(encoder.eval())
    _, rho, unknown = theirs.evaluate_word_pairs(pairs)
    found = SIMILARITY(ours, pairs)[0]
    assert found.values.item() == pytest.approx(float(rho.statistic), abs=1e-6)
    assert found.samples == round(353 * (1 - unknown / 100))
    share, _ = theirs.evaluate_word_analogies(questions)
    assert float(ANALOGIES(ours, questions)[0].values.mean()) == pytest.approx(share, abs=1e-9)
    assert share > 0.01


@pytest.mark.skipif(not LISTS.is_dir(), reason="needs ../shared/data/text_similarity")
def test_all_published_lists_can_be_read():
    sizes = {file.name: len(read_pairs(file)) for file in LISTS.glob("EN-*.txt")}
    assert sizes["EN-WS-353-ALL.txt"] == 353 and sizes["EN-SIMLEX-999.txt"] == 999 and len(sizes) == 13
