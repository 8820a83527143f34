"""Sounds in batches and from files: lengths, crops, rates, and what cannot be read."""

import io
import math

import numpy as np
import pytest
import torch

from unlabeled.data import open_data, open_splits
from unlabeled.data.audio import Sounds, from_waveforms
from unlabeled.data.audio_files import decode

LENGTHS = [5, 9, 1, 7]


def ragged() -> tuple[Sounds, list[torch.Tensor]]:
    parts = [torch.rand(length) * 2 - 1 for length in LENGTHS]
    data = Sounds(
        torch.cat(parts),
        torch.tensor(LENGTHS),
        sample_rate=8_000,
        name="ragged",
        paths=list("abcd"),
        labels=torch.tensor([0, 1, 0, 1]),
        factors={"pitch": torch.arange(4.0)},
    )
    return data, parts


def sine(hertz: float, rate: int, seconds: float = 0.5) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)


@pytest.fixture
def write(tmp_path):
    soundfile = pytest.importorskip("soundfile")

    def written(name: str, sound: np.ndarray, rate: int = 8_000, **options) -> None:
        path = tmp_path / "sounds" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, sound, rate, **options)

    return written


def test_shorter_sounds_are_followed_by_zeros():
    data, parts = ragged()
    batch = data.batch(torch.tensor([3, 0, 2]))
    assert set(batch) == {"waveform", "length", "index"}
    assert batch["waveform"].shape == (3, 7) and batch["waveform"].dtype == torch.float32
    assert batch["length"].tolist() == [7, 5, 1] and batch["index"].tolist() == [3, 0, 2]
    for row, number in zip(batch["waveform"], [3, 0, 2]):
        assert torch.equal(row[: LENGTHS[number]], parts[number]) and not row[LENGTHS[number] :].any()


def test_subsets_share_the_memory_and_know_their_labels_and_factors():
    data, parts = ragged()
    subset = data.subset(torch.tensor([False, True, False, True]))
    assert subset.samples.data_ptr() == data.samples.data_ptr()
    assert subset.paths == ["b", "d"] and subset.labels is not None and subset.labels.tolist() == [1, 1]
    assert subset.factors["pitch"].tolist() == [1, 3]
    assert torch.equal(subset.batch(torch.tensor([1]))["waveform"][0], parts[3])


def test_crops_are_pieces_from_random_places_and_leave_short_sounds_whole():
    data, parts = ragged()
    crops = data.crops(4 / 8_000)
    starts = {number: set() for number in range(4)}
    for seed in range(60):
        torch.manual_seed(seed)
        batch = crops.batch(torch.arange(4))
        assert batch["waveform"].shape == (4, 4) and batch["length"].tolist() == [4, 4, 1, 4]
        for number, (row, length) in enumerate(zip(batch["waveform"], batch["length"].tolist())):
            pieces = parts[number].unfold(0, length, 1)
            starts[number].add(int((pieces == row[:length]).all(1).nonzero()[0]))
    assert [len(found) for found in starts.values()] == [2, 6, 1, 4], "every place comes"
    assert data.longest is None and len(data.batch(torch.tensor([1]))["waveform"][0]) == 9
    torch.manual_seed(3)
    first = crops.batch(torch.arange(4))["waveform"]
    torch.manual_seed(3)
    assert torch.equal(first, crops.batch(torch.arange(4))["waveform"])


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_crops_of_no_length_are_refused(value):
    with pytest.raises(ValueError, match="seconds must"):
        ragged()[0].crops(value)


def test_resampled_sounds_have_their_seconds_and_leave_the_others_alone():
    data = from_waveforms(torch.from_numpy(np.stack([sine(300, 8_000), sine(700, 8_000)])).float(), 8_000)
    fast = data.resampled(16_000)
    assert fast.shape == {"sample_rate": 16_000} and fast.lengths.tolist() == [8_000, 8_000]
    assert data.shape == {"sample_rate": 8_000} and data.lengths.tolist() == [4_000, 4_000]
    assert data.resampled(8_000) is data
    expected = torch.from_numpy(sine(700, 16_000)).float()
    found = fast.batch(torch.tensor([1]))["waveform"][0]
    assert (found - expected)[1_000:-1_000].abs().max() < 1e-3


def test_folders_of_classes_and_splits_of_any_format_rate_and_channels(write, tmp_path):
    for split, count in (("train", 3), ("test", 2)):
        for number in range(count):
            write(f"{split}/low/{number}.wav", sine(200, 8_000))
            write(f"{split}/high/{number}.flac", sine(900, 16_000), 16_000)
    write("train/high/stereo.wav", np.stack([sine(900, 8_000), np.zeros(4_000)], axis=1))
    write("train/high/other.ogg", sine(900, 22_050), 22_050)
    write("train/low/music.mp3", sine(200, 44_100), 44_100)
    write("train/low/old.aiff", sine(200, 11_127), 11_127)
    train, test = open_splits(tmp_path / "sounds")
    assert isinstance(train, Sounds) and isinstance(test, Sounds)
    assert train.shape == {"sample_rate": 8_000} and train.classes == test.classes == ["high", "low"]
    assert len(train) == 10 and len(test) == 4 and train.labels is not None
    spectrum = torch.fft.rfft(train.batch(torch.arange(10))["waveform"][:, 500:3_500], 8_000).abs()
    assert torch.equal(spectrum.argmax(1) > 500, train.labels == 0), "each sound is heard as its class"
    stereo = next(row for row, path in enumerate(train.paths) if "stereo" in path)
    assert train.batch(torch.tensor([stereo]))["waveform"].abs().max().item() == pytest.approx(0.25, abs=0.01)
    assert open_data(tmp_path / "sounds", split="train", sample_rate=16_000).shape == {"sample_rate": 16_000}


def test_second_opening_decodes_nothing(write, tmp_path, monkeypatch):
    for number in range(3):
        write(f"{number}.wav", sine(100 * (1 + number), 8_000))
    first = open_data(tmp_path / "sounds")
    monkeypatch.setattr("unlabeled.data.audio_files.decode", lambda content: pytest.fail("it was decoded"))
    second = open_data(tmp_path / "sounds")
    assert isinstance(first, Sounds) and isinstance(second, Sounds)
    assert torch.equal(first.samples, second.samples) and first.samples.dtype == torch.int16


def test_what_cannot_be_read_is_skipped_with_its_reason(write, tmp_path):
    for number in range(20):
        write(f"{number:02}.wav", sine(300, 8_000))
    write("silence.wav", np.zeros(800))
    write("empty.wav", np.zeros(0))
    write("nan.wav", np.array([0.0, np.nan, 0.5]), subtype="FLOAT")
    write("cut.flac", np.random.default_rng(0).normal(size=20_000) * 0.1)
    folder = tmp_path / "sounds"
    (folder / "cut.flac").write_bytes((folder / "cut.flac").read_bytes()[:9_000])
    (folder / "text.mp3").write_bytes(b"no sound at all")
    (folder / "nothing.ogg").write_bytes(b"")
    (folder / "notes.txt").write_text("what this is")
    data = open_data(folder, kind="audio", max_broken=0.3)
    assert len(data) == 21
    skipped = {path.rsplit("/", 1)[-1]: reason for path, reason in data.skipped}
    assert set(skipped) == {"empty.wav", "nan.wav", "cut.flac", "text.mp3", "nothing.ogg", "notes.txt"}
    assert skipped["empty.wav"] == "no samples" and skipped["nan.wav"] == "samples that are not finite"
    assert all(skipped.values())
    silent = next(row for row, path in enumerate(data.paths) if "silence" in path)
    assert not data.batch(torch.tensor([silent]))["waveform"].any()
    with pytest.raises(ValueError, match=r"5 of 26 files in .* cannot be read"):
        open_data(folder, kind="audio")


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG", "MP3", "AIFF"])
def test_bytes_cut_anywhere_are_a_sound_or_a_reason(form):
    soundfile = pytest.importorskip("soundfile")
    stream = io.BytesIO()
    soundfile.write(stream, np.random.default_rng(0).normal(size=8_000) * 0.1, 16_000, format=form)
    whole = stream.getvalue()
    sound, rate = decode(whole)
    assert rate == 16_000 and len(sound) == pytest.approx(8_000, rel=0.2)
    for part in (0, 3, 30, 200, len(whole) // 2, len(whole) - 1):
        try:
            found, _ = decode(whole[:part])
        except ValueError as error:
            assert str(error)
        else:
            assert 0 < len(found) <= len(sound)


def test_loud_floats_are_clipped_and_numbers_of_16_bits_survive(write, tmp_path):
    values = np.array([-32768, -1, 0, 1, 32767] * 20, dtype=np.int16)
    write("exact.wav", values)
    write("loud.wav", 2 * sine(300, 8_000) + 1, subtype="FLOAT")
    data = open_data(tmp_path / "sounds")
    batch = data.batch(torch.arange(2))
    assert torch.equal((batch["waveform"][0, :100] * 2**15).round().short(), torch.from_numpy(values))
    assert batch["waveform"].max() <= 1


def test_parquet_brings_labels_and_what_else_is_known(tmp_path):
    soundfile, datasets = pytest.importorskip("soundfile"), pytest.importorskip("datasets")

    def row(number: int) -> dict:
        stream = io.BytesIO()
        soundfile.write(stream, sine(200 + 10 * number, 8_000, 0.1), 8_000, format="FLAC")
        return {
            "audio": {"bytes": stream.getvalue() if number != 5 else b"broken", "path": f"{number}.flac"},
            "label": number % 2,
            "speaker": ["ann", "bob", "cyd"][number % 3],
            "text": f"sentence {number}",
            "age": 20.5 + number,
        }

    features = datasets.Features(
        {
            "audio": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
            "label": datasets.ClassLabel(names=["even", "odd"]),
            "speaker": datasets.Value("string"),
            "text": datasets.Value("string"),
            "age": datasets.Value("float64"),
        }
    )
    rows = [row(number) for number in range(24)]
    datasets.Dataset.from_list(rows[:18], features).to_parquet(tmp_path / "train-0.parquet")
    datasets.Dataset.from_list(rows[18:], features).to_parquet(tmp_path / "test-0.parquet")
    train, test = open_splits(tmp_path, kind="audio")
    assert len(train) == 17 and len(test) == 6 and train.classes == ["even", "odd"]
    assert [path for path, _ in train.skipped] == [f"{tmp_path}/5.flac"]
    assert test.labels is not None and test.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert set(train.factors) == {"speaker", "age"}
    assert test.factors["speaker"].tolist() == [0, 1, 2, 0, 1, 2]
    assert test.factors["age"].tolist() == [20.5 + number for number in range(18, 24)]


def test_arrays_with_splits_lengths_labels_and_rate(tmp_path):
    generator = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 6), ("test", 4)):
        arrays[f"{split}_waveforms"] = generator.uniform(-1, 1, (count, 50)).astype(np.float32)
        arrays[f"{split}_lengths"] = generator.integers(1, 51, count)
        arrays[f"{split}_labels"] = np.arange(count) % 2
    np.savez(tmp_path / "sounds.npz", sample_rate=4_000, **arrays)
    train, test = open_splits(tmp_path / "sounds.npz", kind="audio")
    assert len(train) == 6 and len(test) == 4 and train.shape == {"sample_rate": 4_000}
    batch = test.batch(torch.arange(4))
    assert batch["length"].tolist() == arrays["test_lengths"].tolist()
    for row, length, given in zip(batch["waveform"], batch["length"], arrays["test_waveforms"]):
        assert torch.equal(row[:length], torch.from_numpy(given[:length])) and not row[length:].any()


def test_arrays_need_their_rate():
    waveforms = torch.zeros(2, 100)
    with pytest.raises(ValueError, match="sample_rate must be given"):
        open_data(waveforms, kind="audio")
    assert open_data(waveforms, kind="audio", sample_rate=8_000).shape == {"sample_rate": 8_000}


@pytest.mark.parametrize(
    ("waveforms", "options", "word"),
    [
        (torch.zeros(5), {}, "axes sounds and samples"),
        (torch.zeros(0, 5), {}, "axes sounds and samples"),
        (torch.full((1, 5), 1.5), {}, "floats in -1..1"),
        (torch.full((1, 5), math.nan), {}, "floats in -1..1"),
        (torch.zeros(1, 5, dtype=torch.int32), {}, "floats in -1..1 or int16"),
        (
            torch.zeros(2, 5),
            {"lengths": torch.tensor([5, 6])},
            "lengths of array must be from 1 to 5, got 5..6",
        ),
        (
            torch.zeros(2, 5),
            {"lengths": torch.tensor([0, 5])},
            "lengths of array must be from 1 to 5, got 0..5",
        ),
        (torch.zeros(2, 5), {"labels": torch.tensor([1])}, "labels of array must be 2 integers"),
    ],
)
def test_arrays_that_are_no_sounds_are_refused(waveforms, options, word):
    with pytest.raises(ValueError, match=word):
        from_waveforms(waveforms, 8_000, **options)


def test_folders_without_sounds_say_what_is_there(tmp_path):
    (tmp_path / "a.txt").write_text("no sound")
    with pytest.raises(ValueError, match=r"no sounds in .* found 1 \.txt"):
        open_data(tmp_path, kind="audio")


def test_built_in_tones_can_be_asked_for_each_of_their_factors():
    data = open_data("tones:voice", split="test")
    assert len(data) == 500 and data.classes is not None and len(data.classes) == 6
    assert set(data.factors) == {"rhythm", "pitch", "timbre", "tempo"}
    with pytest.raises(ValueError, match="label must be one of rhythm, pitch, timbre, voice, got colour"):
        open_data("tones:colour")


def test_batches_lie_on_the_device_of_the_data():
    data, _ = ragged()
    assert data.to("meta").batch(torch.tensor([0]))["waveform"].device.type == "meta"
