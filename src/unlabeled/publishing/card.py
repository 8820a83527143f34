"""The model card: what the encoder is, what was measured of it, also where it loses, and what it was made of."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from unlabeled import methods
from unlabeled.evaluation.table import by_class
from unlabeled.evaluation.verdict import (
    CLAIMS,
    OURS,
    OUTCOMES,
    Column,
    Comparison,
    Record,
    amount,
    column,
    comparisons,
    counted,
    images_in_words,
    labels,
    name,
)
from unlabeled.reporting.charts import Row, finite
from unlabeled.reporting.entry import Entry, Evaluation
from unlabeled.reporting.tables import arrange, tasks

__all__ = ["card", "cell", "text"]

PIPELINES = {"image": "image-feature-extraction"}
"""What the Hub calls the use of an encoder, by its kind; feature-extraction for others."""
TASKS = {
    "image": "image-classification",
    "text": "text-classification",
    "words": "text-classification",
    "audio": "audio-classification",
    "video": "video-classification",
    "segmentation": "image-segmentation",
    "detection": "object-detection",
}
"""What the Hub calls what was measured, by the task or the kind of data; feature-extraction for others."""


class Table(NamedTuple):
    """A table in Markdown."""

    title: str
    note: str
    lines: str


class Judged(NamedTuple):
    """An evaluation as the card shows it."""

    place: str
    setting: str
    claims: list[str]
    notes: str
    tables: list[Table]


def text(value: object) -> str:
    """Text from anywhere as one line of Markdown, in which nothing is a tag, a link, an image or code."""
    line = " ".join(str(value).split())
    for sign in ("\\", "`", "*", "_"):
        line = line.replace(sign, f"\\{sign}")
    return line.replace("](", "]\\(").replace("&", "&amp;").replace("<", "&lt;")


def cell(value: object) -> str:
    """The same within a table."""
    return text(value).replace("|", "\\|")


TEMPLATES = Environment(
    loader=PackageLoader("unlabeled.publishing"),
    autoescape=False,  # Markdown, which the filters escape
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    undefined=StrictUndefined,
)
TEMPLATES.filters |= {"text": text, "cell": cell}


def card(
    entry: Entry,
    name: str,
    config: Mapping[str, Any],
    *,
    licence: str,
    license: str | None,
    digests: bool,
) -> str:
    """The README.md of a published run, with the front matter that the Hub reads.

    Args:
        entry: The run and its evaluations. Those of the encoder as it is now are shown, whole; where there are none,
            the newest of an earlier state, which a caveat says.
        name: OWNER/NAME.
        config: Its run.toml as it is published.
        licence: A sentence on the licence of the weights, and of those that they started from.
        license: The licence's name on the Hub; None for none.
        digests: Whether digests of the training samples are published.
    """
    encoder, judged = entry.run.encoder, entry.judged
    data = config.get("data", {})
    weights = str(config.get("settings", {}).get("weights", ""))
    body = TEMPLATES.get_template("card.md").render(
        name=name,
        entry=entry,
        kind=encoder.kind,
        idea=_idea(entry.name),
        data=data.get("name", "data"),
        folder="pictures/" if encoder.kind == "image" else "data/",
        dim=encoder.dim,
        own_network=entry.run.own_network,
        digests=digests,
        judged=[_judged(evaluation, entry.place(evaluation)) for evaluation in judged],
        headline=entry.summary or "Nothing was compared with a control.",
        caveats=list(dict.fromkeys(caveat for one in judged for caveat in one.caveats)),
        earlier=_earlier(len(entry.evaluations) - len(judged)),
        facts=entry.facts,
        training=_training(entry, data),
        licence=licence,
    )
    return f"---\n{_front_matter(entry, name, data, weights, license)}\n---\n{body}"


def _idea(method: str) -> str:
    """The idea of a method of the library in a sentence; empty for another one."""
    return (
        methods.describe(method).summary.partition(": ")[2].rstrip(".") if method in methods.names() else ""
    )


def _earlier(count: int) -> str:
    if not count:
        return ""
    were = "evaluation was" if count == 1 else "evaluations were"
    return f"{count} more {were} made of earlier states of the encoder, and {'is' if count == 1 else 'are'} not shown."


def _judged(evaluation: Evaluation, place: str) -> Judged:
    records = [("", evaluation.records)]
    tables = [
        Table(
            one.title, one.note, _markdown([one.axis, *one.columns], _cells(one.rows, percent=bool(one.axis)))
        )
        for one in arrange(records)
    ]
    for one in tasks(records):
        tables.append(
            Table(one.title, one.note, _markdown(["", *one.columns], _cells(one.rows, percent=False)))
        )
    for title, rows in by_class(evaluation.records):
        tables.append(Table(title, "", _markdown(rows[0], [list(map(cell, row)) for row in rows[1:]])))
    return Judged(place, evaluation.setting, evaluation.claims, evaluation.notes, tables)


def _cells(rows: Sequence[Row], percent: bool) -> list[list[str]]:
    """Rows of a table, ours in bold."""
    return [
        [f"**{row.name}**" if row.ours else cell(row.name), *(_value(one, percent) for one in row.cells)]
        for row in rows
    ]


def _value(record: Record | None, percent: bool) -> str:
    """A score with its interval, and its standard deviation over draws of the labels."""
    if record is None:
        return ""
    unit = "accuracy" if percent else record.get("unit", "")
    ends = [record.get(end) for end in ("low", "high")]
    interval = (
        f" [{', '.join(amount(end, unit) for end in ends if finite(end))}]" if all(map(finite, ends)) else ""
    )
    spread = record.get("std")
    return amount(record["value"], unit) + (f" ± {amount(spread, unit)}" if finite(spread) else "") + interval


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of a head as it is and rows in which everything is escaped."""
    lines = [list(map(cell, head)), ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _training(entry: Entry, data: Mapping[str, Any]) -> list[str]:
    """What the log and the data say that a user of the encoder should know."""
    lines = []
    if skipped := data.get("skipped"):
        were = "was" if skipped == 1 else "were"
        lines.append(f"{counted(skipped, 'files')} of the data could not be read and {were} skipped.")
    if entry.last:
        chance = entry.last.get("chance")
        beside = f" (chance {chance:.4g})" if finite(chance) else ""
        held_out = f"; on held-out samples {entry.held_out[-1]:.4g}" if entry.held_out else ""
        lines.append(
            f"Loss at the end: {entry.last['loss']:.4g}{beside}{held_out}. {entry.last.get('verdict', '')}"
        )
    if entry.rise:
        lines.append(f"{entry.rise[:1].upper()}{entry.rise[1:]}.")
    return lines


def _front_matter(
    entry: Entry, model: str, data: Mapping[str, Any], weights: str, license: str | None
) -> str:
    kind, source = entry.run.encoder.kind, str(data.get("source", ""))
    results = _results(entry, kind)
    about = ModelCardData(
        license=license,
        base_model=_on_the_hub(weights),
        library_name="unlabeled",
        pipeline_tag=PIPELINES.get(kind, "feature-extraction"),
        tags=["self-supervised-learning", entry.name, kind],
        datasets=[source.removeprefix("hub:").partition(":")[0]] if source.startswith("hub:") else None,
        model_name=model.partition("/")[2] if results else None,
        eval_results=results or None,
    )
    return about.to_yaml()


def _on_the_hub(weights: str) -> str | None:
    """Where weights that a run started from are on the Hub; None where they are not, or that is not known."""
    library, _, name = weights.partition(":")
    if library in ("hf", "hub"):
        return name.partition("@")[0]
    return f"timm/{name}" if library == "timm" and "." in name else None


def _results(entry: Entry, kind: str) -> list[EvalResult]:
    """Our scores for the Hub, each named with its interval and the control to which it stands worst.

    A column that was measured several times with the same features is listed once, where ours stands worst. What was
    stopped before everything was measured is left out.
    """
    worst: dict[tuple[str, str, Column], tuple[int, EvalResult]] = {}
    for evaluation in entry.judged:
        if evaluation.unfinished:
            continue
        compared = {one.column: one for one in comparisons(evaluation.records)}
        for record in evaluation.records:
            if record["features"] != OURS or not finite(record["value"]):
                continue
            one = compared.get(column(record))
            rank = OUTCOMES.index(one.outcome) if one else len(OUTCOMES)
            key = evaluation.data, evaluation.features, column(record)
            if key not in worst or rank < worst[key][0]:
                worst[key] = rank, _result(evaluation, record, one, entry.feature_words(evaluation), kind)
    return [result for _, result in worst.values()]


def _result(
    evaluation: Evaluation, record: Record, compared: Comparison | None, features: str, kind: str
) -> EvalResult:
    """One of our scores; the features in words where there are several, else empty."""
    data = evaluation.data or "data"
    probe, layer, count, unit = key = column(record)
    about = f"{probe}{f' {layer}' if layer else ''}"
    about += f", {labels([count])}" if record.get("labels") else images_in_words(count)
    about += f", {features}" if features else ""
    if compared is not None:
        rows = [r for r in evaluation.records if column(r) == key and r["features"] == compared.hardest]
        beside = f" {amount(rows[0]['value'], unit)}" if rows else ""
        about += f"; {CLAIMS[compared.outcome]}; hardest control: {name(compared.hardest)}{beside}"
    return EvalResult(
        task_type=TASKS.get(probe, TASKS.get(kind, "feature-extraction")),
        task_name="Evaluation of the encoder",  # one for all scores of a type of task on the same data
        dataset_type=Path(data).name.lower().replace(" ", "-") or "data",
        dataset_name=data,
        metric_type=unit.replace(" ", "_"),
        metric_name=f"{unit} ({about})",
        metric_value=round(record["value"], 4),
    )
