"""SimCLR: chance, and a step in half precision; NT-Xent is tested in tests/parts/test_info_nce.py."""

import pytest
import torch

from unlabeled import encoders
from unlabeled.methods.simclr import SimCLR
from unlabeled.parts.info_nce import nt_xent


@pytest.mark.parametrize(("images", "value"), [(4, 1.9459), (256, 6.23637), (512, 6.93049)])
def test_collapsed_vectors_have_the_loss_of_chance(images: int, value: float) -> None:
    vectors = torch.ones(images, 3, dtype=torch.float64)
    chance = SimCLR(encoders.build("conv4", image_size=8)).chance(images)
    assert nt_xent(vectors, vectors, 0.2).item() == pytest.approx(chance, rel=1e-12)
    assert chance == pytest.approx(value, abs=5e-5)


def test_training_step_in_bfloat16_is_finite() -> None:
    method = SimCLR(encoders.build("conv4", image_size=8), temperature=0.04)
    with torch.autocast("cpu", torch.bfloat16):
        value = method({"image": torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)})
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite()
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)
