"""Tables of papers and lectures at a small scale, each from a TOML file in benchmarks/tables/, row by row.

    python benchmarks/tables.py rotations PATH/TO/cifar10            # train and score the rows that are missing
    python benchmarks/tables.py rotations PATH/TO/cifar10 --rows 4,8 --minutes 10
    python benchmarks/tables.py rotations --print                    # the table from docs/tables/rotations.json
    python benchmarks/tables.py --docs                               # all tables, to docs/tables.md

A row is a method with its settings; its numbers go to docs/tables/NAME.json as soon as they exist. An interrupted run
resumes from --out. `minutes` are processor time of one thread, so that other programs cost no steps.
Methods train on `images` training images, drawn with seed 0; probes learn from the labels of the same images. Scores
are of the test images, or where the file says `score = "choosing"` of 2,000 other training images.
"""

import argparse
import fcntl
import json
import re
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr

import unlabeled
from unlabeled.data import Data, open_splits
from unlabeled.evaluation import evaluate
from unlabeled.evaluation.supervised_pretraining import Supervised
from unlabeled.training import duration

TABLES = Path(__file__).with_suffix("")
RESULTS = Path(__file__).parents[1] / "docs" / "tables"
INTRODUCTION = """# Tables of the lectures at a small scale

Accuracy in % on CIFAR-10 (stored as JPEG, quality 75, which costs a few points), with 95 % intervals over the images
that are scored, one training per row, seed 0. Behind a slash is the number that the paper printed, mostly for
ImageNet: the numbers are not comparable, their order may be. Budgets are processor time of one core, so that no
number is what a method can reach. Rows in italics are controls, untrained networks and classical features, as
measured beside the first row that has them; what a row beats is measured beside its own. Written by `python
benchmarks/tables.py --docs` from the files in `docs/tables/`; rows that are missing were not run.
"""
CHOOSING = 2000
OURS = "unlabeled"


def read(name: str) -> dict[str, Any]:
    """The definition of a table."""
    return tomllib.loads((TABLES / f"{name}.toml").read_text())


def parts(table: dict[str, Any], data: Path) -> tuple[Data, Data]:
    """Images to learn from, and images to score."""
    everything, test = open_splits(data)
    order = torch.randperm(len(everything), generator=torch.Generator().manual_seed(0))
    choosing, training = order[:CHOOSING], order[CHOOSING : CHOOSING + table["images"]]
    scored = everything.subset(choosing) if table.get("score") == "choosing" else test
    return everything.subset(training), scored


@contextmanager
def results(name: str) -> Iterator[dict[str, Any]]:
    """The rows of a table that are there, for one process at a time; changes are saved."""
    RESULTS.mkdir(exist_ok=True)
    target = RESULTS / f"{name}.json"
    with (TABLES / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = target.read_text() if target.exists() else "{}"
        rows = json.loads(before)
        yield rows
        text = json.dumps(rows, indent=1) + "\n"
        if rows and text != before:
            target.write_text(text)


def train(row: dict[str, Any], table: dict[str, Any], images: Data, out: Path) -> tuple[Any, dict[str, Any]]:
    """The trained network of a row, and how long it was trained."""
    settings = {**table.get("train", {}), **row.get("train", {})}
    settings = {key: other_run(value, out) for key, value in settings.items()}
    if "epochs" in settings:
        del settings["minutes"]
    began = time.process_time()
    measured = out.with_name("length.json")  # a row that is only scored again is not timed again
    if measured.exists():
        return unlabeled.load(out), json.loads(measured.read_text())
    duration.clock = time.process_time
    resumed = (out / "run.toml").exists()
    method = Supervised if row["method"] == "labels" else row["method"]
    run = unlabeled.pretrain(method, images, out=out, quiet=True, resume=resumed, **settings)
    last = {key: run.history[-1].get(key) for key in ("step", "loss", "chance", "holdout_loss")}
    length = {"seconds": round(time.process_time() - began), **last}
    measured.write_text(json.dumps(length))
    return run, length


def other_run(value: Any, out: Path) -> Any:
    """The folder of the run of another row, where a setting is "row:NAME"."""
    return str(out.parents[1] / folder_name(value[4:]) / "run") if str(value).startswith("row:") else value


def folder_name(row: str) -> str:
    return re.sub(r"\W+", "-", row)


def judge(
    trained: Any, table: dict[str, Any], pair: tuple[Data, Data], controls: Any
) -> list[dict[str, Any]]:
    """Records of all columns, short enough to keep."""
    settings = {key: value for key, value in table["evaluate"].items() if key != "controls"}
    records = evaluate(trained, pair, controls=controls, **settings).records
    keys = (
        "probe",
        "features",
        "layer",
        "labels_per_class",
        "value",
        "low",
        "high",
        "margin",
        "margin_low",
        "margin_high",
        "detail",
    )
    return [{key: record[key] for key in keys if record.get(key) is not None} for record in records]


def measure(name: str, data: Path, out: Path, rows: list[str] | None, minutes: float | None) -> None:
    """Train and score the rows that are missing; another process may work on other rows meanwhile."""
    table = read(name)
    table.setdefault("train", {})["minutes"] = minutes or table["minutes"]
    pair = parts(table, data)
    for row in table["rows"]:
        title, folder = row["name"], out / name / folder_name(row["name"])
        if rows is not None and title not in rows:
            continue
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            with results(name) as done:
                if title in done:
                    continue
            trained, length = train(row, table, pair[0], folder / "run")
            controls = row.get("controls", table["evaluate"].get("controls", "none"))
            records = judge(trained, table, pair, controls)
            with results(name) as done:
                done[title] = {**length, "records": records}
            print(name, title, length, [round(record["value"], 3) for record in records], flush=True)


def value(
    records: list[dict[str, Any]], column: dict[str, Any], features: str = OURS
) -> dict[str, Any] | None:
    """The record of a column."""
    query = {
        "labels_per_class": "all",
        **{k: v for k, v in column.items() if k != "title"},
        "features": features,
    }
    return next((record for record in records if all(record.get(k) == v for k, v in query.items())), None)


def cell(record: dict[str, Any] | None) -> str:
    if record is None:
        return "-"
    return f"{100 * record['value']:.1f} [{100 * record['low']:.1f}, {100 * record['high']:.1f}]"


def beaten(records: list[dict[str, Any]], columns: list[dict[str, Any]]) -> str:
    """Controls of the same row that are beaten beyond noise, by column."""
    words = []
    for column in columns:
        names = [record["features"] for record in records if record["features"] != OURS]
        controls = [(name, value(records, column, name)) for name in dict.fromkeys(names)]
        better = [name for name, record in controls if record and record["margin_low"] > 0]
        words += [f"{column['title']}: {', '.join(better)}"] if better else []
    return "; ".join(words) or "none"


def markdown(name: str) -> str:
    """The table: ours with intervals, the printed numbers in brackets behind a slash, and the rank correlations."""
    table, columns = read(name), read(name)["columns"]
    with results(name) as done:
        rows = [(row, done[row["name"]]) for row in table["rows"] if row["name"] in done]
    compared = ["beats beyond noise"] if table["evaluate"].get("controls") else []
    titles = ["", "CPU s", "steps", *(column["title"] for column in columns), *compared]
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    pairs: list[list[tuple[float, float]]] = [[] for _ in columns]

    def cells(records: list[dict[str, Any]], printed: list[float], features: str = OURS) -> list[str]:
        texts = []
        for column, both, number in zip_longest(columns, pairs, printed):
            record = value(records, column, features)
            texts.append(cell(record) + ("" if number is None else f" / {number:g}"))
            if record is not None and number is not None:
                both.append((record["value"], number))
        return texts

    controls: dict[str, list[dict[str, Any]]] = {}
    for row, result in rows:
        records = result["records"]
        texts = [
            row["name"],
            str(result["seconds"]),
            str(result["step"]),
            *cells(records, row.get("printed", [])),
        ]
        lines.append(f"| {' | '.join(texts + [beaten(records, columns) for _ in compared])} |")
        controls |= {
            record["features"]: records for record in records if record["features"] not in (OURS, *controls)
        }
    for control, records in controls.items():
        texts = [
            f"*{control}*",
            "-",
            "-",
            *cells(records, table.get("controls", {}).get(control, []), control),
        ]
        lines.append(f"| {' | '.join(texts + ['' for _ in compared])} |")
    ranks = [
        f"{column['title']} {spearmanr(*zip(*both)).statistic:.2f} ({len(both)} rows)"
        for column, both in zip(columns, pairs)
        if len(both) > 2
    ]
    if ranks:
        lines += ["", f"Rank correlation with the printed column: {', '.join(ranks)}."]
    return "\n".join(lines)


def section(name: str) -> str:
    """A table with what it is about."""
    table = read(name)
    command = f"    python benchmarks/tables.py {name} PATH/TO/cifar10"
    scored = "2,000 other training images" if table.get("score") == "choosing" else "the 10,000 test images"
    minutes = f"{table['minutes']:g} minute{'s' * (table['minutes'] != 1)}"
    budget = f"{table['images']:,} training images, {minutes} of one core per row unless it says "
    budget += f"epochs, scored on {scored}."
    blocks = [f"## {table['title']}", command, table["about"], budget, markdown(name), table.get("why", "")]
    return "\n\n".join(block for block in blocks if block) + "\n"


def page() -> str:
    """All tables that have results."""
    names = sorted(
        path.stem for path in TABLES.glob("*.toml") if (RESULTS / path.name).with_suffix(".json").exists()
    )
    return "\n".join([INTRODUCTION, *map(section, names)])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", nargs="?", choices=sorted(path.stem for path in TABLES.glob("*.toml")))
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--out", type=Path, default=Path("runs/tables"))
    parser.add_argument("--rows", help="names of rows, separated by commas [default: all]")
    parser.add_argument("--minutes", type=float, help="of a processor [default: those of the table]")
    parser.add_argument("--print", action="store_true", help="only print what is there")
    parser.add_argument("--docs", action="store_true", help="only write all tables to docs/tables.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.docs:
        RESULTS.with_suffix(".md").write_text(page())
        return
    if not options.print:
        rows = options.rows.split(",") if options.rows else None
        measure(options.table, options.data, options.out, rows, options.minutes)
    print(markdown(options.table))


if __name__ == "__main__":
    main()
