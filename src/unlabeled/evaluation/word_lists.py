"""Lists of words that people made: pairs with scores of similarity, and analogies."""

import os
from pathlib import Path
from typing import Any

from unlabeled.check import UserError
from unlabeled.evaluation.model import EvaluatedModel
from unlabeled.evaluation.sources import Parts, Source

__all__ = ["Pair", "Question", "numbers_of", "open_list", "read_pairs", "read_questions"]

Pair = tuple[str, str, float]
Question = tuple[str, str, str, str]


def open_list(source: Source) -> Parts:
    """A source whose data is a file for `read_pairs` or `read_questions`, which is no `Data`."""
    return Parts(source, None, None)


def numbers_of(model: EvaluatedModel) -> dict[str, int]:
    """Row of each word in the encoder's `vectors`.

    Raises:
        ValueError: The encoder has no vectors of words.
    """
    encoder: Any = model.encoder
    if not (hasattr(encoder, "vectors") and hasattr(encoder, "numbers")):
        raise UserError(
            f"encoder must be one of word vectors, as of lsa or skipgram, got one of kind {encoder.kind}"
        )
    return encoder.numbers


def read_pairs(file: Any) -> list[Pair]:
    """Read pairs of words with people's scores, as WordSim-353, SimLex-999 or MEN.

    Args:
        file: A text file; each line has two words and a score between tabs, commas or blanks. Lines that start with
            # and a heading are skipped.

    Raises:
        ValueError: There is no such file, or a line is something else.
    """
    pairs: list[Pair] = []
    for number, line in enumerate(_lines(file), 1):
        separator = next((mark for mark in "\t," if mark in line), None)
        parts = [part.strip() for part in line.split(separator)]
        if not line.strip() or line.startswith("#"):
            continue
        try:
            pairs.append((parts[0].lower(), parts[1].lower(), float(parts[2])))
        except (IndexError, ValueError):
            if pairs or len(parts) < 3:
                raise UserError(
                    f"data must have two words and a number in each line, got {line.strip()!r} "
                    f"in line {number} of {file}"
                ) from None
    if not pairs:
        raise UserError(f"data must have pairs of words with scores, got none in {file}")
    return pairs


def read_questions(file: Any) -> dict[str, list[Question]]:
    """Read analogies, as questions-words.

    Args:
        file: A text file; lines of four words follow the name of their section, which has a colon before it.

    Returns:
        Questions by section.

    Raises:
        ValueError: There is no such file, or a line is something else.
    """
    sections: dict[str, list[Question]] = {}
    section = "all"
    for number, line in enumerate(_lines(file), 1):
        if line.startswith(":"):
            section = line[1:].strip()
        elif words := line.lower().split():
            if len(words) != 4:
                raise UserError(
                    f"data must have four words in each line, got {len(words)} in line {number} of {file}"
                )
            sections.setdefault(section, []).append(tuple(words))  # type: ignore[arg-type]
    if not sections:
        raise UserError(f"data must have questions of four words, got none in {file}")
    return sections


def _lines(file: Any) -> list[str]:
    if not isinstance(file, str | os.PathLike) or not Path(file).is_file():
        raise UserError(f"data must be a text file of words that exists, got {file}")
    try:
        return Path(file).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"data must be text in UTF-8, got byte {error.start} of {file}") from error
