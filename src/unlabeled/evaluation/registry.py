"""A folder as a registry: each module is an entry, and the first sentence of its docstring says what it is."""

import ast
import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Generic, TypeVar

__all__ = ["Registry"]

Entry = TypeVar("Entry")


class Registry(Mapping[str, str], Generic[Entry]):
    """Titles of the modules of a package by their names, read from the source, so that help never imports torch.

    Args:
        package: The package, such as `unlabeled.evaluation.probes`.
        file: Its `__init__.py`.
        entry: Name of the object that each module defines.
    """

    def __init__(self, package: str, file: str, entry: str) -> None:
        self.package, self.entry = package, entry
        self._titles: dict[str, str] = {}
        self._files = {path.stem: path for path in sorted(Path(file).parent.glob("[a-z]*.py"))}

    def __getitem__(self, name: str) -> str:
        """What an entry is called in prose: its docstring up to the first colon, without a capital but in names."""
        if name not in self._titles:
            docstring = ast.get_docstring(ast.parse(self._files[name].read_text(encoding="utf-8"))) or name
            title = docstring.partition(":")[0]
            self._titles[name] = title if title[:2].isupper() else title[0].lower() + title[1:]
        return self._titles[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def __str__(self) -> str:
        return ", ".join(f"{name} ({title})" for name, title in self.items())

    def load(self, name: str) -> Entry:
        """Import an entry."""
        return getattr(importlib.import_module(f"{self.package}.{name}"), self.entry)
