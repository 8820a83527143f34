"""Tensors become small PNG images: tiles, sheets, filters."""

import base64
import io
import math

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from markupsafe import Markup, escape
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from unlabeled.check import UserError

__all__ = ["decode", "filters", "image", "mosaic", "png", "sheet", "thumbnails", "tile"]

SMOOTH_FROM = 48  # pixels; smaller images are shown with hard pixel edges


def png(picture: Tensor) -> bytes:
    """Encode one picture.

    Args:
        picture: Float, shape (channels, height, width), in 0..1 (clamped; what is not finite turns black);
            1 channel is grey, 3 are RGB, 4 are RGB and opacity; of any other number the mean is shown.

    Returns:
        The bytes of a PNG file.
    """
    if picture.shape[0] not in (1, 3, 4):
        picture = picture.mean(0, keepdim=True)
    levels = (picture.detach().float().cpu().nan_to_num(0, 0, 0).clamp(0, 1) * 255).round().to(torch.uint8)
    array = rearrange(levels, "c h w -> h w c").numpy()
    buffer = io.BytesIO()
    Image.fromarray(array[:, :, 0] if len(picture) == 1 else array).save(buffer, "png", optimize=True)
    return buffer.getvalue()


def decode(content: bytes) -> Tensor:
    """A picture of a PNG file, float, shape (3, height, width), in 0..1."""
    with Image.open(io.BytesIO(content)) as opened:
        levels = torch.from_numpy(np.array(opened.convert("RGB")))
    return levels.permute(2, 0, 1) / 255


def image(picture: Tensor, description: str, style: str = "") -> Markup:
    """Make an `<img>` that carries its pixels.

    Args:
        picture: Float, shape (channels, height, width), in 0..1.
        description: What a reader who cannot see it should know; plain text.
        style: Further CSS classes.

    Returns:
        HTML.
    """
    height, width = picture.shape[-2:]
    style = f"{'pixels ' if max(height, width) < SMOOTH_FROM else ''}{style}".strip()
    data = base64.b64encode(png(picture)).decode()
    attributes = f'class="{style}" width="{width}" height="{height}" alt="{escape(description)}"'
    return Markup(f'<img {attributes} src="data:image/png;base64,{data}">')


def thumbnails(images: Tensor, count: int, budget: int = 250_000, largest: int = 96) -> Tensor:
    """Shrink images so that all of them together stay within a number of pixels; small ones stay as they are.

    Args:
        images: Float, shape (batch, channels, height, width), in 0..1.
        count: How many images of this size the page shows.
        budget: Pixels for all of them.
        largest: Longest side in pixels.

    Returns:
        Float, shape (batch, channels, height', width'), longer side 24 to `largest` pixels where it was larger.
    """
    shortest, longest = sorted(images.shape[-2:])
    limit = min(largest, max(24, math.isqrt(budget * longest // (max(count, 1) * shortest))))
    if longest <= limit:
        return images
    height, width = (max(1, round(side * limit / longest)) for side in images.shape[-2:])
    return F.interpolate(images.float(), (height, width), mode="bilinear", antialias=True)


def tile(pictures: Tensor, columns: int, *, gap: int = 1, cell: int = 24) -> Tensor:
    """Lay pictures out in a grid on a transparent ground, small ones enlarged by a whole factor.

    Args:
        pictures: Float, shape (samples, channels, height, width), in 0..1, 1 or 3 channels.
        columns: Pictures in a row.
        gap: Pixels between pictures.
        cell: Side in pixels that small pictures are enlarged to, about.

    Returns:
        Float, shape (4, height, width): red, green, blue, opacity.
    """
    samples, channels, height, width = pictures.shape
    factor = max(1, round(cell / max(height, width)))
    pictures = F.interpolate(pictures, scale_factor=factor, mode="nearest")
    color = pictures.expand(-1, 3, -1, -1) if channels == 1 else pictures
    opaque = torch.cat([color, torch.ones_like(color[:, :1])], dim=1)
    rows = math.ceil(samples / columns)
    opaque = F.pad(opaque, (0, gap, 0, gap, 0, 0, 0, rows * columns - samples))
    grid = rearrange(opaque, "(rows columns) c h w -> c (rows h) (columns w)", columns=columns)
    return grid[:, : grid.shape[1] - gap, : grid.shape[2] - gap]


def filters(encoder: nn.Module, limit: int = 100) -> Tensor | None:
    """First-layer filters as pictures, in the order of the neurons; mid-grey is a weight of 0.

    Args:
        encoder: Network with `in_channels` and `image_size`.
        limit: Most filters to show.

    Returns:
        Float, shape (filters, 1 or 3, height, width), in 0..1, each filter scaled by its largest weight;
        input channels lie side by side unless there are 1 or 3. None where the first layer sees no pixels.
    """
    encoder = next((module for module in encoder.modules() if hasattr(module, "image_size")), encoder)
    layers = [layer for layer in encoder.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    layer = next((layer for layer in layers if layer.weight.requires_grad), layers[0] if layers else None)
    if layer is None:
        return None
    weight = layer.weight.detach()[:limit].float().cpu()
    if isinstance(layer, nn.Linear):
        size = int(getattr(encoder, "image_size", 0))
        if not size or weight.shape[1] % size**2:
            return None
        weight = rearrange(weight, "n (c h w) -> n c h w", h=size, w=size)
    if max(weight.shape[-2:]) == 1:
        return None
    if weight.shape[1] not in (1, 3):
        weight = rearrange(weight, "n c h w -> n 1 h (c w)")
    return 0.5 + 0.5 * weight / weight.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-12)


def mosaic(images: Tensor, points: Tensor, *, cells: int = 22, side: int = 22) -> Tensor:
    """Put images where their points lie, one per cell of a grid: the image nearest to the middle of the cell.

    Args:
        images: Float, shape (samples, channels, height, width), in 0..1.
        points: Float, shape (samples, 2), right and up; stretched to fill the grid.
        cells: Cells in a row and in a column.
        side: Side of a cell in pixels.

    Returns:
        Float, shape (4, cells * side, cells * side): red, green, blue, opacity.
    """
    if images.shape[1] not in (1, 3):
        images = images.mean(1, keepdim=True)
    low, high = points.amin(0), points.amax(0)
    position = ((points - low) / (high - low).clamp(min=1e-12)).clamp(0, 1 - 1e-6) * cells
    distance = (position % 1 - 0.5).norm(dim=1)
    nearest: dict[tuple[int, int], int] = {}
    for sample in distance.argsort().tolist():
        column, row = position[sample].long().tolist()
        nearest.setdefault((cells - 1 - row, column), sample)
    small = F.interpolate(images.float().cpu(), (side - 1, side - 1), mode="bilinear", antialias=True)
    canvas = torch.zeros(4, cells * side, cells * side)
    for (row, column), sample in nearest.items():
        place = canvas[:, row * side : (row + 1) * side - 1, column * side : (column + 1) * side - 1]
        place[:3], place[3] = small[sample], 1
    return canvas


def sheet(pictures: dict[str, Tensor], *, columns: int = 8, cell: int = 72) -> bytes:
    """Draw a method's pictures as one image: a labelled row per name, a column per sample.

    Args:
        pictures: Images by name, float, shape (samples, channels, height, width), in 0..1.
        columns: Most samples to show.
        cell: Side in pixels that small images are enlarged to, about; larger ones stay as they are.

    Returns:
        The bytes of a PNG file.

    Raises:
        ValueError: There are no pictures.
    """
    if not pictures:
        raise UserError("pictures must hold at least one row, got none; this method has nothing to show")
    font, margin = ImageFont.load_default(size=15), 12
    rows = []
    for name, images in pictures.items():
        images = images.detach().float().cpu()[:columns]
        if images.shape[1] not in (1, 3):
            images = images.mean(1, keepdim=True)
        cells = [Image.open(io.BytesIO(png(tile(image[None], 1, gap=0, cell=cell)))) for image in images]
        rows.append((name, cells))
    left = 2 * margin + max(math.ceil(font.getlength(name)) for name in pictures)
    pitch = 4 + max(cells[0].width for _, cells in rows)  # one for all rows, whose images may differ in size
    width = left + pitch * max(len(cells) for _, cells in rows) - 4 + margin
    height = margin + sum(cells[0].height + margin for _, cells in rows)
    canvas, top = Image.new("RGB", (width, height), "white"), margin
    draw = ImageDraw.Draw(canvas)
    for name, cells in rows:
        draw.text((left - margin, top + cells[0].height / 2), name, fill="#3c4149", font=font, anchor="rm")
        for column, image in enumerate(cells):
            canvas.paste(image, (left + column * pitch + (pitch - 4 - image.width) // 2, top))
        top += cells[0].height + margin
    buffer = io.BytesIO()
    canvas.save(buffer, "png", optimize=True)
    return buffer.getvalue()
