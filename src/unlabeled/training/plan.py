"""What a run will do: from what the user asked for, and a stored run, to one plan that all processes share."""

import os
import platform
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unlabeled import encoders, methods
from unlabeled.check import UserError
from unlabeled.data import Data
from unlabeled.data.notes import note
from unlabeled.data.samples import was_meant
from unlabeled.data.streaming.opening import KINDS
from unlabeled.files import printable
from unlabeled.method import Method
from unlabeled.options import READING, unknown, verify_all
from unlabeled.run import CHECKPOINT, CONFIG, read_config, read_position
from unlabeled.training import folder as folders
from unlabeled.training.schedule import Cut, Schedule
from unlabeled.training.settings import BUDGET, MACHINE_SETTINGS, Settings
from unlabeled.version import __version__

__all__ = ["Plan", "make", "record", "record_anew", "rescheduled", "resumed"]

FIELDS = Settings.__dataclass_fields__
OPENING = (
    *("image_size", "store_size", "max_broken", "levels", "pages", "segmenter", "stream", "cache_size"),
    *READING,
)
"""Settings by which data is opened."""
ONE_KIND = {
    **dict.fromkeys(("encoding", "text_column", "segmenter"), "text"),
    **dict.fromkeys(("levels", "pages"), "image"),
    "fold": "video",
}
"""Settings that apply to data of one kind only."""
STREAMED = dict.fromkeys(("stream", "cache_size", "pieces"), KINDS)
"""Settings that apply to kinds of data that can be streamed."""


@dataclass(frozen=True)
class Plan:
    """What a run will do.

    Attributes:
        name: Name of the method: that of its file, or of the user's class.
        method: The method's class, or an instance with its encoder inside.
        settings: Run settings; what is None will be chosen.
        options: Options of the method, defaults included.
        request: What the user named, before anything was filled in.
        network: A network of the user's own, to be wrapped.
        length_chosen: Whether epochs or steps of the run that is resumed or repeated were chosen for the user.
        source: Name or path of the data, empty where it has none.
        resume: Whether a stored run is continued.
        before: Settings of the stored run, where it is to end elsewhere.
        ends: Steps at which trainings ended that were made longer afterwards.
        cut: Where a training was last told to end earlier.
    """

    name: str
    method: type[Method] | Method
    settings: Settings
    options: dict[str, Any]
    request: dict[str, Any]
    network: nn.Module | None = None
    length_chosen: bool = False
    source: str = ""
    resume: bool = False
    before: Settings | None = None
    ends: tuple[int, ...] = ()
    cut: Cut | None = None

    def schedule(self, settings: Settings, samples: int) -> Schedule:
        """How the learning rate goes with these settings."""
        return Schedule(settings.total_steps(samples), self.ends, self.cut)


def make(
    method: str | type[Method] | Method,
    request: dict[str, Any],
    *,
    source: str = "",
    out: str | Path | None = None,
    resume: bool = False,
    config: str | Path | None = None,
) -> Plan:
    """Sort what the user asked for into settings of the run and options of the method.

    Where the folder of a run that is resumed is clear before the data is opened, the data is opened as it was then.

    Args:
        method: As in `pretrain`.
        request: Settings and options by name; None asks for the default.
        source: Name or path of the data, empty where it has none.
        out: As in `pretrain`.
        resume: As in `pretrain`.
        config: As in `pretrain`.

    Raises:
        ValueError: A name or a value is bad, or does not go with the rest.
    """
    name, length_chosen = _name(method), False
    if config is not None:
        request, length_chosen = _repeated(Path(config), name, request)
    network = request.get("encoder")
    if not isinstance(network, str | nn.Module | None):
        raise UserError(
            f"encoder must be a name, module:function or a network, got {getattr(network, '__name__', network)}"
        )
    network = network if isinstance(network, nn.Module) else None
    request = {
        key: os.fspath(value) if isinstance(value, os.PathLike) else value  # as run.toml stores it
        for key, value in request.items()
        if value is not None and value is not network
    }
    options = {key: value for key, value in request.items() if key not in FIELDS}
    _refuse_second_encoder(method, network, request, options)
    settings = Settings(**{key: value for key, value in request.items() if key in FIELDS})
    settings = replace(settings, **_described(method, network), **_started(settings))
    loaded = methods.load(method) if isinstance(method, str) else method
    for key, kinds in ({key: (kind,) for key, kind in ONE_KIND.items()} | STREAMED).items():
        if request.get(key, FIELDS[key].default) != FIELDS[key].default and loaded.kind not in kinds:
            raise UserError(
                f"{key} must be left out for data of kind {loaded.kind}, as it is of {' and '.join(kinds)} only, got "
                f"{request[key]}"
            )
    if not isinstance(loaded, Method) and name in methods.names():
        options = _with_defaults(name, options)
    if isinstance(loaded, type):
        verify_all(loaded, options)
    if resume and (out is not None or (source and Path(source).exists())):
        claim = folders.latest(out, name, source)
        settings = _reopening(settings, request, claim.path) if claim.resumes else settings
    return Plan(name, loaded, settings, options, request, network, length_chosen, source, resume)


def _name(method: str | type[Method] | Method) -> str:
    if isinstance(method, str):
        return methods.describe(method).name
    kind = type(method) if isinstance(method, Method) else method
    room, _, file = kind.__module__.rpartition(".")
    return file if room == methods.__name__ else kind.__name__


def _repeated(config: Path, method: str, request: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """Values of a stored run with those named now on top, and whether its length was chosen for the user.

    What had been chosen to fit other values is chosen anew.
    """
    stored = read_config(config, ("method", "settings", "options", "chosen"))
    if stored["method"] != method:
        raise UserError(f"method must be {stored['method']} to repeat {config}, got {method}")
    if ends := stored.get("ends"):
        steps = ", ".join(map(str, ends))
        note(f"{config} is from a run that was extended at step {steps}; it is repeated with one schedule")
    if cut := stored.get("cut"):
        note(
            f"{config} is from a run that was shortened at step {cut['step']}; it is repeated with one schedule"
        )
    values = {"holdout": 0.0} | stored["settings"] | stored["options"]  # older runs held nothing out
    name = values.get("encoder")
    if encoders.is_named(name) and "encoder" not in request:
        raise UserError(
            f"encoder must be named again to repeat {config}, whose network {name} built: --encoder {name}; "
            "no module named in a file is imported"
        )
    free = (*MACHINE_SETTINGS, "seed")
    network = request.get("encoder")
    named = _described(method, network)["encoder"] if isinstance(network, nn.Module) else network
    choices = request | ({} if named is None else {"encoder": named})
    if any(values.get(key) != value for key, value in choices.items() if key not in free):
        values = {key: value for key, value in values.items() if key not in stored["chosen"]}
        if "minutes" in stored and values.keys().isdisjoint(BUDGET):
            values["minutes"] = stored["minutes"]
    if not request.keys().isdisjoint(BUDGET):
        values = {key: value for key, value in values.items() if key not in BUDGET}
    length = any(request.get(key) is not None for key in BUDGET)
    return values | request, not length and not set(BUDGET).isdisjoint(stored["chosen"])


def _refuse_second_encoder(
    method: str | type[Method] | Method,
    network: nn.Module | None,
    request: dict[str, Any],
    options: dict[str, Any],
) -> None:
    for key in ("weights", "init"):
        if network is not None and request.get(key, "default") != "default":
            raise UserError(
                f"{key} must be left out where encoder is a network, which has its own weights, got {request[key]}"
            )
    if isinstance(method, Method):
        for key in (*options, "encoder", "image_size", "weights", "init"):
            if key in request or (key == "encoder" and network is not None):
                raise UserError(
                    f"{key} must be left out where the method has its encoder inside, got {request.get(key)}"
                )


def _described(method: str | type[Method] | Method, network: nn.Module | None) -> dict[str, Any]:
    """Settings that describe an encoder which the user brings, so that no other one is chosen or written down."""
    if isinstance(method, Method):
        config = getattr(method.encoder, "config", {})
    elif isinstance(network, encoders.Encoder):
        config = network.config
    else:
        return {} if network is None else {"encoder": encoders.OWN_NETWORK}
    return {"encoder": config.get("name", encoders.OWN_NETWORK), "image_size": config.get("image_size")}


def _started(settings: Settings) -> dict[str, int]:
    """Numbers of processes and nodes where torchrun has started them."""
    if settings.devices * settings.nodes > 1 or "LOCAL_WORLD_SIZE" not in os.environ:
        return {}
    devices = int(os.environ["LOCAL_WORLD_SIZE"])
    return {"devices": devices, "nodes": int(os.environ["WORLD_SIZE"]) // devices}


def _with_defaults(method: str, options: dict[str, Any]) -> dict[str, Any]:
    defaults = {option.name: option.default for option in methods.describe(method).options}
    for name in options:
        if name not in defaults:
            raise unknown(method, name, defaults, FIELDS)
    return {key: value for key, value in (defaults | options).items() if value is not None}


def _reopening(settings: Settings, request: dict[str, Any], folder: Path) -> Settings:
    """The settings with those by which a stored run opened its data, where nothing else is asked for."""
    stored = read_config(folder / CONFIG, ("settings",))["settings"]
    names = [
        name
        for name in OPENING
        if name in stored and name not in request and getattr(settings, name) == FIELDS[name].default
    ]
    return replace(settings, **{name: stored[name] for name in names})


def resumed(plan: Plan, folder: Path) -> Plan:
    """The plan of the stored run; only what belongs to the machine may differ today, and where it ends.

    Raises:
        ValueError: The method, an option or a setting is another one.
    """
    stored = read_config(folder / CONFIG, ("method", "settings", "options", "data"))
    settings, options = (
        {"holdout": 0.0} | stored["settings"],
        stored["options"],
    )  # older runs held nothing out
    effective = {"method": stored["method"], **settings, **options}
    request = {
        key: getattr(plan.settings, key) if key in FIELDS else value for key, value in plan.request.items()
    }
    budget = {key: request.pop(key) for key in BUDGET if key in request}
    for key, value in {"method": plan.name, **request}.items():
        if key in MACHINE_SETTINGS:
            settings[key] = value
        elif key == "encoder" and effective.get(key) == encoders.OWN_NETWORK and encoders.is_named(value):
            continue  # what builds a network that was brought as it was
        elif effective.get(key) != value:
            raise UserError(f"{key} must be {effective.get(key)} to resume {folder}, got {value}")
    before, chosen = None, stored.get("chosen", ())
    known = settings | {"minutes": stored.get("minutes")}
    # The same minutes are no reason to go on after a training that was stopped, since its length was chosen.
    early = "minutes" not in budget and read_position(folder / CHECKPOINT).get("stopped") is not None
    if budget and (early or any(known.get(key) != value for key, value in budget.items())):
        before = Settings(**settings)
        settings = {key: value for key, value in settings.items() if key not in BUDGET} | budget
    return replace(
        plan,
        settings=Settings(**settings),
        options=options,
        length_chosen=before is None and budget.keys() <= {"minutes"} and not set(BUDGET).isdisjoint(chosen),
        before=before,
        ends=tuple(stored.get("ends", ())),
        cut=Cut(**stored["cut"]) if "cut" in stored else None,
    )


def rescheduled(plan: Plan, settings: Settings, folder: Path, samples: int) -> tuple[Plan, str]:
    """The plan with what the new end of a stored run means for its schedule, and one line about that.

    Args:
        plan: What is to be done with the run.
        settings: The settings with the new end.
        folder: Folder of the run.
        samples: Samples that are trained on.

    Raises:
        ValueError: The run has come to the new end already.
    """
    assert plan.before is not None
    position, before = read_position(folder / CHECKPOINT), plan.schedule(plan.before, samples)
    step, total, stopped = position["step"], settings.total_steps(samples), position.get("stopped")
    if total <= step:
        name = "steps" if settings.steps else "epochs"
        least = step if settings.steps else step // settings.steps_per_epoch(samples)
        raise UserError(
            f"{name} must be above {least}, to which {folder} is trained, got {getattr(settings, name)}"
        )
    peak = settings.lr or 0.0
    if stopped is not None:
        after = before.longer(total, step)
    elif total > before.total:
        after = before.longer(total)
    else:
        after = before.shorter(total, step, peak)
    note = "" if total == before.total else f"the run ends at step {total:,} instead of {before.total:,}"
    if after.ends != before.ends and after.ends[-1:] != before.ends[-1:]:
        note = (
            f"training continues from step {after.ends[-1]:,} to {total:,} with a new schedule: the learning rate "
            f"climbs to {peak:.4g} and falls to 0 again"
        )
    elif after.cut is not None and after.cut != before.cut:
        note += f": from step {after.cut.step:,} on the learning rate falls from {after.cut.rate:.4g} to 0"
    return replace(plan, ends=after.ends, cut=after.cut), note


def record(plan: Plan, settings: Settings, data: Data, held_out: int, method: Method) -> dict[str, Any]:
    """Content of run.toml: everything asked for and chosen, and with what it was run.

    Args:
        plan: What was asked for.
        settings: The same settings with everything chosen that was left open.
        data: The data as it was opened.
        held_out: Samples of it that are not trained on.
        method: What is trained.
    """
    return {
        "method": plan.name,
        "data": {
            "source": printable(plan.source),
            "name": printable(data.name),
            "kind": data.kind,
            "samples": len(data),
            **data.shape,
            **data.identity,
            "skipped": sum(was_meant(skip.reason) for skip in data.skipped),
            "classes": 0 if data.labels is None else len(data.labels[data.labels >= 0].unique()),
            "held_out": held_out,
        },
        "settings": {key: value for key, value in asdict(settings).items() if value is not None},
        "options": plan.options | method.chosen,
        "chosen": sorted({*settings.choices(plan.settings), *method.chosen}),
        **({"minutes": plan.settings.minutes} if plan.settings.minutes else {}),
        "parameters": sum(parameter.numel() for parameter in method.encoder.parameters()),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "unlabeled": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        },
    }


def record_anew(plan: Plan, settings: Settings, folder: Path) -> dict[str, Any]:
    """Content of run.toml of a stored run with its new end, all else as it was."""
    stored = read_config(folder / CONFIG, ("settings",))
    other_settings = {key: value for key, value in stored["settings"].items() if key not in BUDGET}
    budget = {key: value for key in BUDGET if (value := getattr(settings, key))}
    chosen = [key for key in stored.get("chosen", ()) if key not in BUDGET]
    ending = {"minutes": plan.settings.minutes, "cut": plan.cut and plan.cut._asdict()}
    rest = {key: value for key, value in stored.items() if key not in ending}
    ending = {key: value for key, value in ending.items() if value is not None}
    return rest | {"settings": other_settings | budget, "ends": list(plan.ends), "chosen": chosen} | ending
