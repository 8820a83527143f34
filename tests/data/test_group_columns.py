"""Columns of tables that say which samples belong together."""

import io
import json
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from unlabeled.data import Data, open_data, open_splits


def whole(train: Data, test: Data, groups: int) -> bool:
    sets = [set() if part.groups is None else {*part.groups.tolist()} for part in (train, test)]
    return not sets[0] & sets[1] and len(sets[0] | sets[1]) == groups


def png(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_a_column_says_which_texts_belong_together(tmp_path: Path, ending: str) -> None:
    rows = [
        {"text": f"Sentence {n} of it.", "label": "ab"[n % 2], "author": f"author {n // 4}"}
        for n in range(40)
    ]
    file = tmp_path / f"texts.{ending}"
    if ending == "jsonl":
        file.write_text("\n".join(map(json.dumps, rows)))
    elif ending == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    else:
        mark = "," if ending == "csv" else "\t"
        file.write_text("\n".join(mark.join(row) for row in [[*rows[0]], *([*row.values()] for row in rows)]))
    assert open_data(file, kind="text").groups is None
    train, test = open_splits(file, kind="text", group="author")
    assert whole(train, test, 10) and len(test) == 8 and test.classes == ["a", "b"]
    authors = [{path.split("Sentence ")[1].split()[0] for path in part.texts} for part in (train, test)]
    assert not {int(number) // 4 for number in authors[0]} & {int(number) // 4 for number in authors[1]}
    again = open_data(test, group="author").groups  # the column goes with the samples
    assert again is not None and len(again) == 8 and len(again.unique()) == 2
    with pytest.raises(ValueError, match=r"group must be .* got editor"):
        open_splits(file, kind="text", group="editor")


def test_a_column_says_which_images_of_a_table_belong_together(tmp_path: Path) -> None:
    columns = {
        "image": [{"bytes": png(n), "path": None} for n in range(40)],
        "label": [n % 2 for n in range(40)],
        "patient": [f"p{n // 4}" for n in range(40)],
    }
    features = datasets.Features(
        {
            "image": datasets.Image(decode=False),
            "label": datasets.Value("int64"),
            "patient": datasets.Value("string"),
        }
    )
    file = tmp_path / "images.parquet"
    datasets.Dataset.from_dict(columns, features=features).to_parquet(file)
    train, test = open_splits(file, group="patient")
    assert whole(train, test, 10) and len(test) == 8
    with pytest.raises(ValueError, match=r"group must be none, folder, .* or a column of .* got person"):
        open_splits(file, group="person")
    with pytest.raises(ValueError, match="beside that of the labels, got label"):
        open_splits(file, group="label")


def test_a_column_of_a_table_beside_images_says_which_belong_together(tmp_path: Path) -> None:
    rows = ["file_name,label,patient"]
    for n in range(40):
        (tmp_path / f"{n}.png").write_bytes(png(n))
        rows.append(f"{n}.png,{'ab'[n % 2]},p{n // 4}")
    (tmp_path / "metadata.csv").write_text("\n".join(rows))
    train, test = open_splits(tmp_path, group="patient")
    assert whole(train, test, 10) and len(test) == 8 and test.classes == ["a", "b"]
