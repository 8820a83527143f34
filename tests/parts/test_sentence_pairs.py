"""Pairs of texts: fair ones, that nothing about their lengths or ends gives away."""

import math

import torch
from torch import Tensor

from unlabeled.parts.sentence_pairs import draw, join
from unlabeled.parts.tokens import IGNORED


def random_blocks(rows: int, length: int, documents: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens that say where they are from, numbers of sentences, documents; the last rows are shorter."""
    borders = torch.rand(rows, length) < 0.2
    borders[:, 0] = False
    borders[:, length // 3] = True
    sentence = borders.long().cumsum(1)
    lengths = torch.where(torch.arange(rows) < rows // 2, length, length - torch.arange(rows) % (length // 3))
    sentence[torch.arange(length) >= lengths[:, None]] = -1
    tokens = 1000 * torch.arange(1, rows + 1)[:, None] + torch.arange(length)
    return tokens.where(sentence >= 0, 0), sentence, torch.arange(rows) % documents


def test_second_text_goes_on_or_is_from_another_document() -> None:
    _, sentence, document = random_blocks(40, 30, 5)
    for _ in range(20):
        pair = draw(sentence, document)
        row = torch.arange(40)
        goes_on, other = pair.label == 0, pair.label == 1
        assert torch.equal(pair.row[goes_on], row[goes_on])
        assert torch.equal(pair.start[goes_on], pair.border[goes_on])
        assert (document[pair.row[other]] != document[other]).all()
        lengths = (sentence >= 0).sum(1)
        assert (pair.start + pair.size <= lengths[pair.row]).all() and (pair.size > 0).all()
        assert (pair.border + pair.size <= lengths).all()
        before = sentence.gather(1, pair.border[:, None] - 1)
        assert (sentence.gather(1, pair.border[:, None]) == before + 1).all(), (
            "the border is a sentence's start"
        )
        source = sentence[pair.row]
        assert (source.gather(1, pair.start[:, None]) == source.gather(1, pair.start[:, None] - 1) + 1).all()


def test_half_of_the_pairs_are_random_whatever_their_length() -> None:
    _, sentence, document = random_blocks(60, 30, 6)
    pairs = [draw(sentence, document) for _ in range(200)]
    label, size = torch.cat([p.label for p in pairs]), torch.cat([p.size for p in pairs]).double()
    border = torch.cat([p.border for p in pairs]).double()
    known = label != IGNORED
    assert known.all()
    assert abs((label == 1).double().mean() - 0.5) < 3 * math.sqrt(0.25 / len(label))
    for what in (size, border, size + border):
        first, second = what[label == 0], what[label == 1]
        error = math.sqrt(first.var() / len(first) + second.var() / len(second))
        assert abs(first.mean() - second.mean()) < 4 * error, "lengths tell nothing"


def test_second_texts_of_both_kinds_end_with_a_sentence_as_rarely() -> None:
    _, sentence, document = random_blocks(60, 40, 6)
    ends = {0: [], 1: []}
    for _ in range(300):
        pair = draw(sentence, document)
        behind = (pair.start + pair.size).clamp_max(39)
        source = sentence[pair.row]
        last = source.gather(1, (pair.start + pair.size - 1)[:, None])
        whole = (source.gather(1, behind[:, None]) != last).squeeze(1)
        inside = pair.start + pair.size < 40  # where a full block is cut nobody can say what follows
        for label in (0, 1):
            ends[label].append(whole[(pair.label == label) & inside & (sentence[:, -1] < 0)])
    shares = [torch.cat(ends[label]).double().mean().item() for label in (0, 1)]
    assert abs(shares[0] - shares[1]) < 0.08, shares


def test_blocks_of_one_document_make_no_pairs() -> None:
    _, sentence, _ = random_blocks(8, 30, 2)
    assert (draw(sentence, torch.zeros(8, dtype=torch.int64)).label == IGNORED).all()
    assert (draw(torch.zeros(4, 9, dtype=torch.int64), torch.arange(4)).label == IGNORED).all()


def test_joined_is_cls_first_sep_second_sep() -> None:
    tokens, sentence, document = random_blocks(30, 20, 3)
    pair = draw(sentence, document)
    both, mask, segment = join(tokens, pair, 1, 2)
    for row in range(30):
        border, size, start = int(pair.border[row]), int(pair.size[row]), int(pair.start[row])
        first = tokens[row, :border].tolist()
        second = tokens[pair.row[row], start : start + size].tolist()
        expected = [1, *first, 2, *second, 2]
        assert both[row][mask[row]].tolist() == expected and int(mask[row].sum()) == len(expected)
        assert segment[row][mask[row]].tolist() == [0] * (border + 2) + [1] * (size + 1)
        assert not both[row][~mask[row]].any() and not segment[row][~mask[row]].any()
