"""Words to calls: the only file that parses arguments, prints help and sets exit codes."""

import inspect
import os
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from cyclopts import App, CycloptsError, Group, Parameter, Token, UnusedCliTokensError

from unlabeled import check, files, hub, methods, options
from unlabeled.check import UserError
from unlabeled.evaluation.controls import CONTROLS
from unlabeled.evaluation.probes import PROBES
from unlabeled.evaluation.tasks import TASKS
from unlabeled.progress import duration, telling
from unlabeled.training.settings import ADAPT, BUDGET, Settings
from unlabeled.version import __version__

__all__ = ["main"]

RUN = Group("Run options", sort_key=3)
READ = Group("How data is read", sort_key=3)
OUTPUT = Group("Output", sort_key=4)

app = App(
    name="unlabeled",
    help="Train an encoder on unlabelled data, and measure whether it helped.",
    version=__version__,
    help_format="plaintext",
    suppress_keyboard_interrupt=False,
)
pretrain_app = App(
    name="pretrain",
    help="Train an encoder without labels. Each method has its own options: unlabeled pretrain METHOD --help.",
    usage="Usage: unlabeled pretrain METHOD DATA [OPTIONS]\n       unlabeled pretrain --config run.toml [OPTIONS]",
)
app.command(pretrain_app)
adapt_app = App(
    name="adapt",
    help="Continue training from pretrained weights on your own data, without labels: pretrain with other defaults. "
    "The heads are trained alone first; then the encoder learns at a low rate, its first layers at the lowest.",
    usage="Usage: unlabeled adapt METHOD DATA --weights WEIGHTS [OPTIONS]",
)
app.command(adapt_app)


def _whole(type_: Any, tokens: Sequence[Token]) -> int:
    """An integer as written: cyclopts alone would round 2.5 to 2."""
    try:
        return int(tokens[0].value)
    except ValueError:
        raise UserError(f"must be a whole number, got {tokens[0].value}") from None


def _listed(type_: Any, tokens: Sequence[Token]) -> tuple[str, ...]:
    """Words separated by commas."""
    return tuple(word.strip() for token in tokens for word in token.value.split(",") if word.strip())


def _controls(type_: Any, tokens: Sequence[Token]) -> tuple[str, ...]:
    """Words separated by commas, of which "none" alone is none."""
    words = _listed(type_, tokens)
    return () if words == ("none",) else words


def _numbers(type_: Any, tokens: Sequence[Token]) -> list[float]:
    """Numbers separated by commas."""
    words = _listed(type_, tokens)
    try:
        return [float(word) for word in words]
    except ValueError:
        raise UserError(f"must be numbers separated by commas, got {','.join(words)}") from None


Whole = Annotated[int, Parameter(converter=_whole)]
WholeOrNone = Annotated[int | None, Parameter(converter=_whole)]
WORDS = Parameter(converter=_listed, n_tokens=1, negative=(), show_default=",".join)
Words = Annotated[tuple[str, ...], WORDS]
ChosenWords = Annotated[tuple[str, ...], WORDS, Parameter(show_default=False)]
"""Words whose default is chosen; the help says by what."""
Controls = Annotated[
    tuple[str, ...],
    WORDS,
    Parameter(
        converter=_controls,
        help="Controls to measure beside the encoder: default (those that take seconds), baselines (what older methods "
        f"make of the raw input), all, none, or any of {CONTROLS} that suit the kind of data, separated by commas. "
        "Tasks have their own.",
    ),
]
Probes = Annotated[
    tuple[str, ...],
    WORDS,
    Parameter(
        help=f"Probes, which predict labels: {PROBES}; semi_supervised for all that learn from unlabelled training "
        f"samples too; and tasks: {TASKS}; separated by commas."
    ),
]
Run = Annotated[Path, Parameter(help="Folder of a run, or hub:OWNER/NAME of one that was published.")]
Network = Annotated[
    str | None,
    Parameter(
        help="module:function that builds the network of the run. [default: the built-in encoder named in the run]"
    ),
]
EMBEDDERS = (
    "Folder of a run, or hub:OWNER/NAME; weights as timm:NAME, torchvision:NAME, hf:OWNER/NAME or a file; or auto, "
    "which trains what pretrain auto chooses on the data first."
)
CONFIG = "The run.toml of a run to repeat; options given here override it. [default: none]"
SOURCES = "Built-in set such as digits, folder, parquet, tar, npz, or hub name."
Source = Annotated[str, Parameter(help=SOURCES)]


def _option(name: str, annotation: Any, default: Any, help_: str, group: Group) -> inspect.Parameter:
    """A keyword of a command, whose help names the range of its values before its default."""
    plain, range_, _ = options.resolve(annotation)
    text, bracket, rest = help_.partition(" [default: ")
    help_ = text + (f" [{range_}]" if range_ else "") + bracket + rest
    parameter = Parameter(help=help_, group=group)
    if plain is int:
        parameter = Parameter(help=help_, group=group, converter=_whole)
    elif plain == list[float]:
        parameter = Parameter(help=help_, group=group, converter=_numbers, n_tokens=1, negative=())
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[annotation, parameter]
    )


Features = Annotated[
    str | None,
    Parameter(
        help="Features to use: a map or output, a grid such as 2x2, standardize, whiten, views or contrast, and a "
        "number of dimensions, joined by colons, as in layer2:2x2:whiten:128; or choose, by cross-validation on "
        "training labels. [default: what the method declares, else output]"
    ),
]
Directions = Annotated[
    Literal["views", "contrast"] | None,
    Parameter(
        help="views keeps the feature directions that change little between random views of an image; contrast adds a "
        "small contrastive network, trained in seconds to tell views of one image from those of others. [default: none]"
    ),
]

SETTINGS = methods.arguments(inspect.getdoc(Settings) or "")
"""Help of the run options by name."""
ENCODERS = {
    "image": "conv4, resnet10, resnet18, resnet50, alexnet, nin, dense, vit-small, vit-registers-small, vit-gap-tiny, "
    "vit-gap-small, dictionary-400 (or any number of atoms), dictionary2-400 (two layers), split-conv4, split-alexnet, "
    "pixel-gpt-8, pixel-gpt-16, pixel-gpt-32, any timm model",
    "text": "bert-tiny, bert-mini, bert-small, bert-medium, bert-base, bert-rotary-tiny, bert-rotary-mini, "
    "bert-rotary-small, bert-rotary-medium, bert-rotary-base, "
    "gpt-tiny, gpt-mini, gpt-small, gpt-medium, gpt-base, nplm-tiny, nplm-small, nplm-medium",
    "words": "words-50, words-100, words-300",
    "audio": "gru2-256, gru3 (or gruN-WIDTH), audio-conv, mel-dictionary-256, mel-transformer-tiny, "
    "mel-transformer-mini, mel-transformer-base, cpc-tiny, cpc-mini, cpc-base, pase-tiny, pase-mini, pase-base, "
    "wav2vec2-tiny, wav2vec2-mini, wav2vec2-base",
    "video": "frames-conv4, frames-resnet10, frames-resnet18 (or frames- with any image encoder), lstm-256, lstm-512, "
    "lstm-2048, conv3d, r3d_18, mc3_18, r2plus1d_18, vit3d-tiny, vit3d-small, vit3d-base, cube-dictionary-256",
    "audio-visual": "av-resnet10, av-conv4",
}
"""Built-in encoders by kind, for help that does not import torch."""


def _reads(name: str) -> Parameter:
    return Parameter(help=SETTINGS[name], group=READ)


@dataclass(frozen=True)
class Reading:
    """The settings that say how data is read, for the commands that open it without training."""

    label: Annotated[str | None, _reads("label")] = None
    text_column: Annotated[str | None, _reads("text_column")] = None
    encoding: Annotated[str | None, _reads("encoding")] = None
    group: Annotated[str | None, _reads("group")] = None
    fold: Annotated[WholeOrNone, _reads("fold")] = None


DETECTED = Reading()


@dataclass(frozen=True)
class TaskOptions:
    """What tasks take beside what probes take too.

    Attributes:
        size: Shorter side in pixels of images or frames for propagation, segmentation and detection. [default: 240; for
            propagation twice the encoder's image size, or less where that is too slow]
        clips: Clips of each test video whose probabilities the task recognition averages. [default: 5, fewer where
            videos are short]
        crops: Square crops of each clip, along the longer side, that it averages. [default: 1]
        labels: Numbers of labelled images that multilabel, segmentation and detection train on, percentages of them,
            or all: 10,25,50,all.
        seeds: Trainings of each of these, on draws of images of their own.
        train: Parts of the network that they train: head, all, or the name of the map from which upward; for multilabel
            frozen too. [default: all; for multilabel frozen,all]
        maps: Names of the maps that heads of segmentation and detection see. [default: all from a stride of 4 pixels
            upward]
    """

    size: WholeOrNone = None
    clips: WholeOrNone = None
    crops: WholeOrNone = None
    labels: Words = ("all",)
    seeds: Whole = 1
    train: ChosenWords = ()
    maps: ChosenWords = ()

    @property
    def chosen(self) -> dict[str, Any]:
        """The keywords of `evaluation.evaluate`."""
        from unlabeled.evaluation.model import Transfer

        transfer = Transfer(self.labels, self.seeds, train=self.train, maps=self.maps)
        words: dict[str, Any] = {"size": self.size, "clips": self.clips, "crops": self.crops}
        return words | ({"transfer": transfer} if transfer.options else {})


CHOSEN_BY_TASKS = TaskOptions()


def _help(name: str, method: methods.Description) -> str:
    """Help of a run option, with what the method chooses for itself."""
    known = ENCODERS.get(method.encoder_kind or method.kind, "a built-in one")
    help_ = SETTINGS[name].replace("a built-in one, any timm model", known)
    text, bracket, chosen = help_.partition(" [default: ")
    if method is AUTO and name in ("encoder", "features"):
        return f"{text} [default: chosen with the method]"
    if name in method.defaults:
        value = method.defaults[name]
        words = ",".join(map(str, value)) if isinstance(value, list | tuple) else value
        return f"{text} [default: {words}]"
    lengths = [f"{method.defaults[other]} {other}" for other in BUDGET if other in method.defaults]
    if name in BUDGET and lengths:
        return f"{text} [default: none, as it takes {lengths[0]}]"
    return text + bracket + chosen.replace("10 to 800", f"10 to {method.most_epochs}")


AUTO = methods.Description(
    name="auto",
    class_name="Auto",
    summary="Choose method, network and features by the kind of data and the machine, and say why.",
    text="",
    source="measurements in docs/benchmarks.md",
    options=(),
    kind="any",
)


def _pretrain_command(method: methods.Description, verb: Literal["pretrain", "adapt"]) -> Callable[..., None]:
    """The command of one method: its own options from its source, then the run's."""
    name, changed = method.name, ADAPT if verb == "adapt" else {}
    group = Group(f"{method.class_name} options", sort_key=2)
    source = Annotated[
        str | None, Parameter(help=f"{SOURCES} [default: that of the run given by --config or --resume]")
    ]
    rest = {
        "out": (
            Path | None,
            None,
            f"Folder of the run. [default: the next free runs/{name}-DATA]",
        ),
        "resume": (
            bool,
            False,
            "Continue the run in the folder from its checkpoint, or start a new one if there is none.",
        ),
        "dry_run": (bool, False, "Print the chosen settings and the estimated duration, without training."),
        "config": (Path | None, None, CONFIG),
    }
    parameters = [
        inspect.Parameter("data", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=source),
        *(_option(one.name, one.type, one.default, one.help, group) for one in method.options),
        *(
            _option(one.name, one.type, changed.get(one.name, one.default), _help(one.name, method), RUN)
            for one in fields(Settings)
        ),
        *(_option(key, type_, default, help_, OUTPUT) for key, (type_, default, help_) in rest.items()),
    ]

    defaults = {parameter.name: parameter.default for parameter in parameters}

    def command(data: str | None = None, **values: Any) -> None:
        _train(verb, name, data, values, defaults)

    command.__doc__ = f"{method.summary}\n\nSource: {method.source}"
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _train(
    verb: Literal["pretrain", "adapt"],
    name: str,
    data: str | None,
    values: dict[str, Any],
    defaults: dict[str, Any],
) -> None:
    """Train, or with --dry-run say what would be trained; then print the command that comes next."""
    from unlabeled.parts import gather
    from unlabeled.training.adapt import adapt
    from unlabeled.training.train import pretrain, preview

    if values.pop("dry_run", False):
        if values.pop("resume", False):
            raise UserError(
                "dry_run must be left out to resume a run, whose settings are in its run.toml, got both"
            )
        out = values.pop("out", None)
        changed = ADAPT if verb == "adapt" and values.get("config") is None else {}
        lines = preview(name, data or _stored_data(values), **{**changed, **values})
        if gather.rank() == 0:
            print("\n".join(lines), flush=True)
            given = {key: value for key, value in (values | {"out": out}).items() if value != defaults[key]}
            _next(verb, name, *([data] if data else []), *_words(given))
        return
    train = adapt if verb == "adapt" else pretrain
    run = train(name, data or _stored_data(values), **values)
    if gather.rank() == 0:
        print(run.path, flush=True)
        _next("evaluate", run.path, _labelled(run))


def command_for(words: Sequence[str]) -> App:
    """The command line for some words: where these name a method, the commands of the others are not built.

    Building those of all methods takes a second.
    """
    verb, method = (*words[:2], "", "")[:2]
    if verb == "pretrain":
        _add_methods(pretrain_app, verb, method, [AUTO.name, *methods.names()])
    elif verb == "adapt":
        _add_methods(adapt_app, verb, method, methods.names())
    return app


def _add_methods(parent: App, verb: Literal["pretrain", "adapt"], named: str, every: Sequence[str]) -> None:
    """Add the command of the method that is named, or of every method where none is."""
    weights = "--weights WEIGHTS " if verb == "adapt" else ""
    for name in [named] if named in every else every:
        if name not in parent:
            method = AUTO if name == AUTO.name else methods.describe(name)
            usage = f"Usage: unlabeled {verb} {name} DATA {weights}[OPTIONS]"
            parent.command(_pretrain_command(method, verb), name=name, usage=usage)


@adapt_app.default
def adapt_what(*words: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)]) -> None:
    """Name the method that is missing or misspelt."""
    if not words:
        adapt_app.help_print([])
        return
    methods.describe(words[0])


@pretrain_app.default
def repeat(
    *words: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Annotated[Path | None, Parameter(help=CONFIG)] = None,
) -> None:
    """Train as a stored run was: its method, and its data unless other data is named."""
    if config is None and not words:
        pretrain_app.help_print([])
        return
    if config is not None and (not words or words[0] not in (AUTO.name, *methods.names())):
        from unlabeled.run import read_config

        words = (read_config(config, ("method",))["method"], *words)
    if words[0] != AUTO.name:
        methods.describe(words[0])
    if config is None:
        raise UserError(f"method must come before its options, got {' '.join(words)}")
    command_for(["pretrain", words[0]])
    _call(pretrain_app, [*words, "--config", str(config)])


def _stored_data(values: Mapping[str, Any]) -> str:
    """Source of the data of the run that is repeated or resumed."""
    config, out = values.get("config"), values.get("out")
    if config is None and values.get("resume") and out is not None:
        config = out / "run.toml"
        if not config.is_file():
            raise UserError(f"data must be named, as {out} holds no run to resume yet, got none")
    if config is None:
        raise UserError("data must be named, or known from --config, or from --resume with --out, got none")
    return _source(config)


def _labelled(run: Any, source: str | None = None) -> str:
    """What the data to evaluate a run on is called: that of the run, if it has labels, or a placeholder."""
    data = run.config.get("data", {})
    source = source or data.get("source")
    if source == data.get("source") and data.get("classes", 2) < 2:
        return "LABELLED"
    return source or "LABELLED"


def _source_of(run: Any) -> str:
    """Source of the data of a run, or a placeholder where that has none."""
    return run.config.get("data", {}).get("source") or "DATA"


def _source(config: Path) -> str:
    """Source of the data of a run, by its run.toml."""
    from unlabeled.run import read_config

    if source := read_config(config).get("data", {}).get("source"):
        return str(source)
    raise UserError(f"data must be named, as {config} holds no source of it, got none")


@app.command(name="methods")
def list_methods() -> None:
    """List the methods by the kind of data they learn from, with the idea of each in one sentence."""
    width = max(map(len, methods.names()))
    described = [methods.describe(name) for name in methods.names()]
    for kind in dict.fromkeys(["image", *(method.kind for method in described)]):
        print(f"{kind}:")
        for method in described:
            if method.kind == kind:
                print(f"  {method.name:<{width}}  {method.summary.partition(': ')[2]}")
    _next("pretrain", "METHOD", "--help")


@app.command
def demo(*, out: Path = Path("runs/demo"), seed: Whole = 0) -> None:
    """Learn from the built-in digits without labels, and measure how much that helps with few labels.

    Args:
        out: Folder of the run and its report.
        seed: Seed of all random numbers.
    """
    from unlabeled.demo import demo as play

    play(out, seed)
    _next("pretrain", "simclr", "PICTURES")


@app.command
def selftest() -> None:
    """Check that everything works on this machine: closed forms, every method, resuming, two processes."""
    from unlabeled.selftest import selftest as run_checks
    from unlabeled.selftest import size

    _tell(f"{size()} checks, which take a few minutes on two cores")
    print(f"{'':8}{'seconds':>8}  check")
    with telling(_tell):
        checks = run_checks(
            lambda one: print(
                f"{'ok' if one.right else 'FAILED':8}{one.seconds:8.1f}  {one.name}: {one.result}",
                flush=True,
            )
        )
    failed = [one for one in checks if not one.right]
    seconds = sum(one.seconds for one in checks)
    print(f"{len(checks) - len(failed)} of {len(checks)} checks passed in {duration(seconds)}")
    if failed:
        sys.exit(1)
    _next("demo")


@app.command
def doctor(*, json: Annotated[bool, Parameter(negative=())] = False) -> None:
    """Tell what this machine and installation have, for bug reports: versions, devices, threads, caches, disk space.

    Nothing is trained; selftest checks that everything works.

    Args:
        json: Print one JSON object.
    """
    from json import dumps

    from unlabeled.doctor import doctor as look
    from unlabeled.doctor import written

    report = look()
    if json:
        print(dumps(report, indent=1))
        return
    print(written(report), flush=True)
    _next("selftest")


@app.command(usage="Usage: unlabeled record OUT [OPTIONS]")
def record(
    out: Annotated[Path, Parameter(help="Folder for the trajectories; it must hold none yet.")],
    /,
    *,
    trajectories: Whole = 60,
    steps: Whole = 120,
    seed: Whole = 0,
    scenario: str = "my_way_home",
    size: Whole = 48,
) -> None:
    """Record agent trajectories through a level of Doom, with the pose of every frame; needs unlabeled[embodied].

    Args:
        trajectories: Number of trajectories.
        steps: Frames in each trajectory; 8.75 frames are one second of the game.
        seed: Seed of the starting points and the routes.
        scenario: Name of a level that comes with ViZDoom, such as my_way_home or health_gathering.
        size: Height and width in pixels, at most 240.
    """
    from unlabeled.worlds import vizdoom_walks

    written = vizdoom_walks.record(out, trajectories, steps, seed, scenario=scenario, size=size)
    print(f"{out}: {len(written)} trajectories of {steps} frames", flush=True)
    _next("pretrain", "trajectory_unmasking", out)


@app.command(usage="Usage: unlabeled evaluate RUN DATA [OPTIONS]")
def evaluate(
    run: Run,
    data: Source,
    /,
    *,
    probe: Probes = ("knn", "linear"),
    labels_per_class: Words = ("all",),
    controls: Controls = ("default",),
    features: Features = None,
    directions: Directions = None,
    public_weights: str | None = None,
    draws: Whole = 5,
    seed: Whole = 0,
    steps: WholeOrNone = None,
    of_tasks: Annotated[TaskOptions, Parameter(name="*")] = CHOSEN_BY_TASKS,
    snapshots: Annotated[bool, Parameter(negative=())] = False,
    device: options.Device = "auto",
    encoder: Network = None,
    reading: Annotated[Reading, Parameter(name="*")] = DETECTED,
) -> None:
    """Measure frozen features against the controls on labelled data.

    Args:
        labels_per_class: Numbers of labels per class, percentages of each class, or all: 1,10,1%,all.
        public_weights: Weights of the control public, as --weights of pretrain, such as
            timm:vit_small_patch16_dinov3.lvd1689m. [default: those that the run started from]
        draws: Number of random draws of the labels, where not all labels are used.
        seed: Seed of the draws.
        steps: Optimizer steps of supervised, finetune, nonlinear and recognition, and of tasks that train on labelled
            images. [default: until held-out labels show no improvement; multilabel and segmentation 200, detection 150]
        snapshots: Measure the encoders that were saved during training too, without controls.
        device: Device to compute features on; auto prefers a GPU, and mps computes on the CPU, as it lacks float64.
    """
    from unlabeled.run import load

    opened = load(run, encoder)
    options: dict[str, Any] = {
        "probe": probe,
        "labels_per_class": labels_per_class,
        "features": _named(opened, features, directions),
        "draws": draws,
        "seed": seed,
        "steps": steps,
        "device": device,
    }
    options |= asdict(reading) | of_tasks.chosen
    if snapshots:
        _evaluate_snapshots(opened, data, options)
    about = _evaluate(opened, data, controls=controls, public_weights=public_weights, **options)
    source = opened.config.get("data", {}).get("source")
    if about.get("in_training_part") or about.get("near_in_training_part"):
        _next("audit", data, "--out", "audit.html")
    elif source not in (None, data) and (
        (about.get("seen_in_pretraining") or {}).get("samples") or about.get("near_in_pretraining")
    ):
        _next("audit", source, data, "--out", "audit.html")
    else:
        _next("report", run)


def _evaluate(run: Any, data: Any, **options: Any) -> Mapping[str, Any]:
    """Evaluate a run and print the scores, also where Ctrl-C stops it.

    Returns what is known of the data, such as test samples that are in the training part too.
    """
    measured: dict[str, Any] = {}
    try:
        _measure(run, data, "", measured, **options)
    finally:
        for scores in measured.values():
            print(scores, flush=True)
    if run.results_folder != run.path:
        _tell(f"the scores are in {run.results_folder}, as the cache of the Hub is not written to")
    return measured[""].about


def _measure(run: Any, data: Any, name: str, measured: dict[str, Any], **options: Any) -> None:
    """Evaluate a run, and keep every column as it comes, in its folder and in `measured` by a name."""
    from unlabeled.evaluation import evaluate as measure

    def save(scores: Any) -> None:
        measured[name] = scores
        with suppress(OSError):  # a full disk must not cost the numbers; it is named at the end
            _keep(run, scores)

    try:
        measured[name] = measure(run, data, progress=_tell, save=save, **options)
        _keep(run, measured[name])
    except KeyboardInterrupt:
        suffix = (
            f"; the scores so far are in {run.results_folder / 'scores.json'}" if name in measured else ""
        )
        raise KeyboardInterrupt(f"stopped{suffix}") from None


def _keep(run: Any, scores: Any) -> None:
    """Store scores in the folder of a run, and pictures of what tasks predicted."""
    from unlabeled.reporting import pictures

    run.add_evaluation(scores.about, scores.records)
    for task, rows in scores.pictures.items():
        count = sum(map(len, rows.values()))
        small = {name: pictures.thumbnails(images, count, 600_000, 240) for name, images in rows.items()}
        run.add_predictions(task, pictures.sheet(small))


def _evaluate_snapshots(run: Any, data: Any, options: dict[str, Any]) -> None:
    """Evaluate the encoders along the training by the probes, without controls, and keep the scores."""
    from unlabeled.evaluation import evaluate as measure
    from unlabeled.evaluation.plan import OF_TASKS, probes_for
    from unlabeled.run import Run

    if not run.snapshots:
        raise UserError(f"snapshots must have been kept by pretrain --snapshots, got none in {run.path}")
    probes = [name for name in probes_for(options["probe"]) if name in PROBES]
    if not probes:
        raise UserError(f"snapshots must be measured by a probe, got {','.join(options['probe'])}")
    features = options["features"] or run.config.get("settings", {}).get("features")
    words: dict[str, Any] = (
        options | {"probe": probes, "features": features} | dict.fromkeys((*OF_TASKS, "transfer"))
    )
    for step in run.snapshots:
        earlier = Run(run.path, run.network, step)
        scores = measure(earlier, data, controls="none", **words)
        run.add_evaluation(scores.about, scores.records)
        values = ", ".join(
            f"{' '.join(filter(None, (record['probe'], record['layer'])))} ({record['labels_per_class']}) "
            f"{100 * record['value']:.1f}"
            for record in scores
        )
        print(f"step {step:,}: {values}", flush=True)


@app.command(
    usage="Usage: unlabeled bet PRETRAIN_DATA TARGET_DATA [OPTIONS]\n       unlabeled bet --config bet.toml"
)
def bet(
    pretrain_data: str | None = None,
    target_data: str | None = None,
    /,
    *,
    method: str | None = None,
    task: Literal["classification", "multilabel", "segmentation", "detection"] | None = None,
    budgets: ChosenWords = (),
    labels: ChosenWords = (),
    seeds: WholeOrNone = None,
    train: str | None = None,
    steps: WholeOrNone = None,
    size: WholeOrNone = None,
    encoder: str | None = None,
    image_size: WholeOrNone = None,
    batch_size: WholeOrNone = None,
    seed: WholeOrNone = None,
    device: options.Device | None = None,
    config: Path | None = None,
    out: Path | None = None,
) -> None:
    """Pre-train with and without labels on the same images, and see which transfers better to the target, by how much.

    The same command continues an interrupted bet. The page and the TOML file that repeats the bet are in its folder.

    Args:
        pretrain_data: Images with labels to pre-train on. [default: those of --config]
        target_data: Labelled images of the task. [default: those of --config]
        method: Method without labels. [default: simclr]
        task: What the networks learn on the target. [default: classification]
        budgets: Steps of pre-training, each in trainings of its own. [default: 250,500,1000; with --labels 1000]
        labels: Numbers of labelled samples of the target, as 10,25,50,all: how many labels pre-training was worth.
            [default: all]
        seeds: Trainings on the target of each network, each on a draw of samples of its own. [default: 3]
        train: What is trained on the target: all, frozen, head, or a map and what comes after it. [default: all]
        steps: Optimizer steps of each training on the target. [default: as evaluate has them]
        size: Shorter side in pixels of images for segmentation and detection. [default: 240]
        encoder: Network. [default: chosen by the method and the image size]
        image_size: Height and width of the encoder's input in pixels. [default: chosen by the data]
        batch_size: Samples per step of pre-training. [default: chosen by the method and the data]
        seed: Seed of all random numbers. [default: 0]
        device: Device to train on; auto prefers a GPU. [default: auto]
        config: The bet.toml of a bet to repeat; options given here override it. [default: none]
        out: Folder of the bet. [default: runs/bet-TASK-METHOD-PRETRAIN_DATA-TARGET_DATA]
    """
    from unlabeled.evaluation.bets import bet as play
    from unlabeled.reporting.bet_page import write_page

    with _continued_by_itself():
        done = play(
            pretrain_data, target_data, out=out, config=config, quiet=False, progress=_tell,
            method=method, task=task, budgets=_whole_numbers("budgets", budgets) or None,
            labels=labels or None, seeds=seeds, train=train, steps=steps, size=size, encoder=encoder,
            image_size=image_size, batch_size=batch_size, seed=seed, device=device,
        )  # fmt: skip
    print(f"{done}\n{write_page(done)}", flush=True)
    if (best := done.best_run()) is not None:
        _next("export", best, "--out", "encoder.safetensors")


@app.command(usage="Usage: unlabeled choose DATA [OPTIONS]")
def choose(
    data: Source,
    /,
    *,
    labels: str | None = None,
    labels_per_class: str | None = None,
    minutes: float = 20.0,
    methods: Annotated[tuple[str, ...], WORDS, Parameter(show_default=False)] = (),
    criterion: Literal["rankme", "alpha", "lidar", "silhouette"] | None = None,
    encoder: str | None = None,
    image_size: WholeOrNone = None,
    batch_size: WholeOrNone = None,
    store_size: WholeOrNone = None,
    seed: Whole = 0,
    device: options.Device = "auto",
    out: Path | None = None,
    reading: Annotated[Reading, Parameter(name="*")] = DETECTED,
) -> None:
    """Choose a method for the data within a time: train several shortly, go on with the best third, and so again.

    The same command goes on after an interruption. A candidate that fails is left out, with the reason. All runs and
    choice.json stay in the folder.

    Args:
        data: Built-in set such as digits, folder, parquet, tar, npz, or hub name.
        labels: Labelled samples to choose by, such as a folder with a few of each class. [default: none, unless
            --labels-per-class asks for those of DATA]
        labels_per_class: Labels of each class to choose by: a number, a percentage of each class, or all. [default: all
            of --labels; none without these, where a criterion that needs no labels decides]
        minutes: Minutes for all of it.
        methods: Candidates separated by commas: METHOD, METHOD:recipe (what it declares for small budgets),
            METHOD:SETTING=VALUE, several settings joined by colons, or auto. [default: by the kind of data]
        criterion: What decides without labels. [default: lidar for images, else rankme]
        encoder: Network, the same for all. [default: chosen by the method and the image size]
        image_size: Height and width of the encoder's input in pixels. [default: chosen by the data]
        batch_size: Samples per forward pass. [default: chosen by the method and the data]
        store_size: Shorter side in pixels at which decoded images are stored. [default: chosen by the image size]
        seed: Seed of all random numbers.
        device: Device to train on; auto prefers a GPU.
        out: Folder of the choice. [default: runs/choose-DATA]
    """
    from unlabeled.evaluation.choosing import choose as play

    with _continued_by_itself():
        choice = play(
            data, labels=labels, labels_per_class=labels_per_class, minutes=minutes, methods=methods,
            criterion=criterion, seed=seed, device=device, out=out, quiet=True, progress=_tell,
            reading=asdict(reading), encoder=encoder, image_size=image_size, batch_size=batch_size,
            store_size=store_size,
        )  # fmt: skip
    print(f"{choice}\n{choice.path / 'choice.json'}", flush=True)


def _whole_numbers(name: str, words: Sequence[str]) -> list[int]:
    try:
        return [int(word) for word in words]
    except ValueError:
        raise UserError(f"{name} must be whole numbers separated by commas, got {','.join(words)}") from None


@app.command(usage="Usage: unlabeled compare METHOD... DATA [OPTIONS]")
def compare(
    *methods_and_data: Annotated[str, Parameter(name="METHODS_AND_DATA")],
    epochs: WholeOrNone = None,
    steps: WholeOrNone = None,
    minutes: float | None = None,
    batch_size: WholeOrNone = None,
    encoder: str | None = None,
    image_size: WholeOrNone = None,
    store_size: WholeOrNone = None,
    seed: Whole = 0,
    device: options.Device = "auto",
    probe: Words = ("knn", "linear"),
    labels_per_class: Words = ("all",),
    controls: Controls = ("default",),
    out: Path | None = None,
    reading: Annotated[Reading, Parameter(name="*")] = DETECTED,
) -> None:
    """Train several methods on the same data with the same budget, and evaluate them side by side.

    Args:
        methods_and_data: Names of methods or auto, then the data: a built-in set, folder, file or hub name.
        epochs: Passes over the data, the same for all. [default: chosen by the method and the data]
        steps: Optimizer steps, instead of epochs. [default: as many as the epochs take]
        minutes: Minutes of training per method, instead of epochs. [default: at most 10, on a GPU 60]
        batch_size: Samples per forward pass. [default: chosen by the method and the data]
        encoder: Network, the same for all. [default: chosen by the method and the image size]
        image_size: Height and width of the encoder's input in pixels. [default: chosen by the data]
        store_size: Shorter side in pixels at which decoded images are stored; larger ones are shrunk to it once.
            [default: chosen by the image size]
        seed: Seed of all random numbers.
        device: Device to train on; auto prefers a GPU.
        probe: Any of the probes or tasks of evaluate, separated by commas.
        labels_per_class: Numbers of labels per class, percentages of each class, or all: 1,10,1%,all.
        out: Folder of the runs and the report. [default: the next free runs/compare]
    """
    *names, data = methods_and_data or [""]
    if not names:
        words = " ".join(methods_and_data)
        raise UserError(f"compare must get at least one method and the data, got {words}")
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"compare must get every method once, got {name} {names.count(name)} times")
        if name != AUTO.name:
            methods.describe(name)
    from unlabeled.evaluation import subsets

    settings = {"epochs": epochs, "steps": steps, "minutes": minutes}
    settings |= {
        "batch_size": batch_size,
        "encoder": encoder,
        "image_size": image_size,
        "store_size": store_size,
        "seed": seed,
        "device": device,
    }
    counts = subsets.counts(labels_per_class)
    probing = {"probe": probe, "labels_per_class": counts, "controls": controls, "seed": seed}
    _compare(names, data, out, settings, probing, asdict(reading))


def _compare(
    names: Sequence[str],
    data: str,
    out: Path | None,
    settings: dict[str, Any],
    probing: dict[str, Any],
    reading: dict[str, Any],
) -> None:
    """Train and evaluate methods by name on the same division of the data, and report them."""
    from unlabeled.data import open_splits, store_size
    from unlabeled.evaluation.scores import side_by_side
    from unlabeled.reporting import report as draw
    from unlabeled.training.train import pretrain

    kinds = {methods.describe(name).kind for name in names if name != AUTO.name}
    if len(kinds) > 1:
        raise UserError(f"compare must get methods for one kind of data, got {', '.join(sorted(kinds))}")
    kind = kinds.pop() if kinds else None
    size = settings["store_size"] or store_size(kind, settings["image_size"])
    # Divided once, so that no method sees the test images, not even without their labels.
    train, test = open_splits(data, kind=kind, store_size=size, **reading)
    folder = out or files.new_folder(Path("runs/compare"))
    settings |= {name: reading[name] for name in reading if name != "group"}  # how the report reads the data
    runs, measured = [], dict[str, Any]()
    try:
        for name in names:
            runs.append(pretrain(name, train, out=folder / name, **settings))
            _measure(runs[-1], (train, test), name, measured, device=settings["device"], **probing)
    finally:
        if measured:
            print(side_by_side([*measured.items()]), flush=True)
    print(draw(runs, data=data, out=folder / "report.html"), flush=True)
    _next("embed", runs[0].path, data, "--out", "features.parquet")


@app.command(usage="Usage: unlabeled show RUN [DATA] [OPTIONS]")
def show(
    run: Run,
    data: Annotated[str | None, Parameter(help=f"{SOURCES} [default: what the run was trained on]")] = None,
    /,
    *,
    samples: Whole = 8,
    seed: Whole = 0,
    out: Path | None = None,
    encoder: Network = None,
) -> None:
    """Save a picture of what was hidden from the network and what it predicted; texts are printed.

    Args:
        samples: Number of samples to show.
        seed: Seed of the choice of samples.
        out: PNG file. [default: pictures.png in the run's folder]
    """
    import torch

    from unlabeled.data import open_data
    from unlabeled.reporting import pictures
    from unlabeled.run import load

    check.at_least(1, samples=samples)
    files.require_ending(out, ".png")
    opened = load(run, encoder)
    source = data or _source(opened.path / "run.toml")
    files.refuse_input(out, source)
    with torch.no_grad():
        batch = opened.method.training_view(open_data(source, **opened.reading)).sample(samples, seed)
        torch.manual_seed(seed)
        rows = opened.method.pictures(batch)
    texts = {name: row for name, row in rows.items() if isinstance(row, list)}
    for sample in range(min(map(len, texts.values()), default=0)):
        print("\n".join(f"{name}: {row[sample]}" for name, row in texts.items()), end="\n\n")
    images = {name: row for name, row in rows.items() if isinstance(row, torch.Tensor)}
    if images or not texts:
        path = out or opened.path / "pictures.png"
        with files.atomic(path) as temporary:
            temporary.write_bytes(pictures.sheet(images))
        print(path, flush=True)
    if len(texts) + len(images) < len(rows):
        print(f"to hear the sounds: unlabeled report {run}", flush=True)
    _next("evaluate", run, _labelled(opened, source))


@app.command(usage="Usage: unlabeled embed RUN DATA --out FILE|FOLDER [OPTIONS]")
def embed(
    run: Run,
    data: Source,
    /,
    *,
    out: Path,
    features: Features = None,
    directions: Directions = None,
    thumbnails: Annotated[bool, Parameter(negative=())] = False,
    coordinates: Annotated[bool, Parameter(negative=())] = False,
    stream: Annotated[bool, Parameter(negative=())] = False,
    cache_size: str | None = None,
    workers: WholeOrNone = None,
    device: options.Device = "auto",
    encoder: Network = None,
    reading: Annotated[Reading, Parameter(name="*")] = DETECTED,
) -> None:
    """Write the features of every sample, with its path, split, label and group, as parquet, csv, npz or npy.

    Args:
        out: File, whose extension sets the format: .parquet, .csv, .npz, or .npy for the features alone; or a folder,
            which gets parquet files of 10,000 samples each. The same command resumes a folder, and torchrun or srun
            share it among processes.
        thumbnails: Add a column of small images to a parquet file.
        coordinates: Add columns x and y to a parquet file, a flat map of the features.
        stream: Decode samples of shards while features are computed, as in pretrain; out gets a file for each shard.
        cache_size: Disk space for streamed shards that are not local tar files, such as 200GB. [default: half of the
            free space]
        workers: Processes that decode streamed samples. [default: one per processor]
        device: Device to compute features on; auto prefers a GPU, and mps computes on the CPU, as it lacks float64.
    """
    from unlabeled.evaluation import embed as compute
    from unlabeled.evaluation import embed_shards
    from unlabeled.run import load

    opened = load(run, encoder)
    options: dict[str, Any] = {"out": out, "features": _named(opened, features, directions), "device": device}
    options |= asdict(reading) | {"progress": _tell}
    if stream or not out.suffix:
        if thumbnails or coordinates:
            raise UserError("out must end with .parquet for thumbnails and coordinates, got a folder")
        written = embed_shards(opened, data, stream=stream, cache_size=cache_size, workers=workers, **options)
        part = f"{written.files:,} of {written.expected:,} files"
        print(f"{out}: {part}, {written.samples:,} samples x {written.dim:,} dimensions", flush=True)
        return
    if cache_size is not None or workers is not None:
        raise UserError("cache_size and workers must be left out without stream")
    vectors, _ = compute(opened, data, thumbnails=thumbnails, coordinates=coordinates, **options)
    print(f"{out}: {vectors.shape[0]:,} samples x {vectors.shape[1]:,} dimensions", flush=True)
    _next("export", run, "--out", "encoder.safetensors")


@app.command(usage="Usage: unlabeled report RUN... [OPTIONS]")
def report(
    *runs: Annotated[Path, Parameter(name="RUN")],
    data: str | None = None,
    out: Path | None = None,
    encoder: Network = None,
) -> None:
    """Write a self-contained HTML page about a run, or several runs side by side.

    Args:
        runs: Folders of runs, or hub:OWNER/NAME of published ones.
        data: Data whose samples are shown. [default: what each run was trained on]
        out: HTML file. [default: report.html in the first run's folder; of a published run in the current one]
    """
    from unlabeled.reporting import report as draw
    from unlabeled.run import load

    if not runs:
        raise UserError("report must get at least one run, got none")
    files.require_ending(out, ".html")
    opened = [load(run, encoder if load(run).own_network else None) for run in runs]
    files.refuse_input(out, data, *map(_source_of, opened))
    if out is None and hub.is_address(runs[0]):
        out = Path("report.html")
    print(draw(opened, data=data, out=out), flush=True)
    if opened[0].evaluations:
        _next("embed", runs[0], data or _source_of(opened[0]), "--out", "features.parquet")
    else:
        _next("evaluate", runs[0], _labelled(opened[0]))


@app.command(usage="Usage: unlabeled audit DATA... [OPTIONS]")
def audit(
    *sources: Annotated[str, Parameter(name="DATA")],
    kind: str | None = None,
    near: bool = True,
    json: Path | None = None,
    out: Path | None = None,
    strict: bool = False,
    reading: Annotated[Reading, Parameter(name="*")] = DETECTED,
) -> None:
    """Find duplicates within and across datasets and splits, broken files, and contradictory labels.

    Equal samples are found in data of every kind, near-duplicates among images (cropped, mirrored, resized,
    recompressed) and among texts. The exit status is 0 whatever is found, unless --strict is given.

    Args:
        sources: Built-in sets, folders, files or hub names; all splits of each are compared.
        kind: image, text, audio, video, audio-visual, cameras or trajectory. [default: detected]
        near: Look for near-duplicates, too, not only for equal samples.
        json: JSON file for all findings. [default: none]
        out: HTML file with pictures of the findings. [default: none]
        strict: Exit with status 1 if equal samples or near-duplicates are in several parts, if equal samples have
            different classes, or if nothing could be read.
    """
    from unlabeled.auditing import audit as look

    files.require_ending(out, ".html")
    files.require_ending(json, ".json", called="json")
    files.refuse_input(out, *sources)
    files.refuse_input(json, *sources, called="json")
    findings = look(*sources, kind=kind, near=near, progress=_tell, **asdict(reading))
    print(findings.table())
    if json is not None:
        findings.to_json(json)
    if out is not None:
        from unlabeled.reporting.audit_page import write_page

        print(write_page(findings, out, json=json))
    readable = any(map(len, findings.parts))
    if readable and not findings.leaks:
        _next("pretrain", AUTO.name, *sources[:1])
    elif readable and out is None:
        _next("audit", *sources, "--out", "audit.html")
    if strict and (findings.leaks or not readable):
        sys.exit(1)


@app.command(usage="Usage: unlabeled curate DATA [RUN] [OPTIONS]")
def curate(
    data: Source,
    run: Annotated[str, Parameter(help=EMBEDDERS)] = "auto",
    /,
    *,
    size: WholeOrNone = None,
    share: float | None = None,
    clusters: ChosenWords = (),
    rounds: Whole = 10,
    near: bool = True,
    outliers: Literal["keep", "omit"] = "keep",
    features: Features = None,
    seed: Whole = 0,
    device: options.Device = "auto",
    out: Path | None = None,
    reading: Annotated[Reading, Parameter(name="*")] = DETECTED,
) -> None:
    """Choose a balanced part of unlabelled data by clusters of clusters of its features, without copies.

    Labels play no part. Tables say which samples were omitted and why, and which are outliers; a page shows the
    clusters.

    Args:
        size: Samples to take. [default: as share says]
        share: Fraction of the samples to take instead, in 0..1. [default: 0.5]
        clusters: Clusters of each level, the finest first: 1000,100,10. [default: a fortieth of the samples, then a
            tenth of these, and so on while at least ten are left]
        rounds: How often each level is clustered again from what is nearest to its centres.
        near: Omit near-duplicates of images and texts, too, not only equal samples.
        outliers: omit never takes samples that are far from all others; they are listed in any case.
        seed: Seed of all random choices.
        device: Device to compute features on; auto prefers a GPU, and mps computes on the CPU, as it lacks float64.
        out: Folder, or a file whose extension sets the format of what was taken: .csv or .txt, a list of images;
            .jsonl, texts; .parquet, contents. [default: the next free runs/curated-DATA]
    """
    from unlabeled.curating import curate as choose
    from unlabeled.curating.subset import place, verify, write_subset
    from unlabeled.data.opening import kind_of
    from unlabeled.reporting.curation_page import write_page

    if out is None:
        out = files.new_folder(Path("runs") / f"curated-{_short(data)}")
    verify(out, kind_of(data))
    files.refuse_input(out, data)
    folder, begin = place(out)
    curation = choose(
        data, run, size=size, share=share, clusters=_whole_numbers("clusters", clusters) or None, rounds=rounds,
        near=near, outliers=outliers, features=features, seed=seed, out=folder, device=device, progress=_tell,
        **asdict(reading),
    )  # fmt: skip
    paths = write_subset(curation, out)
    paths["page"] = write_page(curation, folder / f"{begin}clusters.html")
    print("\n".join(curation.summary()))
    print("\n".join(f"{name}: {path}" for name, path in paths.items()), flush=True)
    _next("pretrain", AUTO.name, paths["subset"])


@app.command(usage="Usage: unlabeled explore RUN DATA [OPTIONS]")
def explore(
    run: Annotated[str, Parameter(help=EMBEDDERS)],
    data: Source,
    /,
    *,
    out: Path | None = None,
    features: Features = None,
    parquet: Path | None = None,
    seed: Whole = 0,
    device: options.Device = "auto",
    reading: Annotated[Reading, Parameter(name="*")] = DETECTED,
) -> None:
    """Write a page that searches samples by similarity, with a map, and collects a list of what to label.

    The page works offline, from its folder, with up to 100,000 images, texts, sounds or videos. Lists that it saves are
    data for evaluate and pretrain.

    Args:
        out: Folder of the page. [default: the next free runs/explore-DATA]
        parquet: File of the same features and map, with small images, for viewers such as embedding-atlas.
            [default: none]
        seed: Seed of all random choices.
        device: Device to compute features on; auto prefers a GPU, and mps computes on the CPU, as it lacks float64.
    """
    from unlabeled.exploring import explore as write
    from unlabeled.exploring.exploration import run_beside

    files.refuse_input(parquet, data, called="parquet")
    out = out or files.new_folder(Path("runs") / f"explore-{_short(data)}")
    written = write(
        run, data, out=out, features=features, parquet=parquet, seed=seed, device=device, progress=_tell,
        **asdict(reading),
    )  # fmt: skip
    print("\n".join(written.summary()))
    print(written.path, *([parquet] if parquet else []), sep="\n", flush=True)
    _next("evaluate", run_beside(out) if run == "auto" else run, "labels.csv")


def _short(data: str) -> str:
    """A name for a folder of what is made of data."""
    return re.sub(r"[^\w.-]+", "-", Path(data).stem).strip("-.") or "data"


@app.command(usage="Usage: unlabeled export RUN --out PATH [OPTIONS]")
def export(
    run: Run,
    /,
    *,
    out: Path,
    format: Literal["safetensors", "timm", "onnx", "transformers", "word2vec"] = "safetensors",
    features: Features = None,
    directions: Directions = None,
    data: str | None = None,
    encoder: Network = None,
) -> None:
    """Export the encoder for other libraries, and check that it computes the same features there.

    Args:
        out: File to write; a folder for timm and transformers.
        format: safetensors, for every encoder; onnx, for encoders of images, text and sound; timm, for images and
            networks of timm, such as resnet18 and vit-small; transformers, for text (bert and gpt), sound (wav2vec2)
            and networks that came from transformers as weights; word2vec, for word vectors (lsa, skipgram, cbow).
        data: Data whose training part the features are fitted to. [default: what the run was trained on]
    """
    from unlabeled.evaluation import readouts
    from unlabeled.exporting import check_format
    from unlabeled.exporting import export as write
    from unlabeled.run import load

    files.refuse_input(out, data)
    opened = source = load(run, encoder)
    text = readouts.named(source, features, directions)
    check_format(opened.encoder, out, format, None if text == readouts.OUTPUT else text)
    if text:
        source = readouts.readout(source, text, data, device="cpu", progress=_tell)
    elif data is not None:
        raise UserError(f"data must come with features to fit to it, got {data}")
    written = write(source, out, format=format)
    agree = f"differ by at most {written.difference:.1g}" if written.difference else "are identical"
    note = f"; {written.note}" if written.note else ""
    print(f"{written.path}: read back, its features {agree}{note}", flush=True)
    _tell(f"in Python: {written.usage}")
    _next("publish", run, "OWNER/NAME")


@app.command(usage="Usage: unlabeled publish RUN OWNER/NAME [OPTIONS]")
def publish(
    run: Run,
    name: Annotated[str, Parameter(help="Name of the model on the Hugging Face Hub.")],
    /,
    *,
    out: Path | None = None,
    push: Annotated[bool, Parameter(negative=())] = False,
    private: Annotated[bool, Parameter(negative=())] = False,
    license: str | None = None,
    digests: bool = True,
    encoder: Network = None,
) -> None:
    """Write a folder with the encoder, its scores and a model card, and upload it with --push.

    The card shows all scores with their controls, intervals and caveats, won or lost. Paths of your files are shortened
    to their names. A card that you have edited is kept until you remove it. unlabeled.load("hub:OWNER/NAME") opens what
    was uploaded.

    Args:
        out: Folder to write. [default: published in the run's folder; in this one for a run of the Hub]
        push: Upload the folder; without this nothing leaves the machine.
        private: Let only its owners see a model that is created.
        license: Licence of the weights by its name on the Hub, such as apache-2.0. [default: none is named]
        digests: Publish digests of the training samples, by which evaluate finds test samples among them; they tell
            whoever has a sample whether it was trained on.
    """
    from unlabeled.publishing import publish as write
    from unlabeled.run import load

    done = write(
        load(run, encoder), name, out=out, push=push, private=private, license=license, digests=digests
    )
    width = max(map(len, done.files))
    for file, size in done.files.items():
        print(f"{file:<{width}}  {size:>13,} bytes")
    for note in done.notes:
        _tell(note)
    if done.address is not None:
        print(done.address, flush=True)
        return _next("evaluate", f"hub:{name}", "LABELLED")
    seen = "its owners only" if private else "everyone"
    _tell(f"nothing was uploaded; --push uploads {done.path} to {name}, visible to {seen}")
    _next("publish", run, name, "--license", license or "LICENSE", "--push")


def _next(*words: object) -> None:
    """Print the command that usually comes next, beside the output, which programs read."""
    _tell(f"next: {shlex.join(['unlabeled', *map(str, words)])}")


def _words(options: Mapping[str, Any]) -> list[str]:
    """Options as they stand on a command line."""
    words = []
    for key, value in options.items():
        flag = key.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [
                f"--{flag}",
                ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value),
            ]
    return words


def _named(run: Any, features: str | None, directions: str | None) -> str | None:
    """The features that two options name together."""
    from unlabeled.evaluation.readouts import named

    if features is None and directions is None:
        return None
    return named(run, features, directions) or "output"


@contextmanager
def _continued_by_itself() -> Iterator[None]:
    """Say of a command that trains several runs how it goes on after Ctrl-C, instead of how one of them would."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt("stopped; the same command continues") from None


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _unwrap(function: Callable[..., Any]) -> None:
    """Join the lines of each paragraph of a docstring: the help is wrapped to the width of the terminal."""
    sections = inspect.getdoc(function) or ""
    # An argument begins with four spaces, and its further lines with eight.
    function.__doc__ = re.sub(r"(?<=[^\n:])\n(?=\S| {8})\s*", " ", sections)


for _name in app:
    if (_command := app[_name].default_command) is not None and _command.__module__ == __name__:
        _unwrap(_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: Words after the program's name; those of the process if None.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    warnings.formatwarning = _warning
    try:
        _call(command_for(words), words)
    except UnusedCliTokensError as error:
        _stop(check.one_line(_too_many(error)), 2)
    except (CycloptsError, UserError) as error:
        _stop(check.one_line(str(error)), 2)
    except OSError as error:
        if _reader_is_gone():
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the flush at exit fails too
            sys.exit(1)
        _stop(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), 2)
    except KeyboardInterrupt as interrupt:
        _stop(str(interrupt) or "stopped", 130)
    except FloatingPointError as error:
        _stop(str(error), 3)


def _reader_is_gone() -> bool:
    """Whether the program that reads what is printed, such as head, has ended, which is no error."""
    try:
        print(flush=True)
    except BrokenPipeError:
        return True
    return False


def _call(command: App, words: Sequence[str]) -> None:
    """Run a command, whose errors `main` prints; they name options as they are written on the command line."""
    try:
        command(words, exit_on_error=False, print_error=False, verbose=False)
    except UserError as error:
        raise UserError(_with_flags(str(error), _flags(command, words))) from error


def _flags(command: App, words: Sequence[str]) -> dict[str, str]:
    """What stands on the command line for each parameter of the command that some words call."""
    _, apps, _ = command.parse_commands(words)
    if apps[-1].default_command is None:
        return {}
    flags = {"pretraining": "PRETRAIN_DATA", "target": "TARGET_DATA"} if apps[-1] is app["bet"] else {}
    for argument in apps[-1].assemble_argument_collection():
        keyword = argument.field_info.kind is inspect.Parameter.KEYWORD_ONLY
        own_network = (argument.parameter.help or "").startswith("module:function")
        if argument.name.startswith("--") and keyword and not own_network:
            flags[argument.name[2:].replace("-", "_")] = argument.name
    return flags


def _with_flags(message: str, flags: Mapping[str, str]) -> str:
    """A message whose rule names flags, not parameters: a first word, and whatever has an underscore."""
    rule, got, value = message.partition(", got ")
    word, must, _ = rule.partition(" must ")
    if must and word in flags and not _OF_VALUES.match(rule):
        rule = flags[word] + rule.removeprefix(word)
    for name in filter(lambda name: "_" in name, flags):
        rule = re.sub(rf"(?<![\w./=-]){name}(?![\w./=-])", flags[name], rule)
    return rule + got + value


_OF_VALUES = re.compile(r"\w+ must (be finite|vary|agree|have)\b")
"""How rules begin that are about features, clips or weights as such, not about the options of these names."""


def _too_many(error: UnusedCliTokensError) -> str:
    """What a command takes, where it was given more words."""
    command = app
    for word in error.command_chain or ():
        command = command[word]
    usage = str(command.usage or "").partition("Usage: unlabeled ")[2].partition("\n")[0]
    words = usage or f"{' '.join(error.command_chain or ())} [OPTIONS]"
    unused = error.unused_tokens or []
    return f"too many arguments: {shlex.join(unused)}; usage: unlabeled {words}"


def _warning(message: Warning | str, *where: Any, **more: Any) -> str:
    """A warning as a line of its own, without the place in the source that gave it."""
    return f"warning: {message}\n"


def _stop(message: str, code: int) -> NoReturn:
    """End with a message, printed by the first of several processes."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"unlabeled: {message}", file=sys.stderr)
    sys.exit(code)
