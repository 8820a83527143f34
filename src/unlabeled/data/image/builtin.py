"""Images that need no download, because libraries that are installed anyway bring them.

`digits`: 1,797 handwritten digits of 8x8 pixels from scikit-learn (UCI "Optical Recognition of Handwritten
Digits", CC BY 4.0), split into 1,297 for training and 500 for testing, 50 of each digit.

`photos`: 2,000 patches of 64x64 pixels from ten real photographs; the label says which photograph. Training
patches come from the left three quarters of a photograph, test patches from the right quarter: they share
no pixel. From scikit-learn: china (danielbuechele, CC BY 2.0) and flower (vultilion, CC BY 2.0). From
scikit-image: astronaut and galaxies (NASA, public domain), rocket (SpaceX, public domain), cat (Stefan van
der Walt, CC0), coffee (Rachel Michetti, CC0), retina (Mikael Häggström, CC0), tissue (Center for Microscopy
and Molecular Imaging, no known restrictions) and motorcycle (Middlebury stereo data of Scharstein and
others, 2014).
"""

from importlib.resources import as_file, files

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from unlabeled import check
from unlabeled.data.image.arrays import from_array
from unlabeled.data.image.data import Images

__all__ = ["load"]

_TEST_DIGITS = 50
_PATCH, _SIDE = 64, 384
_PATCHES = {"train": 160, "test": 40}
_PHOTOS = {
    "china": ("sklearn", "datasets/images/china.jpg"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
    "astronaut": ("skimage", "data/astronaut.png"),
    "cat": ("skimage", "data/chelsea.png"),
    "coffee": ("skimage", "data/coffee.png"),
    "galaxies": ("skimage", "data/hubble_deep_field.jpg"),
    "motorcycle": ("skimage", "data/motorcycle_left.png"),
    "retina": ("skimage", "data/retina.jpg"),
    "rocket": ("skimage", "data/rocket.jpg"),
    "tissue": ("skimage", "data/ihc.png"),
}


def load(name: str, split: str, channels: int | None = None) -> Images:
    """Open a built-in data set.

    Args:
        name: "digits" or "photos".
        split: "train" or "test".
        channels: 1 or 3 to convert to; None leaves digits grey and photos in colour.
    """
    check.choice(("digits", "photos"), data=name)
    images, labels, classes = _digits(split) if name == "digits" else _photos(split)
    return from_array(images, labels, name, channels, classes)


def _digits(split: str) -> tuple[Tensor, Tensor, list[str]]:
    from sklearn.datasets import load_digits

    values, digits = load_digits(return_X_y=True)
    images = torch.from_numpy(np.rint(np.asarray(values) * (255 / 16)).astype(np.uint8))
    images = rearrange(images, "samples (height width) -> samples 1 height width", height=8)
    labels = torch.from_numpy(np.asarray(digits)).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    test = torch.zeros(len(labels), dtype=torch.bool)
    for digit in range(10):
        test[order[labels[order] == digit][:_TEST_DIGITS]] = True
    rows = test if split == "test" else ~test
    return images[rows], labels[rows], [str(digit) for digit in range(10)]


def _photos(split: str) -> tuple[Tensor, Tensor, list[str]]:
    patches = torch.cat([_cut(_photo(*place), split, seed) for seed, place in enumerate(_PHOTOS.values())])
    labels = torch.arange(len(_PHOTOS)).repeat_interleave(_PATCHES[split])
    return patches, labels, list(_PHOTOS)


def _photo(package: str, file: str) -> Tensor:
    """A photograph, uint8, shape (3, height, width), its shorter side at most 384 pixels."""
    with as_file(files(package) / file) as path, Image.open(path) as picture:
        image = picture.convert("RGB")
    scale = min(1, _SIDE / min(image.size))
    size = (round(scale * image.width), round(scale * image.height))
    pixels = np.array(image.resize(size, Image.Resampling.LANCZOS))
    return rearrange(torch.from_numpy(pixels), "height width channels -> channels height width")


def _cut(photo: Tensor, split: str, seed: int) -> Tensor:
    """Patches at random places of a split's part of a photograph, uint8, shape (patches, 3, 64, 64)."""
    border = 3 * photo.shape[2] // 4
    part = photo[:, :, border:] if split == "test" else photo[:, :, :border]
    generator = torch.Generator().manual_seed(seed)
    tops = torch.randint(part.shape[1] - _PATCH + 1, (_PATCHES[split],), generator=generator)
    lefts = torch.randint(part.shape[2] - _PATCH + 1, (_PATCHES[split],), generator=generator)
    places = zip(tops.tolist(), lefts.tolist())
    return torch.stack([part[:, top : top + _PATCH, left : left + _PATCH] for top, left in places])
