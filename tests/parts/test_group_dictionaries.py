"""Groups of maps that respond at the same places, and their dictionaries."""

import torch
from torch import Tensor

from unlabeled.encoders.second_layer import SecondLayer
from unlabeled.parts.group_dictionaries import GroupDictionaries, related


def planted(samples: int = 50) -> tuple[Tensor, Tensor]:
    """Twelve maps in three shuffled families, each of which shares one source, and the family of each."""
    torch.manual_seed(0)
    family = torch.arange(3).repeat(4)
    maps = torch.rand(samples, 3, 5, 5)[:, family] + 0.3 * torch.rand(samples, 12, 5, 5)
    return maps * torch.logspace(-2, 1, 12)[:, None, None], family


def test_maps_of_one_source_form_a_group_whatever_their_scale() -> None:
    maps, family = planted()
    for _ in range(5):
        groups = related(maps, 3, 4)
        assert sorted(family[group].unique().item() for group in groups) == [0, 1, 2]


def test_more_groups_than_needed_and_constant_maps_are_allowed() -> None:
    groups = related(torch.cat([planted()[0], torch.ones(50, 1, 5, 5)], 1), 6, 13)
    assert torch.equal(groups, torch.arange(13).expand(6, 13))


def test_dictionaries_learn_and_the_layer_has_their_filters() -> None:
    maps, _ = planted()
    layer = SecondLayer(12, 5)
    dictionaries = GroupDictionaries(layer, 1000, 0.1)
    losses = [float(dictionaries(maps, layer)) for _ in range(8)]
    assert losses[-1] < losses[0] < 1
    filters, offsets = dictionaries.dictionaries[0].filters()
    assert torch.equal(layer.filters[0].convolution.weight.flatten(1), filters)
    assert torch.equal(layer.filters[0].offset, offsets)


def test_evaluation_moves_nothing() -> None:
    maps, _ = planted()
    layer = SecondLayer(12, 5)
    dictionaries = GroupDictionaries(layer, 1000, 0.1).eval()
    before = {name: value.clone() for name, value in dictionaries.state_dict().items()}
    dictionaries(maps, layer)
    assert all(torch.equal(value, before[name]) for name, value in dictionaries.state_dict().items())
