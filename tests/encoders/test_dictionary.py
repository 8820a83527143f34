"""The code of a dictionary against a slow loop over patches."""

import pytest
import torch
from torch import Tensor

from unlabeled import encoders
from unlabeled.data import open_data
from unlabeled.encoders.dictionary import PatchCode, dictionary, mirror_accuracy, suited
from unlabeled.exporting import export
from unlabeled.parts.dictionary import Dictionary


def images(count: int = 2, size: int = 11) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(count, 3, size, size)


def network(size: int = 11, atoms: int = 5, width: int = 4) -> PatchCode:
    """With the filters of a dictionary of random atoms."""
    torch.manual_seed(1)
    code = PatchCode(3, atoms, width)
    learner = Dictionary(atoms, code.numbers, eps=code.eps, whitening_eps=0.1)
    learner.begin(torch.randn(500, code.numbers))
    code.set_filters(*learner.filters())
    code.learner = learner
    return code


def slow(code: PatchCode, image: Tensor) -> Tensor:
    """Code of every patch, whitened and projected one by one, float, shape (2 * atoms, rows, columns)."""
    places = image.shape[1] - code.width + 1
    full = torch.zeros(2 * len(code.offset), places, places)
    for row in range(places):
        for column in range(places):
            patch = image[:, row : row + code.width, column : column + code.width].reshape(1, -1)
            products = code.learner.atoms @ code.learner.whiten(patch)[0]
            both = torch.cat([products, -products])
            full[:, row, column] = (both - 0.25).clamp_min(0)
    return full


def test_the_code_is_normalise_whiten_project_threshold_patch_by_patch() -> None:
    code, batch = network(), images()
    maps = code.maps(batch)["atoms"]
    assert maps.shape == (2, 10, 8, 8), "8 places a side, fewer than the 9 cells"
    for image, result in zip(batch, maps):
        torch.testing.assert_close(result, slow(code, image), rtol=1e-4, atol=1e-4)


def test_larger_maps_are_averaged_over_cells_and_then_over_the_grid() -> None:
    code, batch = network(), images(1, 21)
    full = slow(code, batch[0])
    cells = full.view(10, 9, 2, 9, 2).mean((2, 4))
    torch.testing.assert_close(code.maps(batch)["atoms"][0], cells, rtol=1e-4, atol=1e-4)
    coarse = cells.view(10, 3, 3, 3, 3).mean((2, 4))
    torch.testing.assert_close(code(batch)[0].square() - 1e-4, coarse.flatten(), rtol=1e-4, atol=1e-4)


def test_a_constant_image_has_the_code_of_zero_contrast_and_contrast_and_brightness_do_not_matter() -> None:
    code = network()
    assert torch.equal(
        code.maps(torch.full((1, 3, 11, 11), 0.3))["atoms"], code.maps(torch.zeros(1, 3, 11, 11))["atoms"]
    )
    code.eps = 1e-6
    batch = images()
    torch.testing.assert_close(code(3 * batch + 1), code(batch), rtol=1e-2, atol=1e-3)


def test_the_chunk_size_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    code, batch = network(), images(7)
    whole = code(batch)
    monkeypatch.setattr("unlabeled.encoders.dictionary.ENTRIES", 1)
    torch.testing.assert_close(code(batch), whole)


def test_opposite_filters_swap_the_halves() -> None:
    code, batch = network(), images()
    first = code.maps(batch)["atoms"]
    with torch.no_grad():
        code.convolution.weight.neg_()
        code.offset.neg_()
    torch.testing.assert_close(code.maps(batch)["atoms"], first.roll(5, 1))


@pytest.mark.parametrize("name, atoms, width", [("dictionary-16", 16, 6), ("dictionary-9-3", 9, 3)])
def test_names_set_atoms_and_width(name: str, atoms: int, width: int) -> None:
    encoder = encoders.build(name, image_size=32)
    code = encoder.trunk
    assert (len(code.offset), code.width, encoder.dim) == (atoms, width, 2 * atoms * 9)
    assert encoder.features(torch.rand(2, 3, 32, 32)).shape == (2, encoder.dim)


def test_patches_fit_into_small_images_and_wider_ones_are_refused() -> None:
    assert dictionary("dictionary-16", 1, 8).width == 4
    assert encoders.build("dictionary-16", image_size=1)(torch.rand(1, 3, 1, 1)).shape == (1, 288)
    with pytest.raises(
        ValueError, match=r"patches must be at most as wide as the images, 8 pixels, got dictionary-16-9"
    ):
        encoders.build("dictionary-16-9", image_size=8)


def test_gradients_reach_filters_and_images() -> None:
    code, batch = network(), images().requires_grad_()
    code(batch).sum().backward()
    assert code.convolution.weight.grad.abs().sum() > 0 and code.offset.grad.abs().sum() > 0
    assert batch.grad.abs().sum() > 0


def test_a_saved_dictionary_opens_with_the_same_features(tmp_path) -> None:
    encoder = encoders.build("dictionary-16", image_size=16).eval()
    encoder.save(tmp_path / "one.safetensors")
    again = encoders.load(tmp_path / "one.safetensors").eval()
    batch = torch.rand(2, 3, 16, 16)
    assert torch.equal(again(batch), encoder(batch))


def mirrored_network() -> PatchCode:
    torch.manual_seed(1)
    code = PatchCode(3, 6, 4, mirror=True)
    with torch.no_grad():
        code.offset.normal_(std=0.1)
    return code


def test_mirrored_filters_give_an_image_and_its_mirror_image_the_same_features() -> None:
    code, batch = mirrored_network(), images(3, 21)
    torch.testing.assert_close(code(batch.flip(3)), code(batch), rtol=1e-4, atol=1e-5)
    assert (code(batch.flip(2)) - code(batch)).abs().max() > 0.1
    assert (code(batch)[0] - code(batch)[1]).abs().max() > 0.1


def test_mirrored_filters_are_the_mean_over_both_images_of_a_network_with_all_filters() -> None:
    code, batch = mirrored_network(), images(3, 21)
    whole = PatchCode(3, 6, 4)
    weight = code.convolution.weight
    whole.set_filters(torch.cat([weight, weight.flip(3)]).flatten(1), code.offset.repeat(2))
    torch.testing.assert_close(code.maps(batch)["atoms"], whole.maps(batch)["atoms"], rtol=1e-4, atol=1e-5)
    mean = ((whole(batch).square() + whole(batch.flip(3)).square()) / 2).view(3, 2, 6, 9)[:, :, :3]
    torch.testing.assert_close(code(batch).square(), mean.flatten(1), rtol=1e-4, atol=1e-5)


def test_dictionaries_are_mirrored_only_for_images_that_face_either_way() -> None:
    torch.manual_seed(0)
    noise = torch.rand(400, 1, 16, 16)
    assert mirror_accuracy(noise) == pytest.approx(0.5, abs=0.1)
    facing = noise + torch.linspace(0, 0.5, 16)
    assert mirror_accuracy(facing) > 0.95
    assert mirror_accuracy(
        torch.cat([facing[:200], facing[200:].flip(3)])[torch.randperm(400)]
    ) == pytest.approx(0.5, abs=0.1)
    assert mirror_accuracy(torch.zeros(10, 1, 16, 16)) == 0.5, "symmetric images say nothing"
    assert suited("dictionary-16", noise)[0] == "dictionary-16-mirror"
    assert suited("dictionary-16", facing)[0] == "dictionary-16"
    assert (
        suited("dictionary-16", noise[:10])[0]
        == suited("dictionary-15", noise)[0][:-1] + "6"
        == "dictionary-16"
    )
    assert suited("dictionary-16-oriented", noise) == ("dictionary-16-oriented", "")


def test_the_choice_is_reported_and_saved_with_the_encoder(tmp_path) -> None:
    data = open_data((torch.rand(100, 3, 16, 16) * 255).to(torch.uint8))
    encoder = encoders.fitted("dictionary-16", data).eval()
    assert encoder.trunk.mirror and encoder.dim == 16 * 9
    assert any("an image and its mirror image get the same features" in note for note in encoder.notes)
    encoder.save(tmp_path / "one.safetensors")
    assert encoders.load(tmp_path / "one.safetensors").trunk.mirror
    assert not encoders.fitted("dictionary-16-oriented", data).trunk.mirror


def test_an_odd_number_of_atoms_cannot_be_mirrored() -> None:
    with pytest.raises(
        ValueError, match="atoms must be even where half are mirror images, got dictionary-9-3-mirror"
    ):
        encoders.build("dictionary-9-3-mirror", image_size=8)


@pytest.mark.golden  # test_second_layer.py exports two layers, of which this is the first
def test_onnx_accepts_any_number_of_images_and_notes_that_it_accepts_one_size(tmp_path) -> None:
    pytest.importorskip("onnxruntime")
    encoder = encoders.build("dictionary-16-mirror", image_size=16)
    exported = export(encoder, tmp_path / "one.onnx", format="onnx")
    assert exported.difference < 1e-5 and "of 16 x 16 pixels only" in exported.note
