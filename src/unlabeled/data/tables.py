"""Parquet files are told in one line where they are damaged, before they take memory for what they only claim."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from unlabeled import check

__all__ = ["count_rows", "told"]

_ROWS = 2**14
"""Rows that any file may have; a larger one may have as many as bytes, for a row that differs takes some."""
_UNPACKED, _RATIO = 2**28, 100
"""Bytes that any file may unpack to, and how many for each byte of a larger one."""


@contextmanager
def told(path: Path | str) -> Iterator[None]:
    """Turn whatever a parquet file is refused for into one line that names it.

    Raises:
        ValueError: Anything went wrong.
    """
    try:
        yield
    except Exception as error:  # errors of pyarrow and of datasets share no class below Exception
        if isinstance(error, ValueError) and str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path} must be a readable parquet file: {check.reason(error)}") from error


def count_rows(paths: Sequence[Path]) -> int:
    """Rows of parquet files.

    Raises:
        ValueError: One cannot be read, or claims more than can be in it.
    """
    from pyarrow.parquet import read_metadata

    total = 0
    for path in paths:
        with told(path):
            about, size = read_metadata(path), path.stat().st_size
            unpacked = sum(about.row_group(number).total_byte_size for number in range(about.num_row_groups))
            rows, groups = about.num_rows, [about.row_group(i).num_rows for i in range(about.num_row_groups)]
            if max(rows, sum(groups)) > max(_ROWS, size) or min(rows, *groups, 0) < 0:
                raise ValueError(f"{rows} rows cannot be in {size} bytes")
            if unpacked > max(_UNPACKED, _RATIO * size):
                raise ValueError(f"it unpacks to {unpacked} bytes, more than {_RATIO} for each of its own")
            total += rows
    return total
