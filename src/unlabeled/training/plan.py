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
from unlabeled.files import printable
from unlabeled.method import Method
from unlabeled.options import unknown, verify_all
from unlabeled.run import CHECKPOINT, CONFIG, read_config, read_position
from unlabeled.training import folder as folders
from unlabeled.training.settings import BUDGET, MACHINE_SETTINGS, READING, Settings
from unlabeled.version import __version__

__all__ = ["Plan", "lengthened", "longer_record", "make", "record", "resumed"]

FIELDS = Settings.__dataclass_fields__
OPENING = ("image_size", "store_size", "max_broken", "levels", "pages", "segmenter", *READING)
"""Settings by which data is opened."""
ONE_KIND = {
    **dict.fromkeys(("encoding", "text_column", "segmenter"), "text"),
    **dict.fromkeys(("levels", "pages"), "image"),
}
"""Settings that apply to data of one kind only."""


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
        before: Settings of the stored run, where it is to be trained longer.
        ends: Steps at which trainings ended that were made longer afterwards.
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
    request = {key: value for key, value in request.items() if value is not None and value is not network}
    options = {key: value for key, value in request.items() if key not in FIELDS}
    _refuse_second_encoder(method, network, request, options)
    settings = Settings(**{key: value for key, value in request.items() if key in FIELDS})
    settings = replace(settings, **_described(method, network), **_started(settings))
    loaded = methods.load(method) if isinstance(method, str) else method
    for key, kind in ONE_KIND.items():
        if key in request and loaded.kind != kind:
            raise UserError(
                f"{key} must be left out for data of kind {loaded.kind}, as it is of {kind} only, got {request[key]}"
            )
    if not isinstance(loaded, Method) and name in methods.names():
        options = _with_defaults(name, options)
    if isinstance(loaded, type):
        verify_all(loaded, options)
    if resume and (out is not None or (source and Path(source).exists())):
        settings = _reopening(settings, request, folders.latest(out, name, source).path)
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
        note(
            f"{config} is of a run that was trained longer from step {steps}; it is repeated with one schedule"
        )
    values = {"holdout": 0.0} | stored["settings"] | stored["options"]  # older runs held nothing out
    name = values.get("encoder")
    if encoders.is_named(name) and "encoder" not in request:
        raise UserError(
            f"encoder must be named again to repeat {config}, whose network {name} built: --encoder {name}; "
            "nothing that a file names is imported"
        )
    free = (*MACHINE_SETTINGS, "seed")
    if any(values.get(key) != value for key, value in request.items() if key not in free):
        values = {key: value for key, value in values.items() if key not in stored["chosen"]}
    if not request.keys().isdisjoint(BUDGET):
        values = {key: value for key, value in values.items() if key not in BUDGET}
    named = any(request.get(key) is not None for key in BUDGET)
    return values | request, not named and not set(BUDGET).isdisjoint(stored["chosen"])


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
    """The plan of the stored run; only what belongs to the machine may differ today, and it may be trained longer.

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
    early = read_position(folder / CHECKPOINT).get("stopped") is not None
    if budget and (early or any(settings.get(key) != value for key, value in budget.items())):
        before = Settings(**settings)
        settings = {key: value for key, value in settings.items() if key not in BUDGET} | budget
    return replace(
        plan,
        settings=Settings(**settings),
        options=options,
        length_chosen=not budget and not set(BUDGET).isdisjoint(chosen),
        before=before,
        ends=tuple(stored.get("ends", ())),
    )


def lengthened(plan: Plan, folder: Path, samples: int) -> Plan:
    """The plan with the step at which the stored run ends as the last of `plan.ends`.

    Raises:
        ValueError: The run would not become longer.
    """
    assert plan.before is not None
    position = read_position(folder / CHECKPOINT)
    end = position["step"] if position.get("stopped") is not None else plan.before.total_steps(samples)
    if plan.settings.total_steps(samples) <= end:
        name = "steps" if plan.settings.steps else "epochs"
        least = end if name == "steps" else end // plan.settings.steps_per_epoch(samples)
        raise UserError(
            f"{name} must be above {least} to train {folder} longer, got {getattr(plan.settings, name)}"
        )
    return replace(plan, ends=(*plan.ends, end))


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
            "skipped": len(data.skipped),
            "held_out": held_out,
        },
        "settings": {key: value for key, value in asdict(settings).items() if value is not None},
        "options": plan.options,
        "chosen": sorted(settings.choices(plan.settings)),
        "parameters": sum(parameter.numel() for parameter in method.encoder.parameters()),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "unlabeled": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        },
    }


def longer_record(plan: Plan, folder: Path) -> dict[str, Any]:
    """Content of run.toml of a stored run with its new length, all else as it was."""
    stored = read_config(folder / CONFIG, ("settings",))
    settings = {key: value for key, value in stored["settings"].items() if key not in BUDGET}
    budget = {key: value for key in BUDGET if (value := getattr(plan.settings, key))}
    chosen = [key for key in stored.get("chosen", ()) if key not in BUDGET]
    return stored | {"settings": settings | budget, "ends": list(plan.ends), "chosen": chosen}
