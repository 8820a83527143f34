"""Every weight of an encoder learns, at the sizes at which a method shows it images."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from unlabeled import encoders, methods
from unlabeled.data import Data, open_data
from unlabeled.encoders import from_timm, image
from unlabeled.methods.jigsaw import Jigsaw
from unlabeled.parts.padding import least_size, only_padding

IMAGE = [
    name
    for name in methods.names()
    if methods.describe(name).kind == "image" and methods.load(name).encoder_needs is None
]
SMALL_VIT = partial(from_timm.vit_small, blocks=2, width=48)
"""Its blocks are all alike, so that fewer show as much; the other networks are narrow, with the same kernels."""
NETWORKS = [("conv4", 16), ("conv4", 32), ("resnet10", 24), ("resnet10", 32), ("vit-small", 32)]


def photos(size: int) -> Data:
    coarse = torch.rand(24, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    images = nn.functional.interpolate(coarse, size=size, mode="bicubic").clamp(0, 1)
    data = open_data((255 * images).to(torch.uint8))
    data.groups = torch.arange(24) // 3  # for methods that need several images of one place
    return data


def silent(weight: Tensor) -> bool:
    """Whether a whole weight, or a place of a kernel over all channels, got no gradient."""
    if weight.grad is None:
        return True
    grad = weight.grad.abs()
    return not bool((grad.sum((0, 1)) if grad.ndim > 2 else grad.sum()).all())


@pytest.mark.parametrize(("network", "size"), NETWORKS)
@pytest.mark.parametrize("name", IMAGE)
def test_every_place_of_every_kernel_gets_a_gradient(
    name: str, network: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(image.NAMES, "vit-small", SMALL_VIT)
    torch.manual_seed(0)
    kind, data = methods.load(name), photos(size)
    method = kind(encoders.build(network, image_size=size, input=kind.encoder_input), **kind.smallest)
    read = method.training_view(data)
    method.prepare(read)
    method.begin_epoch(read)
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.05)
    for _ in range(2):  # heads that start at 0 pass gradients on after a step
        optimizer.zero_grad()
        losses = method.train()(read.sample(8))
        (sum(losses.values()) if isinstance(losses, dict) else losses).backward()
        optimizer.step()
    weights = [(key, weight) for key, weight in method.encoder.named_parameters() if weight.requires_grad]
    assert not [key for key, weight in weights if silent(weight)]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("padding", [0, 1, 2, "same"])
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"), [(3, 1, 1), (3, 2, 1), (5, 2, 1), (3, 1, 2), (1, 1, 1)]
)
def test_kernels_that_see_only_padding_are_those_without_a_gradient(
    size: int, padding: int | str, kernel: int, stride: int, dilation: int
) -> None:
    if (padding == "same" and stride > 1) or (
        padding != "same" and size + 2 * padding <= dilation * (kernel - 1)
    ):
        return
    layer = nn.Conv2d(1, 1, kernel, stride, padding, dilation)
    images = torch.rand(1, 1, size, size) + 0.1
    layer(images).sum().backward()
    assert layer.weight.grad is not None
    rows, columns = (
        set((layer.weight.grad[0, 0] == 0).all(1 - axis).nonzero()[:, 0].tolist()) for axis in (0, 1)
    )
    assert only_padding(nn.Sequential(layer), images) == {
        *(("0", 0, row) for row in rows), *(("0", 1, column) for column in columns)
    }  # fmt: skip


def test_tiles_are_enlarged_for_networks_that_halve_them_too_often() -> None:
    method = Jigsaw(encoders.build("resnet10", image_size=32), permutations=9)
    assert method.cut == 8 and method.tile_size == 17  # sixteen times smaller, and still two places
    assert Jigsaw(encoders.build("conv4", image_size=64), permutations=9).tile_size is None
    assert least_size(encoders.build("dense", image_size=32), 9) == 32  # takes whole images only
    with pytest.raises(ValueError, match=r"tile_size must be at least 17, .* got 12"):
        Jigsaw(encoders.build("resnet10", image_size=32), permutations=9, tile_size=12)


def test_networks_of_patches_get_tiles_that_they_can_take() -> None:
    method = Jigsaw(encoders.build("swinv2_cr_tiny_ns_224", image_size=64), permutations=9, head_dim=8)
    assert method(photos(64).sample(2)).isfinite()
