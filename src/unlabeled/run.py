"""The run folder: the files that a training leaves behind, and how they are opened again.

run.toml          settings asked for and chosen, with versions; `--config run.toml` repeats them
log.jsonl         one line an epoch
checkpoint.safetensors   weights, state of the method, optimizer and position: for resuming and for pictures
encoder.safetensors      the encoder that is kept, its architecture in the header
features.safetensors     the same with the features that were asked for, where these are not its output
samples.npy       a digest of each sample that it was trained on: finds test samples among them, and other data
trackers.json     by what experiment trackers find the run again, where it is tracked
skipped.csv       files that could not be read, with reasons
snapshots         encoders along the training, where they were asked for: STEP.safetensors
predictions-*.png what a task predicted for a few test images, with the answers above
scores.json       what `evaluate` measured, on which data, how and on which state of the encoder: the last evaluation,
                  and the earlier ones
"""

import copy
import csv
import hashlib
import json
import tomllib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unlabeled import check, hub, notebook
from unlabeled.check import UserError
from unlabeled.files import atomic, locked
from unlabeled.options import READING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from unlabeled.data import Data, Skipped
    from unlabeled.encoders import Encoder
    from unlabeled.method import Method

__all__ = [
    "Run",
    "fingerprint",
    "held_out_losses",
    "held_out_rise",
    "load",
    "load_state",
    "read_checkpoint",
    "read_config",
    "read_digests",
    "read_evaluations",
    "read_position",
    "read_scores",
    "reading",
    "snapshot",
    "write_checkpoint",
]

CHECKPOINT, ENCODER, LOG, CONFIG = "checkpoint.safetensors", "encoder.safetensors", "log.jsonl", "run.toml"
FEATURES, SAMPLES = "features.safetensors", "samples.npy"
SCORES, SNAPSHOTS, PREDICTIONS = "scores.json", "snapshots", "predictions-"
RESULTS = (
    "records",
    "note",
    "time",
    "earlier",
    "unfinished",
    "unmeasured",
    "seen_in_pretraining",
    "in_training_part",
    "near_in_pretraining",
    "near_in_training_part",
)
"""What does not distinguish one evaluation from another."""


class Run:
    """An opened run folder.

    Args:
        path: The folder that `pretrain` wrote.
        network: What a network of the user's own is opened with: itself, or the module:function that builds it.
        at: Step of one of its `snapshots`, whose encoder it then gives; None for that at the end.
    """

    def __init__(
        self, path: str | Path, network: "nn.Module | str | None" = None, at: int | None = None
    ) -> None:
        self.path, self.network, self.at = Path(path), network, at
        if not (self.path / CONFIG).is_file():
            runs = [str(file.parent) for file in self.path.parent.glob(f"*/{CONFIG}")]
            why = f"has no {CONFIG}" if self.path.exists() else "does not exist"
            raise UserError(
                f"run must be a folder that pretrain wrote, got {self.path} "
                f"(it {why}){check.near(str(self.path), runs)}"
            )

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def _repr_html_(self) -> str:
        """What it is, how it went and what was measured, for notebooks."""
        try:
            config, history, evaluations = self.config, self.history, self.evaluations
        except ValueError as error:
            return notebook.facts(repr(self), {"damaged": error})
        data, settings, last = config.get("data", {}), config.get("settings", {}), history[-1:]
        values = {
            "method": config.get("method"),
            "data": data.get("name"),
            "encoder": settings.get("encoder"),
        }
        if last:
            chance = last[0].get("chance")
            values["trained"] = f"{last[0]['epoch']:,} epochs, {last[0]['step']:,} steps"
            values["loss"] = f"{last[0]['loss']:.4g}" + (
                f" (chance {chance:.4g})" if chance is not None else ""
            )
            values["verdict"] = last[0].get("verdict")
        measured = [str(one.get("data", "unknown data")) for one in evaluations if not one.get("snapshot")]
        values["evaluated on"] = ", ".join(dict.fromkeys(measured)) or "nothing yet"
        losses = [entry["loss"] for entry in history if not entry.get("partial")]
        shown = {name: value for name, value in values.items() if value}
        return notebook.facts(
            repr(self), shown, notebook.curve(losses, last[0].get("chance") if last else None)
        )

    @cached_property
    def config(self) -> dict[str, Any]:
        """What run.toml says: method, data, encoder, options, run settings, versions."""
        return read_config(self.path / CONFIG)

    @property
    def own_network(self) -> bool:
        """Whether it trained a network of the user's own, which must be brought or named to open it."""
        from unlabeled.encoders import OWN_NETWORK, is_named

        name = self.config.get("settings", {}).get("encoder")
        return name == OWN_NETWORK or is_named(name)

    @property
    def results_folder(self) -> Path:
        """Where scores and pictures of an evaluation are written: the folder of the run.

        The cache of huggingface_hub belongs to it and may be read-only, so what is measured of a run in it is kept in
        the cache of the library, by the names of the model and of its commit.
        """
        commit, kind = self.path.absolute(), self.path.absolute().parent
        if kind.name != "snapshots" or not kind.parent.name.startswith("models--"):
            return self.path
        from unlabeled.data.cache import folder_of

        cache = folder_of(None)
        return self.path if cache is None else cache / "runs" / f"{kind.parent.name}--{commit.name}"

    @property
    def kind(self) -> str:
        """Kind of data that it was trained on."""
        return self.config.get("data", {}).get("kind", "image")

    @property
    def reading(self) -> dict[str, Any]:
        """Options of `open_data` that suit the encoder; sizes, pages and unreadable files are as in training."""
        settings = self.config.get("settings", {})
        names = ("store_size", "max_broken", "pages", "segmenter")
        options = {name: settings[name] for name in names if name in settings}
        # Other data than that of the training may have other columns, and be in another encoding.
        options |= {
            name: f"{settings[name]}?"
            for name in READING
            if name in settings and name not in ("group", "fold")
        }
        return reading(self.encoder, self.kind) | options

    @property
    def history(self) -> list[dict[str, Any]]:
        """The log, one dict an epoch; a last line that was cut off while it was written is omitted."""
        log = self.path / LOG
        with _one_line_errors(log):
            lines = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.is_file() else []
            entries = [json.loads(line) for line in lines if line.endswith("\n")]
            for entry in entries:
                if not isinstance(entry, dict):
                    raise UserError(f"a line is {entry!r}")
        for entry in entries:
            if "meters" in entry:  # their name up to version 0.1.0
                entry["metrics"] = entry.pop("meters")
        return entries

    @property
    def snapshots(self) -> list[int]:
        """Steps after which the encoder was saved during training."""
        return sorted(
            int(file.stem) for file in (self.path / SNAPSHOTS).glob("*.safetensors") if file.stem.isdecimal()
        )

    @property
    def step(self) -> int | None:
        """Optimizer steps after which its encoder was saved; None where no checkpoint says so."""
        if self.at is not None:
            return self.at
        try:
            return read_position(self.path / CHECKPOINT).get("step")
        except ValueError:  # what is evaluated is the encoder, which needs no checkpoint
            return None

    @property
    def scores(self) -> list[dict[str, Any]]:
        """Records of the last evaluation, none before."""
        return self.measured["records"]

    @property
    def measured(self) -> dict[str, Any]:
        """The last evaluation: `records`, and what they were measured on where that was written down; no snapshot's."""
        return next((one for one in self.evaluations if not one.get("snapshot")), {"records": []})

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """All evaluations that were stored, the newest first, each as `measured`."""
        files = [self.results_folder / SCORES, self.path / SCORES]  # the first holds those of the second too
        return next((read_evaluations(file) for file in files if file.is_file()), [])

    def add_evaluation(self, about: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> None:
        """Store an evaluation; earlier ones stay, unless the same was evaluated in the same way.

        What is marked as `unfinished` replaces only what was marked so too.

        Args:
            about: What was measured, on which data and how; this distinguishes one evaluation from another.
            records: Score records.
        """
        file = self.results_folder / SCORES
        new = {**about, "records": list(records), "time": datetime.now(UTC).isoformat(timespec="seconds")}
        with locked(file.parent, f".{SCORES}.lock", wait=True):
            earlier = [one for one in self._readable(file) if not _replaces(new, one)]
            with atomic(file) as temporary:
                temporary.write_text(json.dumps(new | {"earlier": earlier}, indent=1), encoding="utf-8")

    def _readable(self, file: Path) -> list[dict[str, Any]]:
        """Evaluations of a file, which is put aside where it is damaged: a new one must not be lost for it."""
        try:
            return self.evaluations
        except ValueError as error:
            aside = file.with_name(f"{file.name}.damaged")
            if file.is_file():
                file.replace(aside)
                warnings.warn(f"{error}; it was renamed to {aside.name}", stacklevel=3)
            else:  # damaged is what was published
                warnings.warn(f"{error}; its scores are skipped", stacklevel=3)
            return []

    @property
    def predictions(self) -> dict[str, bytes]:
        """Pictures of what tasks predicted for a few test images, as PNG files, by task."""
        files = sorted(self.results_folder.glob(f"{PREDICTIONS}*.png"))
        return {file.stem.removeprefix(PREDICTIONS): file.read_bytes() for file in files}

    def add_predictions(self, task: str, picture: bytes) -> None:
        """Store what a task predicted, as a PNG file, instead of an earlier one."""
        with atomic(self.results_folder / f"{PREDICTIONS}{task}.png") as temporary:
            temporary.write_bytes(picture)

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """Files that were not read: (path, reason)."""
        file = self.path / "skipped.csv"
        if not file.is_file():
            return []
        with (
            _one_line_errors(file),
            file.open(newline="", encoding="utf-8", errors="surrogateescape") as lines,
        ):
            rows = list(csv.reader(lines))
            if rows[:1] != [["path", "reason"]] or any(len(row) != 2 for row in rows):
                raise UserError("its columns are not path and reason")
        return [(path, reason) for path, reason in rows[1:]]

    @property
    def digests(self) -> "Tensor | None":
        """Digests of the samples that it was trained on, int64, each once; None for a run that kept none."""
        digests = read_digests(self.path)
        return None if digests is None else digests.unique()

    @cached_property
    def encoder(self) -> "Encoder":
        """The encoder as it was after the last saved step, with the features of the run, in evaluation mode.

        Where these were not fitted, as after Ctrl-C, a warning says that it gives its output instead.
        """
        from unlabeled import encoders

        if self.at is not None:
            return encoders.load(snapshot(self.path, self.at), self.network).eval()
        file, features = self.path / FEATURES, self.config.get("settings", {}).get("features", "output")
        if features not in ("output", "none") and not file.is_file():
            warnings.warn(
                f"{self.path} lacks its features {features}, which were not fitted to its last state, so these are the "
                "output of its encoder; --resume fits them",
                stacklevel=3,
            )
        return encoders.load(file if file.is_file() else self.path / ENCODER, self.network).eval()

    @cached_property
    def method(self) -> "Method":
        """The whole method, heads and teachers included, in evaluation mode; for pictures."""
        from unlabeled import methods
        from unlabeled.encoders import lora
        from unlabeled.encoders.readout import bare

        name = self.config["method"]
        if self.at is not None:
            raise UserError(f"of step {self.at:,} of {self.path} only the encoder was kept")
        if name not in methods.names():
            raise UserError(
                f"run {self.path} was trained with {name}, which is not one of the library's methods"
            )
        method = methods.load(name)(copy.deepcopy(bare(self.encoder)), **self.config.get("options", {}))
        state, _ = read_checkpoint(self.path / CHECKPOINT)
        own = state["method"]
        load_state(method, lora.merged(own) if self.config.get("settings", {}).get("lora") else own)
        return method.eval()


def load(path: str | Path, encoder: "nn.Module | str | None" = None) -> Run:
    """Open a run folder.

    Args:
        path: The folder that `pretrain` wrote; or hub:OWNER/NAME, perhaps with @REVISION, for a run that `publish` has
            put on the Hugging Face Hub: it is downloaded once, and offline taken from the cache of huggingface_hub.
        encoder: Where it trained a network of your own, a network of the same layers or the module:function that
            builds one: what a file names is never imported.

    Returns:
        The run: `.encoder` is a torch module, `.history` the log, `.config` all settings.

    Raises:
        ValueError: The folder is no run, its run.toml is damaged or names no method, or the Hub has none of that name.
    """
    run = Run(hub.download(str(path)) if hub.is_address(path) else path, encoder)
    read_config(run.path / CONFIG, needed=("method",))
    return run


def snapshot(folder: Path, step: int) -> Path:
    """The file of the encoder that is kept after a step."""
    return folder / SNAPSHOTS / f"{step:09d}.safetensors"


def opened(source: Any) -> Any:
    """The run in a folder; anything else as it is."""
    return load(source) if isinstance(source, str | Path) else source


def reading(encoder: "Encoder", kind: str) -> dict[str, Any]:
    """Options of `open_data` that suit an encoder.

    Args:
        encoder: The encoder.
        kind: Kind of the data.
    """
    from unlabeled.data import store_size

    config = encoder.config
    options = {"kind": kind, "store_size": store_size(kind, config.get("image_size"))}
    if kind == "image":
        options["channels"] = config["in_channels"]
    if levels := config.get("levels"):
        options["levels"] = levels
    if "sample_rate" in config:
        options["sample_rate"] = config["sample_rate"]
    return options


def read_config(file: Path, needed: tuple[str, ...] = ()) -> dict[str, Any]:
    """Read a run.toml.

    Args:
        file: The file.
        needed: What it must hold.

    Raises:
        ValueError: It is missing or damaged, or something in it is missing.
    """
    if not file.exists():
        raise UserError(f"{file} must be the {CONFIG} of a run, but there is no such file")
    with _one_line_errors(file):
        stored = tomllib.loads(file.read_text(encoding="utf-8"))
        if missing := [name for name in needed if name not in stored]:
            raise UserError(f"{missing[0]} is missing")
        for name in ("data", "settings", "options"):
            if not isinstance(stored.get(name, {}), dict):
                raise UserError(f"{name} is {stored[name]!r}")
    return stored


def read_scores(file: str | Path) -> dict[str, Any]:
    """Read the last evaluation of a scores.json: `records` and what they were measured on.

    Raises:
        ValueError: It is damaged.
    """
    return read_evaluations(file)[0]


def read_evaluations(file: str | Path) -> list[dict[str, Any]]:
    """Read all evaluations of a scores.json, the newest first; older files hold one, or a bare list of records.

    Raises:
        ValueError: It is damaged.
    """
    with _one_line_errors(file):
        stored = json.loads(Path(file).read_text(encoding="utf-8"))
        stored = stored if isinstance(stored, dict) else {"records": stored}
        earlier = stored.pop("earlier", [])
        if not isinstance(earlier, list) or not all(isinstance(one, dict) for one in earlier):
            raise UserError("its earlier evaluations are not a list of objects")
        for one in (stored, *earlier):
            records = one.get("records")
            if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
                raise UserError("its records are not a list of objects")
    return [stored, *earlier]


def _replaces(new: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    """Whether an evaluation takes the place of an old one: the same, evaluated in the same way and as complete."""
    if "options" not in new or (new.get("unfinished") and not old.get("unfinished")):
        return False
    names = {*new, *old} - {*RESULTS, "step"}  # the encoder says the step, which older versions did not write
    if old.get("unfinished"):  # what it was measured on may not have been known yet
        names = {"encoder", "seed", "options"}
    one, other = ({name: about.get(name) for name in names} for about in (new, old))
    # As JSON, in which tuples are lists.
    return json.loads(json.dumps(one)) == json.loads(json.dumps(other))


@contextmanager
def _one_line_errors(file: str | Path) -> Iterator[None]:
    """Turn errors about a damaged file into one line that names it; errors of the operating system stay."""
    try:
        yield
    except (ValueError, RecursionError, csv.Error) as error:
        raise UserError(f"{file} must be a file that a run wrote: {check.reason(error)}") from error


def fingerprint(state: "Mapping[str, Tensor]") -> str:
    """Sixteen hexadecimal digits that change with any weight or statistic of a network.

    Args:
        state: Tensors by name, as `encoder.state_dict()` gives them.
    """
    import torch

    digest = hashlib.sha256()
    for name, value in state.items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def held_out_losses(history: Sequence[Mapping[str, Any]]) -> dict[int, float | None]:
    """Losses on held-out samples by step, None where they were not finite.

    Args:
        history: The log of a run.
    """
    losses: dict[int, float | None] = {}
    for line in history:
        losses |= {int(step): loss for step, loss in (line.get("holdout_losses") or {}).items()}
        if "holdout_loss" in line:
            losses[line["step"]] = line["holdout_loss"]
    return losses


def held_out_rise(history: Sequence[Mapping[str, Any]]) -> str:
    """What the end of a log says of a loss on held-out samples that rose, without a full stop; else empty.

    Args:
        history: The log of a run.
    """
    last = history[-1] if history else {}
    if (lowest := last.get("holdout_lowest_at")) is None:
        return ""
    losses = held_out_losses(history)
    values = [losses.get(step) for step in (lowest, last["step"])]
    change = "" if None in values else f"{values[0]:.4g} -> {values[1]:.4g} "
    words = f"the held-out loss went the wrong way from step {lowest:,} on ({change}at step {last['step']:,})"
    if last.get("result_step") == lowest:
        return f"{words}, so training was stopped and the encoder is that of step {lowest:,}"
    return (
        f"{words}: the encoder memorises its training data; fewer steps or more data may give better features"
    )


def write_skipped(folder: Path, skipped: "list[Skipped]") -> None:
    """List the files that were not read, with reasons."""
    with (
        atomic(folder / "skipped.csv") as path,
        path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["path", "reason"])
        writer.writerows((entry.path, entry.reason) for entry in skipped)


def add_skipped(folder: Path, skipped: "list[Skipped]") -> int:
    """Add to the list of files that were not read those that are not in it; how many these are."""
    file = folder / "skipped.csv"
    listed: dict[tuple[str, ...], None] = {}
    if skipped and file.is_file():
        with file.open(newline="", encoding="utf-8", errors="surrogateescape") as lines:
            listed = dict.fromkeys(map(tuple, list(csv.reader(lines))[1:]))
    new = [skip for skip in dict.fromkeys(skipped) if skip not in listed]
    if new:
        write_skipped(folder, [type(new[0])(*entry) for entry in listed] + new)
    return len(new)


def write_samples(folder: Path, data: "Data", sources: Sequence[str | Path] = ()) -> None:
    """Keep a digest of each sample that a run is trained on, in the order of the samples.

    Args:
        folder: Folder of the run.
        data: What it is trained on, as it was opened.
        sources: What else it learns from, such as the weights it starts from or a teacher: of the folder of a run,
            or an encoder in one, the samples of that run follow.
    """
    import numpy as np
    import torch

    digests = [data.digests()]
    for source in map(Path, sources):
        before = source if source.is_dir() else source.parent
        if (before / CONFIG).is_file():
            digests += [earlier] if (earlier := Run(before).digests) is not None else []
    with atomic(folder / SAMPLES) as path, path.open("wb") as file:
        np.save(file, torch.cat(digests).numpy(), allow_pickle=False)


def read_digests(folder: Path) -> "Tensor | None":
    """What `write_samples` wrote, int64; None where a run kept none.

    Raises:
        ValueError: The file is damaged.
    """
    from unlabeled.data.arrays import as_integers, read_npy

    file = folder / SAMPLES
    if not file.is_file():
        return None
    with _one_line_errors(file):
        digests = read_npy(file)
        return as_integers(digests, digests.size, "digests", str(file))


def write_checkpoint(path: Path, state: "dict[str, dict[str, Tensor]]", position: dict[str, Any]) -> None:
    """Write tensors and a position in one file that is never seen half-written.

    Args:
        path: The file.
        state: Tensors by group ("method", "optimizer", ...) and name.
        position: What JSON can hold: step, epoch, sums.
    """
    from safetensors.torch import save_file

    tensors = {
        f"{group}/{name}": tensor.detach().cpu().contiguous().clone()
        for group, entries in state.items()
        for name, tensor in entries.items()
    }
    with atomic(path) as temporary:
        save_file(tensors, str(temporary), metadata={"position": json.dumps(position)})


def read_checkpoint(path: Path) -> "tuple[dict[str, dict[str, Tensor]], dict[str, Any]]":
    """Read what `write_checkpoint` wrote.

    Raises:
        ValueError: The file is missing or no checkpoint of ours.
    """
    from safetensors import SafetensorError, safe_open

    state: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(str(path), framework="pt") as file:
            position = _position(file.metadata())
            for key in file.keys():  # noqa: SIM118 (not a dict)
                group, _, name = key.partition("/")
                state.setdefault(group, {})[name] = file.get_tensor(key)
    except (OSError, SafetensorError, KeyError, ValueError, RecursionError) as error:
        raise _no_checkpoint(path, error) from error
    return state, position


def read_position(path: Path) -> dict[str, Any]:
    """Read the position of a checkpoint, without its tensors.

    Raises:
        ValueError: The file is missing or no checkpoint of ours.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            return _position(file.metadata())
    except (OSError, SafetensorError, KeyError, ValueError, RecursionError) as error:
        raise _no_checkpoint(path, error) from error


def _position(metadata: dict[str, str] | None) -> dict[str, Any]:
    position = json.loads((metadata or {})["position"])
    if not isinstance(position, dict):
        raise UserError("its position is no object")
    return position


def _no_checkpoint(path: Path, error: Exception) -> UserError:
    return UserError(f"checkpoint must be a file that pretrain wrote, got {path} ({check.reason(error)})")


def load_state(method: "Method", state: "dict[str, Tensor]") -> None:
    """Load a method's state; buffers whose size came from the data take the size they had when saved.

    Args:
        method: A method built with the same options.
        state: Tensors by name, as `method.state_dict()` gave them.
    """
    buffers = dict(method.named_buffers())
    for name, tensor in state.items():
        if name in buffers and buffers[name].shape != tensor.shape:
            owner, _, leaf = name.rpartition(".")
            setattr(method.get_submodule(owner), leaf, tensor.to(buffers[name].device))
    method.load_state_dict(state)
