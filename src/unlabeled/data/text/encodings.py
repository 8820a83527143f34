"""From the bytes of a text file to its characters: which encoding it is in, and what could not be decoded.

A byte order mark is trusted. Without one, a file is UTF-16 where its zero bytes or its characters say so, UTF-8 where
it is valid or only damaged, Windows-1252 where less than half of the letters are not ASCII and hardly three of these
follow each other, as in Western Europe, and otherwise what `charset_normalizer` detects among the encodings of Chinese,
Japanese, Korean, Cyrillic, Greek, Arabic and Thai. All files of a source are examined together, as a short one reveals
little.
"""

import codecs
import re
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

from unlabeled.check import UserError
from unlabeled.data.notes import note

__all__ = ["Decoder", "only_utf_8", "refuse_marked"]

_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # starts as UTF-16 does, so it comes first
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_OTHERS = (
    *("gb18030", "big5", "cp932", "euc_jp", "euc_kr", "cp1251", "koi8_r", "cp1253", "cp1255", "cp1256"),
    "cp874",
)
_SAMPLE = 2**16
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_MOST_CONTROL = 0.05
_ZEROS = 0.2
"""Fraction of zeros among the high bytes of UTF-16, which are those of ASCII; Chinese has only a few."""
_USUAL = re.compile(r"[\t\n\r -~\u2010-\u203b\u3000-\u30ff\u4e00-\u9fff\uac00-\ud7a3\uff00-\uffef]")
_LONG_RUNS = re.compile(rb"[\x80-\xff]{3,}")
_MOST_ACCENTS, _MOST_IN_RUNS = 0.45, 0.3
_MOST_REPLACED = 0.1


class Decoded(NamedTuple):
    """Characters of a file, and the reason why some of them had to be replaced, empty where none was."""

    text: str
    reason: str


class Decoder:
    """Decodes the files of a source, and counts how many were in which encoding.

    Args:
        name: What messages call the source.
        encoding: Encoding of all files without a byte order mark, with a ? after it only of those that are neither
            UTF-8 nor UTF-16; None detects it.

    Raises:
        ValueError: Python has no such encoding.
    """

    def __init__(self, name: str, encoding: str | None = None) -> None:
        self.name, self.encoding, self.fallback = name, None, None
        if encoding is not None and encoding.endswith("?"):
            self.fallback = _codec(encoding.removesuffix("?"))
        elif encoding is not None:
            self.encoding = _codec(encoding)
        self.guess: str | None = None
        self.counts: Counter[str] = Counter()

    def certain(self, content: bytes) -> str | None:
        """Encoding of a file, None where it must be guessed.

        Raises:
            ValueError: It is no text.
        """
        for mark, encoding in _MARKS.items():
            if content.startswith(mark):
                return encoding
        if self.encoding is not None:
            return self.encoding
        sample = content[:_SAMPLE]
        binary = len(_CONTROL.findall(sample)) > _MOST_CONTROL * len(sample)
        if not binary and b"\0" not in sample and _is(content, "utf-8"):  # most are, and it takes no time
            return "utf-8"
        if encoding := _utf_16(sample):
            return encoding
        if binary:
            raise UserError("is binary, not a text")
        return "utf-8" if _is_utf_8(content) else None

    def examine(self, contents: Iterable[bytes]) -> None:
        """Guess the encoding of all files together whose encoding is uncertain."""
        others = []
        for content in contents:
            with suppress(ValueError):  # it is no text, which is said where it is decoded
                if self.certain(content) is None and not _is_western(content):
                    others.append(content)
        self.guess = _guess(b"\n".join(others)) if others else None

    def decode(self, content: bytes) -> Decoded:
        """Characters of a file.

        Raises:
            ValueError: It is no text, or its encoding cannot be detected.
        """
        encoding = self.certain(content)
        if encoding is None and self.fallback and _is(content, self.fallback):
            encoding = self.fallback
        if encoding is None:
            shared = self.guess and not _is_western(content) and _is(content, self.guess)
            encoding = self.guess if shared else _guess(content)
        if encoding is None:
            raise UserError("is in an unknown encoding; set it with --encoding")
        self.counts[encoding] += 1
        return _decoded(content, encoding)

    def report(self) -> None:
        """Say how many files were read in which encoding other than UTF-8."""
        for encoding, count in sorted(self.counts.items()):
            if encoding not in ("utf-8", "utf-8-sig"):
                certain = self.encoding or encoding in _MARKS.values()
                hint = "" if certain else " as detected; --encoding overrides it"
                note(f"{self.name}: {count} file{'s' if count > 1 else ''} read as {encoding}{hint}")


def refuse_marked(start: bytes, name: str) -> None:
    """Refuse a file that begins with the mark of another encoding than UTF-8.

    Args:
        start: Its first bytes, four or more.
        name: What messages call it.

    Raises:
        ValueError: It is in UTF-16 or UTF-32.
    """
    encoding = next((own for mark, own in _MARKS.items() if start.startswith(mark)), "utf-8")
    if not encoding.startswith("utf-8"):
        raise UserError(f"{name} must be UTF-8 to be streamed, got {encoding}")


def only_utf_8(content: bytes, name: str) -> str:
    """Characters of a file in UTF-8; a few damaged bytes are replaced, which is said.

    Args:
        content: Its bytes.
        name: What messages call it.

    Raises:
        ValueError: It is in another encoding, or no text.
    """
    try:
        encoding = Decoder(name).certain(content)
        if not (encoding or "").startswith("utf-8"):
            raise UserError(f"must be UTF-8 to be streamed, got {encoding or 'another encoding'}")
        text, reason = _decoded(content, encoding or "")
    except UserError as error:
        raise UserError(f"{name} {error}") from error
    if reason:
        note(f"{name}: {reason}; replaced by \ufffd")
    return text


def _codec(encoding: str) -> str:
    try:
        "".encode(encoding)
        return codecs.lookup(encoding).name
    except LookupError:
        raise UserError(f"encoding must be one that Python knows, such as cp1252, got {encoding}") from None


def _decoded(content: bytes, encoding: str) -> Decoded:
    try:
        return Decoded(content.decode(encoding), "")
    except UnicodeDecodeError as error:
        start = error.start + len(content) - len(error.object)  # which has no mark of UTF-8
    text = content.decode(encoding, "replace")
    replaced = text.count("\ufffd")
    if replaced > _MOST_REPLACED * len(text):
        raise UserError(f"{replaced} of {len(text)} characters cannot be decoded as {encoding}")
    name = "UTF-8" if encoding.startswith("utf-8") else encoding
    others = f", nor are {replaced - 1} more" if replaced > 1 else ""
    return Decoded(text, f"byte {start} (0x{content[start]:02x}) is not {name}{others}")


def _is(content: bytes, encoding: str) -> bool:
    """Whether all bytes can be decoded."""
    try:
        content.decode(encoding)
        return True
    except UnicodeDecodeError:
        return False


def _is_utf_8(content: bytes) -> bool:
    """Whether bytes are UTF-8, perhaps with fewer bad bytes than characters beyond ASCII."""
    text = content.decode("utf-8", "replace")
    return _is(content, "utf-8") or sum(not char.isascii() for char in text) > 2 * text.count("\ufffd")


def _utf_16(sample: bytes) -> str | None:
    """UTF-16 without a mark: every other byte is zero in ASCII, and in Chinese the characters are usual ones."""
    sample = sample[: len(sample) // 2 * 2]
    if len(sample) < 4 or (sample.isascii() and b"\0" not in sample):
        return None
    for encoding, high, low in (
        ("utf-16-le", sample[1::2], sample[::2]),
        ("utf-16-be", sample[::2], sample[1::2]),
    ):
        # Half a pair of surrogates may be cut off at the end of the sample.
        text = sample.decode(encoding, "replace")
        odd = sum(not (character.isprintable() or character.isspace()) for character in text)
        if odd > _MOST_CONTROL * len(text):
            continue
        zeros = high.count(0)
        if zeros > _ZEROS * len(high) and low.count(0) < zeros / 10:
            return encoding
        if zeros and low.count(0) <= zeros and len(_USUAL.findall(text)) > 0.95 * len(text):
            return encoding
    return None


def _is_western(content: bytes) -> bool:
    """Whether less than half of the letters are not ASCII, and hardly three of them follow each other."""
    sample = content[:_SAMPLE]
    high = sum(byte >= 0x80 for byte in sample)
    letters = high + sum(chr(byte).isalpha() for byte in sample if byte < 0x80)
    in_runs = sum(map(len, _LONG_RUNS.findall(sample)))
    return high <= _MOST_ACCENTS * letters and in_runs <= _MOST_IN_RUNS * high


def _guess(content: bytes) -> str | None:
    """Encoding of bytes that are neither UTF-8 nor UTF-16."""
    if _is_western(content):
        return "cp1252" if _is(content, "cp1252") else "latin-1"
    from charset_normalizer import from_bytes

    if len(content) > _SAMPLE:  # cut where no character is
        content = content[: content.rfind(b"\n", 0, _SAMPLE) + 1 or _SAMPLE]
    best = from_bytes(content, cp_isolation=list(_OTHERS)).best()
    return None if best is None else best.encoding
