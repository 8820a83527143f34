"""Words to calls: the only file that parses arguments, prints help and sets exit codes."""

import inspect
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from cyclopts import App, Group, Parameter, Token

from unlabeled import check, methods, options
from unlabeled.check import UserError
from unlabeled.training.settings import Settings
from unlabeled.version import __version__

__all__ = ["main"]

RUN = Group("Run options", sort_key=3)
READ = Group("How data is read", sort_key=3)
OUTPUT = Group("Output", sort_key=4)

app = App(
    name="unlabeled",
    help="Learn an encoder from data that nobody labelled, and know whether it helped.",
    version=__version__,
    help_format="plaintext",
    suppress_keyboard_interrupt=False,
)
pretrain_app = App(name="pretrain", help="Train an encoder without labels: unlabeled pretrain METHOD DATA.")
app.command(pretrain_app)


def _whole(type_: Any, tokens: Sequence[Token]) -> int:
    """An integer as written: cyclopts alone would round 2.5 to 2."""
    try:
        return int(tokens[0].value)
    except ValueError:
        raise UserError(f"must be a whole number, got {tokens[0].value}") from None


def _listed(type_: Any, tokens: Sequence[Token]) -> tuple[str, ...]:
    """Words with commas between them."""
    return tuple(word.strip() for token in tokens for word in token.value.split(",") if word.strip())


Words = Annotated[tuple[str, ...], Parameter(converter=_listed, n_tokens=1, negative=())]
Run = Annotated[Path, Parameter(help="Folder of a run.")]
Network = Annotated[
    str | None,
    Parameter(help="module:function that builds the network, where the run trained one of your own."),
]
Source = Annotated[
    str, Parameter(help="Built-in set such as digits, folder, parquet, tar, npz, or hub name.")
]


def _numbers(type_: Any, tokens: Sequence[Token]) -> list[float]:
    """Numbers with commas between them."""
    words = _listed(type_, tokens)
    try:
        return [float(word) for word in words]
    except ValueError:
        raise UserError(f"must be numbers with commas between them, got {','.join(words)}") from None


def _option(name: str, annotation: Any, default: Any, help_: str, group: Group) -> inspect.Parameter:
    parameter = Parameter(help=help_, group=group)
    plain, _, _ = options.resolve(annotation)
    if plain is int:
        parameter = Parameter(help=help_, group=group, converter=_whole)
    elif plain == list[float]:
        parameter = Parameter(help=help_, group=group, converter=_numbers, n_tokens=1, negative=())
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[annotation, parameter]
    )


def _help(option: methods.Option) -> str:
    """Help of a method's option, its range included."""
    return f"{option.help} [{option.rule}]" if option.rule else option.help


def _run_options() -> list[inspect.Parameter]:
    helps = methods.arguments(inspect.getdoc(Settings) or "")
    return [
        _option(
            field.name,
            field.type,
            None if field.default is MISSING else field.default,
            helps[field.name],
            RUN,
        )
        for field in fields(Settings)
    ]


def _reads(name: str) -> Parameter:
    return Parameter(help=methods.arguments(inspect.getdoc(Settings) or "")[name], group=READ)


@dataclass(frozen=True)
class Reading:
    """The settings that say how data is read, for the commands that open it without training."""

    label: Annotated[str | None, _reads("label")] = None
    text_column: Annotated[str | None, _reads("text_column")] = None
    encoding: Annotated[str | None, _reads("encoding")] = None
    group: Annotated[str | None, _reads("group")] = None


AS_FOUND = Reading()


def _pretrain_command(name: str) -> Callable[..., None]:
    """The command of one method: its own options from its source, then the run's."""
    description = methods.describe(name)
    group = Group(f"{description.class_name} options", sort_key=2)
    own = [
        _option(option.name, option.type, option.default, _help(option), group)
        for option in description.options
    ]
    data = inspect.Parameter("data", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Source)
    rest = [
        _option("out", Path | None, None, f"Folder of the run. [default: runs/{name}-DATA]", OUTPUT),
        _option("resume", bool, False, "Continue the run in the folder from its checkpoint.", OUTPUT),
        _option("config", Path | None, None, "A run.toml to repeat; what is given beside it wins.", OUTPUT),
    ]
    parameters = [data, *own, *_run_options(), *rest]

    def command(data: str, **values: Any) -> None:
        from unlabeled.parts import gather
        from unlabeled.training.train import pretrain

        run = pretrain(name, data, **values)
        if gather.rank() == 0:
            print(run.path)

    command.__doc__ = f"{description.summary}\n\nSource: {description.source}"
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


for _name in methods.names():
    pretrain_app.command(_pretrain_command(_name), name=_name)


@app.command(name="methods")
def list_methods() -> None:
    """List the methods by the kind of data that they learn from, each with its idea in a sentence."""
    width = max(map(len, methods.names()))
    described = [methods.describe(name) for name in methods.names()]
    for kind in dict.fromkeys(["image", *(method.kind for method in described)]):
        print(f"{kind}:")
        for method in described:
            if method.kind == kind:
                print(f"  {method.name:<{width}}  {method.summary.partition(': ')[2]}")


@app.command
def demo(*, out: Path = Path("runs/demo"), seed: Annotated[int, Parameter(converter=_whole)] = 0) -> None:
    """Learn from the built-in digits without labels, and see with how few labels that pays.

    Args:
        out: Folder of the run and its report.
        seed: Seed of every random choice.
    """
    from unlabeled.demo import demo as play

    play(out, seed)


@app.command
def selftest() -> None:
    """Check on this machine that everything works: closed forms, every method, resuming, two processes."""
    from unlabeled.selftest import selftest as run_checks

    print(f"{'':8}{'seconds':>8}  check")
    checks = run_checks(
        lambda done: print(
            f"{'ok' if done.right else 'FAILED':8}{done.seconds:8.1f}  {done.name}: {done.found}", flush=True
        )
    )
    failed = [done for done in checks if not done.right]
    print(
        f"{len(checks) - len(failed)} of {len(checks)} checks passed, {sum(c.seconds for c in checks):.0f} s"
    )
    if failed:
        sys.exit(1)


@app.command
def record(
    out: Annotated[Path, Parameter(help="Folder of the walks, new or without any.")],
    /,
    *,
    walks: Annotated[int, Parameter(converter=_whole)] = 60,
    steps: Annotated[int, Parameter(converter=_whole)] = 120,
    seed: Annotated[int, Parameter(converter=_whole)] = 0,
    scenario: str = "my_way_home",
    size: Annotated[int, Parameter(converter=_whole)] = 48,
) -> None:
    """Record walks through a level of Doom, with the pose of every frame; needs unlabeled[embodied].

    Args:
        walks: How many.
        steps: Frames of each walk, of which 8.75 make a second of the game.
        seed: Seed of where walks begin and where they go.
        scenario: Name of a level that comes with ViZDoom, such as my_way_home or health_gathering.
        size: Height and width in pixels, at most 240.
    """
    from unlabeled.worlds import vizdoom_walks

    files = vizdoom_walks.record(out, walks, steps, seed, scenario=scenario, size=size)
    print(f"{out}: {len(files)} walks of {steps} frames")


@app.command
def evaluate(
    run: Run,
    data: Source,
    /,
    *,
    probe: Words = ("knn", "linear"),
    labels_per_class: Words = ("all",),
    controls: Words = ("raw", "random", "rescaled"),
    draws: Annotated[int, Parameter(converter=_whole)] = 5,
    seed: Annotated[int, Parameter(converter=_whole)] = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    encoder: Network = None,
    reading: Annotated[Reading, Parameter(name="*")] = AS_FOUND,
) -> None:
    """Measure frozen features against the controls on labelled data.

    Args:
        probe: Any of knn, linear, few, finetune, layers, or of the tasks alignment, analogies, factors,
            localisation, perplexity, propagation, retrieval, similarity, zones, with commas between them.
        labels_per_class: Numbers of labels, shares of each class, or all: 1,10,1%,all.
        controls: Any of raw, random, rescaled, supervised; none switches them off. Tasks have their own.
        draws: Random choices of the labels, where not all are used.
        seed: Seed of the draws.
        device: auto, cpu or cuda.
    """
    from unlabeled.evaluation import evaluate as measure
    from unlabeled.run import load

    opened = load(run, encoder)
    scores = measure(
        opened,
        data,
        probe=probe,
        labels_per_class=labels_per_class,
        controls=() if controls == ("none",) else controls,
        draws=draws,
        seed=seed,
        device=device,
        **asdict(reading),
        progress=_tell,
    )
    try:
        opened.add_evaluation(scores.about, scores.records)
    finally:  # a full disk must not cost the numbers
        print(scores.table())
        print(scores.verdict())


@app.command
def compare(
    *methods_and_data: str,
    epochs: Annotated[int | None, Parameter(converter=_whole)] = None,
    steps: Annotated[int | None, Parameter(converter=_whole)] = None,
    batch_size: Annotated[int | None, Parameter(converter=_whole)] = None,
    encoder: str | None = None,
    image_size: Annotated[int | None, Parameter(converter=_whole)] = None,
    store_size: Annotated[int | None, Parameter(converter=_whole)] = None,
    seed: Annotated[int, Parameter(converter=_whole)] = 0,
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    probe: Words = ("knn", "linear"),
    labels_per_class: Words = ("all",),
    controls: Words = ("raw", "random"),
    out: Path | None = None,
    reading: Annotated[Reading, Parameter(name="*")] = AS_FOUND,
) -> None:
    """Train several methods on the same data with the same budget, and judge them side by side.

    Args:
        methods_and_data: Names of methods, then the data.
        epochs: Passes over the data, the same for all.
        steps: Optimizer steps, instead of epochs.
        batch_size: Samples in each forward pass.
        encoder: Network, the same for all.
        image_size: Height and width in pixels of the encoder's input.
        store_size: Shorter side in pixels at which decoded pictures are kept; larger ones are shrunk to it once.
        seed: Seed of every random choice.
        device: auto, cpu, cuda or mps.
        probe: Any of the probes or tasks of evaluate, with commas between them.
        labels_per_class: Numbers of labels, shares of each class, or all: 1,10,1%,all.
        controls: Any of raw, random, rescaled, supervised; none switches them off.
        out: Folder of the runs and the report; the next free runs/compare if left out.
    """
    if len(methods_and_data) < 2:
        raise UserError(
            f"compare must get at least one method and the data, got {' '.join(methods_and_data)}"
        )
    *names, data = methods_and_data
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"compare must get every method once, got {name} {names.count(name)} times")
        methods.describe(name)
    from unlabeled.data import open_splits
    from unlabeled.data.opening import store_size as suiting
    from unlabeled.evaluation import evaluate as measure
    from unlabeled.evaluation.probes import few_labels
    from unlabeled.files import new_folder
    from unlabeled.reporting import report as draw
    from unlabeled.training.train import pretrain

    settings: dict[str, Any] = {
        "epochs": epochs,
        "steps": steps,
        "batch_size": batch_size,
        "encoder": encoder,
    }
    settings |= {"image_size": image_size, "store_size": store_size, "seed": seed, "device": device}
    counts = few_labels.counts(labels_per_class)
    folder = out or new_folder(Path("runs/compare"))
    kind, read = _one_kind(names), asdict(reading)
    size = store_size or suiting(kind, image_size)
    # Divided once, so that no method sees the test images, not even without their labels.
    train, test = open_splits(data, kind=kind, store_size=size, **read)
    settings |= {name: read[name] for name in read if name != "group"}  # how the report reads the data
    runs = []
    for name in names:
        run = pretrain(name, train, out=folder / name, **settings)
        scores = measure(
            run,
            (train, test),
            probe=probe,
            labels_per_class=counts,
            controls=() if controls == ("none",) else controls,
            seed=seed,
            device="cpu" if device == "mps" else device,
            progress=_tell,
        )
        run.add_evaluation(scores.about, scores.records)
        print(f"\n{name}\n{scores.table()}\n{scores.verdict()}")
        runs.append(run)
    print(draw(runs, data=data, out=folder / "report.html"))


def _one_kind(names: Sequence[str]) -> str:
    """The kind of data that all methods of some names learn from."""
    kinds = {methods.load(name).kind for name in names}
    if len(kinds) > 1:
        raise UserError(f"compare must get methods for one kind of data, got {', '.join(sorted(kinds))}")
    return kinds.pop()


@app.command
def show(
    run: Run,
    data: Source,
    /,
    *,
    samples: Annotated[int, Parameter(converter=_whole)] = 8,
    seed: Annotated[int, Parameter(converter=_whole)] = 0,
    out: Path | None = None,
    encoder: Network = None,
) -> None:
    """Save a picture of what the method withheld and what it predicted, or print it where it is text.

    Args:
        samples: How many are shown.
        seed: Which samples.
        out: PNG file; pictures.png in the run's folder if left out.
    """
    import torch

    from unlabeled.data import open_data
    from unlabeled.files import atomic
    from unlabeled.reporting import pictures
    from unlabeled.run import load

    check.at_least(1, samples=samples)
    opened = load(run, encoder)
    with torch.no_grad():
        batch = opened.method.training_view(open_data(data, **opened.reading)).sample(samples, seed)
        torch.manual_seed(seed)
        shown = opened.method.pictures(batch)
    texts = {name: row for name, row in shown.items() if isinstance(row, list)}
    for place in range(min(map(len, texts.values()), default=0)):
        print("\n".join(f"{name}: {row[place]}" for name, row in texts.items()), end="\n\n")
    images = {name: row for name, row in shown.items() if isinstance(row, torch.Tensor)}
    if images or not texts:
        path = out or opened.path / "pictures.png"
        with atomic(path) as temporary:
            temporary.write_bytes(pictures.sheet(images))
        print(path)


@app.command
def embed(
    run: Run,
    data: Source,
    /,
    *,
    out: Path,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    encoder: Network = None,
    reading: Annotated[Reading, Parameter(name="*")] = AS_FOUND,
) -> None:
    """Write the features of every sample, with its path and what is known of it, as parquet, csv, npz or npy.

    Args:
        out: File whose ending says how it is written: .parquet, .csv, .npz, or .npy for the features alone.
        device: auto, cpu or cuda.
    """
    from unlabeled.evaluation import embed as compute
    from unlabeled.run import load

    features, _ = compute(load(run, encoder), data, out=out, device=device, **asdict(reading))
    print(f"{out}: {features.shape[0]:,} samples x {features.shape[1]} numbers")


@app.command
def report(*runs: Path, data: str | None = None, out: Path | None = None, encoder: Network = None) -> None:
    """Make one self-contained HTML page of a run, or of several side by side.

    Args:
        runs: Folders of runs.
        data: Where the pictures come from; what each run was trained on if left out.
        out: HTML file; report.html in the first run's folder if left out.
    """
    from unlabeled.reporting import report as draw
    from unlabeled.run import load

    if not runs:
        raise UserError("report must get at least one run, got none")
    opened = [load(run, encoder if load(run).own_network else None) for run in runs]
    print(draw(opened, data=data, out=out))


@app.command
def audit(
    *sources: str,
    kind: str | None = None,
    near: bool = True,
    json: Path | None = None,
    out: Path | None = None,
    strict: bool = False,
    reading: Annotated[Reading, Parameter(name="*")] = AS_FOUND,
) -> None:
    """Look for copies within and across the parts of data, broken files, and labels that disagree.

    Equal samples are found in data of every kind; near copies among images (cropped, mirrored, resized, compressed
    again) and among texts. The exit status is 0 whatever it finds, unless --strict is given.

    Args:
        sources: Built-in sets, folders, files or hub names; all splits of each are compared.
        kind: image, text, audio, video, audio-visual, cameras or trajectory; detected from the files if left out.
        near: Whether to look for near copies too, not only for equal samples.
        json: JSON file for all findings.
        out: HTML file with pictures of the findings.
        strict: Exit with status 1 where equal samples or near copies are in several parts, where equal samples have
            different classes, or where nothing could be read.
    """
    from unlabeled.auditing import audit as look

    found = look(*sources, kind=kind, near=near, progress=_tell, **asdict(reading))
    print(found.table())
    if json is not None:
        found.to_json(json)
    if out is not None:
        from unlabeled.reporting.audit_page import write_page

        print(write_page(found, out))
    if strict and (found.leaks or not any(map(len, found.parts))):
        sys.exit(1)


@app.command
def export(
    run: Run,
    /,
    *,
    out: Path,
    format: Literal["safetensors", "timm", "onnx", "transformers", "word2vec"] = "safetensors",
    encoder: Network = None,
) -> None:
    """Write the encoder for other libraries, and prove that it computes the same there.

    Args:
        out: File to write; a folder for timm and transformers.
        format: safetensors; of images timm or onnx; of text and sound transformers; of words word2vec.
    """
    from unlabeled.exporting import export as write
    from unlabeled.run import load

    written = write(load(run, encoder), out, format=format)
    note = f"; {written.note}" if written.note else ""
    print(f"{written.path}: loaded again, its features differ by at most {written.difference:.1g}{note}")


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: Words after the program's name; those of the process if None.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    warnings.formatwarning = _warning
    try:
        app(words)
    except UserError as error:
        _stop(str(error), 2)
    except OSError as error:
        _stop(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), 2)
    except KeyboardInterrupt as interrupt:
        _stop(str(interrupt) or "stopped", 130)
    except FloatingPointError as error:
        _stop(str(error), 3)


def _warning(message: Warning | str, *where: Any, **more: Any) -> str:
    """A warning as a line of its own, without the place in the source that gave it."""
    return f"warning: {message}\n"


def _stop(message: str, code: int) -> NoReturn:
    """End with a message, said by the first of several processes."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"unlabeled: {message}", file=sys.stderr)
    sys.exit(code)
