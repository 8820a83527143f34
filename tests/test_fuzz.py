"""Broken and hostile files: skipped with a reason or refused in one line, whatever is in them.

Small valid files of every format are made here, damaged at random but always alike (bits flipped, pieces cut, zeroed,
doubled or taken from other formats, sizes that promise the world), and opened beside whole ones by another process,
which tells what came of each. That process dies of what no `except` can catch, so the next one goes on behind the
file that killed it. Files made to do harm stand in `HOSTILE`. `make golden` opens 2,000 damaged files.
"""

import csv
import faulthandler
import gzip
import importlib
import io
import json
import os
import pickle
import random
import re
import resource
import struct
import sys
import tarfile
import time
import wave
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

SECONDS = 5.0
"""Processor time that a small file may take."""
STUCK_SECONDS = 60.0
"""Time by the clock after which a process counts as stuck, however busy the machine is."""
BYTES = 2**30
"""Memory that a small file may take."""
SPACE = 12 * 2**30
"""Address space above which the worker is refused more, to spare the machine."""
FAST, FULL = 7, 45
"""Damaged files of each format."""
SIZES = (0, 1, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1)


# What is damaged


class Format(NamedTuple):
    """A kind of file, how a whole one is made, and where it lies among others.

    Attributes:
        kind: Kind of data, or `run` for the files of a run folder.
        place: Path of the file that is damaged, below the folder that is opened; the folder is opened if it is "" or
            has neighbours, else the file itself.
        make: Writes a whole file.
        neighbours: Paths of whole files beside it.
        inside: Damages what lies behind checksums or compression and makes these fit again.
    """

    kind: str
    place: str
    make: Callable[[Path], None]
    neighbours: tuple[str, ...] = ()
    inside: Callable[[bytes, Callable[[bytes], bytes]], bytes] | None = None


def picture(number: int = 0, channels: int = 3) -> np.ndarray:
    """Pixels that compress neither well nor badly, uint8, shape (24, 20, channels)."""
    row, column = np.mgrid[0:24, 0:20]
    noise = np.random.default_rng(number).integers(0, 60, (24, 20, channels))
    return (4 * row[..., None] + 3 * column[..., None] + noise).astype(np.uint8)


def image(mode: str = "RGB", **options: Any) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        from PIL import Image

        exif = Image.Exif()
        exif[0x0112] = 6
        if path.suffix in (".jpg", ".webp", ".png"):
            options["exif"] = exif
        if options.get("save_all"):
            options["append_images"] = [Image.fromarray(picture(number)) for number in (1, 2)]
        if mode == "I;16":
            Image.fromarray(257 * picture()[..., 0].astype(np.uint16)).save(path, **options)
        else:
            Image.fromarray(picture()).convert(mode).save(path, **options)

    return make


def sound(subtype: str | None = None, rate: int = 8000) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        import soundfile

        time = np.arange(2400) / 8000
        waves = np.stack([np.sin(2000 * time), np.sin(3000 * time)], 1)
        soundfile.write(path, 0.5 * waves, rate, subtype=subtype)

    return make


def spoken(path: Path) -> None:
    """A second of sound as telephones record it."""
    import av

    with av.open(str(path), "w", format="ipod") as container:
        audio: Any = container.add_stream("aac", rate=16000)
        audio.layout = "mono"
        for start in range(0, 16384, 1024):
            tone = np.sin(np.arange(start, start + 1024) / 9).astype(np.float32)[None] / 2
            frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, start
            container.mux(audio.encode(frame))
        container.mux(audio.encode())


def film(codec: str, sound_codec: str | None = None) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        import av

        with av.open(str(path), "w") as container:
            stream: Any = container.add_stream(codec, rate=10)
            stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
            audio: Any = container.add_stream(sound_codec, rate=16000) if sound_codec else None
            for number in range(10):
                pixels = np.tile(picture(number), (2, 3, 1))[:32, :48]
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
            if audio is not None:
                for start in range(0, 16000, 1024):
                    tone = np.sin(np.arange(start, start + 1024) / 9).astype(np.float32)[None]
                    frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
                    frame.sample_rate, frame.pts = 16000, start
                    container.mux(audio.encode(frame))
                container.mux(audio.encode())

    return make


def table(columns: Callable[[], dict[str, Any]], cast: Callable[[], dict[str, Any]] = dict) -> Callable:
    def make(path: Path) -> None:
        from datasets import Dataset

        data = Dataset.from_dict(columns())
        for name, feature in cast().items():
            data = data.cast_column(name, feature)
        data.to_parquet(path)

    return make


def encoded(make: Callable[[Path], None], suffix: str, count: int = 4) -> list[dict[str, Any]]:
    path = Path(f"encoded{suffix}")
    make(path)
    content = path.read_bytes()
    path.unlink()
    return [{"bytes": content, "path": f"{number}{suffix}"} for number in range(count)]


def image_table(path: Path) -> None:
    from datasets import ClassLabel, Image

    pictures = encoded(image(), ".png")
    made = table(
        lambda: {"image": pictures, "label": [0, 1, 0, 1]},
        lambda: {"image": Image(), "label": ClassLabel(names=["a", "b"])},
    )
    made(path)


def sound_table(path: Path) -> None:
    table(lambda: {"audio": encoded(sound(), ".wav"), "word": list("abab"), "age": [1, 2, 3, 4]})(path)


def text_table(path: Path) -> None:
    from datasets import ClassLabel

    made = table(
        lambda: {"text": ["one two", "three", "four", "five"], "label": [0, 1, 0, 1]},
        lambda: {"label": ClassLabel(names=["a", "b"])},
    )
    made(path)


def walk_table(path: Path) -> None:
    numbers = [0.0, 1.0, 2.0, 3.0]
    places = {"x": numbers, "y": numbers, "heading": numbers, "room": [0, 0, 1, 1]}
    table(lambda: {"walk": [0, 0, 1, 1], "image": encoded(image(), ".png"), **places})(path)


def arrays(**content: np.ndarray) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        if path.suffix == ".npy":
            np.save(path, next(iter(content.values())))
        else:
            np.savez(path, **content)  # type: ignore[arg-type]

    return make


def packed(content: str, encoding: str | None = None) -> Callable[[Path], None]:
    """A text in an encoding, or packed by gzip."""
    whole = content.encode(encoding) if encoding else gzip.compress(content.encode())
    return lambda path: Path.write_bytes(path, whole) and None


def text(content: str) -> Callable[[Path], None]:
    return lambda path: Path.write_text(path, content, encoding="utf-8") and None


def archive(path: Path) -> None:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as file:
        for number in range(4):
            for suffix, content in ((".png", encoded(image(), ".png", 1)[0]["bytes"]), (".cls", b"1")):
                member = tarfile.TarInfo(f"{'ab'[number % 2]}/{number}{suffix}")
                member.size = len(content)
                file.addfile(member, io.BytesIO(content))


def encoder(path: Path) -> None:
    from unlabeled import encoders

    encoders.build("conv4", in_channels=1, image_size=8).save(path)


def checkpoint(path: Path) -> None:
    import torch

    from unlabeled.run import write_checkpoint

    state = {"method": {"weight": torch.ones(2, 3)}, "optimizer": {"step": torch.tensor(3)}}
    write_checkpoint(path, state, {"step": 3, "epoch": 1, "sums": {"loss": 0.5}})


def skips(path: Path) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "reason"), ("a.png", "empty file"), ("b.png", "not, an image")])


def zipped(content: bytes, damage: Callable[[bytes], bytes]) -> bytes:
    """A zip archive with one of its files damaged, and checksums that fit."""
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(written, "w") as new:
        chosen = zlib.crc32(damage(b"0123456789")) % len(old.namelist())
        for number, name in enumerate(old.namelist()):
            new.writestr(name, damage(old.read(name)) if number == chosen else old.read(name))
    return written.getvalue()


def gzipped(content: bytes, damage: Callable[[bytes], bytes]) -> bytes:
    return gzip.compress(tarred(gzip.decompress(content), damage), mtime=0)


def tarred(content: bytes, damage: Callable[[bytes], bytes]) -> bytes:
    """A damaged tar archive whose headers have sums that fit."""
    changed = bytearray(damage(content))
    for start in range(0, len(changed) - 511, 512):
        if changed[start + 257 : start + 262] == b"ustar":
            changed[start + 148 : start + 156] = b" " * 8
            changed[start + 148 : start + 156] = b"%06o\0 " % sum(changed[start : start + 512])
    return bytes(changed)


def chunked(content: bytes, damage: Callable[[bytes], bytes]) -> bytes:
    """A damaged PNG whose chunks have checksums that fit, as far as they can be followed."""
    changed, start = bytearray(damage(content)), 8
    while start + 12 <= len(changed):
        (length,) = struct.unpack_from(">I", changed, start)
        end = start + 8 + length
        if end + 4 > len(changed):
            break
        struct.pack_into(">I", changed, end, zlib.crc32(changed[start + 4 : end]))
        start = end + 4
    return bytes(changed)


def pairs_in(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


POSE = np.zeros((4, 3), np.float32)
TONE = np.sin(np.arange(1600) / 9).astype(np.float32).reshape(2, 800)
RUN = "method = 'rotnet'\nchosen = ['lr']\n[data]\nkind = 'image'\n[settings]\nlr = 0.1\n[options]\ntau = 1\n"
SCORES = json.dumps({"data": "digits", "records": [{"probe": "knn", "value": 0.5, "features": "raw"}]})
LOG = "".join(json.dumps({"epoch": epoch, "loss": 0.5, "metrics": {}}) + "\n" for epoch in range(3))

FORMATS = {
    "png": Format("image", "b/x.png", image(), ("a/1.png", "b/2.png"), chunked),
    "palette png": Format("image", "x.png", image("P"), ("1.png",), chunked),
    "16-bit png": Format("image", "x.png", image("I;16"), ("1.png",), chunked),
    "transparent png": Format("image", "x.png", image("RGBA"), ("1.png",), chunked),
    "jpeg": Format("image", "x.jpg", image(), ("1.jpg",)),
    "progressive jpeg": Format("image", "x.jpg", image("CMYK", progressive=True), ("1.jpg",)),
    "gif": Format("image", "x.gif", image("P", save_all=True), ("1.gif",)),
    "webp": Format("image", "x.webp", image(), ("1.webp",)),
    "tiff": Format("image", "x.tif", image(), ("1.tif",)),
    "packed tiff": Format("image", "x.tif", image(compression="tiff_lzw"), ("1.tif",)),
    "bmp": Format("image", "x.bmp", image(), ("1.bmp",)),
    "ppm": Format("image", "x.ppm", image(), ("1.ppm",)),
    "ico": Format("image", "x.ico", image(), ("1.ico",)),
    "tga": Format("image", "x.tga", image(compression="tga_rle"), ("1.tga",)),
    "jpeg 2000": Format("image", "x.jp2", image(), ("1.jp2",)),
    "avif": Format("image", "x.avif", image(), ("1.avif",)),
    "wav": Format("audio", "x.wav", sound(), ("1.wav", "2.wav")),
    "float wav": Format("audio", "x.wav", sound("FLOAT"), ("1.wav",)),
    "adpcm wav": Format("audio", "x.wav", sound("IMA_ADPCM"), ("1.wav",)),
    "flac": Format("audio", "x.flac", sound(), ("1.flac",)),
    "ogg": Format("audio", "x.ogg", sound("VORBIS"), ("1.ogg",)),
    "opus": Format("audio", "x.ogg", sound("OPUS"), ("1.ogg",)),
    "mp3": Format("audio", "x.mp3", sound(), ("1.mp3",)),
    "aiff": Format("audio", "x.aiff", sound(), ("1.aiff",)),
    "m4a": Format("audio", "x.m4a", spoken, ("1.m4a", "2.m4a")),
    "h264 mp4": Format("video", "x.mp4", film("libx264", "aac"), ("1.mp4",)),
    "mpeg4 mkv": Format("video", "x.mkv", film("mpeg4"), ("1.mkv",)),
    "avi": Format("video", "x.avi", film("mpeg4"), ("1.avi",)),
    "vp9 webm": Format("video", "x.webm", film("libvpx-vp9"), ("1.webm",)),
    "gif video": Format("video", "x.gif", image("P", save_all=True), ("1.gif",)),
    "frames": Format("video", "b/1.png", image(), ("b/2.png", "a/1.png", "a/2.png"), chunked),
    "npy frames": Format("video", "x.npy", arrays(x=pairs_in((3, 8, 9, 3))), ("1.npy",)),
    "heard mp4": Format("audio-visual", "x.mp4", film("libx264", "aac"), ("1.mp4",)),
    "heard mkv": Format("audio-visual", "x.mkv", film("mpeg4", "aac"), ("1.mkv",)),
    "sound beside": Format("audio-visual", "x.wav", sound(), ("1.wav",)),
    "camera film": Format("cameras", "b/x.mp4", film("libx264"), ("b/1.mp4", "a/1.mp4", "a/2.mp4")),
    "scenes npz": Format("cameras", "x.npz", arrays(views=pairs_in((1, 2, 3, 3, 8, 8))), (), zipped),
    "scene npz": Format("cameras", "x.npz", arrays(views=pairs_in((2, 3, 3, 8, 8))), ("1.npz",), zipped),
    "walk npz": Format(
        "trajectory", "x.npz", arrays(video=pairs_in((4, 8, 8, 3)), pose=POSE), ("1.npz",), zipped
    ),
    "walks npz": Format("trajectory", "x.npz", arrays(video=pairs_in((4, 8, 8, 3)), pose=POSE), (), zipped),
    "walk parquet": Format("trajectory", "x.parquet", walk_table),
    "image parquet": Format("image", "x.parquet", image_table),
    "audio parquet": Format("audio", "x.parquet", sound_table),
    "text parquet": Format("text", "x.parquet", text_table),
    "jsonl": Format(
        "text", "x.jsonl", text('{"text": "one", "label": 1}\n{"text": "two", "label": 2}\n' * 3)
    ),
    "csv": Format("text", "x.csv", text('text,label\n"one, two",1\nthree,2\n' * 3)),
    "json": Format("text", "x.json", text('[{"text": "one", "label": 1}, {"text": "two", "label": 2}]')),
    "packed lines": Format("text", "x.jsonl.gz", packed('{"text": "one two"}\n{"text": "three four"}\n' * 3)),
    "other letters": Format(
        "text", "x.csv", packed("text;label\nGrüße an alle;1\nÜber uns;2\n" * 3, "cp1252")
    ),
    "tsv": Format("text", "x.tsv", text("1\tone two\n2\tthree\n" * 3)),
    "txt": Format("text", "x.txt", text("Grüße an alle.\n\nZwei Sätze. Und dieser.\n" * 3), ("1.txt",)),
    "image npy": Format("image", "x.npy", arrays(x=pairs_in((3, 8, 9, 3)))),
    "image npz": Format(
        "image", "x.npz", arrays(images=pairs_in((3, 8, 8)), labels=np.arange(3)), (), zipped
    ),
    "audio npy": Format("audio", "x.npy", arrays(x=TONE)),
    "audio npz": Format("audio", "x.npz", arrays(waveforms=TONE, sample_rate=np.array(8000)), (), zipped),
    "video npz": Format(
        "video", "x.npz", arrays(videos=pairs_in((2, 3, 8, 8)), labels=np.arange(2)), (), zipped
    ),
    "tar": Format("image", "x.tar", archive, (), tarred),
    "tar.gz": Format("image", "x.tar.gz", archive, (), gzipped),
    "run.toml": Format("run", "run.toml", text(RUN)),
    "scores.json": Format("run", "scores.json", text(SCORES)),
    "log.jsonl": Format("run", "log.jsonl", text(LOG)),
    "skipped.csv": Format("run", "skipped.csv", skips),
    "checkpoint": Format("run", "checkpoint.safetensors", checkpoint),
    "encoder": Format("run", "encoder.safetensors", encoder),
}


def damaged(content: bytes, others: list[bytes], seed: str, inside: Any = None) -> bytes:
    """A file with something wrong, always the same for a seed."""
    chance = random.Random(seed)

    def damage(content: bytes) -> bytes:
        draw = random.Random(f"{seed} {len(content)}")
        for _ in range(draw.choice((1, 1, 1, 3))):
            content = draw.choice(DAMAGES)(content, draw)
        return content

    if chance.random() < 0.12:  # the beginning of another format
        other = chance.choice(others)
        cut = chance.randrange(1, 200)
        return other[:cut] + content[cut:]
    return inside(content, damage) if inside and chance.random() < 0.6 else damage(content)


def place(content: bytes, draw: random.Random) -> int:
    """Somewhere, half of the times in the first bytes, where formats say what is to come."""
    return draw.randrange(min(len(content), 128 if draw.random() < 0.5 else len(content)) or 1)


def flipped(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content or b"\0")
    for _ in range(draw.choice((1, 2, 8, 40))):
        changed[place(changed, draw)] ^= 1 << draw.randrange(8)
    return bytes(changed)


def cut(content: bytes, draw: random.Random) -> bytes:
    return content[: place(content, draw)]


def zeroed(content: bytes, draw: random.Random) -> bytes:
    start, length = place(content, draw), draw.choice((4, 64, 1000))
    return content[:start] + bytes(min(length, len(content) - start)) + content[start + length :]


def doubled(content: bytes, draw: random.Random) -> bytes:
    start, length = place(content, draw), draw.choice((1, 16, 300))
    return content[:start] + draw.choice((1, 3, 200)) * content[start : start + length] + content[start:]


def removed(content: bytes, draw: random.Random) -> bytes:
    start = place(content, draw)
    return content[:start] + content[start + draw.choice((1, 4, 200)) :]


def claimed(content: bytes, draw: random.Random) -> bytes:
    """A number somewhere that says how much there is, of two, four or eight bytes or in decimal digits."""
    numbers = list(re.finditer(rb"\d+", content))
    if numbers and draw.random() < 0.5:
        found = draw.choice(numbers)
        number = draw.choice((b"0", b"-1", b"99999", b"4294967296", b"9" * 5000, b"1e999", b"nan"))
        return content[: found.start()] + number + content[found.end() :]
    start, form = place(content, draw), draw.choice(("<H", ">H", "<I", ">I", "<Q", ">Q"))
    size = draw.choice(SIZES) % 2 ** (8 * struct.calcsize(form))
    return content[:start] + struct.pack(form, size) + content[start + struct.calcsize(form) :]


def nested(content: bytes, draw: random.Random) -> bytes:
    """Brackets without end, which recursive readers follow."""
    start = place(content, draw)
    return (
        content[:start]
        + draw.choice((b"[", b'{"a":', b"(", b'"', b",", b"\0", b"\xff")) * 20_000
        + content[start:]
    )


DAMAGES = (flipped, flipped, cut, zeroed, doubled, removed, claimed, claimed, nested)


# What was made to do harm


class Payload:
    """Leaves a mark when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.mkdir, (str(Path.cwd() / "executed"),)


def pickled(path: Path) -> None:
    np.save(path, np.array([Payload()], dtype=object), allow_pickle=True)


def pickled_inside(**content: Any) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        harm = np.array([Payload()], dtype=object)
        np.savez(
            path,
            allow_pickle=True,
            **{key: harm if value is None else value for key, value in content.items()},
        )

    return make


def plain_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Payload()))


def torch_pickle(path: Path) -> None:
    import torch

    torch.save({"weight": Payload()}, path)


def written(content: bytes | str) -> Callable[[Path], None]:
    data = content.encode() if isinstance(content, str) else content
    return lambda path: path.write_bytes(data) and None


NOTHING = bytes(2**24)


@cache
def zeros(length: int) -> bytes:
    """Deflated zeros, made in no time: blocks that do not lean on each other are the same each time."""
    press = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = press.compress(bytes(2**20)) + press.flush(zlib.Z_FULL_FLUSH)
    rest = press.compress(bytes(length % 2**20)) + press.flush()
    return block * (length // 2**20) + rest


def header(shape: tuple[int, ...], kind: str = "|u1") -> bytes:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": kind, "fortran_order": False, "shape": shape})
    return head.getvalue()


def summed(check: Callable[[bytes, int], int], value: int, length: int) -> int:
    """A checksum gone on over zeros."""
    for start in range(0, length, len(NOTHING)):
        value = check(NOTHING[: length - start], value)
    return value


@cache
def packed_zeros(shape: tuple[int, ...]) -> tuple[int, int, bytes]:
    """Checksum, size and deflated bytes of a .npy file of zeros."""
    head, length = header(shape), int(np.prod(shape))
    press = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = press.compress(head) + press.flush(zlib.Z_FULL_FLUSH) + zeros(length)
    return summed(zlib.crc32, zlib.crc32(head), length), len(head) + length, packed


def bomb(name: str, shape: tuple[int, ...]) -> Callable[[Path], None]:
    """A small .npz file with a large array of zeros."""

    def make(path: Path) -> None:
        check, size, packed = packed_zeros(shape)
        file = f"{name}.npy".encode()
        sizes = struct.pack("<III", check, len(packed), size)
        entry = struct.pack("<HHHHH", 20, 0, 8, 0, 0) + sizes + struct.pack("<HH", len(file), 0)
        local = b"PK\3\4" + entry + file + packed
        central = b"PK\1\2\x14\0" + entry + struct.pack("<HHHII", 0, 0, 0, 0, 0) + file
        end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(central), len(local), 0)
        path.write_bytes(local + central + end)

    return make


def huge_picture(side: int, depth: int, colour: int) -> Callable[[Path], None]:
    """A PNG of nothing, many thousand times larger than its file."""

    def make(path: Path) -> None:
        channels = {0: 1, 2: 3, 6: 4}[colour]
        length = side * (1 + side * channels * depth // 8)
        data = b"\x78\x9c" + zeros(length) + struct.pack(">I", summed(zlib.adler32, 1, length))
        chunks = [
            (b"IHDR", struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, 0)),
            (b"IDAT", data),
            (b"IEND", b""),
        ]
        path.write_bytes(
            b"\x89PNG\r\n\x1a\n"
            + b"".join(
                struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
                for name, body in chunks
            )
        )

    return make


def gif_of(width: int, height: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        image("P", save_all=True)(path)
        content = path.read_bytes()
        path.write_bytes(content[:6] + struct.pack("<HH", width, height) + content[10:])

    return make


def members(*entries: tuple[str, bytes, dict[str, Any]], mode: str = "w") -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with tarfile.open(path, mode) as file:  # type: ignore[call-overload]
            for name, content, more in entries:
                member = tarfile.TarInfo(name)
                member.size = 0 if more else len(content)
                for key, value in more.items():
                    setattr(member, key, value)
                file.addfile(member, io.BytesIO(content))

    return make


def tar_of_everything(path: Path) -> None:
    content = encoded(image(), ".png", 1)[0]["bytes"]
    links = {"linkname": "/etc/passwd"}
    make = members(
        ("good.png", content, {}),
        ("../../executed.png", content, {}),
        (str(Path.cwd() / "executed.png"), content, {}),
        ("link.png", b"", {"type": tarfile.SYMTYPE, **links}),
        ("hard.png", b"", {"type": tarfile.LNKTYPE, **links}),
        ("pipe.png", b"", {"type": tarfile.FIFOTYPE}),
        ("disk.png", b"", {"type": tarfile.BLKTYPE, "devmajor": 8}),
        ("zero.png", b"", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 5}),
    )
    make(path)


def tar_bomb(path: Path) -> None:
    """Pictures of 400 MB that are 400 KB."""
    size = 400 * 2**20
    packed = b""
    for number in range(4):
        member = tarfile.TarInfo(f"{number}.png")
        member.size = size
        packed += gzip.compress(member.tobuf(), mtime=0)
        packed += gzip_zeros(size)
    path.write_bytes(packed + gzip_zeros(1024))


def note_bomb(path: Path) -> None:
    """Notes on a picture of 600 MB, before its name."""
    member = tarfile.TarInfo("note")
    member.type, member.size = tarfile.XHDTYPE, 600 * 2**20
    path.write_bytes(
        gzip.compress(member.tobuf(tarfile.USTAR_FORMAT), mtime=0) + gzip_zeros(member.size + 1024)
    )


def backwards(path: Path) -> None:
    """A picture of less than nothing, behind which the same picture would follow for ever."""
    member = tarfile.TarInfo("x.png")
    member.size = -512
    path.write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(1024))


def gzip_zeros(length: int) -> bytes:
    return (
        b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
        + zeros(length)
        + struct.pack("<II", summed(zlib.crc32, 0, length), length)
    )


def billion_rows(column: str, value: Any) -> Callable[[Path], None]:
    """A parquet file of a few hundred bytes, in which one value stands twenty million times."""

    def make(path: Path) -> None:
        import pyarrow
        from pyarrow import parquet

        values = pyarrow.DictionaryArray.from_arrays(
            pyarrow.array(np.zeros(2 * 10**7, np.int8)), pyarrow.array([value])
        )
        parquet.write_table(pyarrow.table({column: values}), path, store_schema=False)

    return make


def rows_elsewhere(path: Path) -> None:
    """A table that names files which were never meant to be read."""
    import pyarrow
    from pyarrow import parquet

    os.mkfifo(path.with_name("pipe"))
    places = ["/dev/zero", "/etc/passwd", str(path.with_name("pipe")), "/", "http://127.0.0.1:9/x.png", None]
    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    rows = pyarrow.array([{"bytes": None, "path": place} for place in places], kind)
    parquet.write_table(pyarrow.table({"image": rows, "audio": rows}), path)


def safetensors(head: Any, length: int | None = None) -> Callable[[Path], None]:
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return written(struct.pack("<Q", len(text) if length is None else length) + text + bytes(16))


def config(**changes: Any) -> Callable[[Path], None]:
    said = {"kind": "image", "name": "conv4", "in_channels": 1, "image_size": 8} | changes
    tensor = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    return safetensors({"__metadata__": {"unlabeled": json.dumps(said)}, "weight": tensor})


def slow_sound(path: Path) -> None:
    """Two minutes that claim to be a day: one sample in a second."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(1)
        file.writeframes(bytes(200_000))


def odd_sound(path: Path) -> None:
    """Samples in a second that have no divisor with any usual number."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(2**31 - 1)
        file.writeframes(bytes(2000))


def silence(path: Path) -> None:
    """A FLAC file that is hundreds of times larger when it is unpacked."""
    import soundfile

    with soundfile.SoundFile(path, "w", 8000, 1) as file:
        for _ in range(64):
            file.write(np.zeros(2**20, np.int16))


def gap(path: Path) -> None:
    """A film whose sound goes on after eleven days."""
    import av

    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        audio: Any = container.add_stream("flac", rate=16000)
        audio.codec_context.format = "s16"
        for number in range(10):
            pixels = np.tile(picture(number), (2, 3, 1))[:32, :48]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
        for number in range(8):
            tone = (9000 * np.sin(np.arange(4608) / 9)).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(tone, format="s16", layout="mono")
            frame.sample_rate, frame.pts = 16000, 4608 * number + (16 * 10**9 if number > 3 else 0)
            container.mux(audio.encode(frame))
        container.mux(audio.encode())


DEEP = "[" * 200_000
HOSTILE: dict[str, tuple[str, str, Callable[[Path], None]]] = {
    "a pickled array": ("image", "x.npy", pickled),
    "a pickled array of sounds": ("audio", "x.npy", pickled),
    "a pickled array of frames": ("video", "x.npy", pickled),
    "a pickled array among frames": ("video", "among/x.npy", pickled),
    "pickled images": ("image", "x.npz", pickled_inside(images=None)),
    "pickled labels": ("image", "x.npz", pickled_inside(images=pairs_in((1, 8, 8)), labels=None)),
    "pickled sounds": ("audio", "x.npz", pickled_inside(waveforms=None)),
    "a pickled rate": ("audio", "x.npz", pickled_inside(waveforms=TONE, sample_rate=None)),
    "pickled videos": ("video", "x.npz", pickled_inside(videos=None)),
    "pickled scenes": ("cameras", "x.npz", pickled_inside(views=None)),
    "pickled factors": ("cameras", "x.npz", pickled_inside(views=pairs_in((1, 2, 3, 3, 8, 8)), age=None)),
    "pickled walks": ("trajectory", "x.npz", pickled_inside(video=pairs_in((4, 8, 8, 3)), pose=None)),
    **{
        f"a pickle for {kind}": (kind, name, plain_pickle)
        for kind, name in {
            "image": "x.npy",
            "audio": "x.npz",
            "video": "x.npz",
            "cameras": "x.npz",
            "trajectory": "x.npz",
        }.items()
    },
    "a pickled encoder": ("run", "encoder.safetensors", torch_pickle),
    "a pickled checkpoint": ("run", "checkpoint.safetensors", plain_pickle),
    "an archive as array": ("video", "among/x.npy", pickled_inside(x=TONE)),
    "words for sounds": (
        "audio",
        "x.npz",
        arrays(waveforms=np.array([["a", "b"]]), sample_rate=np.array("x")),
    ),
    "many rates": ("audio", "x.npz", arrays(waveforms=TONE, sample_rate=np.array([8000, 1]))),
    "an endless rate": ("audio", "x.npz", arrays(waveforms=TONE, sample_rate=np.array(np.inf))),
    "words for poses": ("trajectory", "x.npz", arrays(video=pairs_in((4, 8, 8, 3)), pose=np.array(["a"]))),
    "words for factors": (
        "cameras",
        "x.npz",
        arrays(views=pairs_in((1, 2, 3, 3, 8, 8)), age=np.array(["a"])),
    ),
    "words for videos": ("video", "x.npz", arrays(videos=np.array(["a"]))),
    "huge labels": (
        "image",
        "x.npz",
        arrays(images=pairs_in((1, 8, 8)), labels=np.array([2**64 - 1], np.uint64)),
    ),
    "a huge claimed array": ("image", "x.npy", written(header((10**6, 10**6)) + bytes(99))),
    "a huge claimed sound": ("audio", "x.npy", written(header((10**6, 10**6), "<f4") + bytes(99))),
    "a negative array": ("image", "x.npy", written(header((-1, 5, 5)) + bytes(99))),
    "a nested header": ("audio", "x.npy", written(b"\x93NUMPY\1\0\x00\x20" + b"(" * 0x2000)),
    "a bomb of images": ("image", "x.npz", bomb("images", (1500, 1024, 1024))),
    "a bomb of sounds": ("audio", "x.npz", bomb("waveforms", (1500, 1024, 1024))),
    "a bomb of videos": ("video", "x.npz", bomb("videos", (1500, 1024, 1024))),
    "a bomb of scenes": ("cameras", "x.npz", bomb("views", (1500, 1024, 1024))),
    "a bomb of walks": ("trajectory", "x.npz", bomb("video", (1500, 1024, 1024))),
    "a huge transparent picture": ("image", "among/x.png", huge_picture(9200, 8, 6)),
    "a huge picture of 16 bits": ("image", "among/x.png", huge_picture(9200, 16, 0)),
    "a picture beyond all": ("image", "among/x.png", huge_picture(20_000, 8, 0)),
    "a huge GIF": ("video", "among/x.gif", gif_of(9000, 9000)),
    "a GIF beyond all": ("video", "among/x.gif", gif_of(60_000, 60_000)),
    "a wide GIF": ("video", "among/x.gif", gif_of(65_535, 2)),
    "an interpreter's picture": ("image", "among/x.png", written("%!PS-Adobe-3.0 EPSF-3.0\n(x) (w) file\n")),
    "a drawing": ("image", "among/x.png", written('<svg xmlns="http://www.w3.org/2000/svg"/>')),
    "a tar of everything": ("image", "x.tar", tar_of_everything),
    "a tar bomb": ("image", "x.tar.gz", tar_bomb),
    "a note bomb": ("image", "x.tar.gz", note_bomb),
    "a picture backwards": ("image", "x.tar", backwards),
    "a label of many digits": ("image", "x.tar", members(("a.cls", b"9" * 5000, {}))),
    "a label beyond int64": (
        "image",
        "x.tar",
        lambda path: members(
            ("a.cls", b"9" * 20, {}), ("a.png", encoded(image(), ".png", 1)[0]["bytes"], {})
        )(path),
    ),
    "a row for ever": ("text", "x.parquet", billion_rows("text", "one")),
    "a picture for ever": ("image", "x.parquet", billion_rows("image", b"one")),
    "rows elsewhere": ("image", "x.parquet", rows_elsewhere),
    "sounds elsewhere": ("audio", "x.parquet", rows_elsewhere),
    "nested JSON": ("text", "x.jsonl", written(f'{{"text": "one"}}\n{DEEP}\n')),
    "a long number in JSON": ("text", "x.jsonl", written('{"text": "one"}\n{"text": ' + "9" * 5000 + "}\n")),
    "a long cell": ("text", "x.csv", written('text,label\n"' + "a" * 200_000 + '",1\nb,2\n')),
    "a zero in a table": ("text", "x.csv", written("text,label\na\0b,1\nb\rc,2\n")),
    "a playlist": ("video", "among/x.mp4", written("#EXTM3U\n#EXTINF:1,\nneighbour.mp4\n#EXT-X-ENDLIST\n")),
    "a script of films": ("video", "among/x.mp4", written("ffconcat version 1.0\nfile neighbour.mp4\n")),
    "a script of sounds": (
        "audio-visual",
        "among/x.mp4",
        written("ffconcat version 1.0\nfile neighbour.mp4\n"),
    ),
    "arrays of two lines": ("image", "x.npz", arrays(**{"a\nb": POSE})),
    "sounds of two lines": ("audio", "x.npz", arrays(**{"a\nb": POSE})),
    "scenes of two lines": ("cameras", "x.npz", arrays(**{"a\nb": POSE})),
    "walks of two lines": ("trajectory", "x.npz", arrays(**{"a\nb": POSE})),
    "columns of two lines": ("image", "x.parquet", table(lambda: {"a\nb": [1, 2]})),
    "pictures of two lines": (
        "image",
        "x.parquet",
        table(lambda: {"image": [{"bytes": b"x", "path": "a\nb" * 900}]}),
    ),
    "texts of two lines": ("text", "x.parquet", table(lambda: {"a\nb": [1, 2]})),
    "a label of a thousand digits": ("text", "x.tsv", written("9" * 5000 + "\ta\n1\tb\n")),
    "a slow sound": ("audio", "among/x.wav", slow_sound),
    "an odd sound": ("audio", "among/x.wav", odd_sound),
    "much silence": ("audio", "among/x.flac", silence),
    "a gap in the sound": ("audio-visual", "among/x.mkv", gap),
    "nested settings": ("run", "run.toml", written(f"a = {DEEP}")),
    "other settings": ("run", "run.toml", written("data = 3\nsettings = 4\nmethod = 5")),
    "nested scores": ("run", "scores.json", written(DEEP)),
    "no scores": ("run", "scores.json", written("3")),
    "scores without records": ("run", "scores.json", written("{}")),
    "a nested log": ("run", "log.jsonl", written(DEEP + "\n")),
    "a log of numbers": ("run", "log.jsonl", written("3\n")),
    "skipped nothing": ("run", "skipped.csv", written("a,b\n1,2\n")),
    "skipped much": ("run", "skipped.csv", written("path,reason\n" + "a" * 200_000 + ",b\n\n1\n")),
    "a header without end": ("run", "encoder.safetensors", safetensors({}, 2**63)),
    "a nested header of weights": ("run", "encoder.safetensors", safetensors(DEEP.encode())),
    "a checkpoint of nothing": (
        "run",
        "checkpoint.safetensors",
        safetensors({"__metadata__": {"position": "3"}}),
    ),
    "a nested position": ("run", "checkpoint.safetensors", safetensors({"__metadata__": {"position": DEEP}})),
    "an encoder of nothing": (
        "run",
        "encoder.safetensors",
        safetensors({"__metadata__": {"unlabeled": "3"}}),
    ),
    "a nested encoder": ("run", "encoder.safetensors", safetensors({"__metadata__": {"unlabeled": DEEP}})),
    "an encoder without name": ("run", "encoder.safetensors", config(name=None)),
    "an encoder of no kind": ("run", "encoder.safetensors", config(kind="../os")),
    "an encoder of more": ("run", "encoder.safetensors", config(more=3)),
    "a huge encoder": ("run", "encoder.safetensors", config(in_channels=10**8)),
    "a wide encoder": ("run", "encoder.safetensors", config(in_channels=10**6)),
    "an encoder of half channels": ("run", "encoder.safetensors", config(in_channels=1.5)),
    "an encoder of words": ("run", "encoder.safetensors", config(in_channels="1")),
    "an encoder from a hub": ("run", "encoder.safetensors", config(name="hf-hub:owner/name")),
    "an encoder from a folder": ("run", "encoder.safetensors", config(name="local-dir:/etc")),
    "a huge transformer": ("run", "encoder.safetensors", config(name="vit_giant_patch14_dinov2")),
}
"""What harm is meant: the kind of data, the file (one in `among` lies beside a whole one), and how it is made."""


# The process that opens them


def whole(folder: Path, name: str) -> Path:
    """A whole file of a format in a folder of its own, with its neighbours; the folder's name is the format's."""
    form, root = FORMATS[name], folder / "files" / name
    for place in (*form.neighbours, form.place):
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        form.make(path)
    if name == "sound beside":
        for neighbour in ("x.png", "1.png"):
            image()(root / neighbour)
    if form.kind == "run":
        for place, its in (("run.toml", text(RUN)), ("encoder.safetensors", encoder)):
            if form.place != place:
                its(root / place)
    return root


def read(kind: str, source: Path, file: Path, max_broken: float) -> tuple[str, str]:
    """Open something; how it went, and why."""
    import torch

    try:
        if kind == "run":
            return read_run(source, file)
        from unlabeled.data import open_data

        rate = 8000 if kind == "audio" and file.suffix == ".npy" else None  # such a file does not tell it
        options: dict[str, Any] = {
            "max_broken": max_broken,
            "cache": False,
            "workers": 2,
            "sample_rate": rate,
        }
        data = open_data(source, kind=kind, **options)
        if len(data) and kind != "text":
            data.batch(torch.arange(min(4, len(data))))
    except ValueError as error:
        if "\n" in str(error) or not 0 < len(str(error)) < 2000 or file.name not in str(error):
            return "failed", f"a message that is not one line that names the file: {error!r:.500}"
        return "refused", str(error)
    for path, reason in data.skipped:
        if not reason.strip() or "\n" in reason or len(reason) > 1000:
            return "failed", f"a reason that is not one line: {reason!r:.500}"
        if "/among/" in str(file) and Path(path).name == file.name:
            return "skipped", reason
    return ("skipped", data.skipped[0].reason) if data.skipped else ("used", "")


def read_run(folder: Path, file: Path) -> tuple[str, str]:
    from unlabeled.run import load, read_checkpoint

    run = load(folder)
    if file.suffix == ".safetensors":
        assert run.encoder if "encoder" in file.name else read_checkpoint(file)
    elif file.name == "run.toml":
        assert isinstance(run.config, dict) and isinstance(run.kind, str) and run.reading
    elif file.name == "scores.json":
        assert isinstance(run.scores, list) and all(isinstance(record, dict) for record in run.scores)
    elif file.name == "log.jsonl":
        assert all(isinstance(entry, dict) for entry in run.history)
    else:
        assert all(isinstance(path, str) and isinstance(reason, str) for path, reason in run.skipped)
    return "used", ""


def memory(name: str) -> int:
    """Bytes of this process, VmRSS now or VmHWM at most since it was forgotten."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return 1024 * int(found[1])


def forget_peak() -> None:
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


EVENTS = (
    "pickle.find_class",
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "socket.connect",
    "socket.getaddrinfo",
)
seen: list[str] = []


def watched(event: str, arguments: tuple[Any, ...]) -> None:
    """Note what no reader should ever do."""
    if event in EVENTS:
        seen.append(f"{event} {arguments!r:.200}")
    elif event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        path = os.path.abspath(os.fsdecode(arguments[0])) if not isinstance(arguments[0], int) else ""
        if (
            path
            and not path.startswith((os.getcwd() + os.sep, "/dev/", "/proc/"))
            and "__pycache__" not in path
        ):
            seen.append(f"{event} {path} {arguments[1]}")


def work(tasks: list[tuple[str, int]]) -> None:
    """Open one file after the other below the working folder, and say on standard output what came of each."""
    import logging
    import warnings

    os.environ |= {"UNLABELED_CACHE": "cache", "HF_HOME": "hub", "TQDM_DISABLE": "1"}
    warnings.simplefilter("ignore")
    logging.disable()
    for module in ("av", "datasets", "pyarrow.parquet", "safetensors.torch", "soundfile", "timm"):
        importlib.import_module(module)
    root = Path.cwd()
    needed = {name for name, _ in tasks if name in FORMATS}
    contents = {}
    for name in FORMATS if needed else ():  # the beginnings of all are spliced, so all are made
        folder, kept = root / "files" / name, root / "whole" / name
        file = folder / FORMATS[name].place
        if not kept.exists():
            whole(root, name)
            kept.parent.mkdir(exist_ok=True)
            kept.write_bytes(file.read_bytes())
        contents[name] = kept.read_bytes()
        file.write_bytes(contents[name])  # a process that died may have left it damaged
        if name in needed:  # what is imported first and takes long is not the broken files' fault
            outcome, reason = read(FORMATS[name].kind, *opened(name, folder), 0.0)
            assert outcome == "used" or name == "sound beside", f"the whole {name} is {outcome}: {reason}"
    resource.setrlimit(resource.RLIMIT_AS, (SPACE, SPACE))
    sys.addaudithook(watched)
    for name, number in tasks:
        print(json.dumps([name, number]), flush=True)
        if name in FORMATS:
            form, folder = FORMATS[name], root / "files" / name
            file = folder / form.place
            file.write_bytes(
                damaged(contents[name], list(contents.values()), f"{name} {number}", form.inside)
            )
            kind, (source, _) = form.kind, opened(name, folder)
        else:
            kind, source, file = hostile(name, root / "harm")
        seen.clear()
        forget_peak()
        before, clock = memory("VmRSS"), time.process_time()
        faulthandler.dump_traceback_later(STUCK_SECONDS, exit=True)
        try:
            outcome = read(kind, source, file, 0.1 if number % 3 == 0 else 0.9)
        except Exception as error:
            import traceback

            outcome = "failed", f"{type(error).__name__}: {error!s:.200} {traceback.format_exc()[-1500:]}"
        faulthandler.cancel_dump_traceback_later()
        if name in FORMATS:
            file.write_bytes(contents[name])
        outcome = ("failed", f"did what no reader should: {seen}") if seen else outcome
        if any(root.rglob("executed*")):
            outcome = "failed", "executed what was in the file"
        spent = [round(time.process_time() - clock, 2), (memory("VmHWM") - before) // 2**20]
        print(json.dumps([name, number, *outcome, *spent]), flush=True)


def opened(name: str, folder: Path) -> tuple[Path, Path]:
    """What is opened, and which file of it is damaged."""
    form = FORMATS[name]
    file = folder / form.place
    return (folder if form.neighbours or form.kind == "run" or name == "sound beside" else file), file


def hostile(name: str, root: Path) -> tuple[str, Path, Path]:
    kind, place, make = HOSTILE[name]
    folder = root / re.sub(r"\W", "-", name)
    file = folder / place
    file.parent.mkdir(parents=True, exist_ok=True)
    make(file)
    if kind == "run":
        for other, its in (("run.toml", text(RUN)), ("encoder.safetensors", encoder)):
            if place != other:
                its(folder / other)
        return kind, folder, file
    if not place.startswith("among/"):
        return kind, file, file
    beside = {"image": (".png", image()), "audio": (".wav", sound())}.get(
        kind, (".mp4", film("libx264", "aac"))
    )
    beside[1](file.with_name(f"neighbour{beside[0]}"))
    return kind, file.parent, file


# The tests


class Result(NamedTuple):
    """What came of a file."""

    name: str
    number: int
    outcome: str
    reason: str
    seconds: float
    megabytes: int


def work_in(folder: Path) -> None:
    """Work below a folder in this process, and write into the file `told` what came of each file."""
    os.chdir(folder)
    with Path("told").open("w") as sys.stdout:
        work([(name, number) for name, number in json.loads(Path("tasks.json").read_text())])


def results(tasks: list[tuple[str, int]], folder: Path, fresh_process: Any) -> Iterator[Result]:
    """What came of each file, also of those that ended the process."""
    left = list(tasks)
    while left:
        (folder / "tasks.json").write_text(json.dumps(left))
        ended = fresh_process(work_in, folder, seconds=1800)
        lines = [json.loads(line) for line in (folder / "told").read_text().splitlines()]
        done = [Result(*line) for line in lines if len(line) > 2]
        yield from done
        left = left[len(done) :]
        if ended.code or left:
            assert lines and len(lines[-1]) == 2, ended.said[-3000:]
            yield Result(*left[0], "failed", f"ended with {ended.code}: {ended.said[-1500:]}", 0, 0)
            left = left[1:]


def check(found: list[Result]) -> set[str]:
    """Refuse results in which anything went wrong; returns how the files were dealt with."""
    bad = [
        result
        for result in found
        if result.outcome == "failed" or result.seconds > SECONDS or result.megabytes > BYTES / 2**20
    ]
    assert not bad, "\n".join([f"{len(bad)} of {len(found)} files:", *map(str, bad)])
    return {result.outcome for result in found}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, fresh_process: Any) -> list[Result]:
    """What came of a few damaged files of each format, and of all that mean harm; one process for both."""
    tasks = [(name, number) for name in FORMATS for number in range(FAST)] + [(name, 1) for name in HOSTILE]
    return list(results(tasks, tmp_path_factory.mktemp("broken"), fresh_process))


def test_damaged_files_are_skipped_with_a_reason_or_refused_in_one_line(found: list[Result]) -> None:
    damaged = [result for result in found if result.name in FORMATS]
    assert check(damaged) == {"used", "skipped", "refused"} and len(damaged) == FAST * len(FORMATS)


def test_hostile_files_do_no_harm(found: list[Result]) -> None:
    hostile = [result for result in found if result.name in HOSTILE]
    check(hostile)
    assert len(hostile) == len(HOSTILE)
    used = {result.name for result in hostile if result.outcome == "used"}
    usable = {
        "a huge transparent picture",
        "a huge picture of 16 bits",
        "a label beyond int64",
        "huge labels",
        "a long cell",
        "a label of a thousand digits",
        "much silence",  # two quiet hours
    }
    assert used == usable, "what cannot be read as it is was taken for data"


@pytest.mark.golden
def test_thousands_of_damaged_files(tmp_path: Path, fresh_process: Any) -> None:
    tasks = [(name, number) for name in FORMATS for number in range(FULL)]
    found = list(results(tasks, tmp_path, fresh_process))
    check(found)
    assert len(found) == len(tasks) >= 2000
