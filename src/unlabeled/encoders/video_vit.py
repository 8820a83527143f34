"""Vision transformers that read a clip as cubes of a few pixels and frames.

Source: Tong, Song, Wang, Wang, "VideoMAE: Masked Autoencoders are Data-Efficient Learners for Self-Supervised Video
Pre-Training", 2022, https://arxiv.org/abs/2203.12602, with positions in time and space apart from each other.
"""

import re

import torch
from einops import rearrange
from torch import Tensor, nn

from unlabeled.check import UserError
from unlabeled.parts.token_masks import pick
from unlabeled.parts.transformer import Transformer, positions

__all__ = ["NAMES", "VideoViT", "video_vit"]

NAMES: dict[str, tuple[int, int, int]] = {
    "vit3d-tiny": (4, 96, 3),
    "vit3d-small": (6, 192, 6),
    "vit3d-base": (12, 768, 12),
}
"""Blocks, width and attention heads by name; the last are those of ViT-B."""
PATTERN = re.compile(r"(vit3d-[a-z]+)(?:-([1-9][0-9]?)x([1-9][0-9]?))?")
SIDE, FRAMES = 8, 2
"""Side in pixels, about, and frames of a cube if the name does not say."""


class VideoViT(nn.Module):
    """A vision transformer whose tokens are cubes; its vector is the mean over the tokens.

    Clips of any length are read; where the last cube is not filled, the last frame is repeated.

    Args:
        channels: Channels of the frames.
        side: Side of a cube in pixels.
        depth: Frames of a cube.
        shape: Blocks, width and attention heads.
    """

    def __init__(self, channels: int, side: int, depth: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        blocks, self.dim, heads = shape
        self.side, self.depth = side, depth
        cube = (depth, side, side)
        self.embed = nn.Conv3d(channels, self.dim, cube, cube)
        nn.init.xavier_uniform_(self.embed.weight.view(self.dim, -1))  # as a linear layer
        self.transformer = Transformer(self.dim, blocks, heads)
        self.map_dims = {f"block{number + 1}": self.dim for number in range(blocks)}

    def grid(self, frames: int, size: int) -> tuple[int, int, int]:
        """Times, rows and columns of the cubes of clips.

        Args:
            frames: Frames of the clips.
            size: Height and width of the frames in pixels.

        Raises:
            UserError: Cubes do not fill the clips.
        """
        if frames % self.depth:
            raise UserError(f"frames must be a multiple of the {self.depth} of a cube, got {frames}")
        return frames // self.depth, size // self.side, size // self.side

    def tokens(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """Tokens of the cubes of `keep` when only these are seen, or of all; the rest as in `Clips.tokens`."""
        return self.transformer(self._embedded(x, keep)[0])

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        """Outputs of the blocks, normed, each float, shape (batch, dim, times, rows, columns)."""
        tokens, (times, rows, _) = self._embedded(x)
        states = self.transformer.states(tokens)
        return {
            name: rearrange(state, "b (t h w) d -> b d t h w", t=times, h=rows)
            for name, state in zip(self.map_dims, states, strict=True)
        }

    def forward(self, x: Tensor) -> Tensor:
        """Mean over all tokens, float, shape (batch, dim).

        Args:
            x: Float, shape (batch, channels, frames, height, width).
        """
        return self.tokens(x).mean(1)

    def _embedded(self, x: Tensor, keep: Tensor | None = None) -> tuple[Tensor, tuple[int, ...]]:
        """Embedded cubes with their positions, and the grid that they are of."""
        missing = -x.shape[2] % self.depth
        if missing:
            x = torch.cat([x, x[:, :, -1:].expand(-1, -1, missing, -1, -1)], 2)
        volumes = self.embed(x)
        tokens, grid = rearrange(volumes, "b d t h w -> b (t h w) d"), tuple(volumes.shape[2:])
        tokens = tokens + positions(grid, self.dim).to(tokens)
        return (tokens if keep is None else pick(tokens, keep)), grid


def video_vit(name: str, channels: int, image_size: int, frames: int) -> VideoViT | None:
    """The network of a name such as vit3d-small or vit3d-small-4x2, with cubes of 4 pixels and 2 frames.

    Args:
        name: Any name.
        channels: Channels of the frames.
        image_size: Height and width of the frames in pixels, a multiple of those of a cube.
        frames: Frames of the clips, at least those of a cube.

    Returns:
        None if the name is a different one.
    """
    match = PATTERN.fullmatch(name)
    if match is None or match[1] not in NAMES:
        return None
    likely = [image_size // cubes for cubes in range(4, 15) if image_size % cubes == 0]
    side = int(match[2] or min(likely, key=lambda size: abs(size - SIDE), default=SIDE))
    depth = int(match[3] or min(FRAMES, frames))
    if image_size % side:
        raise UserError(f"image_size must be a multiple of the {side} pixels of a cube, got {image_size}")
    if depth > frames:
        raise UserError(f"cubes must have at most as many frames as the clips, {frames}, got {name}")
    return VideoViT(channels, side, depth, NAMES[match[1]])
