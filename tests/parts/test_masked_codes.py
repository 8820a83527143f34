"""Cross-entropy, entropy and pictures of the codes of masked frames, against loops and closed forms."""

import math

import pytest
import torch

from unlabeled.parts.masked_codes import accuracy, code_pictures, entropy, loss


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_loss_is_the_mean_logarithm_of_the_probability_of_the_true_code() -> None:
    logits, codes = torch.randn(5, 4).double().requires_grad_(), torch.tensor([3, 0, 0, 2, 1])
    value = loss(logits, codes)
    value.backward()
    total = 0.0
    for row, code, slope in zip(logits.tolist(), codes.tolist(), logits.grad):  # type: ignore[arg-type]
        weights = [math.exp(x) for x in row]
        total -= math.log(weights[code] / sum(weights)) / 5
        expected = [(w / sum(weights) - (number == code)) / 5 for number, w in enumerate(weights)]
        torch.testing.assert_close(slope, torch.tensor(expected).double())
    assert value.item() == pytest.approx(total)
    right = [max(range(4), key=row.__getitem__) == code for row, code in zip(logits.tolist(), codes.tolist())]
    assert accuracy(logits, codes).item() == pytest.approx(sum(right) / 5)


def test_nothing_masked_is_no_loss_and_no_accuracy() -> None:
    logits, codes = torch.zeros(0, 4, requires_grad=True), torch.zeros(0, dtype=torch.int64)
    value = loss(logits, codes)
    value.backward()
    assert value.item() == 0 and accuracy(logits, codes) == 0 and entropy(codes, 4) == 0


def test_entropy_is_the_loss_of_the_best_guess_that_hears_nothing() -> None:
    codes = torch.tensor([0, 0, 0, 1, 1, 4])
    logits = (torch.bincount(codes, minlength=5) / 6).log().expand(6, -1)
    torch.testing.assert_close(entropy(codes, 5), loss(logits, codes))
    assert entropy(torch.arange(7), 7).item() == pytest.approx(math.log(7))
    assert entropy(torch.full((9,), 3), 7) == 0


def test_pictures_replace_masked_frames_by_the_mean_of_their_code() -> None:
    bands, real = torch.rand(2, 3, 8), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    masked = torch.tensor([[0, 1, 0, 0], [1, 1, 0, 0]]).bool()
    codes = torch.tensor([[5, 7, 7, 5], [5, 2, 0, 0]])
    predicted = torch.tensor([[5, 5, 7, 5], [7, 3, 0, 0]])
    pictures = code_pictures(bands, real, masked, codes, predicted)
    shown = {name: picture[:, 0].flip(1) for name, picture in pictures.items()}
    heard = (bands[0], bands[1, :, :4])
    scaled = torch.stack([(x - part.min()) / (part.max() - part.min()) for x, part in zip(bands, heard)])
    scaled = scaled.clamp(0, 1)
    fives = torch.stack(
        [scaled[0, :, 0], scaled[0, :, 1], scaled[0, :, 6], scaled[0, :, 7], *scaled[1, :, :2].T]
    )
    sevens = scaled[0, :, 2:6].T
    torch.testing.assert_close(shown["sound"], scaled)
    assert (shown["hidden"][0, :, 2:4] == 0.5).all() and (shown["hidden"][1, :, :2] == 0.5).all()
    torch.testing.assert_close(shown["true codes"][0, :, 2], sevens.mean(0))
    torch.testing.assert_close(shown["predicted codes"][0, :, 3], fives.mean(0))
    torch.testing.assert_close(shown["predicted codes"][1, :, 0], sevens.mean(0))
    assert (shown["predicted codes"][1, :, 2:4] == 0.5).all()
    for picture in shown.values():
        torch.testing.assert_close(picture[0, :, [0, 1, 4, 5, 6, 7]], scaled[0, :, [0, 1, 4, 5, 6, 7]])
        torch.testing.assert_close(picture[1, :, 4:], scaled[1, :, 4:])
