"""A dictionary of patches: what it learns, and that it looks at nothing else."""

from pathlib import Path

import pytest
import torch

from unlabeled import encoders, evaluate, pretrain
from unlabeled.data import open_data
from unlabeled.methods.patch_dictionary import PatchDictionary


def build(network: str = "dictionary-16", size: int = 16, **options) -> PatchDictionary:
    torch.manual_seed(0)
    return PatchDictionary(encoders.build(network, image_size=size), **{"patches": 2000} | options)


def stripes(count: int = 64, size: int = 16) -> torch.Tensor:
    """Images of one grating each, upright or lying, of any phase."""
    torch.manual_seed(0)
    wave = torch.sin(torch.arange(size) * 2 * torch.pi / 4 + torch.rand(count, 1) * 6.28)
    upright = wave[:, None, :].expand(-1, size, -1)
    images = torch.where(torch.rand(count, 1, 1) < 0.5, upright, upright.mT)
    return ((images / 2 + 0.5) * 255).to(torch.uint8)[:, None].expand(-1, 3, -1, -1)


def test_more_of_the_variance_of_patches_is_explained_after_training() -> None:
    data = open_data(stripes())
    method = build()
    method.prepare(data)
    losses = [float(method(data.sample(32))) for _ in range(12)]
    assert losses[-1] < 0.8 * losses[0] < method.chance(32)


def test_the_filters_of_the_encoder_are_the_atoms_with_the_whitening_folded_in() -> None:
    data = open_data(stripes())
    method = build()
    method.prepare(data)
    method(data.sample(32))
    filters, offsets = method.dictionary.filters()
    assert torch.equal(method.encoder.trunk.convolution.weight.flatten(1), filters)
    assert torch.equal(method.encoder.trunk.offset, offsets)


def test_one_label_per_class_separates_vertical_from_horizontal_stripes(tmp_path: Path) -> None:
    images = stripes(200)
    data = open_data(images)
    data.labels = (images.float().diff(dim=3).abs().sum((1, 2, 3)) == 0).long()
    train, test = data.subset(torch.arange(150)), data.subset(torch.arange(150, 200))
    settings = {"encoder": "dictionary-16", "patches": 2000, "steps": 8, "quiet": True}
    run = pretrain("patch_dictionary", train, out=tmp_path / "run", **settings)
    scores = evaluate(run, (train, test), probe="knn", labels_per_class=[1], controls=())
    assert scores.records[0]["value"] > 0.95


def test_pictures_show_what_one_atom_per_patch_explains() -> None:
    data = open_data(stripes())
    method = build(size=18)
    method.prepare(data)
    for _ in range(10):
        method(data.sample(32))
    shown = method.eval().pictures(data.sample(5))
    image, drawn = shown["image"], shown["one atom per patch"]
    assert image.shape == drawn.shape == (5, 3, 18, 18)
    flat = image.mean((2, 3), keepdim=True)
    assert (drawn - image).square().mean() < 0.5 * (flat - image).square().mean()
    assert shown["most used atoms"].shape == (5, 3, 28, 28)


def test_other_encoders_are_refused() -> None:
    with pytest.raises(ValueError, match="encoder must be a dictionary such as dictionary-400, got conv4"):
        PatchDictionary(encoders.build("conv4", image_size=8))


def test_the_second_layer_learns_from_the_second_half_of_the_training_on_and_the_first_no_more() -> None:
    data = open_data(stripes())
    method = build("dictionary2-16", size=18)
    method.prepare(data)
    trunk, losses = method.encoder.trunk, []
    for step in range(16):
        first, second = trunk.convolution.weight.clone(), trunk.second.filters[0].convolution.weight.clone()
        losses.append(float(method(data.sample(32))))
        assert torch.equal(trunk.convolution.weight, first) == (step >= 8)
        assert torch.equal(trunk.second.filters[0].convolution.weight, second) == (step < 8)
        method.after_step((step + 1) / 16)
    assert 0.5 < losses[7] < losses[0], "the second layer explains nothing yet"
    assert losses[15] < losses[7] and losses[15] < 0.5


def test_two_layers_resume_with_the_same_bits(tmp_path: Path) -> None:
    data = open_data(stripes())
    settings = {"encoder": "dictionary2-16", "patches": 500, "steps": 6, "batch_size": 32, "quiet": True}
    whole = pretrain("patch_dictionary", data, out=tmp_path / "whole", **settings)

    def stop(step: int) -> None:
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain("patch_dictionary", data, out=tmp_path / "parts", on_step=stop, **settings)
    resumed = pretrain("patch_dictionary", data, out=tmp_path / "parts", resume=True, **settings)
    again = resumed.encoder.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in whole.encoder.state_dict().items())
