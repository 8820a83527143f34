"""How data is read can be said to every command, is kept in the run, and holds for what the run is used on."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unlabeled.cli import main
from unlabeled.data import open_data
from unlabeled.evaluation import embed, evaluate
from unlabeled.run import Run, load
from unlabeled.training.train import pretrain

WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "while", "seven", "wizards", "brew")

BUDGET = ("--steps", "1", "--batch-size", "4", "--encoder", "gpt-tiny")


def reading(label: str) -> list[str]:
    """Options of a command that say how the table is read."""
    return ["--label", label, "--text-column", "told", "--encoding", "cp1252"]


def write(file: Path, kinds: str = "kind", encoding: str = "utf-8") -> Path:
    """A table whose column of classes reads more like texts than that of the texts does."""
    rows = [f"id,told,{kinds},mood"]
    for number in range(60):
        text = " ".join(WORDS[(number * step + step) % len(WORDS)] for step in range(2, 9))
        rows.append(
            f"{number},{number} times {text} né,a much longer story of sort {'AB'[number % 2]},{number % 3}"
        )
    file.write_text("\n".join(rows), encoding=encoding)
    return file


def command(words: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(words)
    assert not end.value.code


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("tables") / "told.csv", encoding="cp1252")


@pytest.fixture(scope="module")
def run(table: Path) -> Run:
    command(["pretrain", "gpt", str(table), *reading("kind"), *BUDGET, "--out", str(table.parent / "run")])
    return load(table.parent / "run")


def test_a_run_keeps_how_its_data_was_read(run, table):
    settings = run.config["settings"]
    assert [settings[name] for name in ("label", "text_column", "encoding")] == ["kind", "told", "cp1252"]
    assert open_data(table, **run.reading).texts[0].endswith(" né")


def test_the_run_continues_on_data_that_is_read_as_it_was(run, table):
    longer = pretrain("gpt", str(table), out=run.path, resume=True, steps=2, quiet=True)
    assert longer.history[-1]["step"] == 2


def test_the_column_of_the_labels_is_no_text(table):
    found = open_data(table, kind="text", label="kind")
    assert found.classes == ["a much longer story of sort A", "a much longer story of sort B"]
    assert not any("longer story" in text for text in found.texts)


def test_evaluation_and_features_use_what_the_run_was_told(run, table, tmp_path):
    scores = evaluate(run, str(table), probe="knn", controls=())
    assert scores.about["options"]["label"] == "kind" and scores.about["options"]["text_column"] == "told"
    assert {record["samples"] for record in scores} == {12}
    embed(run, str(table), out=tmp_path / "features.parquet")
    labels = pq.read_table(tmp_path / "features.parquet")["label"].to_pylist()
    assert labels[:2] == ["a much longer story of sort A", "a much longer story of sort B"]


def test_other_data_with_the_same_columns_is_read_alike_and_without_them_as_usual(run, tmp_path):
    alike = open_data(write(tmp_path / "alike.csv"), **run.reading)
    assert (
        alike.classes is not None and alike.classes[0].startswith("a much longer") and "né" in alike.texts[0]
    )
    other = tmp_path / "other.csv"
    other.write_text(
        "text,class\n" + "\n".join(f"{' '.join(WORDS[:5])} {row},{'xy'[row % 2]}" for row in range(8))
    )
    assert open_data(other, **run.reading).classes == ["x", "y"]


def test_commands_read_as_they_are_told(run, table, tmp_path, capsys):
    words = reading("mood")
    probe = ["--probe", "knn", "--controls", "none"]
    command(["evaluate", str(run.path), str(table), *probe, *words])
    assert run.measured["options"] | {"label": "mood", "encoding": "cp1252"} == run.measured["options"]
    command(["embed", str(run.path), str(table), "--out", str(tmp_path / "mood.parquet"), *words])
    assert pq.read_table(tmp_path / "mood.parquet")["label"].to_pylist()[:4] == ["0", "1", "2", "0"]
    command(["audit", str(table), "--kind", "text", *words])
    command(["compare", "gpt", str(table), *BUDGET, *probe, *words, "--out", str(tmp_path / "both")])
    assert load(tmp_path / "both" / "gpt").config["settings"]["label"] == "mood"


@pytest.mark.parametrize(
    ("label", "message"), [("told", "another column"), ("tone", "label must be a column of")]
)
def test_labels_of_a_column_of_texts_or_of_none_are_refused_in_one_line(table, label, message):
    with pytest.raises(ValueError, match=message):
        open_data(table, kind="text", text_column="told", label=label)


def test_a_label_that_may_be_missing_is_looked_for_when_images_are_opened(tmp_path):
    import io

    from PIL import Image

    def png(shade: int) -> bytes:
        stream = io.BytesIO()
        Image.new("L", (8, 8), shade).save(stream, "png")
        return stream.getvalue()

    column = {"image": [{"bytes": png(20 * row), "path": f"{row}.png"} for row in range(6)]}
    column |= {"label": [0, 1] * 3, "breed": ["dog", "cat", "cow"] * 2}
    pq.write_table(pa.table(column), tmp_path / "pets.parquet")
    assert open_data(tmp_path / "pets.parquet", label="breed?").classes == ["cat", "cow", "dog"]
    assert len(set(open_data(tmp_path / "pets.parquet", label="size?").labels.tolist())) == 2
    assert len(open_data("digits", label="size?")) > 1000
    with pytest.raises(ValueError, match="label must be"):
        open_data(tmp_path / "pets.parquet", label="size")
