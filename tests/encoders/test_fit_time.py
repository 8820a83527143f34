"""How long fitting features will take: from the time of a few samples and the size of the algebra, at no cost."""

import pytest
import torch

from unlabeled import encoders
from unlabeled.data import from_images
from unlabeled.encoders import fit_time
from unlabeled.encoders.fit_time import SIDE, fit_seconds, multiplications
from unlabeled.encoders.readout import SAMPLES, Spec


@pytest.mark.parametrize(
    ("features", "passes", "samples"),
    [
        ("output", 0, 64),
        ("output:standardize", 1, 64),
        ("output:whiten", 1, 64),
        ("output:contrast", 5, 10**9),
    ],
)
def test_time_is_that_of_all_passes_and_products_and_nothing_is_changed(
    features, passes, samples, monkeypatch
):
    monkeypatch.setattr(fit_time, "_timed", lambda act: (act(), 1.0))
    encoder = encoders.build("conv4", image_size=8, in_channels=1).train()
    data = from_images(torch.randint(0, 256, (16, 1, 8, 8)).to(torch.uint8))
    before, state = {k: v.clone() for k, v in encoder.state_dict().items()}, torch.get_rng_state()
    spec = Spec.parse(features)
    seconds = fit_seconds(encoder, spec, data, samples)
    algebra = multiplications(spec, min(samples, SAMPLES), encoder.dim) / SIDE**3
    assert seconds == pytest.approx(passes * min(samples, SAMPLES) / 16 + algebra)
    assert torch.equal(torch.get_rng_state(), state) and encoder.training
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_products_grow_with_samples_and_numbers_as_the_algebra_does():
    whiten, contrast = Spec.parse("output:whiten:100"), Spec.parse("output:contrast")
    assert multiplications(whiten, 2000, 500) - multiplications(whiten, 1000, 500) == 6 * 1000 * 500 * 100
    assert multiplications(Spec(), 10, 10) == 0 < multiplications(contrast, 10, 10)
