"""Seasons: what lasts and what changes, and a control in which nothing lasts."""

from typing import Any

import pytest
import torch
from torch import Tensor

from unlabeled.worlds import seasons


def small(n: int = 6, seed: int = 0, **options: Any) -> dict[str, Tensor]:
    return seasons.make(n, seed, **{"times": 4, "size": 16} | options)


def test_pictures_and_factors_have_the_documented_shapes() -> None:
    made = small()
    assert made["image"].shape == (6, 4, 3, 16, 16) and made["image"].dtype == torch.uint8
    assert all(values.shape == (6, 4) for key, values in made.items() if key != "image")
    torch.testing.assert_close(made["season_sin"].square() + made["season_cos"].square(), torch.ones(6, 4))
    assert made["haze"].min() >= 0 and made["haze"].max() <= 1
    assert set(small(300)["cover"].flatten().tolist()) == set(range(len(seasons.COVERS)))


def test_pictures_depend_on_the_seed_and_not_on_the_default_generator() -> None:
    torch.manual_seed(1)
    first = small(seed=4)
    torch.manual_seed(2)
    assert all(torch.equal(value, small(seed=4)[key]) for key, value in first.items())
    assert not torch.equal(first["image"], small(seed=5)["image"])


def edges(image: Tensor) -> Tensor:
    """Where neighbouring pixels differ, whatever the colours: standardised lightness steps, (pictures, pixels)."""
    grey = image.flatten(0, 1).float().mean(1)
    steps = grey.diff(dim=1).abs().flatten(1)
    return (steps - steps.mean(1, keepdim=True)) / steps.std(1, keepdim=True)


def same_place(made: dict[str, Tensor]) -> float:
    """Fraction of the pictures whose most similar other one by edges is of the same place."""
    likeness = edges(made["image"]) @ edges(made["image"]).T
    place = torch.arange(made["image"].shape[0]).repeat_interleave(made["image"].shape[1])
    return float((place[likeness.fill_diagonal_(-torch.inf).argmax(1)] == place).float().mean())


def test_the_map_of_a_place_persists_except_in_the_control() -> None:
    assert same_place(small(40)) > 0.6
    assert same_place(small(40, unrelated=True)) < 0.08  # chance level 3 / 159
    cover = small(200)["cover"]
    assert torch.equal(cover, cover[:, :1].expand_as(cover))
    moved = small(200, unrelated=True)["cover"]
    assert float((moved == moved[:, :1])[:, 1:].float().mean()) == pytest.approx(1 / 5, abs=0.08)


def test_colours_depend_on_the_season_with_a_period_of_a_year_and_not_on_the_place() -> None:
    land = torch.arange(5).expand(4, 5, 5)
    seen = [
        seasons._render(land, torch.full((4, 5, 5), at), torch.zeros(4, 5, 5), torch.ones(4), torch.zeros(4))
        for at in (0.25, 1.25, -0.75, 0.5)
    ]
    torch.testing.assert_close(seen[0], seen[1])
    torch.testing.assert_close(seen[0], seen[2])
    wanted = torch.tensor([cover[1] for cover in seasons.COLORS])  # of spring
    torch.testing.assert_close(seen[0][0, :, 0].T, wanted)
    assert (seen[0] - seen[3]).abs().amax((0, 1, 2)).min() > 0.02


def test_haze_is_white_and_light_is_a_factor() -> None:
    arguments = torch.zeros(1, 4, 4).long(), torch.full((1, 4, 4), 0.5), torch.zeros(1, 4, 4)
    clear = seasons._render(*arguments, torch.ones(1), torch.zeros(1))
    assert seasons._render(*arguments, torch.ones(1), torch.ones(1)).min() == 1
    torch.testing.assert_close(seasons._render(*arguments, torch.full((1,), 0.5), torch.zeros(1)), clear / 2)


@pytest.mark.parametrize("option", [{"n": 0}, {"times": 0}, {"size": 7}])
def test_bad_values_are_named(option: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(option))):
        small(**option)
