"""What else is known of the samples: ridge regression against a library, classes against chance."""

import pytest
import torch
from sklearn.linear_model import Ridge

from unlabeled import encoders
from unlabeled.data import Images, from_images
from unlabeled.evaluation import evaluate
from unlabeled.evaluation.tasks import factors


def linear_problem(noise: float, samples: int = 300, dim: int = 12) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(samples, dim, generator=generator) * torch.logspace(-2, 2, dim)
    targets = features[:, 0] * 100 + features[:, 3] + 5
    targets = targets + noise * torch.randn(samples, generator=generator)
    return features[:200], targets[:200], features[200:], targets[200:]


def test_ridge_agrees_with_scikit_learn_for_one_of_its_penalties() -> None:
    train, targets, test, _ = linear_problem(3.0)
    ours = factors.ridge(train, targets, test)
    mean, scale = train.double().mean(0), train.double().std(0, correction=0)
    whitened, tested = ((x.double() - mean) / scale for x in (train, test))
    unit = torch.linalg.svdvals(whitened).square().mean()
    differences = [
        abs(torch.tensor(Ridge(alpha=float(p * unit)).fit(whitened, targets).predict(tested)) - ours).max()
        for p in factors.PENALTIES
    ]
    assert min(differences) < 1e-6


def test_ridge_explains_a_linear_quantity_and_no_noise() -> None:
    train, targets, test, answers = linear_problem(0.0)
    assert factors.r_squared(factors.ridge(train, targets, test), answers.double()) > 0.999
    noise = torch.randn(300, generator=torch.Generator().manual_seed(1))
    assert abs(factors.r_squared(factors.ridge(train, noise[:200], test), noise[200:].double())) < 0.1


def test_more_features_than_samples_are_borne() -> None:
    generator = torch.Generator().manual_seed(0)
    train, test = torch.randn(20, 50, generator=generator), torch.randn(30, 50, generator=generator)
    assert factors.ridge(train, train[:, 0], test).isfinite().all()


def test_explained_of_the_mean_is_0_and_of_the_truth_1() -> None:
    targets = torch.tensor([1.0, 2.0, 6.0], dtype=torch.double)
    assert factors.r_squared(targets, targets) == 1
    assert factors.r_squared(targets.mean().expand(3), targets) == pytest.approx(0)


def test_every_factor_is_probed_beside_its_controls() -> None:
    generator = torch.Generator().manual_seed(0)
    brightness = torch.rand(120, generator=generator)
    images = (brightness[:, None, None, None] * 200).expand(120, 1, 8, 8).to(torch.uint8).clone()
    images += torch.randint(20, images.shape, generator=generator, dtype=torch.uint8)
    data = from_images(images, name="grey")
    data.factors = {"brightness": brightness, "bright": (brightness > 0.5).long()}
    encoder = encoders.build("conv4", in_channels=1, image_size=8)
    scores = evaluate(encoder, data, probe="factors")
    found = {(record["features"], record["unit"]): record for record in scores}
    assert len(found) == 6
    assert found["raw", "brightness R²"]["value"] > 0.98 and found["raw", "bright"]["value"] > 0.9
    assert "margin" in found["random", "brightness R²"] and "factors" in scores.table()


def test_data_without_factors_are_refused() -> None:
    images = torch.randint(0, 256, (10, 1, 8, 8), dtype=torch.uint8)
    with pytest.raises(ValueError, match="data must have factors, got bare"):
        evaluate(
            encoders.build("conv4", in_channels=1, image_size=8),
            from_images(images, name="bare"),
            probe="factors",
        )


def grey(count: int = 120) -> Images:
    generator = torch.Generator().manual_seed(0)
    brightness = torch.rand(count, generator=generator)
    images = (brightness[:, None, None, None] * 200).expand(count, 1, 8, 8).to(torch.uint8).clone()
    images += torch.randint(20, images.shape, generator=generator, dtype=torch.uint8)
    data = from_images(images, name="grey")
    data.factors = {"brightness": brightness, "bright": (brightness > 0.5).long()}
    return data


def measured(data: Images) -> dict[str, float]:
    """What is read from the raw input, by factor."""
    encoder = encoders.build("conv4", in_channels=1, image_size=8)
    return {
        record["unit"]: record["value"]
        for record in evaluate(encoder, data, probe="factors")
        if record["features"] == "raw"
    }


def test_what_is_unknown_of_some_samples_is_left_out_and_what_never_varies_too() -> None:
    data = grey()
    unknown = torch.arange(120) % 4 == 0
    data.factors["brightness"] = data.factors["brightness"].masked_fill(unknown, torch.nan)
    data.factors["bright"] = data.factors["bright"].masked_fill(unknown, -1)
    data.factors["nothing"] = torch.full((120,), -1)
    data.factors["one"] = torch.ones(120, dtype=torch.int64)
    found = measured(data)
    assert found.keys() == {"brightness R²", "bright"}
    assert found["brightness R²"] > 0.98 and found["bright"] > 0.9
    data.factors = {"nothing": data.factors["nothing"]}
    with pytest.raises(ValueError, match="factors of grey must vary, got nothing"):
        measured(data)


def test_classes_may_have_any_numbers_and_be_true_or_false() -> None:
    data = grey()
    bright = data.factors["bright"]
    data.factors = {"year": 1_000_000_000 + 24 * bright, "is_bright": bright.bool(), "bright": bright}
    found = measured(data)
    assert found["year"] == found["is_bright"] == found["bright"] > 0.9


def test_groups_of_the_known_samples_are_the_units() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (120, 1, 8, 8), dtype=torch.uint8, generator=generator)
    train, test = from_images(images[:80]), from_images(images[80:])
    for data in (train, test):
        level = torch.rand(len(data), generator=generator)
        level[:4] = torch.nan
        data.factors = {"level": level, "kind": torch.arange(len(data)) % 3}
    test.groups = torch.arange(40) // 4
    encoder = encoders.build("conv4", in_channels=1, image_size=8)
    scores = evaluate(encoder, (train, test), probe="factors")
    assert scores.about["data"] == "array"
    assert {(r["unit"], r["units"], r["counted"]) for r in scores} == {
        ("level R²", 9, "groups"), ("kind", 10, "groups")
    }  # fmt: skip
    assert all(r["low"] <= r["value"] <= r["high"] <= 1 for r in scores)
