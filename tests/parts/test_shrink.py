"""Matrices that shrink images against Pillow and torch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from unlabeled.parts.shrink import KERNELS, halvings, pixelations


@pytest.mark.parametrize(
    ("kernel", "resampling"), [("triangle", Image.Resampling.BILINEAR), ("cubic", Image.Resampling.BICUBIC),
                               ("lanczos", Image.Resampling.LANCZOS), ("box", Image.Resampling.BOX)]
)  # fmt: skip
def test_images_are_shrunk_as_pillow_does(kernel, resampling):
    image = torch.rand(16, 16)
    matrix = halvings(8)[list(KERNELS).index(kernel)]
    expected = np.asarray(Image.fromarray(image.numpy()).resize((8, 8), resampling))
    np.testing.assert_allclose((matrix @ image @ matrix.T).numpy(), expected, atol=1e-5)


def test_pixelation_downsamples_and_upsamples():
    bank = pixelations(9)
    torch.testing.assert_close(bank[8], torch.eye(9))
    torch.testing.assert_close(bank[0], bank[0, :1].expand(9, 9))  # all pixels alike
    torch.testing.assert_close(bank.sum(2), torch.ones(9, 9))
    images = torch.rand(1, 2, 9, 9)
    for size in (2, 5):
        small = F.interpolate(images, (size, size), mode="bilinear", antialias=True)
        expected = F.interpolate(small, (9, 9), mode="bilinear")
        torch.testing.assert_close(bank[size - 1] @ images @ bank[size - 1].T, expected, atol=1e-5, rtol=0)
