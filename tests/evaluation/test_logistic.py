"""Logistic regression against scikit-learn, and what it may look at."""

import time

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from unlabeled.evaluation import logistic


def digits() -> tuple[Tensor, Tensor]:
    pixels, labels = load_digits(return_X_y=True)
    return torch.tensor(pixels, dtype=torch.float32), torch.tensor(labels)


PIXELS, LABELS = digits()


def standardized(features: Tensor) -> Tensor:
    mean, scale = logistic.standardization(features)
    return (features - mean) / scale


@pytest.mark.parametrize("penalty", [1e-3, 1e-2, 1.0])
def test_the_optimum_is_that_of_scikit_learn(penalty):
    x, y = PIXELS[:600], LABELS[:600]
    ours = logistic.fit(x, y, 10, penalty=penalty)
    theirs = LogisticRegression(C=1 / (600 * penalty), tol=1e-8, max_iter=5000)
    theirs.fit(standardized(x).double().numpy(), y.numpy())
    scale = logistic.standardization(x)[1]
    weight = torch.where(scale.isinf()[:, None], 0, ours.weight * scale[:, None])
    weight = weight - weight.mean(1, keepdim=True)
    expected = torch.tensor(theirs.coef_.T, dtype=torch.float32)
    assert (weight - expected).abs().max() < 5e-3 * expected.abs().max()
    probabilities = torch.tensor(theirs.predict_proba(standardized(x).double().numpy()))
    assert (ours(x).softmax(1) - probabilities).abs().max() < 3e-3


@pytest.mark.parametrize("penalty", [1e-5, 1e-3])
@pytest.mark.parametrize("count", [30, 300])
def test_few_labels_and_a_small_penalty_do_not_stop_short(count, penalty):
    x, y = PIXELS[:count], LABELS[:count]
    points = standardized(x).double()

    def loss(weight: Tensor, bias: Tensor) -> float:
        logits = points @ weight.T + bias
        return float(torch.nn.functional.cross_entropy(logits, y) + penalty / 2 * weight.square().sum())

    mean, scale = logistic.standardization(x)
    fitted = logistic.fit(x, y, 10, penalty=penalty)
    weight = torch.where(scale.isinf(), 0, scale).double() * fitted.weight.T
    theirs = LogisticRegression(C=1 / (count * penalty), tol=1e-9, max_iter=20000).fit(
        points.numpy(), y.numpy()
    )
    lowest = loss(torch.tensor(theirs.coef_), torch.tensor(theirs.intercept_))
    assert loss(weight, fitted.bias.double() + weight @ (mean / scale).double()) < 1.0001 * lowest


def test_at_the_optimum_the_gradient_is_zero():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3000, 7, generator=generator) @ torch.randn(7, 7, generator=generator)
    y = (x[:, :3] + torch.randn(3000, 3, generator=generator)).argmax(1)
    fitted = logistic.fit(x, y, 3)  # several blocks, with a start on a part of them
    mean, scale = logistic.standardization(x)
    error = fitted(x).softmax(1) - torch.nn.functional.one_hot(y, 3)
    slope = ((x - mean) / scale).T @ error / len(x) + fitted.penalty * fitted.weight * scale[:, None]
    assert slope.abs().max() < 1e-4
    assert error.mean(0).abs().max() < 1e-4


def test_the_penalty_is_the_best_of_all_on_the_held_out_fifth():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1200, 40, generator=generator)
    found = []
    for noise in (0.1, 1.0, 30.0):
        y = (x[:, :4] + noise * torch.randn(1200, 4, generator=generator)).argmax(1)
        held = logistic.folds(y, 5) == 0
        losses = [
            float(
                torch.nn.functional.cross_entropy(
                    logistic.fit(
                        x[~held], y[~held], 4, penalty=penalty, statistics=logistic.standardization(x)
                    )(x[held]),
                    y[held],
                )
            )
            for penalty in logistic.PENALTIES
        ]
        chosen = logistic.PENALTIES.index(logistic.fit(x, y, 4).penalty)
        found.append(chosen)
        assert losses[chosen] < min(losses) + 5e-3, (noise, losses, chosen)
    assert found[0] < len(logistic.PENALTIES) // 2 < found[2]


def test_fewer_samples_than_features_reach_the_same_optimum():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(30, 200, generator=generator), torch.arange(30) % 3
    ours = logistic.fit(x, y, 3, penalty=0.1)
    theirs = LogisticRegression(C=1 / 3.0, tol=1e-8, max_iter=5000).fit(standardized(x).numpy(), y.numpy())
    unseen = torch.randn(50, 200, generator=generator)
    mean, scale = logistic.standardization(x)
    expected = torch.tensor(theirs.predict_proba(((unseen - mean) / scale).numpy()), dtype=torch.float32)
    assert (ours(unseen).softmax(1) - expected).abs().max() < 2e-3


def test_standardization_is_that_of_torch():
    x = torch.randn(5000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 20.0, 0.1]) + 5
    mean, scale = logistic.standardization(x)
    assert torch.allclose(mean, x.mean(0))
    assert torch.allclose(scale, x.std(0, correction=0), rtol=1e-5)


def test_raw_digits_reach_what_is_known_of_them():
    fold = logistic.folds(LABELS, 5)
    fitted = logistic.fit(PIXELS[fold > 0], LABELS[fold > 0], 10)
    accuracy = (fitted(PIXELS[fold == 0]).argmax(1) == LABELS[fold == 0]).float().mean()
    assert fitted.reason == "by a held-out fifth"
    assert 0.94 < accuracy < 0.99


def test_scaling_and_shifting_features_changes_no_probability():
    x, y = PIXELS[:200], LABELS[:200]
    factors = torch.rand(64, generator=torch.Generator().manual_seed(0)) * 10 + 0.1
    plain, moved = logistic.fit(x, y, 10), logistic.fit(x * factors + 3, y, 10)
    assert plain.penalty == moved.penalty
    assert torch.allclose(plain(x).softmax(1), moved(x * factors + 3).softmax(1), atol=2e-3)


@pytest.mark.parametrize(
    ("each", "said"), [(1, "fixed"), (2, "by a held-out half"), (4, "by a held-out quarter")]
)
def test_the_share_that_was_held_out_is_named(each, said, monkeypatch):
    monkeypatch.setattr(logistic, "HOLD_OUT_FROM", 6)
    rows = torch.cat([(digit == LABELS).nonzero()[:each, 0] for digit in range(3)])
    assert logistic.fit(PIXELS[rows], LABELS[rows], 3).reason == said


def test_features_that_never_vary_are_ignored_even_when_they_vary_later():
    x, y = PIXELS[:100].clone(), LABELS[:100]
    x[:, 0] = 5.0
    fitted = logistic.fit(x, y, 10)
    changed = x.clone()
    changed[:, 0] = 1e4
    assert fitted.weight.isfinite().all()
    assert torch.equal(fitted(x), fitted(changed))


@pytest.mark.parametrize("count", [1, 50, 100])
def test_features_that_say_nothing_predict_the_commonest_class(count):
    labels = torch.arange(count) % 3 // 2
    fitted = logistic.fit(torch.ones(count, 64), labels, 2)
    assert (fitted(torch.ones(5, 64)).argmax(1) == 0).all()


def test_the_same_labels_give_the_same_bits():
    first, second = (logistic.fit(PIXELS[:300], LABELS[:300], 10) for _ in range(2))
    assert torch.equal(first.weight, second.weight)


def test_noise_asks_for_a_larger_penalty_than_signal():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(200, 64, generator=generator)
    assert (
        logistic.fit(noise, LABELS[:200], 10).penalty > logistic.fit(PIXELS[:200], LABELS[:200], 10).penalty
    )


def test_one_label_per_class_takes_the_stated_penalty():
    rows = torch.stack([(digit == LABELS).nonzero()[0, 0] for digit in range(10)])
    fitted = logistic.fit(PIXELS[rows], LABELS[rows], 10)
    assert (fitted.penalty, fitted.reason) == (logistic.FIXED_PENALTY, "fixed")
    assert (fitted(PIXELS).argmax(1) == LABELS).float().mean() > 0.4


def test_two_classes_and_a_rare_one_are_fitted():
    rows = torch.cat([(LABELS == 0).nonzero()[:60, 0], (LABELS == 1).nonzero()[:3, 0]])
    fitted = logistic.fit(PIXELS[rows], LABELS[rows], 2)
    assert (fitted(PIXELS[rows]).argmax(1) == LABELS[rows]).all()


def test_a_class_without_samples_is_never_predicted():
    rows = LABELS != 3
    fitted = logistic.fit(PIXELS[rows][:300], LABELS[rows][:300], 10)
    assert 3 not in fitted(PIXELS).argmax(1)


def test_folds_spread_each_class_evenly():
    fold = logistic.folds(LABELS, 5)
    for digit in range(10):
        counts = fold[digit == LABELS].bincount(minlength=5)
        assert counts.max() - counts.min() <= 1


def test_ten_thousand_samples_take_seconds():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(10_000, 256, generator=generator)
    labels = (features[:, :10] + torch.randn(10_000, 10, generator=generator)).argmax(1)
    began = time.process_time()
    logistic.fit(features, labels, 10)
    assert time.process_time() - began < 15


def test_a_penalty_of_zero_is_refused():
    with pytest.raises(ValueError, match="penalty must be above 0, got 0"):
        logistic.fit(PIXELS[:50], LABELS[:50], 10, penalty=0.0)
