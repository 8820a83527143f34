"""Tables of texts as people have them: which column is read, what becomes a class, and what never does."""

import bz2
import gzip
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from unlabeled.data import kind_of, open_data, open_splits
from unlabeled.data.columns import choose
from unlabeled.data.opening import parts
from unlabeled.data.text.data import Texts

COUNT = 24


def sentence(number: int) -> str:
    words = random.Random(number).choices(
        ["cat", "dog", "moon", "sun", "river", "house", "tree", "walk", "run", "blue", "green", "fast"], k=9
    )
    return f"{' '.join(words).capitalize()}."


TEXTS = [sentence(number) for number in range(COUNT)]
OTHERS = [sentence(number + 100) for number in range(COUNT)]
NAMES = [["neg", "pos"][number % 2] for number in range(COUNT)]


def rows(*columns: object, between: str = ",") -> str:
    """Lines of a table, each cell made from its number by a function or taken from a list."""
    lines = []
    for number in range(COUNT):
        cells = [column(number) if callable(column) else column[number] for column in columns]  # type: ignore[index]
        lines.append(between.join(map(str, cells)))
    return "\n".join(lines) + "\n"


def quoted(texts: list[str]) -> list[str]:
    return [f'"{text}"' for text in texts]


def opened(tmp_path: Path, name: str, content: str | bytes, **options) -> Texts:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    data = open_data(tmp_path / name, kind="text", **options)
    assert isinstance(data, Texts)
    return data


def named(data: Texts) -> list[str]:
    assert data.labels is not None and data.classes is not None
    return [data.classes[label] for label in data.labels.tolist()]


TABLES = {
    "heading": ("a.csv", "label,text\n" + rows(NAMES, quoted(TEXTS)), NAMES),
    "kaggle names": ("a.csv", "v1,v2\n" + rows(NAMES, quoted(TEXTS)), NAMES),
    "ids before": ("a.csv", "id,comment_text,toxic\n" + rows(lambda n: n, quoted(TEXTS), NAMES), NAMES),
    "pandas index": ("a.csv", ",Review,Rating\n" + rows(lambda n: n, quoted(TEXTS), NAMES), NAMES),
    "semicolons": ("a.csv", "label;text\n" + rows(NAMES, TEXTS, between=";"), NAMES),
    "semicolons, commas inside": (
        "a.csv",
        "label;text\n" + rows(NAMES, [f"{text}, he said, twice" for text in TEXTS], between=";"),
        NAMES,
    ),
    "pipes": ("a.csv", "id|text|stars\n" + rows(lambda n: n, TEXTS, NAMES, between="|"), NAMES),
    "said separator": ("a.csv", "sep=;\nLabel;Text\n" + rows(NAMES, TEXTS, between=";"), NAMES),
    "mark of Excel": ("a.csv", ("label,text\n" + rows(NAMES, quoted(TEXTS))).encode("utf-8-sig"), NAMES),
    "Excel's Unicode text": (
        "a.tsv",
        ("label\ttext\n" + rows(NAMES, TEXTS, between="\t")).encode("utf-16"),
        NAMES,
    ),
    "commas not quoted": (
        "a.csv",
        "label,text\n" + rows(NAMES, [f"{t}, {n}" for n, t in enumerate(TEXTS)]),
        NAMES,
    ),
    "text first, no heading": ("a.tsv", rows(TEXTS, NAMES, between="\t"), NAMES),
    "no heading": ("a.csv", rows(NAMES, quoted(TEXTS)), NAMES),
    "no heading, ids": ("a.csv", rows(lambda n: 1000 + n, quoted(TEXTS), NAMES), NAMES),
    "sentiment140": (
        "a.csv",
        rows(
            NAMES,
            lambda n: 1467810000 + n,
            lambda n: f"Mon {n}",
            lambda n: "NO_QUERY",
            lambda n: f"u{n}",
            TEXTS,
        ),
        NAMES,
    ),
    "ids alone beside": ("a.csv", "id,text\n" + rows(lambda n: f"a{n}", quoted(TEXTS)), None),
    "ids alone, no heading": ("a.tsv", rows(lambda n: f"a{n}", TEXTS, between="\t"), None),
    "several possible classes": (
        "a.csv",
        "text,toxic,rude,kind\n" + rows(quoted(TEXTS), lambda n: n % 2, lambda n: n % 3, lambda n: n % 4),
        None,
    ),
    "quantities": ("a.csv", "text,score\n" + rows(quoted(TEXTS), lambda n: n + 0.5), None),
}


@pytest.mark.parametrize("case", TABLES)
def test_texts_and_classes_of_tables(tmp_path: Path, case: str) -> None:
    name, content, labels = TABLES[case]
    data = opened(tmp_path, name, content)
    assert [text.partition(",")[0] for text in data.texts] == TEXTS and not data.skipped
    assert data.labels is None if labels is None else named(data) == labels
    if "commas" in case:
        assert all("," in text for text in data.texts)


def test_title_and_body_give_the_body_and_pairs_of_sentences_both(tmp_path: Path) -> None:
    content = "Class Index,Title,Description\n" + rows(NAMES, lambda n: "News", quoted(TEXTS))
    assert opened(tmp_path, "news.csv", content).texts == TEXTS
    content = "index\tsentence1\tsentence2\tlabel\n" + rows(lambda n: n, TEXTS, OTHERS, NAMES, between="\t")
    both = [f"{one} {two}" for one, two in zip(TEXTS, OTHERS)]
    assert opened(tmp_path, "pairs.tsv", content).texts == both
    records = [{"premise": one, "hypothesis": two, "label": 1} for one, two in zip(TEXTS, OTHERS)]
    assert opened(tmp_path, "nli.jsonl", "\n".join(map(json.dumps, records))).texts == both


def test_columns_can_be_named(tmp_path: Path) -> None:
    content = "a,b,Mood,other\n" + rows(quoted(TEXTS), quoted(OTHERS), NAMES, lambda n: n % 3)
    data = opened(tmp_path, "a.csv", content, text_column="B", label="mood")
    assert data.texts == OTHERS and named(data) == NAMES
    data = opened(tmp_path, "a.csv", content, text_column="b,a", label="other")
    assert data.texts[0] == f"{OTHERS[0]} {TEXTS[0]}" and data.classes == ["0", "1", "2"]
    with pytest.raises(
        ValueError, match=r"text_column must be a column of .*a, b, Mood, other, got moods; did you"
    ):
        opened(tmp_path, "a.csv", content, text_column="moods")
    with pytest.raises(ValueError, match=r"label must be a column of .*a, b, Mood, other, got class"):
        opened(tmp_path, "a.csv", content, label="class")
    assert opened(tmp_path, "a.csv", content, text_column="moods?").texts in (TEXTS, OTHERS)


def test_texts_with_quotes_newlines_and_delimiters_are_kept(tmp_path: Path) -> None:
    odd = [f'{text}\n\nIt said ""yes"", {n}' for n, text in enumerate(TEXTS)]
    data = opened(tmp_path, "a.csv", "text,label\n" + rows(quoted(odd), NAMES))
    assert data.texts == [text.replace('""', '"') for text in odd] and named(data) == NAMES
    data = opened(tmp_path, "a.tsv", "text\tlabel\n" + rows(quoted(odd), NAMES, between="\t"))
    assert data.texts == [text.replace('""', '"') for text in odd], "as pandas writes tabs"
    raw = [f'"{text}" he said' for text in TEXTS]
    assert opened(tmp_path, "b.tsv", "text\tlabel\n" + rows(raw, NAMES, between="\t")).texts == raw


JSON = {
    "a list of objects": [{"id": n, "text": text, "label": NAMES[n]} for n, text in enumerate(TEXTS)],
    "a list of texts": TEXTS,
    "an object with the list": {"version": 1, "data": [{"text": text, "label": "a"} for text in TEXTS]},
    "columns": {"text": TEXTS, "label": NAMES},
    "columns of pandas": {"text": dict(enumerate(TEXTS)), "label": dict(enumerate(NAMES))},
    "objects by name": {f"doc{n}": {"text": text} for n, text in enumerate(TEXTS)},
    "nested objects": [{"meta": {"id": f"x{n}"}, "data": {"body": text}} for n, text in enumerate(TEXTS)],
    "turns": [{"id": n, "messages": [{"role": "user", "content": text}]} for n, text in enumerate(TEXTS)],
    "reviews": [
        {"reviewerID": f"A{n}", "reviewText": text, "summary": "Nice", "overall": n % 5 + 1.0}
        for n, text in enumerate(TEXTS)
    ],
    "papers": [{"id": f"p{n}", "title": "A title", "abstract": text} for n, text in enumerate(TEXTS)],
}


@pytest.mark.parametrize("case", JSON)
@pytest.mark.parametrize("packed", ["", ".gz", ".bz2", ".zst"])
def test_json_in_every_form(tmp_path: Path, case: str, packed: str) -> None:
    content = json.dumps(JSON[case], indent=1).encode()
    pack = {
        "": bytes,
        ".gz": gzip.compress,
        ".bz2": bz2.compress,
        ".zst": lambda content: pa.compress(content, "zstd", asbytes=True),
    }
    data = opened(tmp_path, f"a.json{packed}", pack[packed](content))
    assert data.texts == TEXTS and kind_of(tmp_path / f"a.json{packed}") == "text"
    if data.classes is not None and case != "reviews":
        assert set(data.classes) <= {"a", "neg", "pos"}


def test_lines_under_the_name_of_json_and_a_list_under_that_of_lines(tmp_path: Path) -> None:
    records = [{"text": text} for text in TEXTS]
    assert opened(tmp_path, "a.json", "\n".join(map(json.dumps, records))).texts == TEXTS
    assert opened(tmp_path, "a.jsonl", json.dumps(records, indent=1)).texts == TEXTS


def test_packed_texts_are_read_and_broken_or_huge_ones_are_not(tmp_path: Path) -> None:
    assert opened(tmp_path, "a.txt.gz", gzip.compress(TEXTS[0].encode())).texts == TEXTS[:1]
    with pytest.raises(ValueError, match=r"1 of 1 files .*a.txt.gz: "):
        opened(tmp_path, "a.txt.gz", gzip.compress("".join(TEXTS).encode())[:-20])
    with pytest.raises(ValueError, match=r"unpacks to \d+ bytes or more, over 100 times its size"):
        opened(tmp_path, "a.txt.gz", gzip.compress(b"a" * (2**28 + 2)))


def test_truth_values_and_negative_numbers_are_classes(tmp_path: Path) -> None:
    lines = [json.dumps({"text": text, "label": n % 2 == 0}) for n, text in enumerate(TEXTS)]
    assert opened(tmp_path, "a.jsonl", "\n".join(lines)).classes == ["False", "True"]
    data = opened(tmp_path, "a.csv", "text,label\n" + rows(quoted(TEXTS), lambda n: 2 * (n % 2) - 1))
    assert data.classes == ["-1", "1"] and data.labels is not None and data.labels.tolist()[:2] == [0, 1]


def test_a_table_without_texts_lists_its_columns(tmp_path: Path) -> None:
    content = "id,code\n" + rows(lambda n: n, lambda n: f"A{n}")
    with pytest.raises(
        ValueError, match="must have a column of texts, got id, code; choose one with --text-column"
    ):
        opened(tmp_path, "a.csv", content)


def test_a_readme_or_a_small_table_beside_the_texts_is_not_read_instead(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("about the data " * 500)
    (tmp_path / "LICENSE.txt").write_text("all of the licence " * 500)
    (tmp_path / "train.csv").write_text("text,label\n" + rows(quoted(TEXTS), NAMES))
    data = open_data(tmp_path, kind="text")
    assert isinstance(data, Texts) and data.texts == TEXTS
    (tmp_path / "page.html").write_text("<p>")
    (tmp_path / "train.csv").unlink()
    for name in ("README.md", "LICENSE.txt"):
        (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=r"no texts in .*found 1 \.html; convert them to \.txt first"):
        open_data(tmp_path, kind="text")


def test_labels_in_a_file_beside_each_picture_make_no_data_of_texts(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"{number}.jpg").write_bytes(b"x")
        (tmp_path / f"{number}.json").write_text("{}")
    (tmp_path / "classes.txt").write_text("a")
    assert kind_of(tmp_path) == "image"


def test_identifiers_and_dates_are_neither_texts_nor_classes() -> None:
    records = [
        {"user": "ann lee", "date": f"May {n % 3}", "uuid": f"{n}-x y", "note": t}
        for n, t in enumerate(TEXTS)
    ]
    assert choose(records, "table") == (("note",), None, None)


@pytest.mark.parametrize(
    ("above", "texts"),
    [
        ("# exported in 2024\n# by hand\ntext,label\n", "text"),
        ("text,text,label\n", "text"),
        ("0,1\n", "0"),
        (",0,1\n", "0"),
    ],
)
def test_headings_of_every_form_are_no_texts(tmp_path: Path, above: str, texts: str) -> None:
    width = above.splitlines()[-1].count(",") + 1
    cells = {2: "{text},{label}", 3: "{extra},{text},{label}"}[width]
    extra = "{n}" if above.startswith(",") else "Another text about things {n}"
    rows = [
        cells.format(extra=extra.format(n=n), text=f"A text about things {n}", label="ab"[n % 2])
        for n in range(20)
    ]
    (tmp_path / "a.csv").write_text(above + "\n".join(rows))
    data = open_data(tmp_path / "a.csv", kind="text")
    assert len(data) == 20 and sorted({*data.classes}) == ["a", "b"]
    assert data.labels.tolist() == [0, 1] * 10


def test_lists_of_records_that_are_not_taken_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    records = [{"text": f"A text about things {n}", "label": n % 2} for n in range(12)]
    for name, content in {
        "flat": {"train": records, "test": records[:4]},
        "deep": {"data": {"train": records, "test": records[:4]}},
    }.items():
        caplog.clear()
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
        data = open_data(tmp_path / f"{name}.json", kind="text")
        assert len(data) == 12 and data.classes == ["0", "1"]
        assert any("records of train alone (also there: test)" in text for text in caplog.messages)


def in_parts(file: Path, part: object) -> dict[str, list[int]]:
    """Places of the texts of each part of a file, in which they stand with their part as `part` says it."""
    if file.suffix == ".csv":
        file.write_text("text,label,Subset\n" + rows(TEXTS, NAMES, part))
    elif file.suffix == ".parquet":
        words = [part(number) for number in range(COUNT)]  # type: ignore[operator]
        pa.parquet.write_table(pa.table({"text": TEXTS, "label": NAMES, "split": words}), file)
    else:
        records = [
            {"text": TEXTS[number], "label": NAMES[number], "split": part(number)}  # type: ignore[operator]
            for number in range(COUNT)
        ]
        file.write_text("\n".join(map(json.dumps, records)))
    return {
        split: [TEXTS.index(text) for text in read().texts]
        for split, read in parts(file, kind="text").items()
    }


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.parquet"])
def test_a_column_of_splits_tells_the_parts_apart(tmp_path: Path, name: str) -> None:
    official = in_parts(tmp_path / name, lambda number: "TEST" if number % 4 == 1 else "Train")
    assert official == {
        "train": [number for number in range(COUNT) if number % 4 != 1],
        "test": [*range(1, COUNT, 4)],
    }
    train, test = open_splits(tmp_path / name, kind="text")
    assert (len(train), len(test)) == (18, 6) and train.classes == test.classes == ["neg", "pos"]
    assert train.labels is not None and train.labels.tolist() == [
        NAMES[n] == "pos" for n in official["train"]
    ]
    assert open_data(tmp_path / name, kind="text").split == "train"


@pytest.mark.parametrize(
    "part", [lambda number: "ab"[number % 2], lambda number: "train"], ids=["others", "one"]
)
def test_a_column_that_names_no_two_parts_divides_nothing(tmp_path: Path, part: object) -> None:
    assert in_parts(tmp_path / "t.csv", part) == {"all": [*range(COUNT)]}
