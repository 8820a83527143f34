"""A dictionary of spectrograms: what it learns, and that it hears nothing but the sounds."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from unlabeled import encoders, evaluate, pretrain
from unlabeled.data.audio.data import Sounds, from_waveforms
from unlabeled.methods.mel_dictionary import MelDictionary

RATE = 8_000


def chirps(count: int = 80) -> Sounds:
    """Rising and falling chirps of any pitch, each as likely as the other, played two times with pauses."""
    torch.manual_seed(0)
    time = torch.arange(2_000) / RATE
    rising = torch.arange(count) % 2
    middle, loud = 800 + 1_000 * torch.rand(count, 1), 0.1 + 0.8 * torch.rand(count, 1)
    slope = 4_000 * (2 * rising[:, None] - 1)
    phase = 2 * torch.pi * (middle * time + slope * (time.square() / 2 - 0.125 * time))
    sound = torch.cat([loud * phase.sin(), torch.zeros(count, 800)], 1).repeat(1, 2)
    return from_waveforms(
        (sound + 0.001 * torch.randn(sound.shape)).clamp(-1, 1), RATE, labels=rising.numpy(), name="chirps"
    )


def build(data: Sounds, network: str = "mel-dictionary-16", **options) -> MelDictionary:
    torch.manual_seed(0)
    method = MelDictionary(encoders.fitted(network, data, kind="audio"), **{"patches": 1000} | options)
    method.prepare(method.training_view(data))
    return method


def test_more_of_the_variance_of_patches_is_explained_after_training() -> None:
    data = chirps()
    method = build(data)
    losses = [float(method(data.sample(32))) for _ in range(10)]
    assert losses[-1] < 0.95 * losses[0] < method.chance(32)


def test_the_filters_of_the_encoder_are_the_atoms_with_the_whitening_folded_in() -> None:
    data = chirps()
    method = build(data)
    method(data.sample(32))
    filters, offsets = method.dictionary.filters()
    assert torch.equal(method.encoder.trunk.convolution.weight.flatten(1), filters)
    assert torch.equal(method.encoder.trunk.offset, offsets)


def test_one_label_per_class_separates_rising_from_falling_chirps(tmp_path: Path) -> None:
    data = chirps(160)
    train, test = data.subset(torch.arange(120)), data.subset(torch.arange(120, 160))
    settings = {"encoder": "mel-dictionary-32", "patches": 2000, "steps": 10, "quiet": True}
    run = pretrain("mel_dictionary", train, out=tmp_path / "run", **settings)
    scores = evaluate(run, (train, test), probe="knn", labels_per_class=[1], controls=("raw",))
    ours, raw = (
        next(record["value"] for record in scores.records if record["features"] == name)
        for name in ("unlabeled", "raw")
    )
    assert ours > 0.9 and raw < 0.75


def test_padding_is_never_sampled() -> None:
    data = chirps(8)
    method = build(data)
    batch = data.sample(8) | {"length": torch.tensor([500, 5_600, 900, 2_000, 2_500, 1_300, 4_000, 3_000])}
    bands, frames = method.encoder.adapt(method.encoder.inputs(batch))
    width, real = method.encoder.trunk.width, []
    for row, count in enumerate(frames.tolist()):
        padded = torch.nn.functional.pad(bands[row, :count].T, (0, max(0, width - count)))
        real += [padded[:, start : start + width].flatten() for start in range(max(1, count - width + 1))]
    patches = method._draw(batch)
    distances = torch.cdist(patches.double(), torch.stack(real).double())
    assert distances.amin(1).max() < 1e-4
    longer = batch | {"waveform": torch.nn.functional.pad(batch["waveform"], (0, 4_000))}
    torch.manual_seed(1)
    first: Tensor = method.eval()(batch)
    torch.manual_seed(1)
    assert first == method(longer), "the length of the padding changes no draw"


def test_pictures_show_what_one_atom_per_patch_explains() -> None:
    data = chirps()
    method = build(data)
    for _ in range(10):
        method(data.sample(32))
    shown = method.eval().pictures(data.sample(5))
    sound, drawn = shown["sound"], shown["one atom per patch"]
    assert sound.shape == drawn.shape == (5, 1, 40, 60)
    flat = sound.mean((2, 3), keepdim=True)
    assert (drawn - sound).square().mean() < 0.8 * (flat - sound).square().mean()
    assert shown["most used atoms"].shape == (5, 1, 4 * 41, 4 * 11)


def test_other_encoders_are_refused() -> None:
    with pytest.raises(
        ValueError, match="encoder must be a dictionary such as mel-dictionary-256, got gru1-8"
    ):
        MelDictionary(encoders.build("gru1-8", kind="audio"))
