"""The one training loop. It knows no method by name."""

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from functools import partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unlabeled.check import UserError
from unlabeled.data import Data
from unlabeled.data.streaming.data import Streamed
from unlabeled.data.streaming.order import WINDOW, EpochOrder
from unlabeled.encoders import lora
from unlabeled.method import Batch, Method
from unlabeled.parts import gather
from unlabeled.run import load_state
from unlabeled.trackers import Trackers
from unlabeled.training import guard, judge, optimizers, processes, seeds, sharding
from unlabeled.training.checkpoints import Checkpoints
from unlabeled.training.guard import Fault
from unlabeled.training.keep_close import KeepClose
from unlabeled.training.progress import Progress
from unlabeled.training.schedule import Schedule
from unlabeled.training.settings import Settings
from unlabeled.training.watch import Watch

if TYPE_CHECKING:
    from unlabeled.training.processes import Fabric

__all__ = ["Loop"]

NAMED_SAMPLES = 8
"""Samples that the message about a step that is not finite names."""


class Loop:
    """Steps and epochs of one run.

    Args:
        fabric: The processes, the device and the precision.
        method: What is trained, on its device and prepared.
        data: The samples as it reads them.
        settings: Settings of the run, complete.
        watch: The loss on held-out samples.
        checkpoints: The files of the run.
        progress: What shows how the run goes.
        schedule: How the learning rate goes.
        trackers: What tracks the run, of the first process only.
    """

    def __init__(
        self,
        fabric: "Fabric",
        method: Method,
        data: Data,
        settings: Settings,
        watch: Watch,
        checkpoints: Checkpoints,
        progress: Progress,
        schedule: Schedule,
        trackers: Trackers,
    ) -> None:
        assert settings.batch_size
        self.fabric, self.device, self.method, self.data = fabric, fabric.device, method, data
        self.settings, self.batch_size = settings, settings.batch_size
        self.watch, self.checkpoints, self.progress, self.schedule = watch, checkpoints, progress, schedule
        self.trackers = trackers
        self.total_steps = schedule.total
        self.steps_per_epoch = settings.steps_per_epoch(len(data))
        self.close = KeepClose(method, settings.distill_weight) if settings.distill_weight else None
        self.placed = sharding.place(fabric, method, self.close, settings)
        self.optimizer = optimizers.make(method, settings)  # of the weights as they lie now
        self.weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        heads = any(group["heads"] for group in self.optimizer.param_groups)
        # The last step at least is the encoder's.
        self.frozen = min(round(settings.head_warmup * schedule.first), schedule.first - 1) if heads else 0
        self.undo = guard.Undo(method)
        self.descends = True  # else the method moves its weights itself
        self.infinite = guard.infinite(method)  # such as masks of attention, which may stay so
        self.probe = judge.probe(data)
        self.spread = judge.spread(self.look()[0])
        epochs = -(-self.total_steps // self.steps_per_epoch)
        self.measured = judge.measured_epochs(epochs, len(data))
        self.step, self.skipped, self.bad_epochs = 0, 0, 0
        self.sums: dict[str, float] = {}
        self.counted, self.seconds = 0, 0.0  # steps in the sums of this epoch, and the time that it took
        self.partial = False  # whether losses of a part of the task are among the sums
        self.sampling: Tensor | None = None
        self.order: Tensor | EpochOrder = torch.empty(0, dtype=torch.int64)

    def run(self, resume: bool, on_step: Callable[[int], None]) -> None:
        """Train to the end.

        Args:
            resume: Whether to continue from the checkpoint.
            on_step: Called before each step with the number of steps done.

        Raises:
            FloatingPointError: More steps than allowed were not finite, or the weights are not.
            KeyboardInterrupt: The user has stopped it; a checkpoint was written.
        """
        epochs = -(-self.total_steps // self.steps_per_epoch)
        if (count := self.settings.snapshots) >= epochs:
            self.progress.say(
                f"{epochs - 1} of {count} snapshots can be saved: they are taken at the ends of epochs before the last"
            )
        if resume:
            self._resume()
        self._announce()
        try:
            self._run(resume, on_step)
        finally:
            self.data.announce(iter(()))

    def _run(self, resume: bool, on_step: Callable[[int], None]) -> None:
        with processes.guarded(self.fabric, self._when) as stop:
            if not resume:  # so that it can be resumed whenever it is killed
                self._save()
            while self.step < self.total_steps and self.watch.stopped is None:
                if self.step % self.steps_per_epoch == 0:
                    self._begin_epoch()
                try:
                    on_step(self.step)
                except KeyboardInterrupt:
                    stop.signal = signal.SIGINT
                began = time.perf_counter()
                self._step()
                self.seconds += time.perf_counter() - began
                self._look()
                done = self.step == self.total_steps or self.watch.stopped is not None
                # Processes that disagreed here would wait for each other for ever.
                stopped, due = gather.any_process(stop.signal is not None, self.checkpoints.due)
                if stopped or due or done:
                    self._save()
                if stopped:
                    raise KeyboardInterrupt(
                        f"stopped after step {self.step}; --resume continues from {self.checkpoints.folder}"
                    )

    def _begin_epoch(self) -> None:
        epoch = self.step // self.steps_per_epoch
        torch.manual_seed(seeds.mix(self.settings.seed, epoch, -1))
        with self.placed.gathered():
            sampling = self.method.begin_epoch(self.data)
        if sampling is not None and isinstance(self.data, Streamed):
            raise UserError("stream must be off for a method that weights samples anew in every epoch")
        self.sampling = None if sampling is None else sampling.detach().cpu()
        self.sums, self.counted, self.seconds, self.partial = {}, 0, 0.0, False
        self.order = self._order(epoch)
        self.method.train()

    def _order(self, epoch: int) -> Tensor | EpochOrder:
        """Samples of an epoch in the order in which they come, of which slices of whole steps are taken."""
        seed = seeds.mix(self.settings.seed, epoch, -2)
        if isinstance(self.data, Streamed):
            return self.data.order(seed, self.batch_size, self.settings.pieces or 1)
        return seeds.order(seed, len(self.data), self.sampling)

    def _announce(self) -> None:
        """Tell data that is read while training what is to come."""
        if isinstance(self.data, Streamed):
            share = self.batch_size // (self.settings.pieces or 1)
            self.data.announce(self._coming(), -(-WINDOW // share))

    def _coming(self) -> Iterator[Tensor]:
        """Rows of this process in each batch from here to the end."""
        order, size = self.order, self.batch_size * self.settings.accumulate
        for step in range(self.step, self.total_steps):
            epoch, number = divmod(step, self.steps_per_epoch)
            if not number or step == self.step:
                order = self._order(epoch)
            for rows in order[number * size : (number + 1) * size].chunk(self.settings.accumulate):
                yield gather.own(rows)

    def _step(self) -> None:
        rate = self.schedule.rate(self.step, self.settings.lr or 0.0)
        thaw = self.schedule.thaw(self.step, self.frozen) if self.frozen else 1.0
        for group in self.optimizer.param_groups:
            group["lr"] = group["factor"] * rate * (1.0 if group["heads"] else thaw)
        if self.frozen:  # statistics of its norms stay too
            self.method.encoder.train(self.step >= self.frozen)
        if self.descends:
            self.undo.hold()
        else:
            self.undo.forget()
        size = self.batch_size * self.settings.accumulate
        first = self.step % self.steps_per_epoch * size
        losses = self._accumulate(self.order[first : first + size])
        if isinstance(losses, Fault):
            return self._skip(losses)
        self._count(losses)
        self._descend()
        self.step += 1
        self.method.after_step(self.schedule.progress(self.step))
        self.progress.step(self.step, size, self.sums["loss"] / self.counted)

    def _accumulate(self, rows: Tensor) -> dict[str, float] | Fault:
        """Losses and metrics of a step, whose gradients are added up."""
        batches = self.settings.accumulate
        sums: dict[str, float] = {}
        for number, batch_rows in enumerate(rows.chunk(batches)):
            seed = seeds.mix(self.settings.seed, self.step * batches + number, gather.rank())
            seeds.seed_device(self.device, seed)
            batch = self._batch(gather.own(batch_rows))
            with nullcontext() if number == batches - 1 else self.placed.partly():
                values = self._backpropagate(batch, batch_rows)
            if isinstance(values, Fault):
                return values
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + value / batches
        self.placed.finish(self.weights)
        if not guard.finite_gradients(self.weights):  # after DDP's mean they are the same in all processes
            return Fault("gradients must be finite, got infinite or NaN ones", rows)
        return sums

    def _batch(self, rows: Tensor) -> Batch:
        try:
            return self.data.batch(rows.to(self.device))
        except ConnectionError as error:
            raise ConnectionError(f"{error}; {self.checkpoints.resume_hint()}") from error

    def _backpropagate(self, batch: Batch, rows: Tensor) -> dict[str, float] | Fault:
        """Losses and metrics of a batch, whose gradients are computed."""
        losses = self.placed.forward(batch)
        named = losses if isinstance(losses, dict) else {"loss": losses}
        total = reduce(torch.add, named.values())
        if total.numel() != 1:
            raise UserError(f"loss must be one number, got shape {tuple(total.shape)}")
        self.descends = total.requires_grad
        # A loss of several players has no single value to hold against chance, but their sum can be watched.
        shown = (named if len(named) > 1 else {}) | self.method.metrics | {"loss": total}
        values = {name: value.item() for name, value in shown.items()}
        if gather.any_process(not math.isfinite(values["loss"]))[0]:
            means = {name: gather.mean_over_processes(loss.detach()) for name, loss in named.items()}
            listing = ", ".join(f"{name} {value.item()}" for name, value in means.items())
            return Fault(f"loss must be finite, got {listing}", rows)
        if self.descends:
            batches = self.settings.accumulate
            self.placed.backward(total if batches == 1 else total / batches)
        return values

    def _count(self, losses: dict[str, float]) -> None:
        if gather.processes() > 1:  # so that a checkpoint of the first holds the sums of all
            means = gather.mean_over_processes(torch.tensor(list(losses.values()), device=self.device))
            losses = dict(zip(losses, means.tolist(), strict=True))
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.counted += 1
        if self.method.whole_task:
            self.watch.count(losses["loss"])
        else:
            self.partial = True

    def _descend(self) -> None:
        if self.step < self.frozen:
            if not self.descends:
                raise UserError(
                    f"head_warmup must be 0 for {type(self.method).__name__}, whose loss has no gradient, "
                    f"got {self.settings.head_warmup}"
                )
            for weight in self.method.encoder.parameters():
                weight.grad = None
        if self.settings.clip is not None:
            optimizers.clip(self.method, self.settings.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _skip(self, fault: Fault) -> None:
        """Undo a step that is not finite and go on after it, or stop where it is one too many."""
        self.undo.undo()
        self.optimizer.zero_grad()
        rows, more = fault.rows[:NAMED_SAMPLES].tolist(), len(fault.rows) - NAMED_SAMPLES
        samples = f"{rows} and {more} more" if more > 0 else f"{rows}"
        words = f"{fault.what} at step {self.step} on samples {samples}"
        if not self.descends or self.skipped >= self.settings.skip_nan:
            with suppress(
                FloatingPointError
            ):  # where the method has moved its weights itself they may be bad
                self._save()
            raise FloatingPointError(
                f"{words}; {self.checkpoints.resume_hint()}; lower --lr, or skip such steps with --skip-nan"
            )
        self.skipped, self.step = self.skipped + 1, self.step + 1
        self.progress.say(f"step skipped, {self.skipped} of at most {self.settings.skip_nan}: {words}")

    def _look(self) -> None:
        """After a step, what is due: measure the held-out loss, log the epoch, go back to the best state."""
        within = self.step % self.steps_per_epoch
        ended = within == 0 or self.step == self.total_steps
        due = self.watch.held_out is not None and (ended or within % self.watch.between == 0)
        if due and self.method.whole_task:
            with self.placed.gathered():
                line = self.watch.measure(self.step, not self.descends, self._position)
            if line:
                self.progress.say(line)
        if ended or self.watch.stopped is not None:
            self._end_epoch()
        if self.watch.stopped is not None:
            self._go_back()

    def _end_epoch(self) -> None:
        if not self.counted:  # every step was skipped: there is no loss to tell
            return
        sums = torch.tensor(list(self.sums.values()), device=self.device)
        means = dict(zip(self.sums, (sums / self.counted).tolist(), strict=True))
        loss, chance = means.pop("loss"), self.method.chance(self.batch_size)
        features, embedding = self.look()
        if not features.isfinite().all():
            raise FloatingPointError(
                f"features must be finite, got infinite or NaN ones after step {self.step}; "
                f"lower --lr ({self.settings.lr:g}); {self.checkpoints.resume_hint()}"
            )
        healthy, verdict = judge.judge(
            features, embedding, loss, chance, self.spread, self.step, self.total_steps
        )
        # One bad epoch is noise; the alarm needs two in a row.
        self.bad_epochs = 0 if healthy else self.bad_epochs + 1
        if self.bad_epochs == 1:
            verdict["verdict"] = ""
        done = (self.step - 1) % self.steps_per_epoch + 1  # steps that were skipped took their time too
        samples = done * self.batch_size * self.settings.accumulate
        entry = {
            "epoch": -(-self.step // self.steps_per_epoch),
            "step": self.step,
            "loss": loss,
            "chance": chance,
            **self.watch.entry(self.step),
            **verdict,
            "learning_rate": self.schedule.rate(self.step - 1, self.settings.lr or 0.0),
            "samples_per_second": samples / max(self.seconds, 1e-9),
            "skipped_steps": self.skipped,
            "metrics": means,
        }
        if self.partial:
            entry["partial"] = True
        if entry["epoch"] in self.measured:
            with self.placed.gathered():
                entry |= judge.criteria_of(self.method, self.probe, features)
        self.checkpoints.log(self.step, entry)
        self.trackers.epoch(entry)
        if self._is_due(entry["epoch"]):
            weights = {"method": sharding.whole(self.method.state_dict())}
            self.checkpoints.keep(self.step, self.save_encoder(weights))
        last = self.step == self.total_steps or self.watch.stopped is not None
        self.progress.epoch(entry, alarm=self.bad_epochs > 1, last=last)

    def _is_due(self, epoch: int) -> bool:
        """Whether the encoder is kept after an epoch: so many of them divide the training evenly."""
        count, epochs = self.settings.snapshots, -(-self.total_steps // self.steps_per_epoch)
        return epoch in {-(-number * epochs // (count + 1)) for number in range(1, count + 1)} - {epochs}

    def _go_back(self) -> None:
        """Take the state with the lowest loss on held-out data."""
        assert self.watch.best is not None
        state, position = self.watch.best
        self._load({name: value.to(self.device) for name, value in state.items()})
        self.step, self.sums, self.counted = position["step"], position["sums"], position["counted"]
        self.seconds, self.watch.since_measured = position["seconds"], position["since_measured"]
        self.partial = position.get("partial", False)
        self.watch.best = None

    def _save(self) -> None:
        infinite = guard.infinite(self.method) - self.infinite
        if gather.any_process(bool(infinite))[0]:
            raise FloatingPointError(
                f"weights must be finite, got infinite or NaN ones in {', '.join(sorted(infinite)[:3]) or 'others'} "
                f"after step {self.step}; {self.checkpoints.resume_hint()}"
            )
        position = self._position() | self.watch.position()
        if isinstance(self.data, Streamed):
            self._list_broken(self.data)
        state = self.state()
        self.checkpoints.save(state, position, self.save_encoder(state))

    def _list_broken(self, data: Streamed) -> None:
        """List images that could not be decoded, of all processes."""
        broken = gather.objects([*data.broken])
        data.broken.clear()
        if count := self.checkpoints.list_skipped([skip for part in broken for skip in part]):
            self.progress.say(
                f"{count:,} {data.unit} cannot be read and are replaced by others of their shards (see skipped.csv)"
            )

    def look(self) -> tuple[Tensor, Tensor]:
        """Features and what the loss compares of the samples that are judged."""
        with self.placed.gathered():
            return judge.look(self.method, self.probe)

    def state(self) -> dict[str, dict[str, Tensor]]:
        """What a checkpoint holds, in the first process; all must call this, as shards are gathered."""
        state = {
            "method": sharding.whole(self.method.state_dict()),
            "optimizer": sharding.whole(optimizers.state(self.optimizer)),
        }
        if self.sampling is not None:
            state["sampler"] = {"weights": self.sampling}
        if self.watch.best is not None:
            state["best"] = self.watch.best[0]
        if self.close is not None:
            state["start"] = sharding.whole(self.close.start.state_dict())
        return state

    def save_encoder(self, state: dict[str, dict[str, Tensor]]) -> Callable[[Path], None]:
        """What writes the encoder of a state."""
        own = {
            name.removeprefix("encoder."): value
            for name, value in state["method"].items()
            if name.startswith("encoder.")
        }
        return partial(self.method.encoder.save, state=lora.merged(own) if self.settings.lora else own)

    def _load(self, state: dict[str, Tensor]) -> None:
        load_state(self.method, sharding.parts(state, self.method.state_dict()))

    def _position(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "sums": dict(self.sums),
            "counted": self.counted,
            "partial": self.partial,
            "skipped": self.skipped,
            "seconds": self.seconds,
            "bad_epochs": self.bad_epochs,
            "spread": self.spread,
            "since_measured": self.watch.since_measured,
        }

    def _resume(self) -> None:
        state, position = self.checkpoints.load()
        self._load(state["method"])
        optimizers.load(self.optimizer, state.get("optimizer", {}))
        if self.close is not None:
            start = self.close.start
            start.load_state_dict(sharding.parts(state["start"], start.state_dict()))
        self.step, self.sums, self.seconds = position["step"], position["sums"], position["seconds"]
        self.counted = position.get("counted", self.step % self.steps_per_epoch)  # older runs lack it
        self.partial = position.get("partial", False)
        self.skipped, self.bad_epochs = position.get("skipped", 0), position["bad_epochs"]
        self.spread, self.sampling = position["spread"], state.get("sampler", {}).get("weights")
        self.order = self._order(self.step // self.steps_per_epoch)
        self.watch.load(position, state.get("best", {}), goes_on=self.step in self.schedule.ends)
        stopped = self.watch.stopped
        if stopped is not None:
            self.progress.say(
                f"stopped at step {stopped:,} before, as the loss on held-out {self.data.unit} had risen since "
                f"step {self.step:,}; set --epochs or --steps to train on"
            )
        elif self.step >= self.total_steps:
            self.progress.say(
                f"{self.checkpoints.folder} is finished: all {self.total_steps:,} steps are done; set more --steps or "
                "--epochs, or --minutes, to train on"
            )
        self.checkpoints.cut_log(self.step if stopped is None else stopped)

    def _when(self) -> str:
        return f"after step {self.step}; {self.checkpoints.kept_by_any()}"
