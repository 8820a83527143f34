"""Filters from clusters of patches: what is drawn, what comes out, and where nothing can."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled import encoders
from unlabeled.data import from_images
from unlabeled.data.audio.data import from_waveforms
from unlabeled.encoders.kmeans_filters import draw_inputs, filters, replace_filters_
from unlabeled.encoders.rescaled import rescale_


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def images(count: int = 80) -> Tensor:
    coarse = torch.rand(count, 3, 5, 5)
    return F.interpolate(coarse, size=(16, 16), mode="bilinear")


@pytest.mark.parametrize("shape", [{}, {"stride": 2}, {"dilation": 2, "kernel_size": (2, 3)}, {"groups": 2}])
def test_inputs_times_filters_equal_the_output_of_the_convolution(shape: dict) -> None:
    layer = nn.Conv2d(4, 6, **{"kernel_size": 3, "bias": False, **shape})
    x = torch.randn(3, 4, 9, 8)
    output = layer(x)
    drawn = draw_inputs(layer, x, len(x) * output.shape[2] * output.shape[3])
    assert len(drawn) == len(x) * output.shape[2] * output.shape[3]
    weight = layer.weight.view(layer.groups, 6 // layer.groups, -1)
    products = torch.einsum("pgn,gon->pgo", drawn, weight).flatten(1)
    expected = output.permute(0, 2, 3, 1).flatten(0, 2)
    torch.testing.assert_close(products.sort(0).values, expected.sort(0).values, atol=1e-5, rtol=1e-5)


def test_positions_are_distinct_and_in_the_padding_only_if_the_input_is_too_small() -> None:
    layer = nn.Conv2d(1, 2, 3, padding=1)
    drawn = draw_inputs(layer, torch.rand(2, 1, 8, 8) + 1, 50)
    assert len(drawn) == 50 and len(drawn.unique(dim=0)) == 50 and drawn.min() >= 1
    small = draw_inputs(layer, torch.ones(2, 1, 1, 1), 50)
    assert small.shape == (2, 1, 9) and torch.equal(small.sum((1, 2)), torch.ones(2))
    linear = draw_inputs(nn.Linear(3, 2), torch.rand(4, 5, 3), 7)
    assert linear.shape == (7, 1, 3)


def test_filters_have_unit_responses_and_are_distinct_unit_vectors_in_the_whitened_space() -> None:
    mixing = torch.randn(12, 12)
    patches = torch.randn(3000, 12) @ mixing + 5
    found = filters(patches, 20)
    assert found is not None
    responses = patches @ found.T
    torch.testing.assert_close(responses.std(0, correction=0), torch.ones(20), atol=1e-3, rtol=1e-3)
    # Whitened patches are patches @ W, whose filters are W @ directions: W^-1 gives the directions back.
    directions = F.normalize(found @ torch.linalg.cholesky(patches.T.cov()), dim=1)
    assert (directions @ directions.T - torch.eye(20)).max() < 0.99


def test_planted_directions_are_recovered() -> None:
    planted = torch.linalg.qr(torch.randn(8, 8))[0]
    which = torch.randint(8, (4000,))
    patches = (1 + torch.rand(4000, 1)) * planted[which] + 0.03 * torch.randn(4000, 8)
    found = filters(patches, 8)
    assert found is not None
    # Of whitened clusters; where all are as frequent and as long, whitening leaves their angles nearly alone.
    centred = F.normalize(planted - patches.mean(0), dim=1)
    likeness = F.normalize(found, dim=1) @ centred.T
    assert sorted(likeness.argmax(1).tolist()) == list(range(8)) and likeness.max(1).values.min() > 0.8


def test_few_or_equal_patches_leave_a_layer_unchanged() -> None:
    assert filters(torch.randn(4, 6), 5) is None
    assert filters(torch.ones(50, 6), 5) is None
    layer = nn.Conv2d(3, 40, 3)
    before = layer.weight.clone()
    assert not replace_filters_(layer, torch.randn(2, 3, 5, 5))  # 18 positions for 40 filters
    assert torch.equal(layer.weight, before)
    assert not replace_filters_(nn.Conv1d(3, 4, 3), torch.randn(20, 3, 9))


def test_each_group_of_channels_has_its_own_clusters() -> None:
    layer, other = nn.Conv2d(4, 6, 3, groups=2), nn.Conv2d(4, 6, 3, groups=2)
    x = torch.randn(8, 4, 8, 8)
    changed = x.clone()
    changed[:, 2:] = torch.randn(8, 2, 8, 8)
    for one, seen in ((layer, x), (other, changed)):
        torch.manual_seed(1)
        assert replace_filters_(one, seen)
    assert torch.equal(layer.weight[:3], other.weight[:3])
    assert not torch.allclose(layer.weight[3:], other.weight[3:])


@pytest.mark.usefixtures("small_networks")
@pytest.mark.parametrize(("name", "count"), [("conv4", 24), ("resnet10", 8), ("vit-small", 4)])
def test_an_encoder_is_the_same_for_the_same_seed_and_images_and_names_its_initialisation(
    name: str, count: int
) -> None:
    encoder = encoders.build(name, image_size=16).eval()
    random = {key: value.clone() for key, value in encoder.state_dict().items()}
    x = images(count)
    outputs = []
    for seed in (3, 3, 4):
        encoder.load_state_dict(random)
        torch.manual_seed(seed)
        assert rescale_(encoder, x, "kmeans").startswith("k-means in ")
        outputs.append(encoder(x))
    assert torch.equal(outputs[0], outputs[1]) and not torch.allclose(outputs[0], outputs[2])
    assert encoder.config["init"] == "kmeans" and outputs[0].isfinite().all()


def test_filters_of_a_layer_are_from_its_input_after_earlier_layers_have_theirs() -> None:
    encoder = encoders.build("conv4", image_size=16).eval()
    pixels = images()
    torch.manual_seed(5)
    assert rescale_(encoder, pixels, "kmeans") == "k-means in 4 of 4 layers, within layers"
    torch.manual_seed(5)
    x = encoder.adapt(pixels)
    for stage in ("s1", "s2"):
        layer: nn.Conv2d = encoder.trunk[stage][0]
        expected = filters(draw_inputs(layer, x, 4096)[:, 0], len(layer.weight))
        assert expected is not None
        likeness = torch.cosine_similarity(expected, layer.weight.flatten(1), dim=1)
        assert likeness.min() > 0.999
        x = encoder.trunk[stage](x)


def test_training_can_start_from_them_but_not_from_a_weights_file_as_well() -> None:
    data = from_images((255 * images()).to(torch.uint8))
    encoder = encoders.fitted("conv4", data, init="kmeans")
    assert encoder.config["init"] == "kmeans"
    assert "init kmeans: k-means in 4 of 4 layers, within layers" in encoder.notes
    with pytest.raises(ValueError, match=r"init must be default or rescaled with weights, .* got kmeans"):
        encoders.fitted("conv4", data, init="kmeans", weights="w.safetensors")
    with pytest.raises(ValueError, match="init must be default for encoders of audio, got kmeans"):
        encoders.fitted(
            "audio-conv", from_waveforms(torch.rand(4, 3000) - 0.5, 8000), kind="audio", init="kmeans"
        )
