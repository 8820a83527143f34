import pytest
import torch
import torch.nn.functional as F
from torch import nn

from unlabeled import encoders
from unlabeled.parts.decoder import ChannelwiseLinear, Decoder, Hypercolumn, decoder
from unlabeled.parts.maps import map_shape


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("kind", ["conv", "linear"])
@pytest.mark.parametrize("shape", [(6, 1, 1), (6, 2, 2), (6, 4, 4), (6, 7, 7)])
@pytest.mark.parametrize(("size", "channels"), [(4, 1), (8, 1), (28, 3), (32, 3), (64, 4), (37, 2)])
def test_any_map_becomes_an_image_of_any_size_that_starts_near_zero(kind, shape, size, channels):
    image = decoder(kind, shape, channels, size)(torch.randn(2, *shape))
    assert image.shape == (2, channels, size, size)
    assert 0 < image.abs().max() < 0.2


def test_a_vector_reaches_every_position_differently():
    network = Decoder((5, 1, 1), 1, 16).eval()
    image = network(torch.randn(1, 5, 1, 1))[0, 0]
    assert image.flatten().unique().numel() > 200


def test_reading_the_last_map_does_not_change_the_encoder():
    encoder = encoders.build("conv4", image_size=28)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    assert map_shape(encoder) == (256, 4, 4)
    assert encoder.training
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_hypercolumn_is_a_convolution_of_the_stacked_upsampled_maps():
    maps = [torch.randn(2, 3, 8, 8), torch.randn(2, 5, 4, 4), torch.randn(2, 7, 1, 1)]
    head = Hypercolumn([3, 5, 7], 11, width=6).eval()
    stacked = torch.cat([F.interpolate(m, (8, 8), mode="bilinear") for m in maps], 1)
    weight = torch.cat([read.weight for read in head.reads], 1)
    expected = head.last(F.relu(head.norm(F.conv2d(stacked, weight))))
    torch.testing.assert_close(head(maps, 8), expected)
    assert head(maps, 8).shape == (2, 11, 8, 8)


def test_channelwise_layer_has_a_matrix_per_channel_and_mixes_none():
    layer = ChannelwiseLinear(5, 9)
    nn.init.normal_(layer.bias)
    assert sum(parameter.numel() for parameter in layer.parameters()) == 5 * 81 + 5 * 9
    features = torch.randn(2, 5, 3, 3)
    output = layer(features)
    for channel in range(5):
        expected = features[:, channel].flatten(1) @ layer.weight[channel].T + layer.bias[channel]
        torch.testing.assert_close(output[:, channel].flatten(1), expected)
    jacobian = torch.autograd.functional.jacobian(layer, features[:1]).view(5, 9, 5, 9)
    mixes = jacobian.abs().amax((1, 3)) > 0
    assert torch.equal(mixes, torch.eye(5, dtype=torch.bool))
