"""What the user names to evaluate on, and how it is opened as the encoder needs it."""

import copy
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.opening import called
from unlabeled.data.options import Options as OpenOptions
from unlabeled.files import printable
from unlabeled.method import Method
from unlabeled.options import READING
from unlabeled.run import Run
from unlabeled.run import reading as run_reading

if TYPE_CHECKING:
    from unlabeled.data import Data
    from unlabeled.encoders import Encoder

__all__ = ["Parts", "Source", "is_source"]

Options = dict[str, Any]
"""Options of `open_data`."""
OF_ALL, OF_TEXTS = ("group", "max_broken"), ("label", "encoding", "text_column", "segmenter")
"""Options that hold for data of another kind than the encoder's too: those for any kind, and those for texts."""


@dataclass(frozen=True)
class Source:
    """What the user named, and the options to open it with.

    Attributes:
        data: What `open_splits` takes, or a pair of training and test data where `test` is None.
        test: What `open_data` takes, of which the test split is read where there is one; or None.
        options: Options of `open_data`.
        reading: Those of them that are the user's, or the run's own.
    """

    data: Any
    test: Any = None
    options: Options = field(default_factory=dict)
    reading: Options = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        run: Any,
        encoder: "Encoder",
        data: Any,
        test: Any = None,
        *,
        reading: Mapping[str, Any] | None = None,
    ) -> "Source":
        """A source with options that suit a run, a method or an encoder.

        Args:
            run: The run or method around the encoder, or the encoder.
            encoder: The encoder.
            data: As in `Source`.
            test: As in `Source`.
            reading: Options of the user's; None takes those of the run on the data that it was trained on.

        Raises:
            ValueError: There is no such option.
        """
        for name in reading or {}:
            check.choice(OpenOptions.__annotations__, option=name)
        explicit = {name: value for name, value in (reading or {}).items() if value is not None}
        if isinstance(run, Run):
            options, settings = run.reading, run.config.get("settings", {})
            if is_source(run, data):
                explicit = {name: settings[name] for name in READING if name in settings} | explicit
        else:
            kind = run.kind if isinstance(run, Method) else {"words": "text"}.get(encoder.kind, encoder.kind)
            options = run_reading(encoder, kind)
        return cls(data, test, options | explicit, explicit)

    @property
    def name(self) -> str:
        """What the data was called by whoever named it: paths distinguish folders of one name."""
        names = [printable(part) if isinstance(part, str | Path) else called(part) for part in self._named]
        return ", tested on ".join(dict.fromkeys(names))

    @property
    def _named(self) -> list[Any]:
        parts = (*self.data, self.test) if isinstance(self.data, tuple) else (self.data, self.test)
        return [part for part in parts if part is not None]

    def open(self, *, whole: bool = False) -> "Parts":
        """Open training and test data, their classes numbered alike.

        Args:
            whole: Whether data that was opened before is test data as a whole, without a training part.

        Raises:
            ValueError: The two have no class in common.
        """
        from unlabeled.data import Data, open_data, open_splits
        from unlabeled.data.opening import levels_of, same_classes

        data, test, options = self.data, self.test, self.options
        if whole and test is None and isinstance(data, Data):
            return Parts(self, None, data)
        if isinstance(data, tuple) and test is None:
            data, test = data
        if test is None:
            return Parts(self, *open_splits(data, **options))
        train = open_data(data, **options)
        tested = _open_test(test, _same_mapping(options, levels_of(train)))
        if train.classes and tested.classes and not {*train.classes} & {*tested.classes}:
            raise UserError(
                f"test must have the training data's classes {train.classes}, got {tested.classes}"
            )
        return Parts(self, *same_classes(copy.copy(train), copy.copy(tested)))

    def splits(self, encoder: "Encoder") -> "Iterator[tuple[str, Data]]":
        """Open every split as an encoder reads it, with its name; "all" where there is none."""
        from unlabeled.data import opening

        options = self.options
        openers = opening.parts(self.data, **options)
        for split in list(openers):
            data = openers[split]()
            if (alike := _same_mapping(options, opening.levels_of(data))) is not options:
                options, openers = alike, opening.parts(self.data, **alike)
            yield split, encoder.evaluation_view(data)

    def of_kind(self, kind: str) -> "Source":
        """The same source, read as data of another kind than the encoder's."""
        from unlabeled.data import store_size

        names = (*OF_ALL, *(OF_TEXTS if kind == "text" else ()))
        options = {name: self.options[name] for name in names if name in self.options}
        return replace(self, options=options | {"kind": kind, "store_size": store_size(kind, None)})

    def is_divided(self) -> bool:
        """Whether `open` divides the data, as it has no training and test part of its own."""
        from unlabeled.data import opening

        if self.test is not None or isinstance(self.data, tuple):
            return False
        splits = opening.parts(self.data, **self.options)
        return "train" not in splits or not {"test", "validation"} & {*splits}

    def reopened_test(self, options: Options) -> "Data | None":
        """The test part opened with other options too; None where they cannot change its samples."""
        files = [part for part in self._named if isinstance(part, str | os.PathLike)]
        if not any(Path(file).expanduser().exists() for file in files):
            return None
        if all(self.options.get(name) == value for name, value in options.items()):
            return None
        return replace(self, options=self.options | options).open().test


@dataclass(frozen=True)
class Parts:
    """An opened source.

    Attributes:
        source: What the user named.
        train: Training part, if there is one.
        test: Test part; None where there are no samples such as `Data` holds, but lists of words or videos with masks.
    """

    source: Source
    train: "Data | None"
    test: "Data | None"

    @property
    def calibration(self) -> "Data":
        """What norms of random twins see: the training part or, where there is none, the test part without answers."""
        return self.require_test() if self.train is None else self.train

    def require_test(self, kind: str | None = None, task: str = "") -> "Data":
        """The test part.

        Args:
            kind: Kind that it must be of; None for any.
            task: What needs that kind.

        Raises:
            ValueError: It is of another kind.
        """
        assert self.test is not None
        if kind is not None and self.test.kind != kind:
            raise UserError(f"data must be of kind {kind} for {task}, got {self.test.kind}")
        return self.test

    def views(self, encoder: "Encoder", device: torch.device) -> "tuple[Data, Data]":
        """Training part, or what stands for it, and test part as an encoder reads them, on a device."""
        parts = (self.calibration, self.require_test())
        train, test = (encoder.evaluation_view(data).to(device) for data in parts)
        return train, test


def is_source(run: Run, data: Any) -> bool:
    """Whether data is spelled as the source of a run was."""
    return isinstance(data, str | Path) and run.config.get("data", {}).get("source") == printable(data)


def _same_mapping(options: Options, levels: dict[str, Any]) -> Options:
    """Options that map a further part to 8 bits as the first was mapped, unless the options decide it."""
    return options if options.get("levels") or not levels else options | {"levels": levels}


def _open_test(source: Any, options: Options) -> "Data":
    from unlabeled.data import opening

    splits = opening.parts(source, **options)
    split = next((name for name in ("test", "validation") if name in splits), None)
    return opening.open_data(source, split=split, **options)
