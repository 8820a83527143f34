"""What a run will do: from a method, settings and stored files to one plan that all processes share."""

import difflib
import hashlib
import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unlabeled import encoders, methods
from unlabeled.check import UserError
from unlabeled.data import Data
from unlabeled.data.notes import note
from unlabeled.files import atomic, locked, new_folder, numbered, printable
from unlabeled.method import Method
from unlabeled.run import CHECKPOINT, CONFIG, read_config, read_position
from unlabeled.training.settings import MACHINE_SETTINGS, READING, Settings
from unlabeled.version import __version__

__all__ = [
    "Plan",
    "build",
    "claimed_folder",
    "lengthen",
    "make",
    "reopened",
    "resumed",
    "stored_folder",
    "write",
]

COMPARED_SAMPLES = 16
"""Samples by whose content data is told from other data of the same size."""
BUDGET = ("epochs", "steps")
OPENING = ("image_size", "store_size", "max_broken", "levels", "pages", "segmenter", *READING)
"""Settings by which data is opened."""
ONE_KIND = {
    **dict.fromkeys(("encoding", "text_column", "segmenter"), "text"),
    **dict.fromkeys(("levels", "pages"), "image"),
}
"""Settings that say something of data of one kind only."""


@dataclass
class Plan:
    """What a run will do.

    Attributes:
        name: Name of the method: that of its file, or of the user's class.
        kind: The method's class, or an instance with its encoder inside.
        settings: Run settings; what is None will be chosen.
        options: Options of the method, defaults included.
        given: What the user gave by name, before anything was filled in.
        network: A network of the user's own, to be wrapped.
        chosen_length: Whether the number of epochs or steps of the run that is resumed or repeated was chosen for
            the user.
        before: Settings of the stored run, where it is to be trained longer.
        ends: Steps at which trainings ended that were made longer afterwards.
    """

    name: str
    kind: type[Method] | Method
    settings: Settings
    options: dict[str, Any]
    given: dict[str, Any]
    network: nn.Module | None = None
    chosen_length: bool = False
    before: Settings | None = None
    ends: list[int] = field(default_factory=list)


def make(method: str | type[Method] | Method, given: dict[str, Any], config: str | Path | None) -> Plan:
    """Sort what the user gave into settings of the run and options of the method.

    Raises:
        ValueError: A name or a value is bad, or does not go with the rest.
    """
    name = _name(method)
    chosen_length = False
    if config is not None:
        named = any(given.get(length) is not None for length in BUDGET)
        stored = read_config(Path(config), ("chosen",))["chosen"]
        chosen_length = not named and not set(BUDGET).isdisjoint(stored)
        given = _repeated(Path(config), name, given)
    network = given.get("encoder") if isinstance(given.get("encoder"), nn.Module) else None
    if network is None and not isinstance(given.get("encoder"), str | None):
        wrong = getattr(given["encoder"], "__name__", given["encoder"])
        raise UserError(f"encoder must be a name, module:function or a network, got {wrong}")
    given = {key: value for key, value in given.items() if value is not None and value is not network}
    for key in ("weights", "init"):
        if network is not None and given.get(key, "default") != "default":
            raise UserError(
                f"{key} must be left out where encoder is a network, which has its own weights, got {given[key]}"
            )
    known = Settings.__dataclass_fields__
    options = {key: value for key, value in given.items() if key not in known}
    if isinstance(method, Method):
        for key in (*options, "encoder", "image_size", "weights", "init"):
            if key in given or (key == "encoder" and network is not None):
                raise UserError(
                    f"{key} must be left out where the method has its encoder inside, got {given.get(key)}"
                )
    settings = Settings(**{key: value for key, value in given.items() if key in known})
    if network is not None:  # what is written down must not be the network that would have been chosen
        settings.encoder = encoders.OWN_NETWORK
    if isinstance(network, encoders.Encoder):
        settings.encoder = network.config.get("name", encoders.OWN_NETWORK)
        settings.image_size = network.config.get("image_size")
    kind = methods.load(method) if isinstance(method, str) else method
    if isinstance(kind, Method):
        settings.encoder = getattr(kind.encoder, "config", {}).get("name", encoders.OWN_NETWORK)
        settings.image_size = getattr(kind.encoder, "config", {}).get("image_size")
    for key, only in ONE_KIND.items():
        if key in given and kind.kind != only:
            raise UserError(
                f"{key} must be left out for data of kind {kind.kind}, as it is of {only} only, got {given[key]}"
            )
    if not isinstance(kind, Method) and name in methods.names():
        defaults = {option.name: option.default for option in methods.describe(name).options}
        _refuse_unknown(name, options, defaults)
        options = {key: value for key, value in (defaults | options).items() if value is not None}
    return Plan(name, kind, settings, options, given, network, chosen_length)


def reopened(plan: Plan, folder: Path) -> Plan:
    """The plan with how the data of the stored run was opened, where nothing else is asked for."""
    stored = read_config(folder / CONFIG, ("settings",))["settings"]
    open_ = [
        name
        for name, field_ in Settings.__dataclass_fields__.items()
        if name in OPENING and name not in plan.given and getattr(plan.settings, name) == field_.default
    ]
    return replace(
        plan, settings=replace(plan.settings, **{name: stored[name] for name in open_ if name in stored})
    )


def resumed(plan: Plan, folder: Path, data: Data) -> Plan:
    """The plan of the stored run; only what belongs to the machine may differ today, and it may be trained longer.

    Raises:
        ValueError: The method, an option, a setting or the data is another one.
    """
    stored = read_config(folder / CONFIG, ("method", "settings", "options", "data"))
    settings, options = (
        {"holdout": 0.0} | stored["settings"],
        stored["options"],
    )  # older runs held nothing out
    _refuse_other_data(stored["data"], data, folder)
    effective = {"method": stored["method"], **settings, **options}
    asked = plan.given | {
        name: getattr(plan.settings, name) for name in plan.given if hasattr(plan.settings, name)
    }
    budget = {name: asked.pop(name) for name in BUDGET if name in asked}
    for name, value in {"method": plan.name, **asked}.items():
        if name in MACHINE_SETTINGS:
            settings[name] = value
        elif name == "encoder" and effective.get(name) == encoders.OWN_NETWORK and encoders.is_named(value):
            continue  # what builds a network that was brought as it was
        elif effective.get(name) != value:
            raise UserError(f"{name} must be {effective.get(name)} to resume {folder}, got {value}")
    before, chosen = None, set(stored.get("chosen", ()))
    early = read_position(folder / CHECKPOINT).get("stopped") is not None
    if budget and (early or any(settings.get(name) != value for name, value in budget.items())):
        before = Settings(**settings)
        settings = {name: value for name, value in settings.items() if name not in BUDGET} | budget
    return replace(
        plan,
        settings=Settings(**settings),
        options=options,
        chosen_length=not budget and not chosen.isdisjoint(BUDGET),
        before=before,
        ends=list(stored.get("ends", ())),
    )


def lengthen(plan: Plan, folder: Path, samples: int) -> int:
    """Step at which the stored run ends, where it is to be trained longer; that step becomes one of `plan.ends`.

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
    plan.ends = [*plan.ends, end]
    return end


def write_longer(plan: Plan, folder: Path) -> None:
    """Write the new length into run.toml, all else as it was."""
    import tomli_w

    stored = read_config(folder / CONFIG, ("settings",))
    kept = {name: value for name, value in stored["settings"].items() if name not in BUDGET}
    budget = {name: getattr(plan.settings, name) for name in BUDGET if getattr(plan.settings, name)}
    stored |= {"settings": kept | budget, "ends": plan.ends}
    stored["chosen"] = [name for name in stored.get("chosen", ()) if name not in BUDGET]
    with atomic(folder / CONFIG) as path:
        path.write_text(tomli_w.dumps(stored), encoding="utf-8")


def _refuse_other_data(stored: dict[str, Any], data: Data, folder: Path) -> None:
    for name, value in {"samples": len(data), **data.shape}.items():
        if (before := stored.get(name, value)) != value:
            raise UserError(f"{name} of the data must be {before} to resume {folder}, got {value}")
    content = _content(data)
    differ = [
        row for row, digest in content.items() if stored.get("content", content).get(row, digest) != digest
    ]
    if differ:
        path = data.paths[int(differ[0])]
        raise UserError(
            f"data must be what {folder} was trained on to resume it, got {data.name}, where {len(differ)} of "
            f"{len(content)} samples looked at have different content, such as sample {differ[0]} ({path})"
        )


def _content(data: Data) -> dict[str, str]:
    """Digest of the content of a few samples by their row, the same rows for data of the same size."""
    rows = sorted({round(float(row)) for row in torch.linspace(0, len(data) - 1, COMPARED_SAMPLES)})
    digests = {}
    with torch.random.fork_rng(devices=[]):
        for row in rows:
            torch.manual_seed(row)
            digest = hashlib.blake2b(digest_size=6)
            for name, value in sorted(data.batch(torch.tensor([row])).items()):
                if name != "index":
                    flat = value.detach().cpu().contiguous().flatten()
                    digest.update(name.encode() + flat.view(torch.uint8).numpy().tobytes())
            digests[str(row)] = digest.hexdigest()
    return digests


def stored_folder(out: str | Path | None, method: str, data: str) -> Path:
    """Folder of the run that is resumed: the one given, or the last `runs/METHOD-DATA`.

    Raises:
        ValueError: It holds no checkpoint.
    """
    stem = _stem(method, data)
    folder = Path(out or [stem, *takewhile(Path.exists, islice(numbered(stem), 1, None))][-1])
    if not (folder / CHECKPOINT).is_file():
        raise UserError(f"out must hold a checkpoint to resume from, got {folder}")
    return folder


@contextmanager
def claimed_folder(out: str | Path | None, method: str, data: str, resume: bool) -> Iterator[Path]:
    """Folder of the run, which no other run can take meanwhile: the one given, or the next free `runs/METHOD-DATA`.

    Raises:
        ValueError: The folder holds a run already, or none to resume, or another process writes to it.
        OSError: The folder cannot be written to.
    """
    if resume:
        folder = stored_folder(out, method, data)
    else:
        folder = new_folder(_stem(method, data)) if out is None else Path(out)
    with locked(folder):
        # Where no step was taken there is nothing to lose.
        if not resume and (folder / CHECKPOINT).exists() and read_position(folder / CHECKPOINT)["step"] > 0:
            raise UserError(
                f"out must be a new folder, got {folder}, which holds a run; --resume continues it"
            )
        yield folder


def _stem(method: str, data: str) -> Path:
    word = re.sub(r"[^\w.-]+", "-", Path(data).name) or "data"
    return Path("runs") / f"{method.lower()}-{word}"


def build(plan: Plan, data: Data, stored: Path | None = None) -> Method:
    """Build the method with its encoder, which is fitted to the data.

    Args:
        plan: What the run will do.
        data: What it will learn from.
        stored: Encoder of the run that is resumed: its architecture, vocabulary and statistics are taken.
    """
    if isinstance(plan.kind, Method):
        return plan.kind
    settings, kind = plan.settings, plan.kind.encoder_kind or plan.kind.kind
    if isinstance(plan.network, encoders.Encoder):
        if plan.network.kind != kind:
            raise UserError(f"encoder of {plan.name} must be of kind {kind}, got one of {plan.network.kind}")
        return plan.kind(plan.network, **plan.options)
    if plan.network is not None:
        if kind != "image":
            raise UserError(
                f"encoder of {plan.name} must be a subclass of Encoder or one of "
                f"{', '.join(encoders.names(kind))}, got {type(plan.network).__name__}"
            )
        encoder = encoders.wrap(
            plan.network,
            in_channels=data.shape["channels"],
            image_size=settings.image_size or data.shape["image_size"],
            input=plan.kind.encoder_input,
        )
        if not any(weight.requires_grad for weight in encoder.parameters()):
            network = type(plan.network).__name__
            raise UserError(f"encoder must have weights that can be trained, got {network} without any")
        encoders.fit(encoder, data)
        return plan.kind(encoder, **plan.options)
    if stored is not None:
        named = plan.given.get("encoder")  # only what is named now is imported
        return plan.kind(encoders.load(stored, named if encoders.is_named(named) else None), **plan.options)
    encoder = encoders.fitted(
        settings.encoder or encoders.names(kind)[0],
        data,
        kind=kind,
        weights=settings.weights,
        init=settings.init,
        image_size=settings.image_size,
        exact=("image_size" in plan.given) if kind == "image" else None,
        input=None if plan.kind.encoder_input == "color" else plan.kind.encoder_input,
    )
    if kind == "image":
        settings.image_size = encoder.config.get("image_size")
    return plan.kind(encoder, **plan.options)


def write(
    plan: Plan,
    folder: Path,
    source: str,
    data: Data,
    chosen: dict[str, Any],
    method: Method,
    held_out: int = 0,
) -> None:
    """Write run.toml: everything asked for and chosen, and with what it was run; `held_out` samples were not."""
    import tomli_w

    content = {
        "method": plan.name,
        "data": {
            "source": printable(source),
            "name": printable(data.name),
            "kind": data.kind,
            "samples": len(data),
            **data.shape,
            "skipped": len(data.skipped),
            "held_out": held_out,
            "content": _content(data),
        },
        "settings": {key: value for key, value in asdict(plan.settings).items() if value is not None},
        "options": plan.options,
        "chosen": sorted(chosen),
        "parameters": sum(parameter.numel() for parameter in method.encoder.parameters()),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "unlabeled": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        },
    }
    with atomic(folder / CONFIG) as path:
        path.write_text(tomli_w.dumps(content), encoding="utf-8")


def _name(method: str | type[Method] | Method) -> str:
    if isinstance(method, str):
        return methods.describe(method).name
    kind = type(method) if isinstance(method, Method) else method
    room, _, file = kind.__module__.rpartition(".")
    return file if room == methods.__name__ else kind.__name__


def _repeated(config: Path, method: str, given: dict[str, Any]) -> dict[str, Any]:
    """Values of a stored run with those given now on top; what had been chosen to fit others is chosen anew."""
    stored = read_config(config, ("method", "settings", "options", "chosen"))
    if stored["method"] != method:
        raise UserError(f"method must be {stored['method']} to repeat {config}, got {method}")
    if ends := stored.get("ends"):
        steps = ", ".join(map(str, ends))
        note(
            f"{config} is of a run that was trained longer from step {steps}; it is repeated with one schedule"
        )
    values = {"holdout": 0.0} | stored["settings"] | stored["options"]  # older runs held nothing out
    if encoders.is_named(values.get("encoder")) and "encoder" not in given:
        known = values["encoder"]
        raise UserError(
            f"encoder must be named again to repeat {config}, whose network {known} built: --encoder {known}; "
            "nothing that a file names is imported"
        )
    kept = (*MACHINE_SETTINGS, "seed")
    if any(values.get(name) != value for name, value in given.items() if name not in kept):
        values = {name: value for name, value in values.items() if name not in stored["chosen"]}
    if "steps" in given or "epochs" in given:
        values = {name: value for name, value in values.items() if name not in ("steps", "epochs")}
    return values | given


def _refuse_unknown(method: str, options: dict[str, Any], known: dict[str, Any]) -> None:
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, [*known, *Settings.__dataclass_fields__], n=1)
            hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(known)}"
            raise UserError(f"{method} has no option {name}; {hint}")
