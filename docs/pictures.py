"""Draw what each method withholds and predicts, after a short training: python docs/pictures.py [METHOD ...]

Writes docs/pictures/METHOD.webp, and METHOD.json with the command, the length of the training and texts. Methods that
have both are left as they are, so that an interrupted call continues; those that are named are drawn anew.
"""

import io
import json
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from unlabeled import methods
from unlabeled.data import open_data
from unlabeled.reporting.pictures import sheet, thumbnails
from unlabeled.selftest import example
from unlabeled.training.train import pretrain

FOLDER = Path(__file__).parent / "pictures"
MOST_BYTES = 30_000
WIDTH = 760
"""Pixels of a page for the pictures of a row."""
SAMPLES, TEXTS, CHARACTERS = 8, 4, 220
SHORT: dict[str, dict[str, Any]] = {
    "image": {"encoder": "conv4", "image_size": 32, "batch_size": 48, "steps": 60},
    "text": {"batch_size": 16, "steps": 60},
    "audio": {"batch_size": 8, "crop_seconds": 2.0, "steps": 60},
    "video": {"batch_size": 8, "steps": 60},
    "audio-visual": {"encoder": "av-conv4", "image_size": 32, "batch_size": 8, "steps": 60},
    "cameras": {"batch_size": 2, "image_size": 32, "steps": 60},
    "trajectory": {"batch_size": 4, "image_size": 32, "steps": 60},
}
"""A training of some seconds, by kind of data."""
TILES = {"batch_size": 16}
SETTINGS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("counting", "cpc", "jigsaw", "pirl", "relative_patch", "rotnet"), TILES),
    "exemplar": {"classes": 500},
    "frame_prediction": {"past": 5, "reconstructed": 5, "future": 5, "batch_size": 16},
    "distillation": {"teacher": "start"},
    "data2vec_audio": {"layers": 2},
    "data2vec_text": {"layers": 2},
}
"""What differs for a method."""


def settings(name: str) -> tuple[str, dict[str, Any]]:
    """The built-in set on which a method is shown, and its settings: photos tell more than digits do."""
    method, data = methods.describe(name), example(name)
    short = {} if "steps" in method.defaults or method.encoder_kind == "words" else SHORT[method.kind]
    if short and "encoder" in method.smallest:
        short = short | {"encoder": method.smallest["encoder"]}
    known = {option.name for option in method.options}
    short = {key: value for key, value in short.items() if key != "crop_seconds" or key in known}
    return "photos" if method.kind == "image" and data == "digits" else data, short | SETTINGS.get(name, {})


def draw(name: str) -> None:
    """Train a method for a short time and write its pictures."""
    data, options = settings(name)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = pretrain(name, data, out=Path(folder) / "run", quiet=True, **options)
        method, steps = run.method.eval(), run.history[-1]["step"]
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)
            rows = method.pictures(method.training_view(open_data(data)).sample(SAMPLES, seed=0))
    command = " ".join(f"--{key.replace('_', '-')} {value}" for key, value in options.items())
    facts: dict[str, Any] = {
        "command": f"unlabeled pretrain {name} {data} {command}".strip(),
        "steps": steps,
        "texts": {key: shortened(row) for key, row in rows.items() if isinstance(row, list)},
    }
    images = {key: row for key, row in rows.items() if isinstance(row, torch.Tensor)}
    if images:
        (FOLDER / f"{name}.webp").write_bytes(compressed(images))
    text = json.dumps(facts, indent=1, ensure_ascii=False)
    (FOLDER / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def shortened(texts: list[str]) -> list[str]:
    """The first few texts, cut to a length that fits a cell of a table."""
    lines = [" ".join(text.split()) for text in texts[:TEXTS]]
    return [line if len(line) <= CHARACTERS else line[:CHARACTERS].rsplit(" ", 1)[0] + " …" for line in lines]


def compressed(images: dict[str, torch.Tensor]) -> bytes:
    """One picture of all rows as WebP, as fine as fits into the bytes that a picture may have."""
    widest = max(row.shape[3] / row.shape[2] for row in images.values())
    columns = next(
        count for count in (SAMPLES, 4, 2, 1) if count * min(widest, 12) * 48 <= WIDTH or count == 1
    )
    side = min(WIDTH // columns, 84 if widest < 1.5 else WIDTH)
    rows = {
        name: thumbnails(
            row[:columns].detach().float().cpu().clamp(0, 1), 1, budget=side**2 * 9, largest=side
        )
        for name, row in images.items()
    }
    image = Image.open(io.BytesIO(sheet(rows, columns=columns, cell=min(side, 84))))
    for quality in (85, 75, 65, 50, 35, 20):
        buffer = io.BytesIO()
        image.save(buffer, "webp", quality=quality, method=6)
        if buffer.tell() < MOST_BYTES:
            break
    return buffer.getvalue()


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for method in sys.argv[1:] or methods.names():
        if sys.argv[1:] or not (FOLDER / f"{method}.json").exists():
            began = time.process_time()
            try:
                draw(method)
            except Exception as error:
                print(f"{method}: {type(error).__name__}: {error}", file=sys.stderr)
            print(f"{method}: {time.process_time() - began:.0f} CPU seconds", flush=True)
