"""Classification, detection and segmentation after pre-training without labels: the lectures' table at a small scale.

    python benchmarks/transfer.py PATH/TO/data --out runs/transfer           # train and score what is missing
    python benchmarks/transfer.py PATH/TO/data --out runs/transfer --choose  # the part to train, on training images
    python benchmarks/transfer.py PATH/TO/data --out runs/transfer --costs   # time and memory of tasks as they are
    python benchmarks/transfer.py --out runs/transfer --print > docs/transfer.md   # the tables of what is finished

The folder has bccd_voc (boxes), camvid_voc (masks) and caltech96. All methods train the same network for the same
processor time on the photographs of caltech96: natural images as in the papers, with labels, which pre-training with
labels needs. `--source bccd_voc` pre-trains on the target's own training images. Each network then learns each target
from some of its labelled training images; a cell is a task, a row, a number of labelled images and a seed, which draws
them. Cells are kept in --out one by one, with their processor time and peak memory: the same command goes on after an
interruption. Seeds come one after the other, so that a table of one seed is there early.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr

import unlabeled
from unlabeled import check
from unlabeled.data import open_splits
from unlabeled.encoders.readout import bare
from unlabeled.evaluation import cells, transfer
from unlabeled.evaluation.measurement import Measurement, interval_of
from unlabeled.evaluation.model import EvaluatedModel, Transfer, frozen
from unlabeled.evaluation.sources import Parts, Source
from unlabeled.evaluation.supervised_pretraining import WITH_LABELS, Supervised
from unlabeled.evaluation.tasks import TASKS
from unlabeled.evaluation.verdict import OURS
from unlabeled.training import duration

SOURCE = "caltech96"
NETWORK: dict[str, Any] = {
    "encoder": "resnet10",
    "image_size": 64,
    "batch_size": 32,
    "device": "cpu",
    "seed": 0,
}
MINUTES = 1.4
"""Processor time of each pre-training."""
COUNTS, SEEDS = (10, 25, 50, "all"), 3
Count = int | str


@dataclass(frozen=True)
class Column:
    """A task on a target.

    Attributes:
        title: What tables call it.
        task: Name of the task.
        target: Folder of the target.
        train: Part of the network that is trained, chosen on training images.
        steps: Optimizer steps; None where none are taken.
        size: Shorter side in pixels at which images are stored, and read by all tasks but classification, which reads
            them at the size of pre-training.
        guess: What the task says without looking at an image.
    """

    title: str
    task: str
    target: str
    train: str
    steps: int | None
    size: int
    guess: str | None = None

    @property
    def folder(self) -> str:
        return f"{self.task}-{self.target}"


COLUMNS = (
    Column("classification, blood cells", "multilabel", "bccd_voc", "frozen", None, 128, "class frequency"),
    Column("classification, streets", "multilabel", "camvid_voc", "frozen", None, 128, "class frequency"),
    Column("segmentation, streets", "segmentation", "camvid_voc", "all", 120, 96, "most frequent class"),
    Column("detection, blood cells", "detection", "bccd_voc", "all", 100, 128),
)
CANDIDATES = ("head", "layer3", "all")
"""Parts of the network that may be trained for segmentation and detection; classification reads frozen features, which
takes a tenth of the time."""
CHOOSING_SEEDS, CHOOSING_COUNT = 2, 50

VIEWS = {"crop": 0.08, "jitter": 0.5, "gray": 0.2, "flip": 0.5}
"""Random views of pre-training with labels: those of simclr."""
CONTROLS = ("random", "rescaled")
PRINTED: dict[str, tuple[float | None, ...]] = {
    "random": (None, 53.3, 43.4, 19.8),
    "rescaled": (39.2, 56.6, 45.6, 32.6),
    WITH_LABELS: (78.9, 79.9, 56.8, 48.0),
    "autoencoder": (None, 53.8, 41.9, 25.2),
    "context_encoder": (34.6, 56.5, 44.5, 29.7),
    "relative_patch": (55.1, 65.3, 51.1, None),
    "colorization": (61.5, 65.6, 46.9, 35.6),
    "color_proxy": (None, 65.9, None, 38.4),
    "bigan": (52.3, 60.1, 46.9, 34.9),
    "jigsaw": (None, 67.6, 53.2, 37.6),
    "noise_as_targets": (56.7, 65.3, 49.4, None),
    "counting": (None, 67.7, 51.4, 36.6),
    "rotnet": (70.87, 72.97, 54.4, 39.1),
}
"""VOC 2007 classification with fc6-8 and with all layers trained, detection, and VOC 2012 segmentation, all in %."""
PRINTED_DETECTION = {
    "random": (60.2, 33.8, 33.1),
    WITH_LABELS: (81.3, 53.5, 58.8),
    "moco": (81.5, 55.9, 62.6),
}
"""AP50, AP and AP75 of Faster R-CNN with ResNet-50 on VOC 2007."""
HEAD = """# Transfer: classification, segmentation and detection

Scores in % with 95 % intervals, over test images and seeds where there are several. Each method trained a ResNet-10
for 80 to 90 CPU seconds without labels, on images of 64 pixels, in batches of 32; *supervised_pretraining* trained
the same network on the same images and views for the same time with their labels, and *random* and *rescaled*
(equal variance in all channels of a layer) did not train. Each then learns a target from 10, 25, 50 or all of its
labelled images; a seed draws these. Blood cells are bccd_voc (205 labelled images, 72 for testing), streets
camvid_voc (367 and 233, frames of few drives: the intervals, which take them as independent, are too narrow). The
part of the network that is trained for segmentation and detection was chosen on training images (second table from
the end); classification is a logistic regression for each class on frozen features. *guess* looks at no image.
Whatever is told apart here was told apart by one pre-training each. Written by `python benchmarks/transfer.py --out
runs/transfer --print`; the rest of its commands are in the file."""
METHODS = (*list(PRINTED)[3:], "moco", "simclr", "deepcluster", "densecl")
WHY_PRINTED = """Printed numbers, as the lectures show them: of AlexNet, pre-trained on ImageNet for days,
from the VOC table of Gidaris, Singh, Komodakis 2018 (https://arxiv.org/abs/1803.07728), for autoencoder from table 2 of
Pathak and others 2016 (https://arxiv.org/abs/1604.07379); with AP and AP75 those of ResNet-50 from He and others 2019
(https://arxiv.org/abs/1911.05722). They are not comparable with ours; their order may be."""


# ---- pre-training


def pretrained(row: str, data: Path, source: str, out: Path, minutes: float) -> Any:
    """The network of a row, trained where it is not yet; its processor seconds and steps are written beside it."""
    folder = out / source / row / "run"
    length = folder.with_name("length.json")
    if length.exists():
        return unlabeled.load(folder)
    began, duration.clock = time.process_time(), time.process_time
    method: Any = Supervised if row == WITH_LABELS else row
    views = VIEWS if row == WITH_LABELS else {}
    _forget_peak()
    run = unlabeled.pretrain(
        method, _images(data / source), out=folder, minutes=minutes, quiet=True,
        resume=(folder / "run.toml").exists(), **NETWORK, **views,
    )  # fmt: skip
    last = run.history[-1]
    words = {"seconds": round(time.process_time() - began), "step": run.step, "peak_mib": _peak_mib()}
    words |= {name: last.get(name) for name in ("loss", "chance")}
    length.write_text(json.dumps(words))
    print(source, row, words, flush=True)
    return run


@cache
def _images(source: Path) -> Any:
    """Training images to pre-train on, their labels included where there are some."""
    return open_splits(source)[0]


# ---- cells


@cache
def parts_of(column: Column, data: Path) -> Parts:
    """A target as all networks read it."""
    options = {"kind": "image", "store_size": column.size}
    source = Source(data / column.target, None, options)
    return TASKS.load(column.task).parts(source, column.size)


def held_out(parts: Parts) -> Parts:
    """A quarter of the training images in the place of the test images."""
    train = parts.train
    assert train is not None
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    fourth = len(train) // 4
    return Parts(parts.source, train.subset(order[fourth:].msort()), train.subset(order[:fourth].msort()))


def cell(row: str, encoder: Any, column: Column, parts: Parts, count: Count, seed: int, folder: Path) -> None:
    """Measure a cell where it is not there; all its scores in one folder, what it cost last."""
    done = folder / "cost.json"
    if done.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    _forget_peak()
    began, cpu = time.perf_counter(), time.process_time()
    network, _ = frozen(encoder, torch.device("cpu"))
    model = EvaluatedModel(network, seed=seed)
    kind = row if row in CONTROLS else OURS
    start = transfer.start(model, kind, parts.train, seed)  # type: ignore[arg-type]
    assert start is not None
    choice = Transfer((count,), train=(column.train,))
    model = EvaluatedModel(start, seed=seed, size=column.size, steps=column.steps, transfer=choice, name=row)
    for one in _first(TASKS.load(column.task).measure(model, parts), OURS):
        cells.write(folder / file_name(one.unit), replace(one, features=row, pictures={}))
    words = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
    done.write_text(json.dumps({**words, "peak_mib": _peak_mib()}))


def guesses(column: Column, parts: Parts, encoder: Any, folder: Path) -> None:
    """Scores of what looks at no image, once for all."""
    if column.guess is None or folder.exists():
        return
    folder.mkdir(parents=True)
    model = EvaluatedModel(frozen(encoder, torch.device("cpu"))[0], size=column.size, steps=column.steps)
    for one in _first(TASKS.load(column.task).measure(model, parts), column.guess):
        cells.write(folder / file_name(one.unit), one)


def _first(every: Any, features: str) -> list[Measurement]:
    """All units of a row of a task, which goes no further than that."""
    rows: list[Measurement] = []
    with closing(every):
        for one in every:
            if one.features == features:
                rows.append(one)
            elif rows:
                break
            if len(rows) == UNITS[one.probe]:
                break
    return rows


UNITS = {"multilabel": 2, "segmentation": 1, "detection": 4}
"""Scores of each task."""


def place(out: Path, source: str, row: str, column: Column, count: Count, seed: int) -> Path:
    return out / source / row / column.folder / f"{count}-{seed}"


def measure(data: Path, out: Path, source: str, rows: list[str], seeds: int, minutes: float) -> None:
    """Everything that is missing."""
    labelled = source == SOURCE
    every = [*(CONTROLS if labelled else ()), *([WITH_LABELS] if labelled else ()), *METHODS]
    names = [row for row in every if not rows or row in rows]
    trained = [row for row in names if row not in CONTROLS] or [METHODS[0]]
    encoders = {row: bare(pretrained(row, data, source, out, minutes).encoder) for row in trained}
    any_encoder = encoders[trained[0]]  # random weights are drawn for the same network
    columns = choose(data, out, minutes)
    for seed in range(seeds):
        for column in columns:
            parts = parts_of(column, data)
            guesses(column, parts, any_encoder, out / "guesses" / column.folder)
            for row in names:
                began = time.process_time()
                for count in COUNTS:
                    encoder = encoders.get(row, any_encoder)
                    cell(
                        row, encoder, column, parts, count, seed, place(out, source, row, column, count, seed)
                    )
                if (seconds := time.process_time() - began) > 1:
                    print(f"seed {seed}: {column.title}, {row}, {seconds:.0f} CPU seconds", flush=True)


# ---- settings chosen on training images


def choose(data: Path, out: Path, minutes: float) -> tuple[Column, ...]:
    """The columns, each with the part to train for which labelled pre-training is furthest above random weights.

    Both learn from three quarters of the training images and are scored on the others, so that no test image chooses.
    """
    file = out / "choice.json"
    differences: dict[str, dict[str, dict[str, float]]] = (
        json.loads(file.read_text()) if file.exists() else {}
    )
    chosen = []
    for column in COLUMNS:
        if column.task == "multilabel":
            chosen.append(column)
            continue
        if column.folder not in differences:
            differences[column.folder] = _differences(column, data, out, minutes)
            file.write_text(json.dumps(differences, indent=1) + "\n")
        best = max(CANDIDATES, key=lambda train: differences[column.folder][train]["difference"])
        chosen.append(replace(column, train=best))
    return tuple(chosen)


def _differences(column: Column, data: Path, out: Path, minutes: float) -> dict[str, dict[str, float]]:
    """Mean scores on training images by the part that is trained."""
    encoder = bare(pretrained(WITH_LABELS, data, SOURCE, out, minutes).encoder)
    parts, differences = held_out(parts_of(column, data)), {}
    for train in CANDIDATES:
        means = {}
        for row in ("random", WITH_LABELS):
            values = []
            for seed in range(CHOOSING_SEEDS):
                folder = out / "choosing" / row / column.folder / f"{train}-{seed}"
                cell(row, encoder, replace(column, train=train), parts, CHOOSING_COUNT, seed, folder)
                values.append(float(cells.read(folder / file_name(MAIN[column.task])).values.mean()))
            means[row] = sum(values) / len(values)
        differences[train] = means | {"difference": means[WITH_LABELS] - means["random"]}
        print(f"{column.title}, {train} trained, on training images: {differences[train]}", flush=True)
    return differences


def file_name(unit: str) -> str:
    return f"{unit.replace(' ', '-')}.json"


def choice_table(out: Path) -> str:
    """What was measured to choose the part that is trained."""
    file = out / "choice.json"
    if not file.exists():
        return ""
    lines = [
        f"| on training images, {CHOOSING_COUNT} labelled | trained | random | {WITH_LABELS} | difference |"
    ]
    lines.append("|---|---|---|---|---|")
    for name, own in json.loads(file.read_text()).items():
        for train, means in own.items():
            texts = [f"{100 * means[one]:.1f}" for one in ("random", WITH_LABELS, "difference")]
            lines.append(f"| {name} | {transfer.layer_name(train)} | {' | '.join(texts)} |")
    return "\n".join(lines)


MAIN = {"multilabel": "mean AP", "segmentation": "mean IoU", "detection": "AP50"}


# ---- tables


def merged(out: Path, source: str, row: str, column: Column, count: Count, unit: str) -> Measurement | None:
    """A score by all seeds that are there; those of the row of a guess by the one that there is."""
    name = file_name(unit)
    if row == column.guess:
        files = [out / "guesses" / column.folder / name]
    else:
        files = sorted((out / source / row / column.folder).glob(f"{count}-*/{name}"))
        files = [file for file in files if (file.parent / "cost.json").exists()]
    measurements = [cells.read(file) for file in files if file.exists()]
    return cells.together(measurements) if measurements else None


def number(measurement: Measurement | None) -> str:
    """A score in % with its interval, which counts test images and seeds."""
    if measurement is None:
        return "-"
    own = interval_of(measurement)
    return f"{100 * own.value:.1f} [{100 * (own.low or 0):.1f}, {100 * (own.high or 0):.1f}]"


def tables(out: Path) -> str:
    """All tables of what is finished, as markdown."""
    sources = [
        SOURCE,
        *sorted(one.name for one in out.iterdir() if (one / METHODS[0]).is_dir() and one.name != SOURCE),
    ]
    blocks = [HEAD]
    for source in sources:
        rows = [row for row in (*CONTROLS, WITH_LABELS, *METHODS) if (out / source / row).is_dir()]
        blocks += [f"## Pre-trained on {source}", _overview(out, source, rows)]
        for column in COLUMNS:
            blocks += [
                f"### {column.title[0].upper()}{column.title[1:]}",
                _by_count(out, source, rows, column),
            ]
            if column.task != "multilabel":
                blocks.append(_by_class(out, source, rows, column))
    return "\n\n".join(
        block
        for block in [
            *blocks,
            "## Printed numbers",
            WHY_PRINTED,
            "## Choices and costs",
            choice_table(out),
            costs_of_cells(out),
        ]
        if block
    )


def _overview(out: Path, source: str, rows: list[str]) -> str:
    """Ours with all labelled images beside the printed numbers, with rank correlations."""
    titles = ["", "CPU s", "steps", *(f"{one.title}, {MAIN[one.task]}" for one in COLUMNS)]
    titles += ["printed: classification, fc6-8", "all", "detection", "segmentation"]
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    values: dict[str, dict[Column, float]] = {}
    for row in ["guess", *rows]:
        length = out / source / row / "length.json"
        budget = json.loads(length.read_text()) if length.exists() else {}
        texts = [
            row if row in METHODS else f"*{row}*",
            str(budget.get("seconds", "-")),
            str(budget.get("step", "-")),
        ]
        for column in COLUMNS:
            name = column.guess if row == "guess" else row
            own = None if name is None else merged(out, source, name, column, "all", MAIN[column.task])
            texts.append(number(own))
            if own is not None:
                values.setdefault(row, {})[column] = float(own.values.mean())
        texts += ["-" if one is None else f"{one:g}" for one in PRINTED.get(row, (None,) * 4)]
        lines.append(f"| {' | '.join(texts)} |")
    words = []
    for column, places in zip(COLUMNS, ((0, 1), (0, 1), (3,), (2,))):
        for printed in places:
            pairs = [
                (own[column], PRINTED[row][printed])
                for row, own in values.items()
                if column in own and row in PRINTED and PRINTED[row][printed] is not None
            ]
            if len(pairs) > 3:
                test = spearmanr(*zip(*pairs))
                against = {0: "fc6-8", 1: "all layers", 2: "detection", 3: "segmentation"}[printed]
                result = f"{test.statistic:.2f} (p {test.pvalue:.2f}, {len(pairs)} rows)"
                words.append(f"{column.title} with printed {against} {result}")
    return "\n".join([*lines, "", f"Rank correlation: {'; '.join(words)}." if words else ""])


def _by_count(out: Path, source: str, rows: list[str], column: Column) -> str:
    """Scores by number of labelled images; those of COCO of detection too, with all of them."""
    more = ("AP", "AP75", "11-point AP50") if column.task == "detection" else ()
    heads = [f"{count} labelled images" for count in COUNTS] + [f"{unit}, all" for unit in more]
    lines = [f"| {MAIN[column.task]} | seeds | {' | '.join(heads)} |", "|---|---|" + "---|" * len(heads)]
    if more:
        lines[0] = lines[0] + " printed AP50 / AP / AP75 |"
        lines[1] += "---|"
    about = None
    for row in [*([column.guess] if column.guess else []), *rows]:
        own = [merged(out, source, row, column, count, MAIN[column.task]) for count in COUNTS]
        about = about or next((one for one in own if one is not None and row != column.guess), None)
        own += [merged(out, source, row, column, "all", unit) for unit in more]
        seeds = max((len(one.values) for one in own if one is not None), default=0)
        texts = [row if row in METHODS else f"*{row}*", str(seeds), *map(number, own)]
        if more:
            texts.append(" / ".join(f"{one:g}" for one in PRINTED_DETECTION.get(row, ())) or "-")
        lines.append(f"| {' | '.join(texts)} |")
    note = "" if about is None else f"{about.samples} test images; trained: {about.layer}; {about.detail}."
    return "\n".join([*lines, "", note])


def _by_class(out: Path, source: str, rows: list[str], column: Column) -> str:
    """Scores of single classes with all labelled images."""
    measurements = {row: merged(out, source, row, column, "all", MAIN[column.task]) for row in rows}
    names = list(
        dict.fromkeys(name for one in measurements.values() if one is not None for name in one.by_class)
    )
    if not names:
        return ""
    lines = [
        f"| {MAIN[column.task]} of a class, all labels | {' | '.join(names)} |",
        "|---" * (len(names) + 1) + "|",
    ]
    for row, one in measurements.items():
        own = {} if one is None else one.by_class
        texts = [f"{100 * own[name]:.1f}" if name in own else "-" for name in names]
        lines.append(f"| {row if row in METHODS else f'*{row}*'} | {' | '.join(texts)} |")
    return "\n".join(lines)


def costs_of_cells(out: Path) -> str:
    """What cells took: the median and the most of their processor seconds, and their peak memory."""
    lines = ["| cells of | cells | CPU s, median | CPU s, most | peak MiB |", "|---|---|---|---|---|"]
    for column in COLUMNS:
        costs = [
            json.loads(file.read_text())
            for file in out.glob(f"*/*/{column.folder}/*/cost.json")
            if file.parts[-5] != "choosing"
        ]
        if costs:
            seconds = sorted(one["cpu_seconds"] for one in costs)
            peaks = [one["peak_mib"] for one in costs if one["peak_mib"] is not None]
            texts = [f"{seconds[len(seconds) // 2]:.1f}", f"{seconds[-1]:.1f}", f"{max(peaks, default=0):,}"]
            lines.append(f"| {column.title} | {len(costs)} | {' | '.join(texts)} |")
    file = out / "costs.json"
    return "\n".join(lines) + (f"\n\n{cost_table(json.loads(file.read_text()))}" if file.exists() else "")


# ---- time and memory of tasks with their defaults

TIMED = {
    "multilabel": "bccd_voc",
    "detection": "bccd_voc",
    "segmentation": "camvid_voc",
    "outliers": "caltech96",
    "knn": "caltech96",
    "linear": "caltech96",
}
"""Tasks, and two probes, with what they are measured on: 200 of its images."""
TRAINED, TESTED, FEW_CLASSES = 150, 50, 25


def cost(data: Path, out: Path, minutes: float, threads: int) -> str:
    """Each task by the command line in a process of its own, with the defaults of the library."""
    pretrained(METHODS[0], data, SOURCE, out, minutes)
    file = out / "costs.json"
    costs: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    for task, target in TIMED.items():
        if task in costs:
            continue
        with tempfile.TemporaryDirectory() as folder:
            few(data / target, Path(folder) / target)
            run = out / SOURCE / METHODS[0] / "run"
            costs[task] = timed(task, run, Path(folder) / target, threads) | {"target": target}
        file.write_text(json.dumps(costs, indent=1) + "\n")
        print(task, costs[task], flush=True)
    return cost_table(costs)


def few(source: Path, target: Path) -> None:
    """A folder with 200 of the images: of VOC by links, with shorter lists; of parquet 25 classes, 6 and 2 each."""
    voc = next((one for one in source.glob("VOC*") if one.is_dir()), None)
    if voc is None:
        _few_rows(source / "data", target / "data")
        return
    root = target / voc.relative_to(source)
    root.mkdir(parents=True)
    for one in voc.iterdir():
        if one.name != "ImageSets":
            (root / one.name).symlink_to(one.resolve())
    for own in source.glob("*.json"):
        (target / own.name).symlink_to(own.resolve())
    for listing in (voc / "ImageSets").rglob("*.txt"):
        if listing.stem in ("train", "trainval", "test"):
            lines = listing.read_text().splitlines()[: TESTED if listing.stem == "test" else TRAINED]
            short = root / "ImageSets" / listing.relative_to(voc / "ImageSets")
            short.parent.mkdir(parents=True, exist_ok=True)
            short.write_text("\n".join(lines) + "\n")


def _few_rows(source: Path, target: Path) -> None:
    from pyarrow import parquet

    target.mkdir(parents=True)
    for file in source.glob("*.parquet"):
        table = parquet.read_table(file)
        most = (TRAINED if file.name.startswith("train") else TESTED) // FEW_CLASSES
        by_label: dict[int, list[int]] = {}
        for row, label in enumerate(table["label"].to_pylist()):
            by_label.setdefault(label, []).append(row)
        rows = [row for label in range(FEW_CLASSES) for row in by_label[label][:most]]
        parquet.write_table(table.take(rows), target / file.name)


def timed(task: str, run: Path, folder: Path, threads: int) -> dict[str, Any]:
    """Seconds to the first score and to the end, processor seconds and peak memory of a command."""
    command = [
        sys.executable,
        "-m",
        "unlabeled",
        "evaluate",
        str(run),
        str(folder),
        "--probe",
        task,
        "--device",
        "cpu",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    began, lines = time.perf_counter(), []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append((time.perf_counter() - began, _cpu_seconds(process.pid), line.rstrip()))
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        print("\n".join(line for *_, line in lines[-5:]), file=sys.stderr)
        return {"error": lines[-1][2] if lines else str(process.returncode)}
    # Trainings say what they train before the first step; what trains nothing starts with its table.
    starts = [one for one in lines if f"{task}, " in one[2] and ", seed " in one[2]]
    start, start_cpu, _ = (starts or lines[-1:])[0]
    return {
        "start": round(start, 1),
        "start_cpu": round(start_cpu, 1),
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mib": usage.ru_maxrss // 1024,
        "threads": threads,
    }


def _cpu_seconds(process: int) -> float:
    """Processor seconds of another process until now; 0 where the system does not tell them."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cost_table(costs: dict[str, Any]) -> str:
    lines = [
        "| `--probe` with its defaults | 200 images of | starts after s | of CPU | wall s | CPU s | peak MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for task, one in costs.items():
        texts = [
            str(one.get(name, "-")) for name in ("start", "start_cpu", "seconds", "cpu_seconds", "peak_mib")
        ]
        lines.append(f"| {task} | {one['target']} | {' | '.join(texts)} |")
    return "\n".join(lines)


def _forget_peak() -> None:
    """Let Linux forget the peak memory of this process, so that each cell has its own."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _peak_mib() -> int | None:
    """Peak memory of this process since it was forgotten; None where the system does not tell it."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM")), None)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, nargs="?", help="folder with bccd_voc, camvid_voc and caltech96")
    parser.add_argument("--out", type=Path, default=Path("runs/transfer"))
    parser.add_argument("--source", default=SOURCE, help=f"what is pre-trained on [default: {SOURCE}]")
    parser.add_argument("--rows", default="", help="names of rows, separated by commas [default: all]")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument(
        "--minutes", type=float, default=MINUTES, help="of a processor, for each pre-training"
    )
    parser.add_argument(
        "--choose", action="store_true", help="compare parts to train, on training images only"
    )
    parser.add_argument("--costs", action="store_true", help="time and memory of tasks with their defaults")
    parser.add_argument("--threads", type=int, default=2, help="of each process of --costs")
    parser.add_argument("--print", action="store_true", help="only print what is there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.data is None and not options.print:
        parser.error("data must be the folder of the data sets, got none")
    if options.choose:
        choose(options.data, options.out, options.minutes)
        print(choice_table(options.out))
    elif options.costs:
        print(cost(options.data, options.out, options.minutes, options.threads))
    else:
        if not options.print:
            rows = [row for row in options.rows.split(",") if row]
            for row in rows:
                check.choice((*CONTROLS, WITH_LABELS, *METHODS), rows=row)
            measure(options.data, options.out, options.source, rows, options.seeds, options.minutes)
        print(tables(options.out))


if __name__ == "__main__":
    main()
