"""Causal transformers that read an image pixel by pixel, each pixel as a colour of a palette.

Source: Chen, Radford, Child, Wu, Jun, Luan, Sutskever, "Generative Pretraining from Pixels", 2020,
https://proceedings.mlr.press/v119/chen20s.html
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

__all__ = ["NAMES", "Palette", "PixelGPT", "pixel_gpt"]

NAMES: dict[str, tuple[int, int, int, int, int]] = {
    "pixel-gpt-8": (8, 16, 2, 64, 2),
    "pixel-gpt-16": (16, 64, 4, 128, 4),
    "pixel-gpt-32": (32, 512, 8, 256, 8),
}
"""Largest side in pixels, colours, layers, width and attention heads by name; the paper's smallest network has 32
pixels on a side, 512 colours, 24 layers of width 512 and 8 heads."""
BRIGHTEST = 2.0
"""Value of the brightest colour of a palette that is not fitted, in standard deviations of the data."""

Past = list[Tensor]


class Palette(nn.Module):
    """Colours to which all pixels are quantised; greys until it is fitted.

    Args:
        count: Number of colours.
        channels: Channels of a colour, each with mean 0 and standard deviation 1 over the data.
    """

    colors: Tensor

    def __init__(self, count: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("colors", self._greys(count, channels))

    @property
    def fitted(self) -> bool:
        """Whether the colours were learned from data."""
        return not torch.equal(self.colors.cpu(), self._greys(*self.colors.shape))

    def forward(self, pixels: Tensor) -> Tensor:
        """Index of the nearest colour, int64, shape (batch, pixels), of float, shape (batch, pixels, channels)."""
        # Half precision would mix up similar colours.
        return torch.cdist(pixels.float(), self.colors.float()).argmin(2)

    @staticmethod
    def _greys(count: int, channels: int) -> Tensor:
        return torch.linspace(-BRIGHTEST, BRIGHTEST, count)[:, None].repeat(1, channels)


class Block(nn.Module):
    """Causal attention, then a small network at each position, each with a residual connection.

    Args:
        width: Width of a state.
        heads: Number of attention heads, a divisor of the width.
        layers: Number of blocks of the whole network, by which the initial output weights of the attention are scaled.
    """

    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = (nn.RMSNorm(width, eps=1e-5) for _ in range(2))
        self.read = nn.Linear(width, 3 * width, bias=False)
        self.write = nn.Linear(width, width, bias=False)
        self.widen = nn.Linear(width, 4 * width, bias=False)
        self.narrow = nn.Linear(4 * width, width, bias=False)
        nn.init.normal_(self.read.weight, std=width**-0.5)
        nn.init.normal_(self.write.weight, std=(width * layers) ** -0.5)
        for layer in (self.widen, self.narrow):
            nn.init.normal_(layer.weight, std=0.02)

    def forward(self, x: Tensor, past: Past | None = None) -> Tensor:
        """States after the block, float, shape (batch, positions, width).

        Args:
            x: States before it, of the same shape.
            past: Cached keys and values of earlier positions, to which new ones are appended in place; empty at first.
                If it is not empty, `x` must have a single position. None processes all positions without a cache.
        """
        query, key, value = rearrange(
            self.read(self.before(x)), "b n (part heads d) -> part b heads n d", part=3, heads=self.heads
        )
        causal = not past
        if past:
            key, value = (torch.cat([old, new], 2) for old, new in zip(past, (key, value), strict=True))
        if past is not None:
            past[:] = [key, value]
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
        x = x + self.write(rearrange(mixed, "b heads n d -> b n (heads d)"))
        hidden = self.widen(self.between(x))
        return x + self.narrow(hidden * torch.sigmoid(1.702 * hidden))


class PixelGPT(nn.Module):
    """A transformer over pixels in reading order: the state at a pixel depends on all pixels before it, not on itself.

    Its maps are the states as the next block reads them, after its norm. The vector is the mean of the middle one.

    Args:
        channels: Channels of the images.
        size: Side in pixels of the images that are read; images of another size are resized by averaging.
        colors: Number of colours of the palette.
        layers: Number of blocks.
        width: Width of a state.
        heads: Number of attention heads.
    """

    def __init__(self, channels: int, size: int, colors: int, layers: int, width: int, heads: int) -> None:
        super().__init__()
        self.size, self.dim, self.middle = size, width, layers // 2
        self.adapt = Palette(colors, channels)  # its name marks statistics of the data
        self.colors = nn.Embedding(colors, width)
        self.start = nn.Parameter(0.02 * torch.randn(width))
        self.positions = nn.Parameter(0.01 * torch.randn(size**2, width))
        self.blocks = nn.ModuleList(Block(width, heads, layers) for _ in range(layers))
        self.last = nn.RMSNorm(width, eps=1e-5)
        nn.init.normal_(self.colors.weight, std=0.02)
        self.map_dims = dict.fromkeys(
            ["embedding", *(f"block{number + 1}" for number in range(layers))], width
        )

    def tokens(self, x: Tensor) -> Tensor:
        """Colours of the pixels row by row, int64, shape (batch, size * size), of channels (batch, channels, ...)."""
        if x.shape[2:] != (self.size, self.size):
            x = F.adaptive_avg_pool2d(x, self.size)
        return self.adapt(rearrange(x, "b c h w -> b (h w) c"))

    def vectors(self, tokens: Tensor) -> Tensor:
        """Input of the first block: the start token and then all tokens, except for one that completes an image.

        Args:
            tokens: First pixels, int64, shape (batch, tokens).

        Returns:
            Float, shape (batch, min(tokens + 1, size * size), width).
        """
        # `len` of a tensor would become a constant in an exported network.
        vectors = torch.cat([self.start.expand(tokens.shape[0], 1, -1), self.colors(tokens)], 1)
        vectors = vectors[:, : len(self.positions)]
        return vectors + self.positions[: vectors.shape[1]]

    def state(self, x: Tensor, layer: int, pasts: list[Past] | None = None) -> Tensor:
        """States after some blocks, as the next one reads them, float, shape (batch, positions, width).

        Args:
            x: Output of `vectors`.
            layer: Number of blocks to run.
            pasts: Caches of the blocks, if `x` continues earlier positions, as in `Block`.
        """
        for number in range(layer):
            x = self.blocks[number](x, None if pasts is None else pasts[number])
        return self._norm(layer)(x)

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        """States of all layers by name, each float, shape (batch, width, size, size)."""
        states, maps = self.vectors(self.tokens(x)), {}
        for number, name in enumerate(self.map_dims):
            states = self.blocks[number - 1](states) if number else states
            maps[name] = rearrange(self._norm(number)(states), "b (h w) d -> b d h w", h=self.size)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        """Mean over the pixels of the middle layer's states, float, shape (batch, dim)."""
        return self.state(self.vectors(self.tokens(x)), self.middle).mean(1)

    def _norm(self, layer: int) -> nn.Module:
        """The norm through which states after `layer` blocks are read."""
        return self.blocks[layer].before if layer < len(self.blocks) else self.last  # type: ignore[return-value]


def pixel_gpt(name: str, in_channels: int, image_size: int) -> PixelGPT:
    """The network of a name, for images of at most the number of pixels on a side that the name says."""
    size, *shape = NAMES[name]
    return PixelGPT(in_channels, min(size, image_size), *shape)
