"""Pairs: frames and sound on one clock, and one time grid for what belongs together and what does not."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unlabeled.data import open_data
from unlabeled.data.audio_visual import Pairs, from_pairs
from unlabeled.data.audio_visual.data import _moment
from unlabeled.data.audio_visual.read import _converted, find, read_clip, read_sound
from unlabeled.data.options import OpenOptions
from unlabeled.data.worlds import built_in

FPS, RATE = 25, 16_000
FLASH = 20
"""The frame that is white, while the sound clicks."""


def write(
    path: Path,
    codec: str,
    sound: np.ndarray | None,
    *,
    video: str = "mpeg4",
    frames: int = 50,
    rate: int = RATE,
    delay: float = 0.0,
    size: tuple[int, int] = (48, 64),
) -> Path:
    """A dark video with one white frame, and a sound that starts `delay` seconds after it."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(video, rate=FPS)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        audio = container.add_stream(codec, rate=rate, layout="mono") if sound is not None else None
        for number in range(frames):
            image = np.full((*size, 3), 255 if number == FLASH else 20, np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
        if sound is not None and audio is not None:
            planes = sound.astype(np.float32)[None]
            if codec.startswith("pcm"):
                planes = np.rint(planes * 32767).astype(np.int16)
            for start in range(0, planes.shape[1], 1024):
                part = np.ascontiguousarray(planes[:, start : start + 1024])
                frame = av.AudioFrame.from_ndarray(
                    part, format="s16" if codec.startswith("pcm") else "fltp", layout="mono"
                )
                frame.sample_rate, frame.pts = rate, start + round(delay * rate)
                for packet in audio.encode(frame):
                    container.mux(packet)
            for packet in audio.encode():
                container.mux(packet)
    return path


def click(frames: int = 50, rate: int = RATE, at: float = FLASH / FPS) -> np.ndarray:
    """A tone that lasts for 5 milliseconds from the time of the flash on, over a faint hum."""
    seconds = np.arange(frames * rate // FPS) / rate
    burst = (seconds >= at - 1e-9) & (seconds < at + 0.005)
    return 0.002 * np.sin(700 * seconds) + 0.8 * burst * np.cos(2 * np.pi * 1600 * (seconds - at))


def onset(sound: np.ndarray, rate: int) -> float:
    """When a click starts, in seconds: where its energy so far passes a hundredth of all."""
    energy = np.square(sound.astype(np.float64)).cumsum()
    return float(np.searchsorted(energy, 0.01 * energy[-1])) / rate


def folder(root: Path, clips: Sequence[str]) -> Path:
    for number, name in enumerate(clips):
        write(root / name, "pcm_s16le", click(at=0.1 * number), frames=20, size=(32, 48))
    return root


@pytest.mark.parametrize(
    "name, codec, tolerance", [("a.mkv", "pcm_s16le", 1 / RATE), ("a.mp4", "aac", 1024 / RATE)]
)
def test_a_flash_and_a_click_at_the_same_instant_are_read_at_the_same_instant(
    tmp_path, name, codec, tolerance
):
    clip = read_clip(write(tmp_path / name, codec, click()), None, RATE)
    bright = clip.frames.reshape(len(clip.frames), -1).mean(1).argmax()
    assert clip.times[bright] == pytest.approx(FLASH / FPS, abs=1e-3)
    assert onset(clip.sound, RATE) == pytest.approx(clip.times[bright], abs=tolerance)


def test_uncompressed_sound_comes_back_sample_for_sample(tmp_path):
    sound = click()
    clip = read_clip(write(tmp_path / "a.mkv", "pcm_s16le", sound), None, RATE)
    assert len(clip.sound) == len(sound)
    assert np.abs(clip.sound / 2**15 - sound).max() < 2 / 2**15


def test_what_the_sound_encoder_puts_before_the_first_sample_is_cut_off(tmp_path):
    clip = read_clip(write(tmp_path / "a.mp4", "aac", click()), None, RATE)
    assert onset(clip.sound, RATE) == pytest.approx(FLASH / FPS, abs=0.003)


def test_a_track_that_starts_later_is_preceded_by_silence(tmp_path):
    path = write(tmp_path / "a.mkv", "pcm_s16le", click(40), delay=0.2)
    clip = read_clip(path, None, RATE)
    assert onset(clip.sound, RATE) == pytest.approx(FLASH / FPS + 0.2, abs=2 / RATE)
    assert not clip.sound[: round(0.19 * RATE)].any()


@pytest.mark.parametrize("rate", [8000, 22_050, 48_000])
def test_other_rates_keep_the_instant(tmp_path, rate):
    path = write(tmp_path / "a.mkv", "pcm_s16le", click())
    sound = read_sound(path, rate)
    assert len(sound) == 2 * rate
    assert onset(sound, rate) == pytest.approx(FLASH / FPS, abs=0.001)


def test_pairs_of_a_folder_have_classes_frames_and_the_sound_around_them(tmp_path):
    root = folder(tmp_path / "set", [f"{kind}/{number}.mkv" for kind in "ab" for number in range(3)])
    data = open_data(root, kind="audio-visual", store_size=24)
    assert len(data) == 6 and data.classes == ["a", "b"] and data.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.shape == {"channels": 3, "image_size": 24, "sample_rate": RATE}
    batch = data.moments(0.2).batch(torch.tensor([0, 5]))
    assert batch["image"].shape == (2, 3, 24, 36) and batch["image"].dtype == torch.uint8
    assert batch["waveform"].shape == (2, RATE // 5) and batch["waveform"].abs().max() <= 1
    again = open_data(root, kind="audio-visual", store_size=24)
    assert torch.equal(again.content, data.content) and again.paths == data.paths


def test_the_sound_is_centred_on_the_frame(tmp_path):
    path = write(tmp_path / "a.mkv", "pcm_s16le", click())
    data = open_data(path, kind="audio-visual").moments(0.5, random=True)
    torch.manual_seed(0)
    found = 0
    for _ in range(100):
        batch = data.batch(torch.tensor([0]))
        if batch["image"].float().mean() > 200:
            heard = onset(batch["waveform"][0].numpy(), RATE)
            assert heard == pytest.approx(0.25, abs=2 / RATE)
            found += 1
    assert found


def test_positives_and_negatives_share_one_grid_of_times(tmp_path):
    """Sounds of pairs that do not belong together start as far from frame times as the others: not at all."""
    frames, rate = 20, RATE
    ramp = (np.arange(frames * rate // FPS) - 6400) / 32767  # every sample says where it is
    for number in range(4):
        write(tmp_path / f"{number}.mkv", "pcm_s16le", ramp, frames=frames, size=(16, 16))
    data = open_data(tmp_path, kind="audio-visual", sample_rate=rate)
    assert isinstance(data, Pairs)
    torch.manual_seed(0)
    grid, window = rate // FPS, round(0.3 * rate)
    own, others, moments = [], [], set()
    for _ in range(30):
        batch = data.moments(0.3, random=True).batch(torch.arange(4))
        middles = (batch["waveform"][:, window // 2] * 2**15).round().long() + 6400
        own += (middles % grid).tolist()
        others += (middles.roll(1) % grid).tolist()
        moments |= set(middles.tolist())
    assert set(own) == set(others) == {0} and len(moments) > 3


def test_random_frames_are_all_those_with_the_whole_sound_and_the_middle_one_otherwise():
    times = torch.arange(50, dtype=torch.float64) / 25
    drawn = {_moment(times, 2 * RATE, RATE, RATE, draw)[0] for draw in torch.rand(2000).tolist()}
    assert drawn == set(range(13, 38))
    assert _moment(times, 2 * RATE, RATE, RATE, 0.5)[0] == 25
    number, start = _moment(times[:10], 4000, RATE, RATE, 0.9)
    assert number == 5 and start == 3200 - 8000


def test_a_clip_that_is_too_short_is_surrounded_by_silence():
    image = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    data = from_pairs(image, torch.full((1, 100), 0.5), sample_rate=1000).moments(0.3)
    waveform = data.batch(torch.tensor([0]))["waveform"][0]
    assert torch.equal(waveform.nonzero()[:, 0], torch.arange(100, 200))


def test_random_draws_follow_the_default_generator_and_evaluation_draws_none(tmp_path):
    path = write(tmp_path / "a.mkv", "pcm_s16le", click())
    data = open_data(path, kind="audio-visual")
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = data.moments(0.2).batch(torch.zeros(3, dtype=torch.int64))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first["waveform"][0], first["waveform"][2])
    drawn = data.moments(0.2, random=True).batch(torch.zeros(8, dtype=torch.int64))
    torch.manual_seed(3)
    assert torch.equal(
        drawn["waveform"],
        data.moments(0.2, random=True).batch(torch.zeros(8, dtype=torch.int64))["waveform"],
    )
    assert len({tuple(wave.tolist()) for wave in drawn["waveform"]}) > 1


def test_pictures_beside_sounds_are_pairs(tmp_path):
    import soundfile

    for name in "ab":
        Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(tmp_path / f"{name}.png")
    soundfile.write(tmp_path / "a.wav", click(50, 8000), 8000)
    data = open_data(tmp_path, kind="audio-visual", cache=False)
    assert len(data) == 1 and data.shape["sample_rate"] == 8000
    assert any("no sound of the same name" in skip.reason for skip in data.skipped)
    torch.manual_seed(0)
    batches = [data.moments(1.0, random=True).batch(torch.tensor([0])) for _ in range(8)]
    assert len({batch["waveform"].sum().item() for batch in batches}) > 3
    assert all(torch.equal(batch["image"], batches[0]["image"]) for batch in batches)


def test_a_table_beside_pictures_and_sounds_says_their_classes(tmp_path):
    import soundfile

    for number in range(4):
        Image.fromarray(np.full((20, 30, 3), 60 * number, np.uint8)).save(tmp_path / f"{number}.png")
        soundfile.write(tmp_path / f"{number}.aiff", click(50, 8000), 8000)
    (tmp_path / "about.csv").write_text("file,kind\n" + "".join(f"{n}.png,{'ab'[n % 2]}\n" for n in range(4)))
    data = open_data(tmp_path, kind="audio-visual", label="kind")
    assert data.classes == ["a", "b"] and data.labels.tolist() == [0, 1, 0, 1]
    with pytest.raises(ValueError, match="label must be a column of a table"):
        open_data(tmp_path, kind="audio-visual", label="breed")


def test_a_sound_beside_a_video_goes_before_its_own_track(tmp_path):
    import soundfile

    path = write(tmp_path / "a.mkv", "pcm_s16le", click())
    soundfile.write(tmp_path / "a.wav", click(at=1.2), RATE, subtype="FLOAT")
    clip = read_clip(path, tmp_path / "a.wav", RATE)
    assert onset(clip.sound, RATE) == pytest.approx(1.2, abs=2 / RATE)


def test_clips_without_sound_silent_and_broken_ones_are_named(tmp_path):
    folder(tmp_path, ["good.mkv"])
    write(tmp_path / "mute.mkv", "", None, frames=5)
    write(tmp_path / "silent.mkv", "pcm_s16le", np.zeros(RATE), frames=5)
    (tmp_path / "broken.mkv").write_bytes(b"nothing")
    data = open_data(tmp_path, kind="audio-visual", max_broken=0.5)
    reasons = {Path(skip.path).name: skip.reason for skip in data.skipped}
    assert [Path(path).name for path in data.paths] == ["good.mkv"]
    assert reasons["mute.mkv"] == "no sound track" and reasons["silent.mkv"] == "silent"
    assert "broken.mkv" in reasons
    with pytest.raises(ValueError, match="max_broken"):
        open_data(tmp_path, kind="audio-visual", max_broken=0.1, cache=False)
    (tmp_path / "good.mkv").unlink()
    (tmp_path / "broken.mkv").unlink()
    with pytest.raises(ValueError, match="heard"):
        open_data(tmp_path, kind="audio-visual")


def test_frames_of_different_sizes_are_padded(tmp_path):
    write(tmp_path / "a.mkv", "pcm_s16le", click(20), frames=20, size=(32, 48))
    write(tmp_path / "b.mkv", "pcm_s16le", click(20), frames=20, size=(48, 32))
    batch = open_data(tmp_path, kind="audio-visual", cache=False).batch(torch.arange(2))
    assert batch["image"].shape == (2, 3, 48, 48) and batch["size"].tolist() == [[32, 48], [48, 32]]
    assert not batch["image"][0, :, 32:].any() and not batch["image"][1, :, :, 32:].any()


def test_fast_videos_are_thinned_and_grey_is_one_channel(tmp_path):
    path = write(tmp_path / "a.mkv", "pcm_s16le", click())
    clip = read_clip(path, None, RATE, 24, 1)
    assert clip.frames.shape == (25, 1, 24, 32)
    assert np.allclose(np.diff(clip.times), 0.08, atol=1e-3)


def test_subsets_share_the_memory_and_narrow_everything():
    data = built_in("chiming_shapes:distractor", "test")
    part = data.subset(torch.tensor([5, 2]))
    assert isinstance(part, Pairs) and part.content.data_ptr() == data.content.data_ptr()
    assert torch.equal(part.masks, data.masks[[5, 2]])
    whole = data.batch(torch.tensor([5, 2]))
    batch = part.batch(torch.arange(2))
    assert torch.equal(batch["image"], whole["image"]) and torch.equal(batch["waveform"], whole["waveform"])
    assert "labels" not in batch and "masks" not in batch
    assert torch.equal(part.factors["shape"], part.labels)


def test_built_in_sets_have_two_splits_and_refuse_other_names():
    data = built_in("chiming_shapes", "test")
    assert data.shape == {"channels": 3, "image_size": 64, "sample_rate": 8000} and len(data) == 800
    batch = data.batch(torch.arange(3))
    assert batch["waveform"].shape == (3, 8000) and batch["waveform"].abs().amax(1).min() > 0.1
    for name, split, wrong in [
        ("chiming_shapes:x", "test", "chiming_shapes:distractor"),
        ("chiming_shapes", "x", "split"),
    ]:
        with pytest.raises(ValueError, match=wrong):
            built_in(name, split)
    with pytest.raises(ValueError, match="seconds"):
        data.moments(float("nan"))


def test_real_clips_open_where_they_are_there(tmp_path):
    real = Path(__file__).parents[2] / "../shared/data/grid_av/test/zero"
    if not real.is_dir():
        pytest.skip("no real clips here")
    files = sorted(real.glob("*.mp4"))[:2]
    for file in files:
        (tmp_path / file.name).symlink_to(file)
    data = find(tmp_path, OpenOptions(cache=False))["all"]()
    batch = data.batch(torch.arange(2))
    assert batch["image"].shape == (2, 3, 112, 112) and batch["waveform"].shape == (2, 16_000)
    assert batch["waveform"].abs().amax() > 0.01


def test_arrays_without_their_sounds_are_refused():
    with pytest.raises(ValueError, match=r"data must be a folder, a file or Data, .* got ndarray"):
        open_data(np.zeros((3, 8, 8), np.uint8), kind="audio-visual")


def test_pairs_of_other_types_shapes_and_values_are_refused_by_name():
    image, waveform = torch.zeros(3, 3, 8, 8, dtype=torch.uint8), torch.zeros(3, 80)
    assert len(from_pairs(image.numpy(), waveform.numpy(), sample_rate=80)) == 3  # type: ignore[arg-type]
    for given, word in (
        ((image.float(), waveform, 80), "image must be uint8"),
        ((image[0], waveform, 80), "image must .* got torch.uint8 of shape"),
        ((image[:, :2], waveform, 80), "image must"),
        ((image, waveform[:2], 80), "waveform must have a sound for each of 3 pictures, got 2"),
        ((image, waveform.short(), 80), "waveform must be float"),
        ((image, waveform[:, :0], 80), "waveform must be float"),
        ((image, waveform + 2, 80), "waveform must be in -1..1, got values up to 2"),
        ((image, waveform * torch.nan, 80), "waveform must be in -1..1, got values up to nan"),
        ((image, waveform, 0), "sample_rate must be at least 1, got 0"),
        ((image, waveform, 8.5), "sample_rate must be a whole number"),
    ):
        with pytest.raises(ValueError, match=f"^{word}"):
            from_pairs(given[0], given[1], sample_rate=given[2])  # type: ignore[arg-type]


def test_a_sound_too_short_for_its_new_rate_is_no_sound():
    assert len(_converted(np.ones(40, np.float32), 8_000, 100)) == 0
