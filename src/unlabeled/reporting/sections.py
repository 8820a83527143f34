"""The sections of the page: each is one sentence on what to look at, and its content."""

import math
import shlex
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import torch
from torch import Tensor

from unlabeled.evaluation.verdict import verdict
from unlabeled.method import Pictures
from unlabeled.reporting import charts, embedding, pictures, tables
from unlabeled.reporting.entry import Entry, Evaluation

__all__ = [
    "feature_map",
    "filters",
    "header",
    "neighbors",
    "pretext",
    "repeat",
    "scores",
    "strip",
    "training",
]

NEIGHBORS, TEXT_NEIGHBORS = 7, 4
COLUMNS = 8
TEXTS = 3
ROWS = 12
STRIP = 4.0
"""Pictures wider than so many times their height are strips, such as the frames of a video side by side."""

Line = dict[str, Any]


def header(entries: Sequence[Entry]) -> tuple[str, str]:
    """Title as plain text, and HTML of the verdict and the facts."""
    methods = list(dict.fromkeys(entry.name for entry in entries))
    names = " and ".join(methods) if len(methods) < 4 else f"{len(methods)} methods"
    several = f"{len(entries)} runs of " if len(entries) > len(methods) else ""
    sources = " and ".join(dict.fromkeys(str(entry.about.get("name", "data")) for entry in entries))
    title = f"{several}{names} on {sources}"
    runs, helped = ("this run", "it") if len(entries) == 1 else ("these runs", "they")
    return title, (
        f"<h1>{escape(title)}</h1>"
        f'<p class="lead">What {runs} learned without labels, and whether {helped} helped.</p>'
        f'<div class="verdict">{_verdicts(entries)}</div>{_facts(entries)}'
    )


def _verdicts(entries: Sequence[Entry]) -> str:
    paragraphs = []
    if not any(entry.evaluations for entry in entries):
        paragraphs.append("<p>Not evaluated yet, so nothing here says whether it helps.</p>")
    for entry in entries:
        name = f"<b>{escape(entry.label)}</b> " if len(entries) > 1 else ""
        trained = str(entry.history[-1].get("verdict") or "") if entry.history else "No epoch was finished."
        for one in entry.judged:
            where = f"On {one.data}: " if len(entry.judged) > 1 and one.data else ""
            helped = " ".join([where + verdict(one.records), *one.caveats])
            paragraphs.append(f"<p>{name}{escape(helped)}</p>")
            name = ""
        if not entry.judged and any(other.evaluations for other in entries):
            paragraphs.append(f"<p>{name}Not evaluated yet.</p>")
            name = ""
        if trained:
            paragraphs.append(f'<p class="aside">{name}At the end of training: {escape(trained)}</p>')
    return "".join(paragraphs)


def _facts(entries: Sequence[Entry]) -> str:
    """What all runs share as a list, what tells them apart as a table."""
    facts = [entry.facts for entry in entries]
    names = list(dict.fromkeys(name for known in facts for name in known))
    shared = {name for name in names if len({known.get(name) for known in facts}) == 1}
    items = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(facts[0][name])}</dd></div>"
        for name in names
        if name in shared
    )
    listed = f'<dl class="facts">{items}</dl>' if items else ""
    labels = [entry.label for entry in entries]
    names = [name for name in names if name not in shared and [known.get(name) for known in facts] != labels]
    if not names:
        return listed
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    rows = []
    for entry, known in zip(entries, facts, strict=True):
        cells = "".join(f"<td>{escape(known.get(name, '–'))}</td>" for name in names)
        rows.append(f'<tr><th scope="row">{escape(entry.label)}</th>{cells}</tr>')
    return (
        f'{listed}<div class="scroll"><table class="summary"><thead><tr><td>run</td>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def training(entries: Sequence[Entry]) -> tuple[str, str]:
    """Curves over epochs, all runs in one chart."""
    trained = [(f"s{index % 6}", entry) for index, entry in enumerate(entries) if entry.history]

    def drawn(pick: Callable[[Line], Any]) -> list[charts.Line]:
        return [
            charts.Line(entry.label, style, _epochs(entry), [pick(line) for line in entry.history])
            for style, entry in trained
        ]

    def chart(title: str, hint: str, key: str) -> str:
        return charts.lines(title, hint, drawn(lambda line: line.get(key)), zero=True)

    def metric(name: str) -> str:
        title = name.replace("_", " ").capitalize()
        return charts.lines(title, "", drawn(lambda line: line.get("metrics", {}).get(name)))

    chances = drawn(lambda line: line.get("chance"))
    for line in chances:
        line.name, line.style, line.dashed = f"chance, {line.name}", "chance", True
    chances = list({str(line.y): line for line in chances}.values())
    held_out = [
        charts.Line(f"held out, {entry.label}", style, *_held_out(entry), dotted=True)
        for style, entry in trained
        if any(map(charts.finite, _held_out(entry)[1]))
    ]
    marks = {"dashed: chance": chances, "dotted: held out": held_out}
    hint = ", ".join(mark for mark, drawn in marks.items() if _visible(drawn))
    metrics = dict.fromkeys(
        name for _, entry in trained for line in entry.history for name in line.get("metrics", {})
    )
    figures = "".join(
        [
            charts.lines("Loss", hint, [*chances, *drawn(lambda line: line.get("loss")), *held_out]),
            chart("Spread", "0: all in one direction", "spread"),
            chart("Rank", "directions in use", "rank"),
            chart("Cosine", "1: all samples alike", "cosine"),
            *map(metric, metrics),
            chart("Samples per second", "", "samples_per_second"),
        ]
    )
    sentence = (
        "Epoch by epoch. The loss should fall well below chance while spread and rank stay away from zero."
    )
    if held_out:
        sentence += (
            " Dotted is the loss on samples held out of the training: where it rises while the other falls, the "
            "samples are learnt by heart."
        )
    if len(trained) == 1:
        sentence += _course(trained[0][1])
    sentence += "".join(_turn(entry, len(entries) > 1) for _, entry in trained)
    legend = (
        charts.legend([(entry.label, style, "line") for style, entry in trained]) if len(entries) > 1 else ""
    )
    return sentence, f'{legend}<div class="charts">{figures}</div>' if figures else ""


def _epochs(entry: Entry) -> list[float]:
    return [float(line.get("epoch", index + 1)) for index, line in enumerate(entry.history)]


def _visible(drawn: Sequence[charts.Line]) -> bool:
    return any(charts.finite(value) for line in drawn for value in line.y)


def _held_out(entry: Entry) -> tuple[list[float], list[float | None]]:
    """Epochs, with fractions where an epoch has several, and losses on held-out data, None where there is none."""
    places: list[float] = []
    losses: list[float | None] = []
    step, epoch = 0, 0.0
    for line, end in zip(entry.history, _epochs(entry), strict=True):
        last = line.get("step") or 0
        within = line.get("holdout_losses") or {}
        for at, loss in within.items():
            share = (int(at) - step) / (last - step) if last > step else 1.0
            places.append(epoch + (end - epoch) * share)
            losses.append(loss)
        if not within:
            places.append(end)
            losses.append(line.get("holdout_loss"))
        step, epoch = last, end
    return places, losses


def _course(entry: Entry) -> str:
    """From where to where the losses of a run went, and what chance is, in a sentence."""

    def ends(values: Sequence[Any]) -> str:
        first, last = charts.number(values[0]), charts.number(values[-1])
        return f"is {first}" if len(values) == 1 else f"went from {first} to {last}"

    text = f" Here the loss {ends([line.get('loss') for line in entry.history])}"
    if losses := [loss for loss in _held_out(entry)[1] if charts.finite(loss)]:
        text += f", on held-out samples it {ends(losses)}"
        fewer = entry.history[-1].get("holdout_chance")
        if charts.finite(fewer) and fewer != entry.history[-1].get("chance"):
            text += f" in batches of fewer samples, where chance is {charts.number(fewer)}"
    chance = entry.history[-1].get("chance")
    return text + (f"; chance is {charts.number(chance)}." if charts.finite(chance) else ".")


def _turn(entry: Entry, several: bool) -> str:
    """Where the loss on held-out samples turned, in a sentence; empty where it did not."""
    step = entry.history[-1].get("holdout_lowest_at")
    if step is None:
        return ""
    loss = f"loss of {entry.label}" if several else "loss"
    return f" The {loss} on held-out samples was lowest at step {step:,} and has risen since."


@torch.no_grad()
def pretext(entries: Sequence[Entry], device: str) -> tuple[str, str]:
    """Rows of pictures: what each method withheld and what it predicted."""
    drawn: list[tuple[Entry, Pictures]] = []
    for entry in entries:
        if entry.method is not None and entry.data is not None:
            trains = entry.method.training
            entry.method.to(device).eval()
            with torch.random.fork_rng():
                torch.manual_seed(0)
                sample = entry.method.training_view(entry.data).sample(COLUMNS, seed=0)
                rows = entry.method.pictures({name: value.to(device) for name, value in sample.items()})
            entry.method.train(trains)
            drawn.append((entry, rows))
    shown = sum(_room(rows)[0] for _, rows in drawn for row in rows.values() if isinstance(row, Tensor))
    blocks = []
    for entry, rows in drawn:
        columns, side = _room(rows)
        strips = []
        seen = {name: row for name, row in rows.items() if isinstance(row, Tensor)}
        told = {name: row for name, row in rows.items() if not isinstance(row, Tensor)}
        for name, images in seen.items():
            small = pictures.thumbnails(images[:columns].float().cpu(), shown, budget=330_000, largest=side)
            tiles = [
                pictures.image(picture, f"{name}, sample {place + 1}") for place, picture in enumerate(small)
            ]
            strips.append(strip(name, tiles, columns))
        if seen:  # words about the pictures stand beneath them
            for name, texts in told.items():
                strips.append(
                    strip(name, [f"<span>{escape(text)}</span>" for text in texts[:columns]], columns)
                )
        else:
            strips += _texts({name: texts[:TEXTS] for name, texts in told.items()})
        heading = f"<h3>{escape(entry.label)}</h3>" if len(entries) > 1 else ""
        blocks += [f'<div class="run">{heading}{"".join(strips)}</div>'] if strips else []
    columns = any(isinstance(row, Tensor) for _, rows in drawn for row in rows.values())
    sentence = "Each column is one sample. " if columns else ""
    sentence += "Could you do what is asked here? It should be hard, but possible."
    return sentence, "".join(blocks)


def _room(rows: Pictures) -> tuple[int, int]:
    """How many samples stand in a row and how long their pictures may be in pixels: strips need most room."""
    sizes = [row.shape[-2:] for row in rows.values() if isinstance(row, Tensor)]
    widest = max((width / height for height, width in sizes), default=1.0)
    if widest > STRIP:
        return 2, 480
    if widest > 1.5 or any(max(size) > 96 for size in sizes):
        return 4, 240
    return COLUMNS, 96


def _texts(rows: dict[str, list[str]]) -> list[str]:
    """Texts by sample, each with its rows beneath each other."""
    return [
        '<dl class="texts">'
        + "".join(f"<dt>{escape(name)}</dt><dd>{escape(texts[place])}</dd>" for name, texts in rows.items())
        + "</dl>"
        for place in range(min(map(len, rows.values()), default=0))
    ]


def strip(name: str, tiles: Sequence[str], columns: int = COLUMNS) -> str:
    """A named row of pictures."""
    large = f" large of{columns}" if columns < COLUMNS else ""
    return f'<div class="strip{large}"><span>{escape(name)}</span><div class="tiles">{"".join(tiles)}</div></div>'


def neighbors(entries: Sequence[Entry]) -> tuple[str, str]:
    """Neighbours of a few samples by each run's features, and by the raw input beneath."""
    groups: dict[int, list[Entry]] = {}
    for entry in entries:
        if entry.samples is not None and len(entry.features) > 2:
            groups.setdefault(id(entry.samples), []).append(entry)
    sentence = (
        "First a query, picked without looking, then its nearest neighbours by cosine: by the encoder's "
        "features, and by the raw input beneath. Good features find the same thing where the input finds the same "
        "shades."
    )
    if any(group[0].samples is not None and group[0].samples.labels is not None for group in groups.values()):
        sentence += " Thin frame: same label. Dashed: another label. Training never saw the labels."
    return sentence, "".join(_neighbors(group, len(entries) > 1) for group in groups.values())


def _neighbors(group: Sequence[Entry], several: bool) -> str:
    images, samples, size = group[0].images, group[0].samples, len(group[0].features)
    assert samples is not None
    lines = not len(group[0].images)  # texts, or their numbers: one below the other
    count = min(TEXT_NEIGHBORS if lines else NEIGHBORS, size - 1)
    found = [
        (entry.label if several else "features", embedding.nearest(entry.features, count)) for entry in group
    ]
    found.append(("raw input", embedding.nearest(group[0].raw, count)))
    queries = embedding.queries(samples.labels, size, 3 if lines else max(3, ROWS // len(found)))
    if len(images):
        images = pictures.thumbnails(images, len(queries) * len(found) * (count + 1))

    def tile(row: int, description: str, kind: str = "") -> str:
        if len(images):
            return pictures.image(images[row], description, kind)
        text = samples.captions[row] if samples.captions else str(row)
        return f'<span class="text {kind or description}">{escape(text)}</span>'

    blocks = []
    for query in queries:
        strips = []
        for name, rows in found:
            tiles = [tile(query, "query")]
            for row in rows[query].tolist():
                kind = _agreement(samples.labels, query, row)
                tiles.append(tile(row, f"neighbour {kind}".strip(), kind))
            strips.append(strip(name, tiles))
        blocks.append(f'<div class="neighbors">{"".join(strips)}</div>')
    note = ""
    if samples.labels is not None:
        known = samples.labels[samples.labels >= 0]
        chance = (known.bincount() / len(known)).square().sum().item()
        shares = [(name, embedding.agreement(samples.labels, rows)) for name, rows in found]
        told = ", ".join(f"{name} {100 * share:.1f} %" for name, share in [*shares, ("chance", chance)])
        note = (
            f'<p class="note">Neighbours that share the label, over all {size:,} {escape(samples.unit)} '
            f"of the sample: {escape(told)}.</p>"
        )
    return note + "".join(blocks)


def _agreement(labels: Tensor | None, first: int, second: int) -> str:
    if labels is None or labels[first] < 0 or labels[second] < 0:
        return ""
    return "right" if labels[first] == labels[second] else "wrong"


def filters(entries: Sequence[Entry]) -> tuple[str, str]:
    """A panel of first-layer filters for each run."""
    panels = []
    for entry in entries:
        found = pictures.filters(entry.run.encoder)
        if found is not None:
            columns = max(math.ceil(math.sqrt(len(found))), min(8, len(found)))
            sheet = pictures.tile(found, columns, gap=2, cell=32)
            height, width = found.shape[-2:]
            caption = (
                entry.label if len(entries) > 1 else f"{len(found)} filters of {height} × {width} pixels"
            )
            panels.append(_panel(caption, pictures.image(sheet, "first-layer filters", "pixels")))
    sentence = (
        "Edges, strokes and blobs of colour mean that the first layer has found structure; snow means that "
        "it has not. Mid-grey is a weight of zero."
    )
    if len(panels) > 1:
        sentence += " The same place is the same neuron in every panel."
    return sentence, _panels(panels)


def _panel(caption: str, content: str) -> str:
    return f'<figure class="panel"><figcaption>{escape(caption)}</figcaption>{content}</figure>'


def _panels(panels: Sequence[str]) -> str:
    return f'<div class="panels">{"".join(panels)}</div>' if panels else ""


def feature_map(entries: Sequence[Entry]) -> tuple[str, str]:
    """A map for each run and one for the raw input: dots by label where labels are known, pictures where not."""
    panels, ways, raw = [], [], {}
    for entry in entries:
        if entry.samples is not None and len(entry.features) > 2:
            raw.setdefault(id(entry.samples), entry)
            caption = entry.label if len(entries) > 1 else "features"
            panels.append(_map(entry, caption, entry.features, ways))
    panels += [_map(entry, "raw input", entry.raw, ways) for entry in raw.values()]
    way = " and ".join(dict.fromkeys(ways))
    sentence = f"Each sample at its place in the plane ({way}): near means alike. " if way else ""
    if any(entry.samples is not None and entry.samples.labels is not None for entry in raw.values()):
        sentence += (
            "Islands of one colour are classes told apart without labels; does the input alone do as well?"
        )
    else:
        sentence += "Do samples of one kind lie together, more so than by the raw input?"
    if "t-SNE" in ways:
        sentence += " Distances between far islands mean nothing."
    return sentence, _panels(panels)


def _map(entry: Entry, caption: str, features: Tensor, ways: list[str]) -> str:
    assert entry.samples is not None
    laid = embedding.flat(features)
    if laid is None:
        return _panel(caption, '<p class="note">No map: the vectors are all the same, or not finite.</p>')
    points, way = laid
    ways.append(way)
    labels, classes = entry.samples.labels, entry.samples.classes
    if labels is None and not len(entry.images):
        return _panel(caption, charts.scatter(points.tolist(), [0] * len(points), [entry.samples.unit]))
    if labels is None:
        return _panel(caption, pictures.image(pictures.mosaic(entry.images, points), "map of the images"))
    known = labels >= 0
    return _panel(caption, charts.scatter(points[known].tolist(), labels[known].tolist(), classes))


def scores(entries: Sequence[Entry]) -> tuple[str, str]:
    """Tables and charts of all evaluations: the newest first, those of earlier states of an encoder last."""
    sentence = (
        "The frozen encoder against the controls that it must beat, on the same test samples. A green dot "
        "marks a winner only where the 95 % interval of its lead is clear of every other row; no dot means "
        "that nobody can tell."
    )
    rounds = _rounds(entries)
    several, content = len(rounds) > 1, []
    for number, (data, judged) in enumerate(rounds):
        if several:
            state = "" if judged[0][1].current else " · earlier state of the encoder"
            content.append(f"<h3>{escape(f'{number + 1}. {data}{state}')}</h3>")
        content += _evaluated(judged, len(entries))
    return sentence, "".join(content)


def _rounds(entries: Sequence[Entry]) -> list[tuple[str, list[tuple[Entry, Evaluation]]]]:
    """Evaluations that stand side by side: of each run the newest on the same data, then the one before, and so on."""
    rounds: dict[tuple[bool, str, int], list[tuple[Entry, Evaluation]]] = {}
    for entry in entries:
        seen: dict[tuple[bool, str], int] = {}
        for one in entry.evaluations:
            key = not one.current, one.data
            seen[key] = seen.get(key, -1) + 1
            rounds.setdefault((*key, seen[key]), []).append((entry, one))
    ordered = sorted(rounds.items(), key=lambda item: item[0][0])
    return [(data or "data", judged) for (_, data, _), judged in ordered]


def _evaluated(judged: Sequence[tuple[Entry, Evaluation]], runs: int) -> list[str]:
    """Notes, tables and charts of evaluations that stand side by side."""
    notes: dict[str, list[str]] = {}
    for entry, one in judged:
        if said := " ".join(filter(None, [one.tested, *one.caveats])):
            notes.setdefault(said, []).append(entry.label)
    shared = [len(labels) for labels in notes.values()] == [runs]
    lines = [said if shared else f"{', '.join(labels)}: {said}" for said, labels in notes.items()]
    records = [(entry.label, one.records) for entry, one in judged]
    return [*map(_note, lines), *map(tables.draw, tables.arrange(records)), tables.measures(records)]


def repeat(entries: Sequence[Entry]) -> tuple[str, str]:
    """The command, the settings and what was left out, for each run."""
    sentence = "Trains the same encoder again. The same versions on the same machine give the same numbers."
    return sentence, "".join(_repeat(entry, len(entries) > 1) for entry in entries)


def _repeat(entry: Entry, several: bool) -> str:
    file = entry.path / "run.toml"
    words = ["unlabeled", "pretrain", entry.name, entry.source or "DATA", "--config", str(file)]
    content = f"<h3>{escape(entry.label)}</h3>" if several else ""
    content += f"<pre>{escape(shlex.join(words))}</pre>"
    versions = entry.config.get("versions", {})
    if versions:
        content += _note(" · ".join(f"{name} {value}" for name, value in versions.items()))
    chosen = entry.config.get("chosen", [])
    if chosen:
        told = ", ".join(f"{name} {entry.settings.get(name, '')}".strip() for name in chosen)
        content += _note(f"Not asked for, so chosen by the size of the data: {told}.")
    if entry.skipped:
        few = ". The first 10" if len(entry.skipped) > 10 else ""
        content += _note(f"Files that could not be read and were skipped: {len(entry.skipped):,}{few}:")
        items = [f"<li>{escape(path)}: {escape(reason)}</li>" for path, reason in entry.skipped[:10]]
        content += f'<ul class="note">{"".join(items)}</ul>'
    if file.is_file():
        text, opened = escape(file.read_text(encoding="utf-8")), "" if several else " open"
        content += f"<details{opened}><summary>run.toml</summary><pre>{text}</pre></details>"
    return f'<div class="run">{content}</div>'


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'
