"""Encodings of texts: found, named, said; and files that are no texts."""

import logging
from pathlib import Path

import pytest

from unlabeled.data import open_data
from unlabeled.data.notes import note
from unlabeled.data.text.data import Texts

SENTENCES = {
    "utf-8": "Größe, naïve, 今天天气很好",
    "utf-8-sig": "Größe, naïve, 今天天气很好",
    "utf-16": "Le café à la crème",
    "utf-16-le": "Plain words, and a café",
    "utf-16-be": "Plain words, and a café",
    "utf-32": "Le café à la crème",
    "cp1252": "Le café à la crème, “déjà vu”",
    "latin-1": "Müller wohnt in Köln",
    "gbk": "今天天气很好，我们去公园散步。孩子们在湖边放风筝。",
    "big5": "今天天氣很好，我們去公園散步。",
    "cp932": "今日は天気がいいので、公園に散歩に行きました。",
    "euc_jp": "今日は天気がいいので、公園に散歩に行きました。",
    "euc_kr": "오늘은 날씨가 좋아서 공원에 산책하러 갔습니다.",
    "cp1251": "Сегодня хорошая погода, и мы пошли гулять в парк.",
    "koi8_r": "Сегодня хорошая погода, и мы пошли гулять в парк.",
}


def texts_of(path: Path, **options) -> list[str]:
    data = open_data(path, kind="text", **options)
    assert isinstance(data, Texts)
    return data.texts


WESTERN = [
    "Größe",
    "Grüße an alle;1\nÜber uns",
    "naïve",
    "créée",
    "El niño está aquí",
    "“Straße”",
]


@pytest.mark.parametrize("text", WESTERN)
def test_short_western_texts_are_read_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.txt").write_bytes(text.encode("cp1252"))
    assert texts_of(tmp_path) == [text]


@pytest.mark.parametrize("encoding", SENTENCES)
def test_encodings_are_found_without_a_word(tmp_path: Path, encoding: str) -> None:
    for number in range(4):
        (tmp_path / f"{number}.txt").write_bytes(SENTENCES[encoding].encode(encoding))
    assert texts_of(tmp_path) == [SENTENCES[encoding]] * 4


def test_chinese_utf_16_without_a_mark_is_told_from_gbk(tmp_path: Path) -> None:
    text = "今天天气很好。\n我们去公园散步。"
    for name in ("utf-16-le", "utf-16-be"):
        (tmp_path / f"{name}.txt").write_bytes(text.encode(name))
    assert texts_of(tmp_path) == [text, text]


def test_files_of_a_folder_in_several_encodings_are_each_read_in_theirs(tmp_path: Path) -> None:
    wanted = ["utf-8", "cp1252", "gbk", "utf-16"]
    for number, encoding in enumerate(wanted):
        (tmp_path / f"{number}.txt").write_bytes(SENTENCES[encoding].encode(encoding))
    assert texts_of(tmp_path) == [SENTENCES[encoding] for encoding in wanted]


def test_short_files_are_guessed_together(tmp_path: Path) -> None:
    words = ["我爱你", "北京", "天气很好", "散步", "今天去公园", "孩子们在湖边放风筝", "老人们在树下下棋"]
    for number, word in enumerate(words):
        (tmp_path / f"{number}.txt").write_bytes(word.encode("gbk"))
    assert texts_of(tmp_path) == words


def test_what_was_guessed_is_said_in_a_line_for_each_encoding(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number, encoding in enumerate(["utf-8", "cp1252", "cp1252", "utf-16"]):
        (tmp_path / f"{number}.txt").write_bytes("à la crème".encode(encoding))
    note.cache_clear()
    with caplog.at_level(logging.WARNING):
        texts_of(tmp_path)
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}: 2 files read as cp1252 as detected; --encoding overrides it",
        f"{tmp_path}: 1 file read as utf-16",
    ]


def test_a_named_encoding_is_taken_but_for_files_with_a_mark(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("Žluťoučký kůň".encode("cp1250"))
    (tmp_path / "b.txt").write_bytes("Größe".encode("utf-8-sig"))
    assert texts_of(tmp_path, encoding="cp1250") == ["Žluťoučký kůň", "Größe"]
    (tmp_path / "b.txt").write_bytes("Größe".encode())
    assert texts_of(tmp_path, encoding="cp1250?") == ["Žluťoučký kůň", "Größe"]
    with pytest.raises(
        ValueError, match="encoding must be one that Python knows, such as cp1252, got nonsense"
    ):
        texts_of(tmp_path, encoding="nonsense")
    with pytest.raises(ValueError, match="characters cannot be decoded as ascii"):
        texts_of(tmp_path, encoding="ascii")


@pytest.mark.parametrize(
    "content",
    [b"\x89PNG\r\n\x1a\n" + bytes(200), bytes(range(256)) * 20, bytes(1000), b"\x7fELF" + b"\0\1" * 99],
)
def test_binary_files_under_the_name_of_texts_are_left_out(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.txt").write_text("a text")
    (tmp_path / "b.txt").write_bytes(content)
    data = open_data(tmp_path, max_broken=0.5)
    assert isinstance(data, Texts) and data.texts == ["a text"] and len(data.skipped) == 1
    with pytest.raises(ValueError, match="1 of 2 files"):
        open_data(tmp_path)


def test_replaced_characters_are_counted_and_many_are_refused(tmp_path: Path) -> None:
    good = "größer schöner früher über Maßen "
    (tmp_path / "a.txt").write_bytes((good * 3).encode() + b"\xff\xfe\xff")
    data = open_data(tmp_path)
    assert data.skipped[0].reason.endswith("is not UTF-8, nor are 2 more; replaced")
    (tmp_path / "a.txt").write_bytes(good.encode() + b"\xff" * 5)
    with pytest.raises(ValueError, match=r"5 of 38 characters cannot be decoded as utf-8"):
        open_data(tmp_path)
