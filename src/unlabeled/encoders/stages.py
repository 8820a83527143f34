"""Chains of named stages, and small networks for images that are made of them."""

from torch import Tensor, nn

__all__ = ["Stages", "alexnet", "conv4", "dense", "nin"]


class Stages(nn.ModuleDict):
    """A chain of named stages; the output of the last one is averaged over the image, or over space and time.

    Args:
        stages: Networks from a map to the next one, by name, in order.
        widths: Channels of each map.
    """

    def __init__(self, stages: dict[str, nn.Module], widths: list[int]) -> None:
        super().__init__(stages)
        self.map_dims = dict(zip(stages, widths, strict=True))
        self.dim = widths[-1]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        """Outputs of all stages, each float, shape (batch, channels, [frames,] height, width)."""
        maps = {}
        for name, stage in self.items():
            x = maps[name] = stage(x)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        """Mean of the last map, float, shape (batch, dim)."""
        for stage in self.values():
            x = stage(x)
        return x.mean(tuple(range(2, x.ndim)))


def conv4(in_channels: int, image_size: int, *, share: int = 1) -> Stages:
    """Four 3x3 convolutions, the last three of stride 2; for any size from 1 pixel. `share` divides all widths."""
    widths = [width // share for width in (32, 64, 128, 256)]
    stages: dict[str, nn.Module] = {}
    for number, (before, after) in enumerate(zip([in_channels, *widths], widths), 1):
        stages[f"s{number}"] = _convolution(before, after, 3, stride=1 if number == 1 else 2)
    return Stages(stages, widths)


def alexnet(in_channels: int, image_size: int, *, share: int = 1) -> Stages:
    """AlexNet's five convolutions with batch norm; the first shrinks small images less. `share` divides all widths."""
    kernel, stride = (11, 4) if image_size > 64 else (5, 2) if image_size > 32 else (5, 1)
    pool = nn.MaxPool2d(3, stride=2)
    widths = [width // share for width in (64, 192, 384, 256, 256)]
    first, second, third, fourth, fifth = widths
    stages: dict[str, nn.Module] = {
        "conv1": _convolution(in_channels, first, kernel, stride),
        "conv2": nn.Sequential(pool, _convolution(first, second, 5)),
        "conv3": nn.Sequential(pool, _convolution(second, third, 3)),
        "conv4": _convolution(third, fourth, 3),
        "conv5": _convolution(fourth, fifth, 3),
    }
    return Stages(stages, widths)


def dense(in_channels: int, image_size: int) -> Stages:
    """One layer of 500 sigmoids that see the whole image, as the first denoising autoencoders had."""
    layer = nn.Linear(in_channels * image_size**2, 500)
    hidden = nn.Sequential(nn.Flatten(), layer, nn.Sigmoid(), nn.Unflatten(1, (500, 1, 1)))
    return Stages({"hidden": hidden}, [500])


def nin(in_channels: int, image_size: int) -> Stages:
    """Network in network with four blocks of three convolutions, as RotNet uses it for CIFAR-10."""

    def block(before: int, kernel: int, middle: int = 192, after: int = 192) -> nn.Sequential:
        first, second = _convolution(before, 192, kernel), _convolution(192, middle, 1)
        return nn.Sequential(first, second, _convolution(middle, after, 1))

    stages: dict[str, nn.Module] = {
        "block1": nn.Sequential(block(in_channels, 5, 160, 96), nn.MaxPool2d(3, stride=2, padding=1)),
        "block2": nn.Sequential(block(96, 5), nn.AvgPool2d(3, stride=2, padding=1)),
        "block3": block(192, 3),
        "block4": block(192, 3),
    }
    return Stages(stages, [96, 192, 192, 192])


def _convolution(before: int, after: int, kernel: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True))
