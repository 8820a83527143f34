"""Official splits of action recognition: the lists that come with UCF101, HMDB51 and JHMDB, below the same folder.

UCF101: trainlist01.txt and testlist01.txt with lines such as CLASS/VIDEO.avi, those for training followed by the number
of the class, whose name is in classInd.txt. HMDB51 and JHMDB: CLASS_test_split1.txt with lines such as VIDEO.avi 1,
where 1 is for training, 2 for testing and 0 for neither. Videos may have other endings or be folders of frames.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from unlabeled import check
from unlabeled.data.files import File, Walk, digest
from unlabeled.data.groups import numbers_of
from unlabeled.data.labels import class_name, in_order
from unlabeled.data.notes import note
from unlabeled.data.options import refuse_fold
from unlabeled.data.samples import Item, Skipped
from unlabeled.data.sources import Reading, Source, skipped_files
from unlabeled.data.video.decode import SUFFIXES

__all__ = ["listing", "official_sources", "read_lists", "recordings"]

_UCF = re.compile(r"(train|test)list(\d+)\.txt")
_HMDB = re.compile(r"(.+)_test_split(\d+)\.txt")
_INDEX = "classInd.txt"
_CODES = {"1": "train", "2": "test", "0": ""}
_GROUP = re.compile(r"(v_.+_g\d+)_c\d+")
_FILM = re.compile(r"(.+)_[a-z]_[cn]m_np\d+_(?:fr|ba|le|ri)_(?:goo|med|bad)_\d+")
_NAMED = 3
MISSING, UNUSED = "no such video", "0 in its list, so in neither part"


class Line(NamedTuple):
    """What a line of a list says, or why it is not used.

    Attributes:
        video: CLASS/VIDEO without its ending.
        label: Name of the class.
        split: train, test, or empty for neither.
        problem: Why it is not used; empty where it is.
    """

    video: str
    label: str
    split: str
    problem: str = ""


def listing(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return check.one_line(", ".join(names[:_NAMED])) + more


def recordings(paths: Sequence[str]) -> Tensor | None:
    """Groups of videos from one recording, by the names of UCF101 (v_CLASS_g01_c02) and HMDB51 (FILM_CLASS_u_nm_...).

    Args:
        paths: Videos or folders of frames.

    Returns:
        int64, shape (videos,); a video of another name is a group of its own. None where no name is of that form.
    """
    keys = [_recording(path) for path in paths]
    return numbers_of(keys) if any(keys) else None


def official_sources(
    below: Walk, name: str, videos: Sequence[File], still: bool, fold: int | None
) -> dict[str, Source] | None:
    """Training and test part of videos as the official lists say.

    Args:
        below: Everything in the folder.
        name: What messages call it.
        videos: Files of videos, or of their frames.
        still: Whether they are frames, each folder of which is a video.
        fold: Number of the split; None takes the first.

    Returns:
        Sources by split; None where there are no lists for training and for testing.

    Raises:
        ValueError: There is no such split, or no lists but a number.
    """
    folds = _folds(below.files)
    if not folds:
        refuse_fold(fold, name)
        return None
    number = min(folds) if fold is None else fold
    check.choice(sorted(folds), fold=number)
    where: dict[str, list[File]] = defaultdict(list)
    for file in videos:
        where[os.path.dirname(file.path) if still else file.path].append(file)
    lists = folds[number] + [file for file in below.files if os.path.basename(file.path) == _INDEX]
    lines = read_lists(below.root, lists, where)
    parts, others = _matched(lines, where)
    _tell(name, number, sorted(folds), parts, others)
    index = _index(below.root, lists)
    labels = {label for part in parts.values() for label in part.values()}
    classes = [label for label in index.values() if label in labels] if index else in_order(labels)
    members = {file.path for part in parts.values() for path in part for file in where[path]}
    beside = {file.path for file in videos}
    skipped = [Skipped(line.video, line.problem) for line in others] + skipped_files(
        below,
        members | {file.path for file in lists},
        lambda file: f"not in official split {number}" if file.path in beside else "not among the videos",
    )

    def source(split: str) -> Source:
        files = [(file, label) for path, label in parts[split].items() for file in where[path]]
        missing = sum(line.problem == MISSING and line.split == split for line in others)

        def read() -> Reading:
            items = (Item(file.path, label, below.root / file.path) for file, label in files)
            return Reading(classes, len(files), items)

        state = digest([*lists, *(file for file, _ in files)])
        key = ["official", os.path.realpath(below.root), number, state]
        prefix = os.path.join(below.root, "") if below.root != Path() else ""
        return Source(name, read, key, prefix, skipped, missing)

    return {split: source(split) for split in parts}


def read_lists(root: Path, lists: Sequence[File], videos: Mapping[str, object]) -> list[Line]:
    """What the lists of one split say, line by line.

    Args:
        root: Where they are.
        lists: The lists, perhaps with classInd.txt.
        videos: Paths of the videos, by which a name that ends with a number can be told from a name and a number.
    """
    index, known = _index(root, lists), {*map(_key, videos)}
    lines = []
    for file in lists:
        base = os.path.basename(file.path)
        if match := _UCF.fullmatch(base):
            for text in _texts(root / file.path):
                lines.append(_ucf_line(text, match[1], index, known))
        elif match := _HMDB.fullmatch(base):
            for text in _texts(root / file.path):
                lines.append(_hmdb_line(text, class_name(match[1])))
    return lines


def _folds(files: Sequence[File]) -> dict[int, list[File]]:
    """Lists by the number of their split, where these are for training and for testing."""
    ucf: dict[int, dict[str, File]] = defaultdict(dict)
    hmdb: dict[int, list[File]] = defaultdict(list)
    for file in files:
        base = os.path.basename(file.path)
        if match := _UCF.fullmatch(base):
            ucf[int(match[2])].setdefault(match[1], file)
        elif match := _HMDB.fullmatch(base):
            hmdb[int(match[2])].append(file)
    return {number: [*of.values()] for number, of in ucf.items() if len(of) == 2} or hmdb


def _texts(path: Path) -> Iterator[str]:
    """Lines of a list that are not empty."""
    yield from filter(None, map(str.strip, path.read_bytes().decode("utf-8-sig", "replace").splitlines()))


def _index(root: Path, lists: Sequence[File]) -> dict[int, str]:
    """Names of the classes by their numbers in classInd.txt; empty where it is not there."""
    names = {}
    for file in lists:
        if os.path.basename(file.path) == _INDEX:
            for text in _texts(root / file.path):
                number, *name = text.split(None, 1)
                if number.isdigit() and name:
                    names[int(number)] = class_name(name[0])
    return names


def _key(path: str) -> str:
    """The last folder of a path and its name, without the ending of a video."""
    path = path.strip().replace("\\", "/")
    stem, ending = os.path.splitext(path)
    return "/".join((stem if ending.lower() in (*SUFFIXES, ".npy") else path).split("/")[-2:])


def _ucf_line(text: str, split: str, index: Mapping[int, str], known: set[str]) -> Line:
    name, number = text, ""
    if _key(text) not in known:
        head, *last = text.rsplit(None, 1)
        if last and last[0].isdigit():
            name, number = head, last[0]
    video = _key(name)
    label = class_name(video.rpartition("/")[0])
    if not label:
        return Line(video, label, split, "no class before the name")
    if index and label not in index.values():
        return Line(video, label, split, f"class not in {_INDEX}")
    if index and number and index.get(int(number)) != label:
        return Line(video, label, split, f"number of another class in {_INDEX}")
    return Line(video, label, split)


def _hmdb_line(text: str, label: str) -> Line:
    head, *last = text.rsplit(None, 1)
    video = f"{label}/{_key(head).rpartition('/')[2]}"
    if not last or last[0] not in _CODES:
        return Line(video, label, "", "no 0, 1 or 2 at its end")
    split = _CODES[last[0]]
    return Line(video, label, split, "" if split else UNUSED)


def _matched(
    lines: Sequence[Line], where: Mapping[str, object]
) -> tuple[dict[str, dict[str, str]], list[Line]]:
    """Class by path of the videos of each split, and the lines that are not used."""
    paths: dict[str, str] = {}
    for path in sorted(where, reverse=True):  # of several in the same class, the first stays
        paths[_key(path)] = path
    stems = defaultdict(set)
    for key in paths:
        stems[key.rpartition("/")[2]].add(key)
    parts: dict[str, dict[str, str]] = {"train": {}, "test": {}}
    others, earlier = [], set()
    for line in lines:
        problem, alike = line.problem, stems[line.video.rpartition("/")[2]]
        key = line.video if line.video in paths or len(alike) != 1 else next(iter(alike))
        if not problem:
            problem = MISSING if key not in paths else "listed before" if key in earlier else ""
        if problem:
            others.append(line._replace(problem=problem))
        else:
            earlier.add(key)
            parts[line.split][paths[key]] = line.label
    return parts, others


def _tell(
    name: str,
    number: int,
    folds: Sequence[int],
    parts: Mapping[str, Mapping[str, str]],
    others: Sequence[Line],
) -> None:
    """Say which split was taken, which lines are not used, and whether one recording is on both sides."""
    train, test = ([_recording(path) for path in parts[split]] for split in ("train", "test"))
    choice = f" of {', '.join(map(str, folds))} (--fold takes another)" if len(folds) > 1 else ""
    note(f"{name}: official split {number}{choice}, {len(train):,} videos to train and {len(test):,} to test")
    for problem in dict.fromkeys(line.problem for line in others):
        if problem != UNUSED:
            videos = [line.video for line in others if line.problem == problem]
            count = f"{len(videos):,} of {len(train) + len(test) + len(others):,} lines"
            note(f"{name}: skipped {count} of official split {number}, {problem}: {listing(videos)}")
    shared = {*train} & {*test} - {None}
    if crossing := sum(key in shared for key in test):
        note(f"{name}: {crossing:,} of {len(test):,} test videos are of recordings that are in training too")


def _recording(path: str) -> str | None:
    folder, stem = ("/" + _key(path)).rsplit("/", 2)[-2:]
    if match := _GROUP.fullmatch(stem):
        return match[1]
    match = _FILM.fullmatch(stem)
    return match[1].removesuffix(f"_{folder}") if match else None
