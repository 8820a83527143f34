"""Sounds in batches and from files: lengths, crops, rates, and what cannot be read."""

import io
import math
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from unlabeled.data import kind_of, open_data, open_splits
from unlabeled.data.audio.data import Sounds, from_waveforms
from unlabeled.data.audio.decode import decode, scale_of
from unlabeled.data.notes import note

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


def test_batches_say_what_group_each_sound_is_of_where_groups_are_known():
    data, _ = ragged()
    data.groups = torch.tensor([2, 0, 2, 5])
    assert data.subset(torch.tensor([1, 3])).crops(1).batch(torch.tensor([1, 0]))["group"].tolist() == [5, 0]


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
    monkeypatch.setattr("unlabeled.data.audio.read.decode", lambda content: pytest.fail("it was decoded"))
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


def test_floats_beyond_full_scale_are_divided_alike_and_numbers_of_16_bits_survive(write, tmp_path):
    values = np.array([-32768, -1, 0, 1, 32767] * 20, dtype=np.int16)
    write("exact.wav", values)
    write("loud.wav", 2 * sine(300, 8_000) + 0.5, subtype="FLOAT")
    write("soft.wav", sine(300, 8_000), subtype="FLOAT")
    data = open_data(tmp_path / "sounds")
    batch = data.batch(torch.arange(3))
    assert torch.equal((batch["waveform"][0, :100] * 2**15).round().short(), torch.from_numpy(values))
    expected = torch.from_numpy(np.stack([2 * sine(300, 8_000) + 0.5, sine(300, 8_000)])).float() / 2
    assert (batch["waveform"][1:] - expected).abs().max() < 2e-5, "1.5 needs a division by 2, for all floats"


@pytest.mark.parametrize("full", [1.0, 2.0**15, 2.0**23, 2.0**31])
def test_floats_in_the_range_of_integers_keep_their_form(write, tmp_path, full):
    for number in range(4):
        write(f"{number}.wav", full * 0.4 * (number + 1) * sine(300, 8_000), subtype="DOUBLE")
    waves = open_data(tmp_path / "sounds").batch(torch.arange(4))["waveform"]
    for number, wave in enumerate(waves):
        expected = torch.from_numpy(0.4 * (number + 1) * sine(300, 8_000)).float()
        assert (wave - expected).abs().max() < 2e-5


def test_training_and_test_floats_have_one_scale(write, tmp_path):
    for split, loud in (("train", 3.0), ("test", 0.5)):
        for number in range(3):
            write(f"{split}/{number}.wav", loud * sine(300, 8_000), subtype="FLOAT")
    train, test = open_splits(tmp_path / "sounds", kind="audio")
    peaks = [data.batch(torch.arange(3))["waveform"].abs().max().item() for data in (train, test)]
    assert peaks == pytest.approx([0.75, 0.125], abs=1e-3)


def test_one_file_out_of_range_does_not_crush_the_others(write, tmp_path):
    for number in range(10):
        write(f"{number}.wav", sine(300, 8_000), subtype="FLOAT")
    write("mistake.wav", 30_000 * sine(300, 8_000), subtype="FLOAT")
    data = open_data(tmp_path / "sounds", kind="audio")
    assert len(data) == 10 and data.batch(torch.arange(1))["waveform"].max().item() == pytest.approx(
        0.5, abs=1e-3
    )
    assert [skip.reason for skip in data.skipped] == [
        "floats up to 15000, where full scale of the others is 1"
    ]


@pytest.mark.parametrize(
    ("peaks", "divisor", "most"),
    [
        ([], 1, math.inf),
        ([0.0], 1, math.inf),
        ([0.5, 1.0], 1, 8),
        ([0.5, 1.01], 2, 8),
        ([0.5, 8.0], 8, 8),
        ([0.5, 0.5, 8.1], 1, 8),
        ([0.1, 9.0, 30_000.0], 2**15, 2**18),
        ([30_000.0, 40_000.0, 30_000.0], 2**16, 2**18),
        ([3e6], 2**23, 2**26),
        ([1e30], 2**31, 2**34),
    ],
)
def test_scale_of_floats(peaks, divisor, most):
    assert scale_of(peaks, "sounds") == (divisor, most)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_S8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_any_width_and_number_of_channels_is_the_mean_at_its_full_scale(write, tmp_path, subtype, channels):
    waves = np.stack([sine(300, 8_000) * (number + 1) / channels for number in range(channels)], 1)
    ending = "aiff" if subtype == "PCM_S8" else "wav"
    write(f"a.{ending}", waves, subtype=subtype)
    found = open_data(tmp_path / "sounds").batch(torch.tensor([0]))["waveform"][0]
    assert (found - torch.from_numpy(waves.mean(1)).float()).abs().max() < (
        1 / 64 if "8" in subtype else 1e-4
    )


def test_long_silence_is_a_sound(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    path = tmp_path / "call.flac"
    with soundfile.SoundFile(path, "w", 48_000, 1) as file:
        file.write(0.1 * np.random.default_rng(0).normal(size=48_000))
        for _ in range(12 * 60):
            file.write(np.zeros(48_000, np.int16))
    assert path.stat().st_size * 64 < 48_000 * 721
    data = open_data(path, kind="audio", sample_rate=8_000)
    assert isinstance(data, Sounds) and data.seconds == 721
    assert data.samples[:8_000].any() and not data.samples[16_000:].any()


def test_more_samples_than_any_recording_has_are_refused(write, tmp_path, monkeypatch):
    write("a.flac", np.zeros(300_000))
    monkeypatch.setattr("unlabeled.data.limits.SAMPLES", 2**18)
    monkeypatch.setattr("unlabeled.data.limits.SAMPLES_OF_A_BYTE", 1)
    with pytest.raises(
        ValueError, match="unpacks to more than 262144 samples, too many for a file of its size"
    ):
        decode(tmp_path / "sounds" / "a.flac")


@pytest.mark.parametrize(
    ("right", "silent"), [(-1.0, True), (-0.9, True), (0.0, False), (1.0, False), (None, False)]
)
def test_channels_that_cancel_each_other_are_mentioned(write, tmp_path, caplog, right, silent) -> None:
    left = sine(300, 8_000)
    other = sine(700, 8_000) if right is None else right * left
    write("a.wav", np.stack([left, other], axis=1))
    note.cache_clear()
    decode(tmp_path / "sounds" / "a.wav")
    assert ("channels of a sound cancel each other" in caplog.text) == silent


def encoded(path, codec: str, *, rate: int = 16_000, form: str | None = None, pictures: bool = False) -> None:
    """A second of 300 hertz on the left and silence on the right, perhaps with pictures."""
    av = pytest.importorskip("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format=form) as file:
        if pictures:
            video = file.add_stream("libvpx" if path.suffix == ".webm" else "mpeg4", rate=10)
            video.width = video.height = 32
            video.pix_fmt = "yuv420p"
        stream = file.add_stream(codec, rate=rate)
        stream.layout = "mono" if codec.endswith("amrnb") else "stereo"
        if pictures:
            for _ in range(10):
                frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
                file.mux(video.encode(frame))
            file.mux(video.encode())
        wave = np.float32(sine(300, rate, 1.0))
        both = np.stack([wave, 0 * wave])[: 1 if stream.layout.name == "mono" else 2]
        sound = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(both), format="fltp", layout=stream.layout.name
        )
        sound.sample_rate = rate
        size = stream.codec_context.frame_size or 1024
        parts = av.AudioResampler(format=stream.format, layout=stream.layout, rate=rate, frame_size=size)
        for part in [*parts.resample(sound), *parts.resample(None)]:
            file.mux(stream.encode(part))
        file.mux(stream.encode(None))


FFMPEG = {
    "a.m4a": ("aac", 16_000, "ipod", False),
    "lossless.m4a": ("alac", 16_000, "ipod", False),
    "a.aac": ("aac", 16_000, None, False),
    "a.webm": ("libopus", 48_000, None, False),
    "a.ac3": ("ac3", 48_000, None, False),
    "a.amr": ("libopencore_amrnb", 8_000, None, False),
    "seen.webm": ("libopus", 48_000, None, True),
    "seen.mp4": ("aac", 16_000, None, True),
    "seen.mov": ("aac", 16_000, None, True),
    "seen.mkv": ("aac", 16_000, None, True),
}


@pytest.mark.parametrize("name", FFMPEG)
def test_sounds_that_only_ffmpeg_reads(tmp_path, name):
    codec, rate, form, pictures = FFMPEG[name]
    encoded(tmp_path / name, codec, rate=rate, form=form, pictures=pictures)
    data = open_data(tmp_path / name, kind="audio")
    assert isinstance(data, Sounds) and data.sample_rate == rate
    assert int(data.lengths[0]) == pytest.approx(rate, rel=0.1)
    wave = data.batch(torch.tensor([0]))["waveform"][0]
    spectrum = torch.fft.rfft(wave[rate // 4 : 3 * rate // 4]).abs()
    assert int(spectrum.argmax()) == 150, "300 hertz in half a second"
    loud = 0.5 if codec.endswith("amrnb") else 0.25  # the mean with a silent channel
    assert wave[rate // 4 : 3 * rate // 4].abs().max().item() == pytest.approx(loud, rel=0.15)
    assert kind_of(tmp_path / name) == ("video" if pictures else "audio")


def test_a_wrong_ending_and_bytes_in_a_table_are_read_too(tmp_path):
    encoded(tmp_path / "a.m4a", "aac", form="ipod")
    content = (tmp_path / "a.m4a").read_bytes()
    (tmp_path / "b.wav").write_bytes(content)
    assert len(decode(tmp_path / "b.wav")[0]) == len(decode(content)[0]) > 15_000


def test_broken_files_of_ffmpeg_have_one_reason_each(write, tmp_path):
    encoded(tmp_path / "sounds" / "a.m4a", "aac", form="ipod")
    whole = (tmp_path / "sounds" / "a.m4a").read_bytes()
    (tmp_path / "sounds" / "cut.m4a").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "sounds" / "none.m4a").write_bytes(b"")
    (tmp_path / "sounds" / "words.aac").write_bytes(b"no sound at all" * 50)
    data = open_data(tmp_path / "sounds", kind="audio", max_broken=0.9)
    reasons = {path.rsplit("/", 1)[-1]: reason for path, reason in data.skipped}
    assert len(data) == 1 and reasons.keys() == {"cut.m4a", "none.m4a", "words.aac"}
    assert all("\n" not in reason and "sounds/" not in reason for reason in reasons.values())


def test_videos_beside_sounds_are_not_heard_twice(write, tmp_path):
    write("a.wav", sine(300, 16_000), 16_000)
    encoded(tmp_path / "sounds" / "a.mp4", "aac", pictures=True)
    assert len(open_data(tmp_path / "sounds", kind="audio")) == 1


def test_a_video_without_sound_says_so(tmp_path):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "a.mp4"), "w") as file:
        video = file.add_stream("mpeg4", rate=10)
        video.width = video.height = 32
        file.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        file.mux(video.encode())
    with pytest.raises(ValueError, match="no sound track"):
        open_data(tmp_path / "a.mp4", kind="audio")


@pytest.mark.parametrize("samples", [1, 10])
def test_very_short_sounds_are_used(write, tmp_path, samples):
    write("a.wav", sine(300, 8_000)[:samples])
    assert open_data(tmp_path / "sounds").batch(torch.tensor([0]))["length"].tolist() == [samples]


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


def test_another_column_of_labels_is_not_that_of_the_cache(tmp_path):
    soundfile, datasets = pytest.importorskip("soundfile"), pytest.importorskip("datasets")
    stream = io.BytesIO()
    soundfile.write(stream, sine(200, 8_000, 0.1), 8_000, format="FLAC")
    sound = {"bytes": stream.getvalue(), "path": None}
    rows = [{"audio": sound, "take": f"take {number // 2}", "note": f"{number}"} for number in range(3)]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "sounds.parquet")
    assert open_data(tmp_path / "sounds.parquet", kind="audio").labels is None
    named = open_data(tmp_path / "sounds.parquet", kind="audio", label="take")
    assert named.classes == ["take 0", "take 1"] and named.labels.tolist() == [0, 0, 1]
    grouped = open_data(tmp_path / "sounds.parquet", kind="audio", group="take")
    assert grouped.groups.tolist() == [0, 0, 1]


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
        (torch.zeros(2, 5), {"labels": torch.tensor([1])}, "labels of array must be 2 numbers or texts"),
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


def test_a_column_of_splits_tells_the_parts_of_a_table_apart(tmp_path):
    soundfile, pandas = pytest.importorskip("soundfile"), pytest.importorskip("pandas")
    sounds = []
    for length in (100, 200, 300, 400):
        soundfile.write(file := io.BytesIO(), np.full(length, 0.5), 8_000, format="WAV")
        sounds.append({"bytes": file.getvalue(), "path": None})
    table = pandas.DataFrame(
        {"audio": sounds, "split": ["train", "test", "train", "test"], "label": list("aabb")}
    )
    table.to_parquet(tmp_path / "sounds.parquet")
    train, test = open_splits(tmp_path / "sounds.parquet", kind="audio")
    assert train.lengths.tolist() == [100, 300] and test.lengths.tolist() == [200, 400]
    assert train.class_names() == test.class_names() == ["a", "b"]


def test_sounds_in_formats_of_videos_are_sounds_beside_others(tmp_path, write):
    av = pytest.importorskip("av")
    write("loud.wav", sine(400, 8_000))
    for name in ("a.mp4", "b.mp4"):
        with av.open(str(tmp_path / "sounds" / name), "w") as container:
            stream = container.add_stream("aac", rate=48_000, layout="mono")
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 4_800), "float32"), format="fltp", layout="mono")
            frame.sample_rate = 48_000
            for packet in [*stream.encode(frame), *stream.encode()]:
                container.mux(packet)
    assert kind_of(tmp_path / "sounds") == "audio"
    data = open_data(tmp_path / "sounds")
    assert [path.rpartition("/")[2] for path in data.paths] == ["a.mp4", "b.mp4", "loud.wav"]


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (("a.jpg", "a.cls", "a.txt", "a.json"), "image"),
        (("a.wav", "a.cls", "a.txt", "a.json"), "audio"),
        (("a.mp4", "a.json"), "video"),
        (("a.txt", "b.txt"), "text"),
        ((), "image"),
    ],
)
def test_the_files_in_shards_tell_the_kind_of_data(names: tuple[str, ...], kind: str, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards/0.tar", "w") as shard:
        for name in names:
            shard.addfile(tarfile.TarInfo(name))
    assert kind_of(tmp_path / "shards") == kind_of(tmp_path / "shards/0.tar") == kind
