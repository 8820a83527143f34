"""How a network starts, before short trainings: plain, rescaled, a first layer of atoms, a first layer that whitens.

    python benchmarks/starts.py DATA --out runs/starts [--methods simclr,rotnet] [--encoders resnet10,conv4] [--seed 0]
    python benchmarks/starts.py DATA --out runs/starts --table

DATA is a folder with CIFAR-10 as parquet. Of 10,000 training images every method trains on 8,000, for the same steps
from each start; what was interrupted goes on. Maps of the network are averaged on a grid of 2x2. The other
2,000 images choose the map for each probe; the 10,000 test images are looked at through the chosen ones only. Probes
learn from the labels of the 8,000. Brackets are 95 % intervals, of the difference from the plain start paired over the
images. Untrained networks have the statistics of their norms from
512 of the 8,000 images.

The whitening layer is that of Keller Jordan's airbench (https://github.com/KellerJordan/cifar10-airbench): the main
directions of patches over their deviations, and their negatives. There it has 2x2 patches and is frozen; here it has
the size of the network's own first layer, and is trained on.
"""

import json
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

import unlabeled
from methods import parser
from unlabeled import encoders
from unlabeled.data import Data, open_splits
from unlabeled.encoders import ImageEncoder, image
from unlabeled.encoders.first_layer import first_convolution
from unlabeled.evaluation import logistic
from unlabeled.evaluation.probes import knn
from unlabeled.evaluation.twins import calibrate_
from unlabeled.parts.dictionary import draw_patches

IMAGES, CHOOSING, BATCH, RATE = 10_000, 2_000, 128, 2e-3
STEPS = {"untrained": 0, "simclr": 150, "rotnet": 80}
STARTS = ("default", "rescaled", "dictionary", "whitening")
PROBES, CLASSES = ("knn", "linear"), 10
PATCHES, EPS = 100, 5e-4


def started(name: str, start: str, images: Data, seed: int) -> ImageEncoder:
    """A network before its training; the layers after the first are the same in all but `rescaled`."""
    torch.manual_seed(seed)
    encoder = encoders.fitted(name, images, init="default" if start == "whitening" else start)
    assert isinstance(encoder, ImageEncoder)
    if start == "whitening":
        whiten_(encoder, image.sample(encoder, images))
    return encoder


@torch.no_grad()
def whiten_(encoder: ImageEncoder, images: Tensor) -> None:
    """Let the first layer give the main directions of patches, each of variance 1, and their negatives."""
    x = encoder.adapt(images)
    layer = first_convolution(encoder.trunk, x, encoder.config["name"])
    patches = draw_patches(x, layer.kernel_size, PATCHES).flatten(1)  # type: ignore[arg-type]
    variances, directions = torch.linalg.eigh(torch.cov(patches.T.double()))
    half = len(layer.weight) // 2
    assert half <= len(variances), "there are fewer directions than half of the filters"
    filters = (directions / (variances + EPS).sqrt()).T.flip(0)[:half].to(patches.dtype)
    layer.weight.copy_(torch.cat([filters, -filters]).view_as(layer.weight))


@torch.no_grad()
def maps(encoder: ImageEncoder, data: Data, names: list[str] | None = None) -> dict[str, Tensor]:
    """Each map of all images on a grid of 2x2, float, shape (images, numbers)."""
    pieces: dict[str, list[Tensor]] = {name: [] for name in names or encoder.map_dims}
    for rows in torch.arange(len(data)).split(500):
        outputs = encoder.maps(encoder.inputs(data.batch(rows)))
        for name, chunks in pieces.items():
            chunks.append(F.adaptive_avg_pool2d(outputs[name], 2).flatten(1))
    return {name: torch.cat(chunks) for name, chunks in pieces.items()}


def predicted(probe: str, train: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
    """Classes of the queries."""
    if probe == "knn":
        centre = train.mean(0)
        return knn.predict(train - centre, labels, queries - centre, CLASSES)
    return logistic.fit(train, labels, CLASSES, seed=0)(queries).argmax(1)


def judge(encoder: ImageEncoder, images: Data, choosing: Data, test: Data) -> tuple[dict[str, Any], Any]:
    """The map that each probe prefers with its accuracy on the images that choose, and which test images are right."""
    assert images.labels is not None and choosing.labels is not None and test.labels is not None
    encoder.eval()
    train, held_out = maps(encoder, images), maps(encoder, choosing)
    chosen: dict[str, Any] = {}
    for probe in PROBES:
        right = {
            name: float(
                (predicted(probe, train[name], images.labels, held_out[name]) == choosing.labels)
                .float()
                .mean()
            )
            for name in train
        }
        best = max(right, key=right.__getitem__)
        chosen[probe] = {"map": best, "held_out": right[best], "all": right}
    tested = maps(encoder, test, sorted({chosen[probe]["map"] for probe in PROBES}))
    return chosen, {
        probe: predicted(probe, train[name], images.labels, tested[name]) == test.labels
        for probe in PROBES
        for name in [chosen[probe]["map"]]
    }


def measure(method: str, name: str, start: str, parts: tuple[Data, Data, Data], out: Path, seed: int) -> None:
    """Train from one start and judge; what is there already stays."""
    folder = out / f"{method}-{name}-{start}-{seed}"
    if (folder / "chosen.json").exists():
        return
    encoder = trained(method, name, start, parts[0], folder, seed)
    chosen, right = judge(encoder, *parts)
    save_file({probe: value.to(torch.uint8) for probe, value in right.items()}, folder / "right.safetensors")
    (folder / "chosen.json").write_text(json.dumps(chosen, indent=1))
    print(folder.name, table_row(folder, folder), flush=True)


def trained(method: str, name: str, start: str, images: Data, folder: Path, seed: int) -> ImageEncoder:
    """The network after its training, which goes on where it was interrupted; its seconds are written beside it."""
    file, run, seconds = folder / "seconds.json", folder / "run", 0.0
    if file.exists():
        seconds, whole = json.loads(file.read_text())
        if whole and method != "untrained":
            return unlabeled.load(run).encoder  # type: ignore[return-value]
    encoder, whole = started(name, start, images, seed), False
    folder.mkdir(parents=True, exist_ok=True)
    began = time.process_time()
    try:
        if method == "untrained":
            calibrate_(encoder, images)
        else:
            settings: dict[str, Any] = {"steps": STEPS[method], "batch_size": BATCH, "lr": RATE, "seed": seed}
            resume = (run / "checkpoint.safetensors").exists()
            given: dict[str, Any] = {"out": run, "encoder": encoder, "resume": resume, "quiet": True}
            encoder = unlabeled.pretrain(method, images, **given, **settings).encoder
        whole = True
    finally:
        file.write_text(json.dumps([seconds + time.process_time() - began, whole]))
    return encoder  # type: ignore[return-value]


def interval(values: Tensor) -> tuple[float, float]:
    """Mean and half the width of its 95 % interval, in %."""
    return 100 * float(values.mean()), 196 * float(values.std()) / len(values) ** 0.5


def table_row(folder: Path, plain: Path) -> str:
    """Cells of one start: for each probe the map, its accuracy on held-out and on test images, and the gain."""
    content = json.loads((folder / "chosen.json").read_text())
    right = load_file(folder / "right.safetensors")
    compares = folder != plain and (plain / "chosen.json").exists()
    base = load_file(plain / "right.safetensors") if compares else right
    cells = []
    for probe in PROBES:
        mean, half = interval(right[probe].double())
        gain, noise = interval(right[probe].double() - base[probe].double())
        held_out = f"{content[probe]['map']}, {100 * content[probe]['held_out']:.1f}"
        difference = f"{gain:+.1f} [{gain - noise:+.1f}, {gain + noise:+.1f}]" if compares else ""
        cells += [held_out, f"{mean:.1f} [{mean - half:.1f}, {mean + half:.1f}]", difference]
    return " | ".join(cells)


def table(out: Path, methods: list[str], networks: list[str], seed: int) -> str:
    lines = [
        "| | start | CPU s | kNN: map, held-out | test | difference | linear: map, held-out | test | difference |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in networks:
        for method in methods:
            folders = {start: out / f"{method}-{name}-{start}-{seed}" for start in STARTS}
            for start, folder in folders.items():
                if (folder / "chosen.json").exists():
                    seconds = json.loads((folder / "seconds.json").read_text())[0]
                    cells = table_row(folder, folders["default"])
                    lines.append(f"| {name}, {method} | {start} | {seconds:.0f} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    words = parser(__doc__ or "", "image", out=Path("runs/starts"))
    words.set_defaults(methods=",".join(STEPS))
    words.add_argument("data")
    words.add_argument("--encoders", default="conv4,resnet10")
    words.add_argument("--starts", default=",".join(STARTS))
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--table", action="store_true", help="print the table of the runs that are there")
    arguments = words.parse_args()
    torch.set_num_threads(arguments.threads)
    methods, networks = arguments.methods.split(","), arguments.encoders.split(",")
    if not arguments.table:
        everything, test = open_splits(arguments.data)
        rows = torch.randperm(len(everything), generator=torch.Generator().manual_seed(0))[:IMAGES]
        parts = everything.subset(rows[CHOOSING:]), everything.subset(rows[:CHOOSING]), test
        for name in networks:
            for method in methods:
                for start in arguments.starts.split(","):
                    measure(method, name, start, parts, arguments.out, arguments.seed)
    print(table(arguments.out, methods, networks, arguments.seed))


if __name__ == "__main__":
    main()
