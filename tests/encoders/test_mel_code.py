"""The code of a dictionary of spectrograms against a slow loop over patches."""

import pytest
import torch
from torch import Tensor

from unlabeled import encoders
from unlabeled.encoders.mel_code import MelCode
from unlabeled.parts.dictionary import Dictionary

BINS, ATOMS, WIDTH = 6, 5, 4


def network() -> tuple[MelCode, Dictionary]:
    """With the filters of a dictionary of random atoms."""
    torch.manual_seed(0)
    code = MelCode(BINS, ATOMS, WIDTH)
    learner = Dictionary(ATOMS, code.numbers, eps=code.eps, whitening_eps=0.1)
    learner.begin(torch.randn(500, code.numbers))
    code.set_filters(*learner.filters())
    return code, learner


def sounds(*frames: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    counts = torch.tensor(frames)
    bands = torch.randn(len(frames), max(frames), BINS)
    return bands * (torch.arange(max(frames)) < counts[:, None])[:, :, None], counts


def slow(learner: Dictionary, bands: Tensor) -> Tensor:
    """Code of every patch of one sound, float, shape (patches, 2 * atoms), each whitened and projected by itself."""
    rows = []
    for start in range(len(bands) - WIDTH + 1):
        patch = bands[start : start + WIDTH].T.reshape(1, -1)
        products = learner.atoms @ learner.whiten(patch)[0]
        rows.append((torch.cat([products, -products]) - 0.25).clamp_min(0))
    return torch.stack(rows)


def test_the_code_is_normalise_whiten_project_threshold_patch_by_patch() -> None:
    code, learner = network()
    bands, frames = sounds(9, 17)
    layers, counts = code.layers(bands, frames)
    assert counts.tolist() == [6, 14]
    for row, count in enumerate(counts.tolist()):
        expected = slow(learner, bands[row, : frames[row]])
        torch.testing.assert_close(layers["atoms"][row, :count], expected, rtol=1e-4, atol=1e-4)
        assert not layers["atoms"][row, count:].any()


def test_vectors_are_roots_of_means_over_thirds_and_of_maxima() -> None:
    code, learner = network()
    bands, frames = sounds(15, 12)  # 12 and 9 patches
    for row, third in enumerate((4, 3)):
        each = slow(learner, bands[row, : frames[row]])
        parts = each.view(3, third, -1)
        expected = torch.cat([*(part.mean(0) for part in parts), each.amax(0)])
        vector = code.vectors(bands, frames)[row].square() - 1e-4
        torch.testing.assert_close(vector, expected, rtol=1e-4, atol=1e-4)


def test_segments_share_patches_if_there_are_few() -> None:
    code, learner = network()
    bands, frames = sounds(WIDTH + 1)
    first, second = slow(learner, bands[0])
    parts = (code.vectors(bands, frames)[0].square() - 1e-4).view(4, -1)
    for part, expected in zip(parts[:3], (first, (first + second) / 2, second)):
        torch.testing.assert_close(part, expected, rtol=1e-4, atol=1e-4)


def test_padding_after_the_end_and_other_sounds_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    code, _ = network()
    bands, frames = sounds(40, 7, 3, 1)
    together = code.vectors(bands, frames)
    longer = torch.cat([bands, torch.zeros(4, 30, BINS)], 1)
    torch.testing.assert_close(code.vectors(longer, frames), together)
    for row, count in enumerate(frames.tolist()):
        alone = code.vectors(bands[[row], :count], frames[[row]])
        torch.testing.assert_close(alone[0], together[row])
    monkeypatch.setattr("unlabeled.encoders.mel_code.ENTRIES", 1)
    torch.testing.assert_close(code.vectors(bands, frames), together)


def test_the_order_of_sounds_in_time_matters() -> None:
    code, _ = network()
    bands, frames = sounds(30)
    other = torch.cat([bands[:, 15:], bands[:, :15]], 1)
    assert (code.vectors(bands, frames) - code.vectors(other, frames)).abs().max() > 0.1


@pytest.mark.parametrize(
    ("name", "atoms", "width"), [("mel-dictionary-7", 7, 10), ("mel-dictionary-3-16", 3, 16)]
)
@pytest.mark.parametrize("samples", [1, 300, 4_000])
def test_names_set_atoms_and_frames_and_short_sounds_are_read(
    name: str, atoms: int, width: int, samples: int, tmp_path
) -> None:
    encoder = encoders.build(name, kind="audio", sample_rate=8_000).eval()
    assert (len(encoder.trunk.offset), encoder.trunk.width, encoder.dim) == (atoms, width, 8 * atoms)
    x = encoder.inputs({"waveform": torch.rand(2, samples)})
    features = encoder(x)
    assert features.shape == (2, encoder.dim) and features.isfinite().all()
    assert encoder.features(x, "atoms").shape == (2, 2 * atoms)
    encoder.save(tmp_path / "one.safetensors")
    assert torch.equal(encoders.load(tmp_path / "one.safetensors").eval()(x), features)


@pytest.mark.parametrize("name", ["mel-dictionary-0", "mel-dictionary", "mel-dictionary-4-"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"encoder must be .*mel-dictionary-ATOMS"):
        encoders.build(name, kind="audio")


def test_values_after_the_end_of_a_waveform_do_not_matter() -> None:
    torch.manual_seed(0)
    encoder = encoders.build("mel-dictionary-7", kind="audio", sample_rate=8_000).eval()
    waveform = torch.randn(2, 6_000).clamp(-1, 1)
    noisy = torch.cat([waveform, torch.randn(2, 3_000)], 1)
    length = torch.tensor([6_000, 6_000])
    expected = encoder(encoder.inputs({"waveform": waveform}))
    torch.testing.assert_close(encoder(encoder.inputs({"waveform": noisy, "length": length})), expected)
