"""The one training loop. It knows no method by name."""

import json
import logging
import math
import os
import platform
import re
import signal
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from unlabeled import __version__, encoders, methods
from unlabeled.data import Data, open_data
from unlabeled.files import atomic
from unlabeled.method import Batch, Method
from unlabeled.parts import gather, meters, norm
from unlabeled.progress import Progress
from unlabeled.run import (
    CHECKPOINT,
    CONFIG,
    ENCODER,
    LOG,
    Run,
    load_state,
    read_checkpoint,
    write_checkpoint,
    write_skipped,
)
from unlabeled.settings import Settings

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["learning_rate", "pretrain"]

SECONDS_BETWEEN_CHECKPOINTS = 60.0
PROBE_SAMPLES = 512
MACHINE_SETTINGS = ("device", "devices", "nodes", "workers", "max_broken")
"""What may differ when a run is resumed."""


def pretrain(
    method: str | type[Method] | Method,
    data: Any,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    config: str | Path | None = None,
    quiet: bool = False,
    **settings: Any,
) -> Run:
    """Train an encoder without labels.

    Args:
        method: Name of a method, a class of your own, or an instance with its encoder inside.
        data: Built-in name, folder, file, array of shape (samples, channels, height, width), or a `Data`.
        out: Folder of the run; `runs/METHOD-DATA` if None.
        resume: Whether to continue the run in `out` from its checkpoint.
        config: A run.toml to repeat; what is given beside it wins.
        quiet: Whether to print nothing.
        **settings: Fields of `Settings` and options of the method; `encoder` may also be a network of your own,
            from (batch, channels, height, width) to (batch, dim) or (batch, dim, height, width).

    Returns:
        The run: its folder, its encoder, its log.

    Raises:
        ValueError: A setting, an option or the data is bad; the message names it, the rule and the value.
        FloatingPointError: The loss became infinite or NaN; the last good state is saved.
    """
    if config is not None:
        stored = tomllib.loads(Path(config).read_text(encoding="utf-8"))
        repeated = stored.get("settings", {}) | stored.get("options", {})
        if "steps" in settings or "epochs" in settings:
            repeated = {name: value for name, value in repeated.items() if name not in ("steps", "epochs")}
        settings = repeated | settings
    network = settings.pop("encoder") if isinstance(settings.get("encoder"), nn.Module) else None
    known = Settings.__dataclass_fields__
    chosen = Settings(**{name: value for name, value in settings.items() if name in known})
    options = {name: value for name, value in settings.items() if name not in known}
    fabric = _fabric(chosen)
    with torch.random.fork_rng(), Progress(quiet or fabric.global_rank > 0) as progress:
        name = (
            method
            if isinstance(method, str)
            else type(method).__name__
            if isinstance(method, Method)
            else method.__name__
        )
        kind = methods.load(method) if isinstance(method, str) else method
        if isinstance(method, str):
            _check_options(method, options)
        source = str(data) if isinstance(data, str | Path) else ""
        data = _open(data, chosen, progress)
        folder = _folder(out, name.lower(), data.name, resume) if fabric.global_rank == 0 else None
        folder = Path(fabric.broadcast(str(folder)))
        if resume:
            chosen, options = _stored(folder / CONFIG, name, settings)
        choices = chosen.complete(len(data), data.image_size, fabric.device.type == "cuda")
        data = data.to(fabric.device)
        torch.manual_seed(chosen.seed)
        built = kind if isinstance(kind, Method) else _build(kind, options, chosen, data, network)
        if fabric.global_rank == 0 and not resume:
            _write_config(folder, name, source, data, chosen, options, choices, built)
            write_skipped(folder, data.skipped)
            (folder / LOG).unlink(missing_ok=True)
        progress.start(name, data, chosen, choices, folder)
        _Loop(fabric, built, data, chosen, folder, progress).run(resume)
    run = Run(folder)
    if network is not None or isinstance(method, Method):
        run.encoder = built.encoder.eval()  # a network of the user's own cannot be built again from its name
    return run


class _Loop:
    """Steps, epochs, checkpoints and meters of one run."""

    def __init__(
        self,
        fabric: "Fabric",
        method: Method,
        data: Data,
        settings: Settings,
        folder: Path,
        progress: Progress,
    ) -> None:
        self.fabric, self.data, self.settings, self.folder, self.progress = (
            fabric,
            data,
            settings,
            folder,
            progress,
        )
        assert settings.batch_size
        self.total_steps, self.steps_per_epoch = (
            settings.total_steps(len(data)),
            settings.steps_per_epoch(len(data)),
        )
        if settings.batch_size % gather.processes():
            raise ValueError(
                f"batch_size must be a multiple of the {gather.processes()} processes, got {settings.batch_size}"
            )
        if gather.processes() > 1:
            norm.synchronize(method)
        torch.manual_seed(settings.seed)
        method.to(fabric.device)
        method.prepare(data)
        method.to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.method = method
        self.optimizer = _optimizer(method, settings)
        self.module, self.wrapped = fabric.setup(method, self.optimizer)
        self.step, self.weights, self.sums, self.seconds = 0, None, {}, 0.0
        self.probe = data.sample(PROBE_SAMPLES)
        self.bad_epochs, self.saved_at = 0, time.monotonic()

    def run(self, resume: bool) -> None:
        if resume:
            self._resume()
        with _stop_signals() as stop:
            while self.step < self.total_steps:
                if self.step % self.steps_per_epoch == 0:
                    self._begin_epoch()
                began = time.perf_counter()
                self._step()
                self.seconds += time.perf_counter() - began
                if self.step % self.steps_per_epoch == 0 or self.step == self.total_steps:
                    self._end_epoch()
                if stop.signal or self.step == self.total_steps or self._checkpoint_is_due():
                    self._save()
                if stop.signal:
                    raise KeyboardInterrupt(
                        f"stopped after step {self.step}; --resume continues from {self.folder}"
                    )

    def _begin_epoch(self) -> None:
        epoch = self.step // self.steps_per_epoch
        torch.manual_seed(_mix(self.settings.seed, epoch, -1))
        weights = self.method.begin_epoch(self.data)
        self.weights = None if weights is None else weights.detach().cpu()
        self.sums, self.seconds = {}, 0.0
        self.method.train()

    def _order(self, epoch: int) -> Tensor:
        """Order of the samples in an epoch; a function of seed and epoch, whatever the process."""
        generator = torch.Generator().manual_seed(_mix(self.settings.seed, epoch, -2))
        if self.weights is None:
            return torch.randperm(len(self.data), generator=generator)
        return torch.multinomial(self.weights.double(), len(self.data), replacement=True, generator=generator)

    def _step(self) -> None:
        settings, rank, processes = self.settings, gather.rank(), gather.processes()
        assert settings.batch_size
        epoch, within = divmod(self.step, self.steps_per_epoch)
        if within == 0 or not hasattr(self, "order"):
            self.order = self._order(epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = group["factor"] * learning_rate(self.step, self.total_steps, settings.lr or 0.0)
        self.method.train()
        share = settings.batch_size // processes
        for micro in range(settings.accumulate):
            position = within * settings.accumulate + micro
            first = position * settings.batch_size + rank * share
            index = self.order[first : first + share]
            torch.manual_seed(_mix(settings.seed, self.step * settings.accumulate + micro, rank))
            batch = self.data.batch(index.to(self.fabric.device))
            last = micro == settings.accumulate - 1
            with self.fabric.no_backward_sync(self.module, enabled=not last):
                losses = self.module(batch)
                named = losses if isinstance(losses, dict) else {"loss": losses}
                total = torch.stack(list(named.values())).sum()
                if not torch.isfinite(total):
                    self._stop_at_bad_loss(named, index)
                self.fabric.backward(total / settings.accumulate)
            # A loss of several players has no single value to hold against chance, but their sum can be watched.
            for name, value in (
                {"loss": total} | (named if len(named) > 1 else {}) | self.method.meters
            ).items():
                self.sums[name] = self.sums.get(name, 0.0) + value.item() / settings.accumulate
        self.wrapped.step()
        self.wrapped.zero_grad(set_to_none=True)
        self.step += 1
        self.method.after_step(self.step / self.total_steps)
        self.progress.step(
            self.step, settings.batch_size * settings.accumulate, self.sums["loss"] / (within + 1)
        )

    def _end_epoch(self) -> None:
        steps = (self.step - 1) % self.steps_per_epoch + 1
        means = {name: value / steps for name, value in self.sums.items()}
        loss = means.pop("loss")
        assert self.settings.batch_size
        samples = steps * self.settings.batch_size * self.settings.accumulate
        chance = self.method.chance(self.settings.batch_size)
        embedding = _embed(self.method, self.probe)
        code, sentence = meters.verdict(embedding, loss, chance)
        # One bad epoch is noise; the alarm needs two in a row.
        self.bad_epochs = 0 if code == "healthy" else self.bad_epochs + 1
        entry = {
            "epoch": -(-self.step // self.steps_per_epoch),
            "step": self.step,
            "loss": loss,
            "chance": chance,
            "spread": float(meters.spread(embedding)),
            "rank": float(meters.rank(embedding)),
            "cosine": float(meters.mean_cosine(embedding)),
            "images_per_second": samples / max(self.seconds, 1e-9),
            "verdict": sentence if self.bad_epochs != 1 else "",
            "meters": means,
        }
        if self.fabric.global_rank == 0:
            with (self.folder / LOG).open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        self.progress.epoch(entry, alarm=self.bad_epochs > 1, last=self.step == self.total_steps)

    def _checkpoint_is_due(self) -> bool:
        due = time.monotonic() - self.saved_at > SECONDS_BETWEEN_CHECKPOINTS
        return bool(self.fabric.broadcast(due)) if gather.processes() > 1 else due

    def _save(self) -> None:
        if self.fabric.global_rank == 0:
            slots = self.optimizer.state_dict()["state"]
            state = {
                "method": self.method.state_dict(),
                "optimizer": {
                    f"{slot}.{name}": value
                    for slot, values in slots.items()
                    for name, value in values.items()
                },
            }
            if self.weights is not None:
                state["sampler"] = {"weights": self.weights}
            position = {
                "step": self.step,
                "sums": self.sums,
                "seconds": self.seconds,
                "bad_epochs": self.bad_epochs,
            }
            write_checkpoint(self.folder / CHECKPOINT, state, position)
            self.method.encoder.save(self.folder / ENCODER)
        self.fabric.barrier()
        self.saved_at = time.monotonic()

    def _resume(self) -> None:
        state, position = read_checkpoint(self.folder / CHECKPOINT)
        load_state(self.method, state["method"])
        slots: dict[int, dict[str, Tensor]] = {}
        for key, value in state.get("optimizer", {}).items():
            slot, _, name = key.partition(".")
            slots.setdefault(int(slot), {})[name] = value
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": slots})
        self.weights = state.get("sampler", {}).get("weights")
        self.step, self.sums, self.seconds = position["step"], position["sums"], position["seconds"]
        self.bad_epochs = position["bad_epochs"]
        if self.fabric.global_rank == 0:  # the log may be ahead of the checkpoint
            entries = [entry for entry in Run(self.folder).history if entry["step"] <= self.step]
            with atomic(self.folder / LOG) as path:
                path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")

    def _stop_at_bad_loss(self, named: dict[str, Tensor], index: Tensor) -> None:
        # The parameters are those before the step; norms that have already seen the bad batch are not worth keeping.
        if all(buffer.isfinite().all() for buffer in self.method.buffers() if buffer.is_floating_point()):
            self._save()
        values = ", ".join(f"{name} {value.item()}" for name, value in named.items())
        raise FloatingPointError(
            f"loss must be finite, got {values} at step {self.step} on samples {index.tolist()}; "
            f"the last good state is kept in {self.folder}"
        )


def learning_rate(step: int, total_steps: int, peak: float, warmup: float = 0.05) -> float:
    """Linear warm-up over a share of the steps, then a cosine down to 0.

    Args:
        step: Optimizer steps done, from 0.
        total_steps: Optimizer steps of the whole training.
        peak: The largest learning rate.
        warmup: Share of the steps that climb.

    Returns:
        Learning rate of the next step.
    """
    climb = max(1, round(warmup * total_steps))
    if step < climb:
        return peak * (step + 1) / climb
    return peak * (1 + math.cos(math.pi * (step - climb) / max(1, total_steps - climb))) / 2


def _optimizer(method: Method, settings: Settings) -> torch.optim.Optimizer:
    """Optimizer with weight decay on matrices only, and the method's own factors on the learning rate."""
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            factor = method.learning_rates.get(name.partition(".")[0], 1.0)
            groups.setdefault((factor, parameter.ndim > 1), []).append(parameter)
    decay = settings.weight_decay or 0.0
    parameters = [
        {"params": members, "weight_decay": decay if decays else 0.0, "factor": factor}
        for (factor, decays), members in groups.items()
    ]
    lr = settings.lr or 0.0
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=lr)
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=lr, momentum=0.9)
    from timm.optim.lars import Lars

    return Lars(parameters, lr=lr, momentum=0.9)  # type: ignore[arg-type]


@torch.no_grad()
def _embed(method: Method, batch: Batch) -> Tensor:
    """Features of a batch in evaluation mode; the training mode is restored."""
    method.eval()
    features = method.features(batch).float()
    method.train()
    return features


def _mix(seed: int, step: int, stream: int) -> int:
    """One number from (seed, step, stream) that differs wherever one of them does (splitmix64)."""
    mixed = seed
    for value in (step, stream):
        mixed = (mixed * 0x9E3779B97F4A7C15 + value + 0x632BE59BD9B4E019) % 2**64
        mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        mixed ^= mixed >> 31
    return mixed % 2**63


def _fabric(settings: Settings) -> "Fabric":
    from lightning_fabric import Fabric

    for name in ("lightning_fabric", "lightning.fabric"):  # its advice on strategies is not for our users
        logging.getLogger(name).setLevel(logging.ERROR)
    fabric = Fabric(
        accelerator={"cuda": "gpu"}.get(settings.device, settings.device),
        devices=settings.devices,
        num_nodes=settings.nodes,
        strategy="ddp" if settings.devices * settings.nodes > 1 else "auto",
        precision="32-true" if settings.precision == "32" else _precision(settings),
    )
    fabric.launch()
    return fabric


def _precision(settings: Settings) -> Any:
    cuda = settings.device in ("auto", "cuda") and torch.cuda.is_available()
    return "bf16-mixed" if settings.precision == "bf16" or cuda else "32-true"


def _open(data: Any, settings: Settings, progress: Progress) -> Data:
    if isinstance(data, Data):
        return data
    return open_data(
        data, workers=settings.workers, max_broken=settings.max_broken, progress=progress.decoding
    )


def _build(
    kind: type[Method], options: dict[str, Any], settings: Settings, data: Data, network: nn.Module | None
) -> Method:
    assert settings.encoder and settings.image_size
    if isinstance(network, encoders.Encoder):
        return kind(network, **options)
    shape: Any = {
        "in_channels": data.channels,
        "image_size": settings.image_size,
        "input": kind.encoder_input,
    }
    if network is not None:
        encoder = encoders.wrap(network, **shape)
    else:
        encoder = encoders.build(settings.encoder, **shape, weights=settings.weights)
    images = encoder.inputs({name: value.cpu() for name, value in data.sample(PROBE_SAMPLES).items()})
    if settings.weights is None:
        encoder.adapt.fit(images)
    if settings.init == "rescaled":
        encoders.rescale_(encoder, images)
    return kind(encoder, **options)


def _check_options(method: str, options: dict[str, Any]) -> None:
    import difflib

    known = [option.name for option in methods.describe(method).options]
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, [*known, *Settings.__dataclass_fields__], n=1)
            hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(known)}"
            raise ValueError(f"{method} has no option {name}; {hint}")


def _folder(out: str | Path | None, method: str, data: str, resume: bool) -> Path:
    """Folder of the run: the one given, or the next free `runs/METHOD-DATA`."""
    if out is None:
        word = re.sub(r"[^\w.-]+", "-", Path(data).name) or "data"
        stem, number = Path("runs") / f"{method}-{word}", 2
        out = stem
        while Path(out).exists() and not resume:
            out, number = stem.with_name(f"{stem.name}-{number}"), number + 1
        while resume and stem.with_name(f"{stem.name}-{number}").exists():
            out, number = stem.with_name(f"{stem.name}-{number}"), number + 1
    folder = Path(out)
    if resume and not (folder / CHECKPOINT).is_file():
        raise ValueError(f"out must hold a checkpoint to resume from, got {folder}")
    if not resume and (folder / CHECKPOINT).exists():
        raise ValueError(f"out must be a new folder, got {folder}, which holds a run; --resume continues it")
    return folder


def _stored(config: Path, method: str, given: dict[str, Any]) -> tuple[Settings, dict[str, Any]]:
    """Settings and options of the stored run; only those of the machine may differ today."""
    stored = tomllib.loads(config.read_text(encoding="utf-8"))
    if stored["method"] != method:
        raise ValueError(f"method must be {stored['method']} to resume {config.parent}, got {method}")
    settings, options = stored["settings"], stored["options"]
    for name, value in given.items():
        if name in MACHINE_SETTINGS:
            settings[name] = value
        elif (settings | options).get(name, value) != value:
            raise ValueError(
                f"{name} must be {(settings | options)[name]} to resume {config.parent}, got {value}"
            )
    return Settings(**settings), options


def _write_config(
    folder: Path,
    name: str,
    source: str,
    data: Data,
    settings: Settings,
    options: dict[str, Any],
    choices: dict[str, Any],
    method: Method,
) -> None:
    import tomli_w

    content = {
        "method": name,
        "data": {
            "source": source,
            "name": data.name,
            "samples": len(data),
            "channels": data.channels,
            "skipped": len(data.skipped),
        },
        "settings": {key: value for key, value in asdict(settings).items() if value is not None},
        "options": options,
        "chosen": sorted(choices),
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


class _Stop:
    signal: int | None = None


@contextmanager
def _stop_signals() -> Iterator[_Stop]:
    """Turn Ctrl-C and SIGTERM into a wish that the loop grants after the step, with a checkpoint."""
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, frame: object) -> None:
        if stop.signal:
            raise KeyboardInterrupt
        stop.signal = number

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
