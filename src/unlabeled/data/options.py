"""How data is opened: the options of `open_data` that every kind is given."""

import inspect
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, get_args

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.image.levels import parsed
from unlabeled.data.samples import Skipped
from unlabeled.options import unknown

__all__ = [
    "STORE_SIZE",
    "STORE_SIZES",
    "OpenOptions",
    "Options",
    "Pages",
    "Progress",
    "refuse_broken",
    "refuse_fold",
    "refuse_unknown",
]

Pages = Literal["first", "all", "bands"]
STORE_SIZE = 160
STORE_SIZES = {"image": STORE_SIZE, "video": 112, "audio-visual": 112, "cameras": 64, "trajectory": 64}
"""Shorter side in pixels to which larger pictures are resized, by kind."""
_REASONS = 3
Progress = Callable[[int, int | None], None]


class Options(TypedDict, total=False):
    """The fields of `OpenOptions` as keywords."""

    store_size: int | None
    channels: int | None
    sample_rate: int | None
    levels: Any
    pages: Pages
    annotations: Literal["boxes", "masks"] | None
    workers: int | None
    max_broken: float
    cache: str | os.PathLike[str] | bool | None
    progress: Progress | None
    label: str | None
    encoding: str | None
    text_column: str | None
    segmenter: str | None
    group: str | None
    fold: int | None


@dataclass(frozen=True, kw_only=True)
class OpenOptions:
    """Options of `open_data`.

    Args:
        store_size: Shorter side in pixels to which larger images are resized, 160 if None (of videos 112, of cameras
            and trajectories 64); smaller ones and arrays stay as they are.
        channels: 1 for grey or 3 for colour, or as many bands as the images have; None makes everything grey only
            where every image is.
        sample_rate: Samples of sound per second, in hertz; None takes the commonest of the source.
        levels: Values of images of more than 8 bits that become 0 and 255: "LOW,HIGH", such a pair, or a table of
            pairs as in `levels`; None takes those that suit all images of the split (see `levels`).
        pages: What is read of an image file of several pages: the first; all, each as an image of its own; or bands,
            one image whose bands are the pages.
        annotations: Boxes or masks of what is in the images, which are read too (`image.annotated`); images without
            any are left out.
        workers: Threads that decode, as many as processors if None.
        max_broken: Largest fraction, in 0..1, of the files that may be unreadable. Files that were never meant
            to be samples (.txt, .json, hidden ones) are listed as skipped, but not counted.
        cache: Folder for what was decoded, $UNLABELED_CACHE or ~/.cache/unlabeled if None; False writes none.
        progress: Called with the samples done so far and their number, None where that is unknown.
        label: Column of the labels in a table of samples, or in one beside the files; None looks for a usual name
            (`labels.COLUMNS`), and so does a name followed by ? where there is no such column.
        encoding: Encoding of texts, such as gbk or cp1252; None detects it, and if followed by ? it is only that of
            files that are neither UTF-8 nor UTF-16.
        text_column: Column of a table that holds the texts, or several with commas between them, which are joined;
            None chooses, and so does a name followed by ? where there is no such column.
        segmenter: Word segmenter for languages without spaces: characters, jieba or pythainlp.
        group: Groups of samples that stay in one part, as they are not independent: a column of a table
            or a factor such as `speaker`; a regular expression with one capture group, such as
            `(speaker\\d+)_`, which is searched for in each path below the source; `folder`, for the files of one
            folder; or `none`, for independent samples. None takes documents, recordings and files of
            several pages where they are known.
        fold: Number of the official split, of videos that come with several, as those of UCF101 and HMDB51; the first
            if None.

    Raises:
        ValueError: A value is out of its range.
    """

    store_size: int | None = None
    channels: int | None = None
    sample_rate: int | None = None
    levels: Any = None
    pages: Pages = "first"
    annotations: Literal["boxes", "masks"] | None = None
    workers: int | None = None
    max_broken: float = 0.1
    cache: str | os.PathLike[str] | bool | None = None
    progress: Progress | None = None
    label: str | None = None
    encoding: str | None = None
    text_column: str | None = None
    segmenter: str | None = None
    group: str | None = None
    fold: int | None = None

    def __post_init__(self) -> None:
        check.fraction(max_broken=self.max_broken)
        check.choice(get_args(Pages), pages=self.pages)
        check.choice((None, "boxes", "masks"), annotations=self.annotations)
        parsed(self.levels)
        for name in ("channels", "store_size", "workers", "sample_rate", "fold"):
            if (value := getattr(self, name)) is not None:
                check.at_least(1, **{name: value})

    @property
    def threads(self) -> int:
        """Threads that decode."""
        return self.workers or os.cpu_count() or 1

    def side(self, kind: str) -> int:
        """Shorter side in pixels to which larger pictures of a kind of data are resized."""
        return self.store_size or STORE_SIZES[kind]


def refuse_unknown(function: Callable[..., Any], options: Iterable[str]) -> None:
    """Refuse keywords that a function passes on to `OpenOptions` and that this does not have.

    Args:
        function: The function, for its name and its own keywords.
        options: The keywords.

    Raises:
        ValueError: There is no such option; the nearest one is suggested.
    """
    for name in options:
        if name not in Options.__annotations__:
            parameters = inspect.signature(function).parameters.values()
            own = [one.name for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY]
            raise unknown(function.__name__, name, [*own, *Options.__annotations__])


def refuse_broken(
    name: str, skipped: Sequence[Skipped], decoded: int, max_broken: float, count: int | None = None
) -> None:
    """Refuse a source of which too much cannot be read.

    Args:
        name: What messages call the source.
        skipped: What could not be read, though it was meant to be.
        decoded: How many could be read.
        max_broken: Largest fraction that may be unreadable, in 0..1.
        count: How many of `skipped` were meant to be read, all if None.

    Raises:
        ValueError: More of it is broken, or nothing could be read.
    """
    count = len(skipped) if count is None else count
    if count > max_broken * (count + decoded) or not decoded:
        reasons = "; ".join(check.one_line(f"{skip.path}: {skip.reason}") for skip in skipped[:_REASONS])
        raise UserError(
            f"{count} of {count + decoded} files in {name} cannot be read, more than a max_broken of {max_broken:g} "
            f"allows: {reasons}"
        )


def refuse_fold(fold: int | None, name: str) -> None:
    """Refuse the number of an official split for data that has none.

    Raises:
        ValueError: There is a number.
    """
    if fold is not None:
        raise UserError(f"fold must be left out for data without official splits, got {fold} for {name}")
