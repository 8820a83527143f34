"""Texts and tokens: nothing lost, nothing mixed up, broken bytes named by their place."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from unlabeled.data import open_data, open_splits
from unlabeled.data.options import OpenOptions
from unlabeled.data.text.data import Texts
from unlabeled.data.text.read import find, groups
from unlabeled.data.text.sentences import sentences
from unlabeled.data.worlds import built_in

SHARED = Path(__file__).parents[3] / "shared" / "data"


def letters(texts: list[str]) -> list[list[int]]:
    """A tokenizer that loses nothing: one token for each character."""
    return [[ord(letter) for letter in text] for text in texts]


def words(texts: list[str]) -> list[list[int]]:
    return [[len(word) for word in text.split()] for text in texts]


STORY = "Mr. Poe came. He saw it, e.g. This one!\n\nIt was 3.5 m high. 'Why?' J. Doe said so."


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (STORY, 5),
        ("One. Two! Three? Four.", 4),
        ("no capital. follows here", 1),
        ("a title\n\nA text", 2),
        ("我来。他走！", 2),
        ("", 1),
        ("Ends with spaces.   \n\n ", 1),
        ("Wait... Then go.", 2),
        ('He said "Go." Then left.', 2),
    ],
)
def test_sentences_put_together_are_the_text(text: str, count: int) -> None:
    found = sentences(text)
    assert "".join(found) == text and len(found) == count


@pytest.mark.parametrize("text", ["a" * 200_000, "." * 100_000, ". " * 50_000, "\n" * 100_000, '!"' * 50_000])
def test_odd_texts_take_no_quadratic_time(text: str) -> None:
    assert "".join(sentences(text)) == text


def test_a_batch_of_texts_is_bytes_plus_one() -> None:
    batch = Texts(["aé", "b", "x" * 9000]).batch(torch.tensor([1, 0]))
    assert batch["tokens"].tolist() == [[99, 0, 0], [98, 0xC3 + 1, 0xA9 + 1]]
    assert batch["mask"].tolist() == [[True, False, False], [True, True, True]]
    assert Texts(["x" * 9000]).batch(torch.tensor([0]))["tokens"].shape == (1, 4096)


def test_blocks_hold_every_token_of_every_document_once() -> None:
    texts = [STORY * 3, "Short. Text.", "A"]
    blocks = Texts(texts).blocks(letters, 10)
    found = {0: "", 1: "", 2: ""}
    for batch in blocks.batches(4):
        for row, mask, document in zip(batch["tokens"], batch["mask"], batch["document"].tolist()):
            found[document] += "".join(map(chr, row[mask].tolist()))
    assert list(found.values()) == texts


def test_overlapping_blocks_hold_every_token_but_the_first_once_as_what_follows() -> None:
    blocks = Texts([STORY, "Short. Text."]).blocks(letters, 7, first=[0], overlap=1)
    found = ["", ""]
    for batch in blocks.batches(3):
        for row, mask, document in zip(batch["tokens"], batch["mask"], batch["document"].tolist()):
            found[document] += "".join(map(chr, row[mask][1:].tolist()))
    assert found == [STORY, "Short. Text."]


def test_sentence_numbers_rise_by_one_where_a_sentence_starts() -> None:
    batch = Texts(["One two. Three four five. Six."]).blocks(words, 8).batch(torch.tensor([0]))
    assert batch["sentence"].tolist() == [[0, 0, 1, 1, 1, 2]]
    batch = Texts(["One two. Three four five. Six.", "A b."]).blocks(words, 4).batch(torch.arange(3))
    assert batch["sentence"].tolist() == [[0, 0, 1, 1], [0, 1, -1, -1], [0, 0, -1, -1]]
    assert batch["mask"].tolist() == [[True] * 4, [True, True, False, False], [True, True, False, False]]


def test_blocks_of_too_few_sentences_are_left_out_and_none_at_all_is_refused() -> None:
    texts = Texts(["One two. Three four.", "Alone here"])
    assert texts.blocks(words, 8, fewest_sentences=2).documents.tolist() == [0]
    with pytest.raises(ValueError, match="must have texts of at least 2 sentences, got none in 1 texts"):
        Texts(["Alone here"]).blocks(words, 8, fewest_sentences=2)


def test_parts_of_a_document_are_read_as_one_unless_a_part_between_them_is_left_out() -> None:
    texts = Texts(["A b.", "C d.", "E f.", "G h."], documents=torch.tensor([0, 0, 0, 1]))
    assert texts.whole() == ["A b.\n\nC d.\n\nE f.", "G h."]
    assert texts.subset(torch.tensor([0, 2, 3])).whole() == ["A b.", "E f.", "G h."]
    assert texts.subset(torch.tensor([1, 2])).whole() == ["C d.\n\nE f."]
    assert texts.blocks(letters, 50).documents.tolist() == [0, 1]


def test_starts_are_one_sample_for_each_text_with_its_label() -> None:
    texts = Texts([STORY, "Hi."], labels=torch.tensor([1, 0]), factors={"size": torch.tensor([2.0, 3.0])})
    starts = texts.starts(letters, 6, first=[7])
    assert starts.lengths.tolist() == [6, 4] and starts.labels is not None
    assert starts.labels.tolist() == [1, 0] and starts.factors["size"].tolist() == [2, 3]
    assert starts.batch(torch.tensor([1]))["tokens"].tolist() == [[7, *map(ord, "Hi.")]]
    part = starts.subset(torch.tensor([1]))
    assert torch.equal(part.batch(torch.tensor([0]))["tokens"], starts.batch(torch.tensor([1]))["tokens"])


def test_labels_are_no_part_of_a_batch() -> None:
    starts = Texts([STORY, "Hi."], labels=torch.tensor([1, 0])).starts(letters, 6)
    assert starts.batch(torch.arange(2)).keys() == {"tokens", "mask", "sentence", "document", "index"}


def test_counts_are_those_of_the_samples() -> None:
    blocks = Texts([STORY, "Short. Text."]).blocks(letters, 7, overlap=1)
    expected = torch.zeros(200, dtype=torch.int64)
    for batch in blocks.batches(3):
        expected += batch["tokens"][batch["mask"]].bincount(minlength=200)
    assert torch.equal(blocks.counts(200), expected)
    starts = blocks.ids[blocks.begins].bincount(minlength=200)
    assert torch.equal(blocks.counts(200, skip=1), expected - starts)
    assert blocks.counts(200, skip=7).sum() == 0


def nothing_of_blanks(texts: list[str]) -> list[list[int]]:
    return [[] if not text.strip(" \u200b") else [1] * len(text) for text in texts]


@pytest.mark.parametrize("texts", [["", "Hi."], ["Hi.", "\u200b"], ["Hi.", "\u200b", "Ho.", "\u200b"]])
def test_a_text_without_tokens_is_an_empty_sample_and_no_block(texts: list[str]) -> None:
    starts = Texts(texts).starts(nothing_of_blanks, 6)
    sizes = [3 if text.startswith("H") else 0 for text in texts]
    assert starts.batch(torch.arange(len(texts)))["mask"].sum(1).tolist() == sizes
    blocks = Texts(texts).blocks(nothing_of_blanks, 6)
    assert blocks.lengths.tolist() == [size for size in sizes if size]
    with pytest.raises(ValueError, match="must have texts of at least 1 sentences, got none in 1 texts"):
        Texts(["\u200b"]).blocks(nothing_of_blanks, 6)


def test_halves_of_surrogates_in_json_are_replaced_and_listed(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "lost \\ud83d half"}\n{"text": "whole \\ud83d\\ude00"}\n')
    data = open_data(tmp_path / "a.jsonl")
    assert isinstance(data, Texts) and data.texts == ["lost \ufffd half", "whole \U0001f600"]
    assert data.skipped == [(f"{tmp_path}/a.jsonl:1", "unpaired surrogate, replaced")]
    assert data.batch(torch.arange(2))["mask"].any()


def test_quoted_texts_keep_their_blank_lines_and_rows_their_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'good,"First.\r\n\r\nSecond."\r\n\r\nbad,Third.\r\n')
    data = open_data(tmp_path / "a.csv")
    assert isinstance(data, Texts) and data.texts == ["First.\n\nSecond.", "Third."]
    assert data.classes == ["bad", "good"] and [path[-2:] for path in data.paths] == [":3", ":5"]


def test_column_of_texts_is_found_where_the_first_one_is_missing(tmp_path: Path) -> None:
    rows = [{"title": "A", "text": None}, {"title": "B", "text": "The text."}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = open_data(tmp_path / "a.jsonl", max_broken=0.5)
    assert isinstance(data, Texts) and data.texts == ["The text."]


def test_classes_that_are_equal_numbers_have_one_order(tmp_path: Path) -> None:
    labels = ["1", "01", "001", "0001"]
    (tmp_path / "a.tsv").write_text("".join(f"{label}\tsome words\n" for label in labels))
    data = open_data(tmp_path / "a.tsv")
    assert data.classes == sorted(labels)


def test_folder_of_texts_has_classes_and_splits(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for kind in ("fact", "tale"):
            (tmp_path / split / kind).mkdir(parents=True)
            (tmp_path / split / kind / "a.txt").write_text(f"{split} {kind}")
    (tmp_path / "README.md").write_text("about")
    train, test = open_splits(tmp_path)
    assert isinstance(train, Texts) and train.texts == ["train fact", "train tale"]
    assert train.classes == ["fact", "tale"] and train.labels is not None and train.labels.tolist() == [0, 1]
    assert isinstance(test, Texts) and test.texts == ["test fact", "test tale"]
    assert train.documents.tolist() == [0, 1]


@pytest.mark.parametrize(("count", "texts"), [(400, 100), (100, 50), (20, 20)])
def test_paragraphs_of_a_single_file_are_gathered(tmp_path: Path, count: int, texts: int) -> None:
    paragraphs = [f"Paragraph {number}. " + "word " * 100 for number in range(count)]
    (tmp_path / "book.txt").write_text("\n\n".join(paragraphs))
    data = open_data(tmp_path / "book.txt")
    assert isinstance(data, Texts) and len(data) == texts
    assert "\n\n".join(data.texts) == "\n\n".join(paragraph.strip() for paragraph in paragraphs)
    assert groups("a\nb\nc\nd", 2) == ["a\nb", "c\nd"]
    assert groups("a\nb\nc\nd\ne", 4) == ["a\nb\nc\nd\ne"]


@pytest.mark.parametrize("ending", ["tsv", "csv"])
def test_tables_of_labels_and_texts(tmp_path: Path, ending: str) -> None:
    tab = "\t" if ending == "tsv" else ","
    quoted = 'a "quoted" text' if ending == "tsv" else '"a ""quoted"" text"'
    (tmp_path / f"train.{ending}").write_text(f"10{tab}{quoted}\n2{tab}second\n\n")
    (tmp_path / f"test.{ending}").write_text(f"2{tab}third\n")
    train, test = open_splits(tmp_path)
    assert isinstance(train, Texts) and train.texts == ['a "quoted" text', "second"]
    assert train.classes == ["2", "10"] and train.labels is not None and test.labels is not None
    assert [train.classes[label] for label in train.labels.tolist()] == ["10", "2"]
    assert test.classes == train.classes and test.labels.tolist() == [0]


def test_tables_with_a_head_are_read_by_name(tmp_path: Path) -> None:
    (tmp_path / "all.tsv").write_text("id\ttext\tlabel\n1\tHello\tgood\n2\tBye\tbad\nbroken\n")
    data = open_data(tmp_path / "all.tsv", max_broken=0.5)
    assert isinstance(data, Texts) and data.texts == ["Hello", "Bye"]
    assert data.classes == ["bad", "good"] and data.labels is not None and data.labels.tolist() == [1, 0]
    assert [skip.reason for skip in data.skipped] == ["does not have 3 columns"]


def test_lines_without_labels_are_texts(tmp_path: Path) -> None:
    (tmp_path / "all.tsv").write_text("First text\nSecond text\n")
    data = open_data(tmp_path / "all.tsv")
    assert isinstance(data, Texts) and data.texts == ["First text", "Second text"] and data.labels is None


def test_json_lines_and_what_is_broken_in_them(tmp_path: Path) -> None:
    rows = [{"id": "x", "text": "One", "label": 1}, {"id": "y", "text": "Two", "label": 0}, {"id": "z"}]
    lines = [json.dumps(row) for row in rows] + ["{broken"]
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    data = open_data(tmp_path / "data.jsonl", max_broken=0.9)
    assert isinstance(data, Texts) and data.texts == ["One", "Two"]
    assert data.labels is not None and data.labels.tolist() == [1, 0]
    assert sorted(skip.path[-2:] for skip in data.skipped) == [":3", ":4"]
    with pytest.raises(ValueError, match=r"2 of 4 files .* cannot be read"):
        open_data(tmp_path / "data.jsonl")


def test_parquet_with_names_of_classes(tmp_path: Path) -> None:
    table = pa.table({"label": [1, 0, -1], "text": ["One", "Two", "Three"]})
    about = {"info": {"features": {"label": {"names": ["no", "yes"], "_type": "ClassLabel"}}}}
    pq.write_table(
        table.replace_schema_metadata({"huggingface": json.dumps(about)}), tmp_path / "train.parquet"
    )
    data = open_data(tmp_path / "train.parquet", kind="text")
    assert isinstance(data, Texts) and data.texts == ["One", "Two", "Three"]
    assert data.classes == ["no", "yes"] and data.labels is not None and data.labels.tolist() == [1, 0, -1]


def test_bytes_that_are_not_utf_8_are_named_by_their_place(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfgood text")
    (tmp_path / "b.txt").write_bytes("schöner größerer ".encode() + b"\xff text")
    data = find(tmp_path, OpenOptions())["all"]()
    assert data.texts == ["good text", "schöner größerer \ufffd text"]
    assert data.skipped == [(str(tmp_path / "b.txt"), "byte 20 (0xff) is not UTF-8; replaced")]


def test_bytes_of_a_table_that_are_bad_are_replaced_in_their_row_alone(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes("1\tgrün\n0\tbö".encode() + b"\xe9d\n")
    data = find(tmp_path / "a.tsv", OpenOptions())["all"]()
    assert data.texts == ["grün", "bö\ufffdd"]
    assert data.skipped == [(f"{tmp_path}/a.tsv", "byte 13 (0xe9) is not UTF-8; replaced")]


def test_empty_files_are_skipped_and_a_folder_without_texts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(" \n")
    (tmp_path / "b.txt").write_text("text")
    data = open_data(tmp_path)
    assert isinstance(data, Texts) and data.texts == ["text"] and data.skipped[0].reason == "empty"
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "x.bin").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"no texts in .*found 1 \.bin"):
        open_data(tmp_path / "none", kind="text")


def test_topics_are_built_in() -> None:
    train, test = open_splits("topics")
    assert isinstance(train, Texts) and isinstance(test, Texts)
    assert train.classes == ["data", "expressions", "library", "statements"]
    assert not set(train.factors["topic"].tolist()) & set(test.factors["topic"].tolist())
    assert len(train.whole()) == len(train.documents.unique()) < len(train)
    with pytest.raises(ValueError, match="split must be one of"):
        built_in("topics", "nonsense")


@pytest.mark.skipif(not (SHARED / "sentence_cls").is_dir(), reason="no shared data")
def test_real_tables_are_read_whole() -> None:
    train, test = open_splits(SHARED / "sentence_cls" / "trec6")
    assert (len(train), len(test)) == (5452, 500) and len(train.classes or []) == 6
    assert not train.skipped and train.labels is not None and int(train.labels.min()) == 0


@pytest.mark.skipif(not (SHARED / "books").is_dir(), reason="no shared data")
def test_real_books_lose_no_character_to_sentences() -> None:
    data = open_data(SHARED / "books", split="test")
    assert isinstance(data, Texts) and len(data) == 5
    for text in data.texts:
        found = sentences(text)
        assert "".join(found) == text and 40 < len(text) / len(found) < 200
