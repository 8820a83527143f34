"""Random views of images: parameters per sample, computed in batches on the device of the images.

The operations take float images in 0..1, shape (batch, channels, height, width), with parameters per sample,
and equal torchvision's operations on float images. `Views` draws the parameters and applies them; uint8 images on a
CPU then take the compiled loop of `fused_views`, which agrees with the tensor form to a thousandth of a grey level.

Any number of channels works. Saturation, hue and gray are defined for red, green, blue: images with another
number of channels pass through these unchanged, and the gray of contrast is then the mean of all channels.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.kernels.view_parameters import ViewParameters

__all__ = [
    "Views",
    "apply",
    "apply_tensors",
    "blur",
    "brightness",
    "color_jitter",
    "contrast",
    "crop_resize",
    "fit",
    "grayscale",
    "hue",
    "random_boxes",
    "rotate",
    "saturation",
    "solarize",
    "to_float",
]

ASPECT = 4 / 3  # most extreme width over height of random boxes, and its inverse
SIGMAS = 0.1, 2.0  # of the blur, in pixels
TRIES = 10  # until a random box falls back to the centre
SMALLEST_FUSED = 16  # pixels; smaller views never earn back the seconds that compiling takes


def to_float(images: Tensor) -> Tensor:
    """Scale uint8 images to 0..1; float images are returned unchanged.

    Args:
        images: uint8 in 0..255 or float in 0..1, any shape.

    Returns:
        Float in 0..1, the same shape.
    """
    return images if images.is_floating_point() else images.to(torch.float32).div_(255)


def crop_resize(images: Tensor, boxes: Tensor, size: int, flip: Tensor | None = None) -> Tensor:
    """Cut a box out of each image, resize it (bilinear, antialiased) and mirror it if `flip`.

    Args:
        images: Float, shape (batch, channels, height, width).
        boxes: Top, left, height and width in pixels, int64, shape (batch, 4), inside the images.
        size: Side of the result in pixels.
        flip: Which samples are mirrored left to right, bool, shape (batch,).

    Returns:
        Float, shape (batch, channels, size, size).
    """
    top, left, height, width = boxes.unbind(1)
    resized = torch.full_like(top, size)
    across = down = torch.arange(size, device=boxes.device).expand(len(boxes), size)
    if flip is not None:
        across = torch.where(flip[:, None], size - 1 - down, down)
    rows = _resampling(top, height, resized, down, images.shape[2])
    return _product(images, rows, _resampling(left, width, resized, across, images.shape[3]))


def fit(images: Tensor, size: int, sizes: Tensor | None = None) -> Tensor:
    """Resize the shorter side to `size` (bilinear, antialiased) and keep the central square.

    Args:
        images: uint8 in 0..255 or float in 0..1, shape (batch, channels, height, width).
        size: Side of the result in pixels.
        sizes: True height and width of images padded at the bottom and right, int64, shape (batch, 2).

    Returns:
        Float in 0..1, shape (batch, channels, size, size).
    """
    images = to_float(images)
    if sizes is None:
        if images.shape[2:] == (size, size):
            return images
        sizes = torch.tensor([images.shape[2:]], device=images.device)
    resized = size * sizes // sizes.amin(1, keepdim=True)
    first = ((resized - size) / 2).round().long()
    pixels = first[:, :, None] + torch.arange(size, device=images.device)
    rows, columns = (
        _resampling(torch.zeros_like(length), length, long, positions, canvas)
        for length, long, positions, canvas in zip(
            sizes.unbind(1), resized.unbind(1), pixels.unbind(1), images.shape[2:]
        )
    )
    return _product(images, rows, columns)


def brightness(images: Tensor, factors: Tensor) -> Tensor:
    """Multiply each image by its factor.

    Args:
        images: Float in 0..1, shape (batch, channels, height, width).
        factors: Float, at least 0, 1 changes nothing, shape (batch,).

    Returns:
        Float in 0..1, the shape of the images.
    """
    return (images * _like(images, factors)).clamp_(0, 1)


def contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Move each image away from its mean gray.

    Args:
        images: Float in 0..1, shape (batch, channels, height, width).
        factors: Float, at least 0, 0 leaves the mean gray, 1 changes nothing, shape (batch,).

    Returns:
        Float in 0..1, the shape of the images.
    """
    factors = _like(images, factors)
    mean = _luma(images).mean((1, 2, 3), keepdim=True)
    return (images * factors).add_(mean * (1 - factors)).clamp_(0, 1)


def saturation(images: Tensor, factors: Tensor) -> Tensor:
    """Move each pixel away from its own gray.

    Args:
        images: Float in 0..1, shape (batch, channels, height, width).
        factors: Float, at least 0, 0 leaves gray, 1 changes nothing, shape (batch,).

    Returns:
        Float in 0..1, the shape of the images.
    """
    return torch.lerp(_luma(images), images, _like(images, factors)).clamp_(0, 1)


def hue(images: Tensor, turns: Tensor) -> Tensor:
    """Shift the hue (HSV) of each image.

    Args:
        images: Float in 0..1, shape (batch, channels, height, width).
        turns: Float in -0.5..0.5, 0.5 gives the opposite colours, shape (batch,).

    Returns:
        Float in 0..1, the shape of the images.
    """
    if images.shape[1] != 3:
        return images
    red, green, blue = images.unbind(1)
    high, low = images.amax(1), images.amin(1)
    span = high - low
    inverse = span.clamp(min=torch.finfo(span.dtype).tiny).reciprocal_()
    # Blending by a mask of 0 and 1 is several times faster on a CPU than torch.where.
    sixths = (red - green).mul_(inverse).add_(4)
    sixths.lerp_((blue - red).mul_(inverse).add_(2), (high - green).eq_(0))
    sixths.lerp_((green - blue).mul_(inverse), (high - red).eq_(0))
    sixths = sixths.add_(6 * turns[:, None, None]).remainder_(6)
    primaries = torch.arange(0, 6, 2, device=images.device)[:, None, None]
    saturation = (sixths[:, None] - primaries).abs_().sub_(3).abs_().sub_(1).clamp_(0, 1)
    return torch.addcmul(low[:, None], span[:, None], saturation)


def color_jitter(images: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """Change brightness, contrast, saturation and hue of each image, in an order of its own.

    Args:
        images: Float in 0..1, shape (batch, channels, height, width).
        factors: Of brightness, contrast and saturation, then the shift of the hue, float, shape (batch, 4).
        order: Which of these four (0..3) comes first, second ...; 4 for none. int64, shape (batch, 4).

    Returns:
        Float in 0..1, the shape of the images.
    """
    images = images.clone()
    counts = F.one_hot(order, 5).sum(0).tolist()  # the only synchronisation with the device
    for samples, groups in zip(order.argsort(0).unbind(1), counts):
        operations = brightness, contrast, saturation, hue
        for operation, rows, strengths in zip(operations, samples.split(groups), factors.unbind(1)):
            images[rows] = operation(images[rows], strengths[rows])
    return images


def grayscale(images: Tensor) -> Tensor:
    """Give each channel the luma of the image.

    Args:
        images: Float in 0..1, shape (batch, channels, height, width).

    Returns:
        Float in 0..1, the shape of the images.
    """
    return _luma(images).expand_as(images)


def blur(images: Tensor, sigmas: Tensor, kernel: int | None = None) -> Tensor:
    """Blur each image with a Gaussian; the borders are reflected.

    Args:
        images: Float in 0..1, shape (batch, channels, height, width).
        sigmas: Widths in pixels, float, above 0, shape (batch,).
        kernel: Pixels that the Gaussian spans, odd; by default about a tenth of the shorter side, at least 3.

    Returns:
        Float in 0..1, the shape of the images.
    """
    radius = max(min(images.shape[2:]) // 20, 1) if kernel is None else kernel // 2
    offsets = torch.arange(-radius, radius + 1, device=images.device)
    weights = (offsets / sigmas[:, None]).square().div(-2).softmax(1)[:, None]

    def matrix(side: int) -> Tensor:
        pixels = torch.arange(side, device=images.device)[:, None] + offsets
        reflected = side - 1 - (side - 1 - pixels.abs()).abs()
        return _dense(weights.expand(-1, side, -1), reflected.expand(len(images), -1, -1), side)

    return _product(images, *(matrix(side) for side in images.shape[2:]))


def solarize(images: Tensor, threshold: float = 128 / 255) -> Tensor:
    """Invert the values from the threshold on.

    Args:
        images: Float in 0..1, any shape.
        threshold: Smallest value that is inverted, in 0..1.

    Returns:
        Float in 0..1, the shape of the images.
    """
    return torch.lerp(images, 1 - images, images.clone().ge_(threshold))


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Rotate each image about its centre (bilinear); pixels from outside the image are 0.

    Args:
        images: Float in 0..1, shape (batch, channels, height, width).
        degrees: Angles, counter-clockwise, float, shape (batch,).

    Returns:
        Float in 0..1, the shape of the images.
    """
    height, width = images.shape[2:]
    # The angle in float32 would change the corners of large images by some 0.01 grey levels.
    precise = torch.float32 if degrees.device.type == "mps" else torch.float64
    angles = degrees.to(precise).deg2rad()[:, None, None]
    cos, sin = angles.cos().float(), angles.sin().float()
    x = torch.arange(width, device=images.device) - (width - 1) / 2
    y = (torch.arange(height, device=images.device) - (height - 1) / 2)[:, None]
    across = y * (-sin / (0.5 * width)) + x * (cos / (0.5 * width))
    down = y * (cos / (0.5 * height)) + x * (sin / (0.5 * height))
    return F.grid_sample(images, torch.stack([across, down], 3).to(images.dtype), align_corners=False)


def random_boxes(sizes: Tensor, crop: float, crop_max: float = 1.0, aspect: float = ASPECT) -> Tensor:
    """Draw a box in each image: its area uniform, its aspect log-uniform in 1 / aspect..aspect.

    A box that does not fit is drawn again; after ten tries the largest central one of these aspects is taken.

    Args:
        sizes: Height and width of the images, int64, shape (batch, 2).
        crop: Smallest fraction of the area.
        crop_max: Largest fraction of the area.
        aspect: Most extreme aspect, at least 1; 1 draws squares.

    Returns:
        Top, left, height and width in pixels, int64, shape (batch, 4).
    """
    samples, device = len(sizes), sizes.device
    height, width = sizes[:, :1], sizes[:, 1:]
    area = height * width * torch.empty(samples, TRIES, device=device).uniform_(crop, crop_max)
    extreme = math.log(aspect)
    ratio = torch.empty(samples, TRIES, device=device).uniform_(-extreme, extreme).exp_()
    tries = torch.stack([area / ratio, area * ratio], 2).sqrt_().round_().long()
    fits = ((tries > 0) & (tries <= sizes[:, None])).all(2)
    any_fits = fits.any(1, keepdim=True)
    first = tries[torch.arange(samples, device=device), fits.int().argmax(1)]
    central = torch.minimum(sizes, torch.cat([width * aspect, height * aspect], 1).round().long())
    box = torch.where(any_fits, first, central)
    room = sizes - box
    anywhere = (torch.rand(samples, 2, device=device) * (room + 1)).long()
    return torch.cat([torch.where(any_fits, anywhere, room // 2), box], 1)


def apply(images: Tensor, parameters: ViewParameters) -> Tensor:
    """Make the views of these parameters: crop, flip, rotation, colours, gray, blur, solarisation.

    Args:
        images: uint8 in 0..255 or float in 0..1, shape (batch, channels, height, width).
        parameters: Random choices for these images.

    Returns:
        Float in 0..1, shape (batch, channels, size, size).
    """
    if _can_fuse(images, parameters):
        from unlabeled.kernels import fused_views

        return fused_views.apply(images, parameters)
    return apply_tensors(images, parameters)


def apply_tensors(images: Tensor, parameters: ViewParameters) -> Tensor:
    """`apply` in operations on whole batches, on any device and for any dtype."""
    views = crop_resize(to_float(images), parameters.boxes, parameters.size, parameters.flip)
    if parameters.degrees is not None:
        views = rotate(views, parameters.degrees)
    if parameters.factors is not None and parameters.order is not None:
        views = color_jitter(views, parameters.factors, parameters.order)
    if parameters.gray is not None:
        views = _only(parameters.gray, grayscale, views)
    if parameters.blurred is not None and parameters.sigmas is not None:
        views = _only(parameters.blurred, blur, views, parameters.sigmas)
    if parameters.solarized is not None:
        views = _only(parameters.solarized, solarize, views)
    return views


class Views:
    """Makes one random view of each image of a batch.

    Args:
        size: Side of the views in pixels.
        crop: Smallest fraction of the image's area that a view shows, above 0.
        crop_max: Largest fraction of the image's area that a view shows.
        aspect: Most extreme width over height of what a view shows, at least 1; it is squeezed into a square.
        jitter: Strength of the colour changes, which is 0.8 of it for brightness, contrast and saturation
            and 0.2 of it for the hue.
        jitter_probability: Probability that the colours change.
        brightness: Strength instead of 0.8 * jitter: the factor lies within 1 - strength and 1 + strength.
        contrast: The same for contrast.
        saturation: The same for saturation.
        hue: Largest shift of the hue instead of 0.2 * jitter, up to 0.5.
        gray: Probability that a view is converted to grayscale.
        blur: Probability that a view is blurred, with a width of 0.1 to 2 pixels.
        solarize: Probability that the values from 128 / 255 on are inverted.
        flip: Probability that a view is mirrored left to right.
        degrees: Maximum rotation (± degrees), in 0..180; the corners that appear are 0.

    Raises:
        ValueError: A value is outside its range.
    """

    def __init__(
        self,
        size: int,
        *,
        crop: float = 0.08,
        crop_max: float = 1.0,
        aspect: float = ASPECT,
        jitter: float = 0.5,
        jitter_probability: float = 0.8,
        brightness: float | None = None,
        contrast: float | None = None,
        saturation: float | None = None,
        hue: float | None = None,
        gray: float = 0.2,
        blur: float = 0.0,
        solarize: float = 0.0,
        flip: float = 0.5,
        degrees: float = 0.0,
    ) -> None:
        _check_views(size, crop, crop_max)
        check.fraction(
            jitter_probability=jitter_probability, gray=gray, blur=blur, solarize=solarize, flip=flip
        )
        check.at_least(0, jitter=jitter)
        check.at_least(1, aspect=aspect)
        if not 0 <= degrees <= 180:
            raise UserError(f"degrees must be between 0 and 180, got {degrees}")
        self.size, self.crop, self.crop_max, self.aspect = size, crop, crop_max, aspect
        self.brightness = 0.8 * jitter if brightness is None else brightness
        self.contrast = 0.8 * jitter if contrast is None else contrast
        self.saturation = 0.8 * jitter if saturation is None else saturation
        self.hue = 0.2 * jitter if hue is None else hue
        check.at_least(0, brightness=self.brightness, contrast=self.contrast, saturation=self.saturation)
        if not 0 <= self.hue <= 0.5:
            raise UserError(f"hue (0.2 * jitter unless given) must be between 0 and 0.5, got {self.hue}")
        self.jitter_probability, self.gray, self.blur = jitter_probability, gray, blur
        self.solarize, self.flip, self.degrees = solarize, flip, degrees

    @torch.no_grad()
    def __call__(
        self,
        batch: dict[str, Tensor],
        *,
        size: int | None = None,
        crop: float | None = None,
        crop_max: float | None = None,
    ) -> Tensor:
        """Make one view of each image.

        Args:
            batch: `image`, uint8 or float in 0..1, shape (batch, channels, height, width), and, if these are
                padded at the bottom and right, `size`: true height and width, int64, shape (batch, 2).
            size: Side of these views instead of the usual one.
            crop: Smallest fraction of the area for these views instead of the usual one.
            crop_max: Largest fraction of the area for these views instead of the usual one.

        Returns:
            Float in 0..1, shape (batch, channels, size, size).

        Raises:
            ValueError: A value is outside its range.
        """
        return apply(batch["image"], self.draw(batch, size=size, crop=crop, crop_max=crop_max))

    def draw(
        self,
        batch: dict[str, Tensor],
        *,
        size: int | None = None,
        crop: float | None = None,
        crop_max: float | None = None,
    ) -> ViewParameters:
        """Draw what `apply` needs for one view of each image; the arguments are those of a call."""
        size = self.size if size is None else size
        crop = self.crop if crop is None else crop
        crop_max = self.crop_max if crop_max is None else crop_max
        _check_views(size, crop, crop_max)
        images = batch["image"]
        samples, device = len(images), images.device
        sizes = batch.get("size")
        if sizes is None:
            sizes = torch.tensor(images.shape[2:], device=device).expand(samples, 2)

        def uniform(low: float, high: float) -> Tensor:
            return torch.empty(samples, device=device).uniform_(low, high)

        def happens(probability: float) -> Tensor | None:
            return uniform(0, 1) < probability if probability else None

        parameters = ViewParameters(
            size, random_boxes(sizes, crop, crop_max, self.aspect), happens(self.flip)
        )
        if self.degrees:
            parameters.degrees = uniform(-self.degrees, self.degrees)
        strengths = self.brightness, self.contrast, self.saturation
        jittered = happens(self.jitter_probability if any(strengths) or self.hue else 0)
        if jittered is not None:
            factors = [uniform(max(0.0, 1 - strength), 1 + strength) for strength in strengths]
            parameters.factors = torch.stack([*factors, uniform(-self.hue, self.hue)], 1)
            order = torch.rand(samples, 4, device=device).argsort(1)
            parameters.order = order.masked_fill(~jittered[:, None], 4)
        parameters.gray = happens(self.gray)
        parameters.blurred, parameters.sigmas = happens(self.blur), uniform(*SIGMAS)
        parameters.solarized = happens(self.solarize)
        return parameters


def _check_views(size: int, crop: float, crop_max: float) -> None:
    check.positive(size=size, crop=crop)
    check.fraction(crop=crop, crop_max=crop_max)
    check.at_least(crop, crop_max=crop_max)


def _can_fuse(images: Tensor, parameters: ViewParameters) -> bool:
    """Whether the compiled loop can make these views: it neither can be traced nor has gradients."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
        return False
    if type(images) is not Tensor or images.dtype != torch.uint8 or not images.is_cpu or images.ndim != 4:
        return False
    if torch.get_default_dtype() != torch.float32:  # in which the tensor form computes positions
        return False
    if parameters.size < SMALLEST_FUSED:
        return False
    tensors = [
        value for value in vars(parameters).values() if value is not None and not isinstance(value, int)
    ]
    return all(
        type(values) is Tensor
        and values.is_cpu
        and len(values) == len(images)  # otherwise the tensor form raises the error
        and not (values.requires_grad and torch.is_grad_enabled())
        for values in tensors
    )


def _only(mask: Tensor, operation: Callable[..., Tensor], images: Tensor, *parameters: Tensor) -> Tensor:
    rows = mask.nonzero()[:, 0]
    changed = operation(images[rows], *(parameter[rows] for parameter in parameters))
    return images.index_copy_(0, rows, changed)


def _like(images: Tensor, values: Tensor) -> Tensor:
    return rearrange(values, "batch -> batch 1 1 1").to(images.dtype)


def _luma(images: Tensor) -> Tensor:
    """Gray of RGB images, shape (batch, 1, height, width); other images as they are."""
    if images.shape[1] != 3:
        return images
    red, green, blue = images.split(1, dim=1)
    return red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114)


def _resampling(start: Tensor, length: Tensor, resized: Tensor, positions: Tensor, canvas: int) -> Tensor:
    """Matrices that resize a segment of each line like torch's `interpolate(antialias=True)`.

    The order of the roundings is torch's too: in 300 pixels, another order changes noise by 0.005 grey levels.

    Args:
        start: First pixel of the segment, int64, shape (batch,).
        length: Pixels of the segment, int64, shape (batch,).
        resized: Pixels that it becomes, int64, shape (batch,).
        positions: Which of these to compute, int64, shape (batch, size).
        canvas: Pixels of the whole line.

    Returns:
        Float, shape (batch, size, canvas); rows sum to 1.
    """
    scale = (length / resized)[:, None]
    support = scale.clamp(min=1)
    center = scale * (positions + 0.5)
    first = (center - support + 0.5).long().clamp(min=0)
    last = torch.minimum((center + support + 0.5).long(), length[:, None])
    taps = math.ceil(2 * max(canvas / positions.shape[1], 1)) + 1
    pixels = first[:, :, None] + torch.arange(taps, device=start.device)
    distance = (pixels - center[:, :, None] + 0.5) * (1 / support)[:, :, None]
    weights = (1 - distance.abs()).clamp(min=0) * (pixels < last[:, :, None])
    weights = weights / weights.sum(2, keepdim=True)
    return _dense(weights, (pixels + start[:, None, None]).clamp(max=canvas - 1), canvas)


def _dense(weights: Tensor, pixels: Tensor, canvas: int) -> Tensor:
    """Matrices (batch, size, canvas) from the weights of a few pixels per row, both (batch, size, taps)."""
    return weights.new_zeros(*weights.shape[:2], canvas).scatter_add_(2, pixels, weights)


def _product(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Weighted sums along the columns, then along the rows: a separable resampling."""
    rows, columns = rows.to(images.dtype), columns.to(images.dtype)
    with torch.autocast(images.device.type, enabled=False):  # half precision would shift the pixels
        lines = rearrange(images, "b c h w -> b (c h) w") @ columns.mT
        return rows[:, None] @ rearrange(lines, "b (c h) w -> b c h w", c=images.shape[1])
