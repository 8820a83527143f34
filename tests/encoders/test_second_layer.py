"""The second layer of a dictionary against a slow loop over patches of groups of maps."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from unlabeled import encoders
from unlabeled.encoders import second_layer
from unlabeled.encoders.dictionary import PatchCode
from unlabeled.encoders.second_layer import SecondLayer
from unlabeled.exporting import export, onnx_graph
from unlabeled.parts.directions import LARGEST
from unlabeled.parts.group_dictionaries import GroupDictionaries


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second_layer, "SIZE", 4)
    monkeypatch.setattr(second_layer, "ATOMS", 5)


def learned(maps: Tensor, cells: int) -> tuple[SecondLayer, GroupDictionaries]:
    """A second layer of random atoms of these maps."""
    torch.manual_seed(1)
    layer = SecondLayer(maps.shape[1], cells)
    dictionaries = GroupDictionaries(layer, 400, 0.1)
    dictionaries.begin(maps, layer)
    return layer, dictionaries


def slow(layer: SecondLayer, dictionaries: GroupDictionaries, maps: Tensor) -> Tensor:
    """Code of one image, each patch of each group normalised, whitened and projected by itself."""
    places = maps.shape[1] - 2
    above = torch.zeros(len(layer.groups), 5, places, places)
    below = torch.zeros_like(above)
    for number, group in enumerate(layer.groups):
        roots = (maps[group] + 1e-4).sqrt()
        dictionary = dictionaries.dictionaries[number]
        for row in range(places):
            for column in range(places):
                patch = roots[:, row : row + 3, column : column + 3].reshape(1, -1)
                products = dictionary.atoms @ dictionary.whiten(patch)[0]
                above[number, :, row, column] = (products - 0.25).clamp_min(0)
                below[number, :, row, column] = (-products - 0.25).clamp_min(0)
    return torch.cat([above.flatten(0, 1), below.flatten(0, 1)])


def test_the_code_is_root_normalise_whiten_project_threshold_patch_by_patch() -> None:
    torch.manual_seed(0)
    maps = torch.rand(20, 12, 6, 6) ** 4
    layer, dictionaries = learned(maps, 6)
    assert layer.groups.shape == (3, 4) and layer.dim == 2 * 5 * 3
    code = layer(maps)
    assert code.shape == (20, 30, 4, 4) and code.std() > 0.01
    for image, result in zip(maps[:2], code):
        torch.testing.assert_close(result, slow(layer, dictionaries, image), rtol=1e-4, atol=1e-4)


def network(mirror: bool = False) -> PatchCode:
    torch.manual_seed(1)
    code = PatchCode(3, 8, 4, mirror=mirror, second=SecondLayer(16, 9))
    code.second.groups.copy_(torch.randperm(16).view(4, 4))
    with torch.no_grad():
        code.offset.normal_(std=0.1)
    return code


def test_the_output_is_the_first_code_and_beside_it_the_second_over_quadrants() -> None:
    torch.manual_seed(0)
    images, code = torch.randn(3, 3, 21, 21), network()
    plain = PatchCode(3, 8, 4)
    plain.load_state_dict(code.state_dict(), strict=False)
    maps, output = code.maps(images), code(images)
    assert torch.equal(maps["atoms"], plain.maps(images)["atoms"])
    assert torch.equal(output[:, : plain.dim], plain(images)) and output.shape[1] == code.dim
    torch.testing.assert_close(maps["second"], code.second(maps["atoms"]))
    rows = (slice(0, 4), slice(3, 7))  # of 7 places, the middle one lies in both halves
    quadrants = [maps["second"][:, :, y, x].mean((2, 3)) for y in rows for x in rows]
    second = output[:, plain.dim :].view(3, 40, 4).square() - 1e-4
    torch.testing.assert_close(second, torch.stack(quadrants, 2), rtol=1e-4, atol=1e-5)


def test_with_mirrored_filters_an_image_and_its_mirror_image_have_the_same_features() -> None:
    torch.manual_seed(0)
    images, code = torch.randn(3, 3, 21, 21), network(mirror=True)
    torch.testing.assert_close(code(images.flip(3)), code(images), rtol=1e-4, atol=1e-4)
    first, second = code(images)[:, : -code.second.dim * 4], code(images)[:, -code.second.dim * 4 :]
    assert (second[0] - second[1]).abs().max() > 0.05 and first.shape[1] == 2 * 4 * 9
    # The same filters written out: the mean over both images.
    whole = PatchCode(3, 8, 4, second=code.second)
    weight = code.convolution.weight
    whole.set_filters(torch.cat([weight, weight.flip(3)]).flatten(1), code.offset.repeat(2))
    both = (whole(images).square() + whole(images.flip(3)).square()) / 2
    width = code.second.dim * 4
    torch.testing.assert_close(second.square(), both[:, -width:], rtol=1e-4, atol=1e-4)


def test_names_groups_and_filters_are_saved(tmp_path) -> None:
    encoder = encoders.build("dictionary2-16-mirror", image_size=16).eval()
    assert list(encoder.map_dims) == ["atoms", "second"]
    encoder.trunk.second.groups.copy_(torch.randperm(32)[: 8 * 4].view(8, 4))
    encoder.save(tmp_path / "one.safetensors")
    again = encoders.load(tmp_path / "one.safetensors").eval()
    batch = torch.rand(2, 3, 16, 16)
    assert torch.equal(again(batch), encoder(batch))


@pytest.mark.parametrize("size", [1, 2, 8])
def test_small_images_have_small_second_patches(size: int) -> None:
    encoder = encoders.build("dictionary2-16", image_size=size).eval()
    assert encoder(torch.rand(2, 3, size, size)).shape == (2, encoder.dim)


def test_gradients_reach_both_layers() -> None:
    code = network()
    code(torch.randn(2, 3, 21, 21)).sum().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in code.parameters())


def test_onnx_takes_any_number_of_images(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one group of maps and for one size only: each operation of a graph costs torch's export much time."""
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(second_layer, "GROUPS", 1)
    monkeypatch.setattr(onnx_graph, "_free_sizes", lambda *_: "others differ by 0.4")
    encoder = encoders.build("dictionary2-16-mirror", image_size=16)
    exported = export(encoder, tmp_path / "one.onnx", format="onnx")
    assert exported.difference < 1e-5
    assert "of 16 x 16 pixels only (others differ by 0.4)" in exported.note


def test_a_graph_whose_features_differ_at_other_sizes_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = encoders.build("dictionary-16-mirror", image_size=16).eval()
    monkeypatch.setattr(onnx_graph, "_save_images", lambda *_: None)
    for error, reason in ((0.0, ""), (0.5, "others differ by 0.5")):
        monkeypatch.setattr(
            onnx_graph, "_run", lambda _, given, error=error: encoder(given["images"]) + error
        )
        assert onnx_graph._free_sizes(encoder, torch.rand(2, 3, 16, 16), Path("unused.onnx")) == reason


@pytest.mark.parametrize("name", ["dictionary2-400", "dictionary2-400-mirror", "dictionary2-1000-mirror"])
def test_the_output_has_no_more_numbers_than_the_readouts_take(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(second_layer, "SIZE", 64)
    monkeypatch.setattr(second_layer, "ATOMS", 96)
    network = encoders.build(name, in_channels=1, image_size=20)
    assert 4096 < network.dim <= LARGEST
