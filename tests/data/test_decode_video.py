"""Video files: painted frame numbers are read back exactly, whatever the codec, the clock and the container."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unlabeled.data.video import decode as decode_video
from unlabeled.data.video.decode import fitting, index, read_all

av = pytest.importorskip("av")

REAL = Path(__file__).parents[2] / ".." / "shared" / "data" / "video_samples"
HEIGHT, WIDTH, BLOCK = 64, 96, 24


def painted(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A frame whose number stands in it as eight blocks, dark or bright, twice four in a row."""
    frame = np.full((height, width, 3), 128, np.uint8)
    for bit in range(8):
        row, column = divmod(bit, 4)
        value = 235 if number >> bit & 1 else 20
        rows, columns = height // 2, width // 4
        frame[row * rows : (row + 1) * rows, column * columns : (column + 1) * columns] = value
    return frame


def read(frames: np.ndarray) -> list[int]:
    """The numbers that stand in frames (frames, channels, height, width)."""
    numbers = []
    for frame in frames.mean(1):
        rows, columns = frame.shape[0] // 2, frame.shape[1] // 4
        number = 0
        for bit in range(8):
            row, column = divmod(bit, 4)
            block = frame[row * rows : (row + 1) * rows, column * columns : (column + 1) * columns]
            number |= int(block[rows // 4 : -rows // 4, columns // 4 : -columns // 4].mean() > 128) << bit
        numbers.append(number)
    return numbers


def write(
    path: Path,
    count: int = 60,
    *,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    stamps: list[int] | None = None,
    rate: int = 25,
    pixels: str = "yuv420p",
    sound: bool = False,
) -> list[int]:
    """Encode painted frames; the stamps are in thousandths of a second."""
    stamps = stamps or [1000 * number // rate for number in range(count)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixels
        stream.codec_context.time_base = Fraction(1, 1000)
        audio = container.add_stream("aac", rate=8000, layout="mono") if sound else None
        for number, stamp in enumerate(stamps):
            frame = av.VideoFrame.from_ndarray(painted(number), format="rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = stamp, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if audio is not None:
            tone = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            tone.rate, tone.pts, tone.time_base = 8000, 0, Fraction(1, 8000)
            container.mux(audio.encode(tone))
            container.mux(audio.encode(None))
    return stamps


B_FRAMES = {"bf": "3", "g": "12", "b_strategy": "0", "sc_threshold": "0"}
VARIABLE = [0, 40, 50, 130, 133, 300, 310, 340, 700, 705] + [720 + 33 * number for number in range(40)]

CASES = {
    "h264 with frames that lean on later ones": ("a.mp4", {"options": B_FRAMES}),
    "one key frame only": ("a.mp4", {"options": {**B_FRAMES, "g": "250"}}),
    "open groups": ("a.mkv", {"options": {**B_FRAMES, "x264-params": "open-gop=1:keyint=12:bframes=3"}}),
    "variable frame rate": ("a.mkv", {"stamps": VARIABLE, "options": B_FRAMES}),
    "variable frame rate in mp4": ("a.mp4", {"stamps": VARIABLE, "options": B_FRAMES}),
    "a clock that starts late": (
        "a.mkv",
        {"stamps": [5000 + 40 * n for n in range(50)], "options": B_FRAMES},
    ),
    "a transport stream": ("a.ts", {"stamps": [40 * n + 777 for n in range(50)], "options": B_FRAMES}),
    "mpeg-4 in avi": ("a.avi", {"codec": "mpeg4", "options": {"bf": "2", "g": "12", "b": "2000000"}}),
    "h264 in avi": ("a.avi", {"options": {**B_FRAMES, "bf": "0"}}),
    "vp9": ("a.webm", {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}}),
    "vp8": (
        "a.webm",
        {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "16", "b": "1M"}},
    ),
    "hevc": ("a.mov", {"codec": "libx265", "options": {"x265-params": "log-level=none:keyint=10:bframes=3"}}),
    "sound beside": ("a.mp4", {"sound": True, "options": B_FRAMES}),
}


@pytest.mark.parametrize("file, how", CASES.values(), ids=CASES)
def test_painted_numbers_are_read_back_exactly(tmp_path, file, how):
    path = tmp_path / file
    stamps = write(path, **how)
    found = index(path)
    assert len(found) == len(stamps)
    assert (found.height, found.width) == (HEIGHT, WIDTH)
    shown = found.times - found.times[0]
    if not how.get("stamps") or file.endswith("avi"):
        assert found.fps == pytest.approx(25)
    assert shown == pytest.approx((np.array(stamps) - stamps[0]) / 1000, abs=0.0015)
    assert read(read_all(path)) == list(range(len(stamps)))


def test_what_the_index_says(tmp_path):
    write(tmp_path / "a.mp4", 60, options=B_FRAMES, sound=True)
    found = index(tmp_path / "a.mp4")
    assert found.fps == pytest.approx(25) and found.times == pytest.approx(np.arange(60) / 25, abs=1e-6)
    write(tmp_path / "b.mkv", stamps=[3000 + 40 * number for number in range(10)])
    late = index(tmp_path / "b.mkv")
    assert late.times == pytest.approx(3 + np.arange(10) / 25, abs=1e-3)


@pytest.mark.parametrize("transparent", [False, True])
def test_animated_gif(tmp_path, transparent):
    images = [Image.fromarray(painted(number)) for number in range(12)]
    if transparent:
        images = [image.convert("RGBA") for image in images]
    durations = [100, 40] * 6
    images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:], duration=durations, loop=0)
    found = index(tmp_path / "a.gif")
    assert len(found) == 12 and found.fps == pytest.approx(12 / 0.84)
    assert found.times[:4].tolist() == pytest.approx([0, 0.1, 0.14, 0.24])
    assert read(read_all(tmp_path / "a.gif")) == list(range(12))


def test_folder_of_frames_is_ordered_by_number(tmp_path):
    for number in range(12):
        Image.fromarray(painted(number)).save(tmp_path / f"frame{number}.png")
    (tmp_path / "notes.txt").write_text("no frame")
    assert len(index(tmp_path)) == 12
    assert read(read_all(tmp_path)) == list(range(12))


@pytest.mark.parametrize("channels", [1, 3])
def test_array_file(tmp_path, channels):
    frames = np.stack([painted(number)[:, :, :channels] for number in range(9)])
    np.save(tmp_path / "a.npy", frames)
    assert np.array_equal(read_all(tmp_path / "a.npy"), frames.transpose(0, 3, 1, 2))
    np.save(tmp_path / "b.npy", frames.astype(np.float32))
    with pytest.raises(ValueError, match="must be uint8"):
        read_all(tmp_path / "b.npy")


def test_sizes_of_frames(tmp_path):
    write(tmp_path / "a.mp4", 8)
    assert read_all(tmp_path / "a.mp4").shape == (8, 3, 64, 96)
    assert read_all(tmp_path / "a.mp4", 32).shape == (8, 3, 32, 48)
    assert read_all(tmp_path / "a.mp4", 500).shape == (8, 3, 64, 96)
    assert read_all(tmp_path / "a.mp4", (40, 40)).shape == (8, 3, 40, 40)
    assert read(read_all(tmp_path / "a.mp4", 32)) == list(range(8))
    assert fitting(100, 200, (50, 50)) == (50, 100)
    assert fitting(30, 20, 10) == (15, 10)
    assert fitting(30, 20, None) == (30, 20)


def test_a_shrunk_frame_is_the_mean_of_its_pixels(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    np.save(tmp_path / "a.npy", frames)
    means = frames.reshape(2, 16, 2, 16, 2, 3).mean((2, 4)).transpose(0, 3, 1, 2)
    assert np.abs(read_all(tmp_path / "a.npy", 16) - means).max() <= 1


def test_the_centre_is_cut_out(tmp_path):
    frames = np.zeros((2, 20, 40, 3), np.uint8)
    frames[:, :, 10:30] = 200
    np.save(tmp_path / "a.npy", frames)
    assert (read_all(tmp_path / "a.npy", (20, 20)) == 200).all()


def test_pixels_that_are_not_square_are_made_square(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        for number in range(6):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(painted(number), format="rgb24")))
        container.mux(stream.encode(None))
    found = index(tmp_path / "a.mp4")
    assert (found.height, found.width) == (HEIGHT, WIDTH * 4 // 3)
    assert read_all(tmp_path / "a.mp4").shape == (6, 3, HEIGHT, WIDTH * 4 // 3)


def test_turned_recordings_are_shown_upright(tmp_path):
    write(tmp_path / "a.mp4", 10, options={"bf": "0"})
    content = bytearray((tmp_path / "a.mp4").read_bytes())
    # The matrix of the track header: columns of 16.16 numbers, the last of each 2.30.
    upright = b"".join(n.to_bytes(4, "big") for n in (65536, 0, 0, 0, 65536, 0, 0, 0, 2**30))
    turned = b"".join(
        n.to_bytes(4, "big", signed=True) for n in (0, 65536, 0, -65536, 0, 0, HEIGHT * 65536, 0, 2**30)
    )
    place = content.index(upright, content.index(b"tkhd"))
    content[place : place + 36] = turned
    (tmp_path / "b.mp4").write_bytes(content)
    found = index(tmp_path / "b.mp4")
    assert (found.height, found.width) == (WIDTH, HEIGHT)
    plain, shown = read_all(tmp_path / "a.mp4"), read_all(tmp_path / "b.mp4")
    assert np.array_equal(shown, np.rot90(plain, -1, (2, 3)))  # clockwise, as the matrix says
    assert read_all(tmp_path / "b.mp4", 32).shape == (10, 3, 48, 32)


@pytest.mark.parametrize(
    "content", [b"", b"not a video" * 50, b"GIF8nonsense", b"\0\0\0\x20ftypisom" + bytes(99)]
)
def test_files_that_are_no_videos_are_refused_by_name(tmp_path, content):
    path = tmp_path / "broken.mp4"
    path.write_bytes(content)
    for attempt in (index, read_all):
        with pytest.raises(ValueError, match=r"broken\.mp4"):
            attempt(path)


def test_other_refusals(tmp_path):
    with pytest.raises(ValueError, match="No such file"):
        index(tmp_path / "missing.mp4")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="got none"):
        index(tmp_path / "empty")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        tone = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        tone.rate = 8000
        container.mux(stream.encode(tone))
        container.mux(stream.encode(None))
    with pytest.raises(ValueError, match="must hold a video"):
        read_all(tmp_path / "sound.mp4")


def test_a_file_that_breaks_off_gives_what_is_there(tmp_path):
    write(tmp_path / "a.mkv", 60, options=B_FRAMES)
    content = (tmp_path / "a.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(content[: len(content) // 2])
    found = read(read_all(tmp_path / "cut.mkv"))
    assert 5 < len(found) < 60 and found == list(range(len(found)))


def test_files_are_closed_also_after_errors(tmp_path):
    descriptors = Path("/proc/self/fd")
    if not descriptors.exists():
        pytest.skip("no list of open files on this system")
    write(tmp_path / "a.mp4", 10)
    (tmp_path / "broken.mp4").write_bytes(b"nonsense" * 100)
    before = len(list(descriptors.iterdir()))
    for _ in range(5):
        read_all(tmp_path / "a.mp4")
        next(decode_video.frames(tmp_path / "a.mp4"))
        with pytest.raises(ValueError):
            index(tmp_path / "broken.mp4")
    assert len(list(descriptors.iterdir())) == before


@pytest.mark.skipif(not REAL.exists(), reason="real videos lie beside the repository")
def test_real_files():
    files = sorted(REAL.rglob("*.mp4"))[::5] + sorted(REAL.rglob("*.mkv"))[:1]
    for file in files:
        found = index(file)
        whole = read_all(file, 32)
        assert len(whole) == len(found) and min(whole.shape[2:]) == 32


@pytest.mark.parametrize("size", [None, 10])
def test_frames_of_other_sizes_become_as_the_first_one(size: int | None, tmp_path: Path) -> None:
    for number, (height, width) in enumerate([(20, 30), (24, 30), (16, 40)]):
        Image.new("RGB", (width, height), (number, 0, 0)).save(tmp_path / f"{number}.png")
    shape = (3, 20, 30) if size is None else (3, 10, 15)
    whole = read_all(tmp_path, size)
    assert whole.shape == (3, *shape) and whole[:, 0, 0, 0].tolist() == [0, 1, 2]
