"""Write the folder of a published run, and upload it where that is asked for."""

import copy
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import tomli_w
import torch
from huggingface_hub import ModelCard, hf_hub_download

from unlabeled import hub
from unlabeled.check import UserError
from unlabeled.data.samples import was_meant
from unlabeled.exporting import proof
from unlabeled.publishing.card import card
from unlabeled.reporting.entry import Entry
from unlabeled.run import CONFIG, ENCODER, FEATURES, LOG, SAMPLES, SCORES, Run, load, opened
from unlabeled.version import __version__

__all__ = ["Published", "publish"]

CARD, ABOUT = "README.md", "config.json"
NOT_PUBLISHED = ("paths", "copies")
"""Lists of paths of the user's files in scores; how many there are stays."""
PATTERNS = ("group",)
"""Settings that are a regular expression, a column or a word, but no path."""
NAMES = ("data", "options", "public")
"""What of an evaluation names files: its data, its settings and the weights of a control."""
LIBRARIES = ("hub:", "hf:", "timm:", "torchvision:")
"""What begins names that say the same on every machine."""
LONGEST = 100
"""Characters of an argument of the encoder in config.json."""


class Published(NamedTuple):
    """A run as it was published.

    Attributes:
        path: The folder.
        name: OWNER/NAME on the Hub.
        files: Size in bytes of each file that is or would be uploaded.
        notes: What a user must know, a line each: what was shortened, kept or is missing.
        address: Where it was uploaded; None for a dry run.
    """

    path: Path
    name: str
    files: dict[str, int]
    notes: list[str]
    address: str | None = None


def publish(
    run: Any,
    name: str,
    *,
    out: str | os.PathLike[str] | None = None,
    push: bool = False,
    private: bool = False,
    license: str | None = None,
    digests: bool = True,
) -> Published:
    """Write a folder with the encoder of a run, its scores and a model card, and upload it if asked to.

    The scores stand on the card with their controls, intervals and caveats, won or lost. Paths of your files are
    shortened to their names. A card that you have edited is kept until you remove it.

    Args:
        run: A run or its folder.
        name: OWNER/NAME on the Hugging Face Hub.
        out: Folder to write; `published` in the folder of the run if None, or in this one for a run of the Hub.
        push: Whether to upload; otherwise nothing leaves this machine.
        private: Whether a model that is created is seen by its owners only.
        license: Licence of the weights by its name on the Hub, such as apache-2.0 or cc-by-4.0; the card names none if
            None.
        digests: Whether to publish digests of the training samples, by which `evaluate` finds test samples among
            them; they tell whoever has a sample whether it was trained on.

    Returns:
        The folder, the files and their sizes, notes, and the address.

    Raises:
        ValueError: The name cannot be one, `out` holds other things, the run cannot be opened, or the Hub refuses it.
    """
    hub.check_name(name)
    if license is not None and not license.strip():
        raise UserError("license must be a name such as apache-2.0, or left out, got an empty one")
    run = opened(run)
    if not isinstance(run, Run) or run.at is not None:
        raise UserError(f"run must be a run or its folder, got {run!r}")
    folder = Path(out) if out is not None else _folder_of(run)
    edited = _edited_card(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".publish-") as temporary:
        made = Path(temporary) / "made"
        made.mkdir()
        notes = _write(run, made, name, license, digests)
        if edited is not None:
            (made / CARD).write_bytes(edited)
            notes.append(
                f"{folder / CARD} was edited and is kept as it is; remove it to have it written anew"
            )
        _prove(run, made)
        if folder.exists():
            shutil.rmtree(folder)
        made.replace(folder)
    files = {one: (folder / one).stat().st_size for one in hub.FILES if (folder / one).is_file()}
    address = hub.upload(folder, name, private=private) if push else None
    return Published(folder, name, files, notes, address)


def _folder_of(run: Run) -> Path:
    """Where a run is published by default; nothing is written into the cache of the Hub."""
    return (run.path if run.results_folder == run.path else Path()) / "published"


def _edited_card(folder: Path) -> bytes | None:
    """The card of a folder that was published before, if somebody has edited it.

    Raises:
        ValueError: The folder is something else, which must not be replaced.
    """
    if not folder.exists():
        return None
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        written = about["card"]
        strangers = sorted(one.name for one in folder.iterdir() if one.name not in hub.FILES)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"out must be a new folder or one that publish wrote, got {folder}") from error
    if strangers:
        raise UserError(
            f"out must hold what publish wrote and nothing else, got {folder} with {strangers[0]}"
        )
    if not (folder / CARD).is_file():
        return None
    content = (folder / CARD).read_bytes()
    return None if sha256(content).hexdigest() == written else content


def _write(run: Run, folder: Path, name: str, license: str | None, digests: bool) -> list[str]:
    """Write all files; notes on what a user should know."""
    notes = []
    for file in (ENCODER, FEATURES, LOG, *([SAMPLES] if digests else [])):
        if (run.path / file).is_file():
            shutil.copyfile(run.path / file, folder / file)
    config = shortened(run.config)
    if run.skipped:  # older versions wrote the number of all entries of skipped.csv, remarks included
        config.setdefault("data", {})["skipped"] = sum(was_meant(reason) for _, reason in run.skipped)
    evaluations = [_without_paths(_with_short_names(evaluation)) for evaluation in run.evaluations]
    (folder / CONFIG).write_text(tomli_w.dumps(config), encoding="utf-8")
    if evaluations:
        scores = evaluations[0] | {"earlier": evaluations[1:]}
        (folder / SCORES).write_text(json.dumps(scores, indent=1), encoding="utf-8")
    else:
        notes.append("no scores: unlabeled evaluate measures the encoder beside the controls")
    sources = _sources(run.config)
    if license is None:
        notes.append("no licence is set; name one with --license, such as apache-2.0")
    if unknown := [source for source, known in sources.items() if known is None]:
        notes.append(
            f"the licence of {' and '.join(unknown)}, from which it learned, is not known: yours must suit it"
        )
    entry = Entry(load(folder, _network(run)), evaluations, None)  # the card says what the folder says
    if len(entry.judged) < len(entry.evaluations):
        notes.append("scores of earlier states of the encoder are not on the card")
    licence, has_digests = _licence(license, sources), (folder / SAMPLES).is_file()
    readme = card(entry, name, config, licence=licence, license=license, digests=has_digests).encode()
    (folder / CARD).write_bytes(readme)
    about = _about(entry, config) | {"card": sha256(readme).hexdigest()}
    (folder / ABOUT).write_text(json.dumps(about, indent=2), encoding="utf-8")
    return notes


def _about(entry: Entry, config: Mapping[str, Any]) -> dict[str, Any]:
    """What a program can read of the encoder without opening it; vocabularies are in its own file only."""
    encoder = entry.run.encoder
    arguments = {key: value for key, value in encoder.config.items() if isinstance(value, str | int | float)}
    return {
        "library_name": "unlabeled",
        "unlabeled_version": __version__,
        "method": entry.name,
        "kind": encoder.kind,
        "dim": encoder.dim,
        "features": str(config.get("settings", {}).get("features", "output")),
        "encoder": {key: value for key, value in arguments.items() if len(str(value)) < LONGEST},
    }


def _prove(run: Run, folder: Path) -> None:
    """Open the folder as its users will, and compare its features with those of the run.

    Raises:
        ValueError: They differ.
    """
    ours, theirs = run.encoder.eval(), load(folder, _network(run)).encoder
    device = next((weight.device for weight in ours.parameters()), torch.device("cpu"))
    with torch.no_grad():
        batch = proof.example(ours)
        expected = ours(ours.inputs({name: value.to(device) for name, value in batch.items()})).cpu()
        difference = proof.difference(theirs(theirs.inputs(batch)), expected)
    if not difference <= (tolerance := proof.tolerance(ours)):
        raise UserError(
            f"features must agree to {tolerance} in {folder}, got a difference of {difference:.2g}"
        )


def _network(run: Run) -> Any:
    """What opens the file of a network of the user's own: the network itself."""
    return copy.deepcopy(run.encoder) if run.own_network else None


def shortened(value: Any) -> Any:
    """Settings without the paths of this machine: only the last part of each, and no lists of files.

    A relative path counts too, whether or not it exists: a run may be published from another folder.
    """
    if isinstance(value, Mapping):
        return {
            key: one if key in PATTERNS else shortened(one)
            for key, one in value.items()
            if key not in NOT_PUBLISHED
        }
    if isinstance(value, list | tuple):
        return [shortened(one) for one in value]
    if not isinstance(value, str) or value.startswith(LIBRARIES):
        return value
    if prefix := re.match(r"[a-z]{2,}:", value):  # such as pans:PATH
        return prefix[0] + shortened(value.removeprefix(prefix[0]))
    return Path(value).name if os.sep in value or "/" in value else value


def _without_paths(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """An evaluation with short paths in its settings, and the same ones in its other texts, such as details."""
    named = {key: evaluation[key] for key in NAMES if key in evaluation}
    short = shortened(named)
    renamed = dict(_changes(named, short))
    return {
        key: short[key] if key in short else _renamed(one, renamed)
        for key, one in evaluation.items()
        if key not in NOT_PUBLISHED
    }


def _changes(before: Any, after: Any) -> Iterator[tuple[str, str]]:
    """Texts that were shortened, and what became of them."""
    if isinstance(before, Mapping):
        for key in after:
            yield from _changes(before[key], after[key])
    elif isinstance(before, list | tuple):
        for one, other in zip(before, after, strict=True):
            yield from _changes(one, other)
    elif isinstance(before, str) and before != after:
        yield before, after


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """Anything with other names for paths within its texts; a text that begins with another path is cut."""
    if isinstance(value, Mapping):
        return {key: _renamed(one, names) for key, one in value.items() if key not in NOT_PUBLISHED}
    if isinstance(value, list | tuple):
        return [_renamed(one, names) for one in value]
    if not isinstance(value, str):
        return value
    for path in sorted(names, key=len, reverse=True):  # a folder may be part of another path
        value = re.sub(rf"(?<![\w/]){re.escape(path)}(?!\w)", lambda _, name=names[path]: name, value)
    return shortened(value) if Path(value).is_absolute() else value


def _with_short_names(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """An evaluation whose note names files without their folders."""
    lists = [
        one[key]
        for one in evaluation.values()
        if isinstance(one, Mapping)
        for key in NOT_PUBLISHED
        if key in one
    ]
    note = str(evaluation.get("note", ""))
    for path in sorted({str(path) for paths in lists for path in paths}, key=len, reverse=True):
        note = note.replace(path, Path(path).name)
    return {**evaluation, **({"note": note} if note else {})}


def _sources(config: Mapping[str, Any]) -> dict[str, str | None]:
    """Names of the weights that the encoder started from and of teachers, each with its licence, None if not known."""
    weights = config.get("settings", {}).get("weights")
    named = [weights] if weights else []
    named += [one for one in config.get("options", {}).values() if isinstance(one, str) and _names_file(one)]
    return {shortened(str(source)): _licence_of(str(source)) for source in named}


def _names_file(option: str) -> bool:
    """Whether an option names a file or run, such as a teacher, which may be gone or elsewhere by now."""
    return "/" in option or os.sep in option or Path(option).exists()


def _licence_of(source: str) -> str | None:
    """The licence that a library or a card says of weights."""
    library, _, name = source.partition(":")
    try:
        if library == "timm":
            from timm.models import get_pretrained_cfg

            return getattr(get_pretrained_cfg(name), "license", None)
        if library in ("hf", "hub"):
            file = Path(hf_hub_download(name.partition("@")[0], CARD))
        else:
            path = Path(source)
            file = (path if path.is_dir() else path.parent) / CARD
        known = ModelCard.load(file, ignore_metadata_errors=True).data.to_dict().get("license")
    except Exception:  # whatever a missing card, a damaged one or the network raises
        return None
    return known if isinstance(known, str) else None


def _licence(license: str | None, sources: Mapping[str, str | None]) -> str:
    """A sentence on the licence of the weights, and of what they were made from."""
    ours = f"These weights: {license}." if license else "No licence was named for these weights."
    if not sources:
        return f"{ours} They started from random weights."
    made = [f"{one} (licence: {known or 'not known here'})" for one, known in sources.items()]
    return f"{ours} They were made from {' and '.join(made)}."
