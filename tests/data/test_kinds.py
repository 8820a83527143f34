"""Kinds of data: told by name or by the endings of files, refused where a method needs another."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from unlabeled import pretrain
from unlabeled.check import UserError
from unlabeled.data import BUILT_IN, Data, Skipped, from_images, kind_of, open_data, store_size
from unlabeled.data.options import refuse_broken


def test_kind_is_that_of_the_built_in_set_or_of_most_files(tmp_path: Path) -> None:
    for name, kind in BUILT_IN.items():
        assert kind_of(name) == kind
    assert kind_of("balls:reversible") == "video"
    for ending, kind in {
        ".wav": "audio",
        ".mp4": "video",
        ".txt": "text",
        ".png": "image",
        ".au": "audio",
    }.items():
        folder = tmp_path / ending[1:]
        folder.mkdir()
        (folder / f"a{ending}").write_bytes(b"x")
        (folder / f"b{ending.upper()}").write_bytes(b"x")
        (folder / "LICENSE").write_bytes(b"x")
        assert kind_of(str(folder)) == kind
    assert kind_of(torch.zeros(1, 1, 2, 2, dtype=torch.uint8)) == "image"


def test_a_built_in_set_of_another_kind_is_refused_with_those_that_fit() -> None:
    with pytest.raises(
        ValueError, match=r"data must be of kind image, .*digits, photos, seasons, got tones, of kind audio"
    ):
        open_data("tones", kind="image")


@pytest.mark.parametrize(
    ("source", "option", "value"),
    [
        ("digits", "text_column", "body"),
        ("tones", "encoding", "gbk"),
        ("topics", "levels", "0,9"),
        ("balls", "pages", "all"),
    ],
)
def test_options_of_another_kind_are_refused(source: str, option: str, value: str) -> None:
    with pytest.raises(ValueError, match=rf"{option} must be left out for data of kind \w+, got {value}"):
        open_data(source, **{option: value})  # type: ignore[arg-type]


def test_a_method_refuses_opened_data_of_another_kind(tmp_path: Path) -> None:
    data = from_images(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), name="four")
    with pytest.raises(ValueError, match="data must be of kind text, got four, of kind image"):
        pretrain("gpt", data, out=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_unknown_kinds_and_paths_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"kind must be one of image, text, .*, got smell"):
        open_data("digits-of-mine", kind="smell")
    with pytest.raises(ValueError, match=r"data must be a path that exists, one of .*, got nowhere"):
        open_data("nowhere", kind="audio")


def test_pictures_are_kept_no_smaller_than_the_encoder_needs() -> None:
    assert store_size("image", None) == 160 and store_size("image", 224) == 224
    assert store_size("video", None) == 112 and store_size("video", 224) == 224
    assert store_size("text", None) is None


def test_refusal_of_broken_files_names_the_share_and_the_reasons() -> None:
    broken = [Skipped("a.wav", "truncated")]
    refuse_broken("sounds", broken, 9, 0.1)
    with pytest.raises(
        ValueError, match=r"1 of 9 files in sounds .* max_broken of 0.1 allows: a.wav: truncated"
    ):
        refuse_broken("sounds", broken, 8, 0.1)
    with pytest.raises(ValueError, match="1 of 1 files"):
        refuse_broken("sounds", broken, 0, 1.0)


class Numbers(Data):
    kind, unit = "image", "numbers"

    def __init__(self, values: torch.Tensor, **known: object) -> None:
        super().__init__(name="numbers", paths=[str(v) for v in values.tolist()], **known)  # type: ignore[arg-type]
        self.values = values

    def batch(self, index: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.on_device({"value": self.values[index] + torch.rand(len(index)), "index": index})

    def _keep(self, rows: torch.Tensor) -> None:
        self.values = self.values[rows]


def test_a_subset_narrows_everything_that_is_known() -> None:
    data = Numbers(torch.arange(5), labels=torch.arange(5) % 2, factors={"size": torch.arange(5.0)})
    part = data.subset(torch.tensor([4, 1]))
    assert part.paths == ["4", "1"] and part.values.tolist() == [4, 1]
    assert part.labels is not None and part.labels.tolist() == [0, 1]
    assert part.factors["size"].tolist() == [4.0, 1.0] and len(data) == 5
    assert data.subset(torch.arange(5) > 2).paths == ["3", "4"]


def test_a_sample_is_the_same_for_the_same_seed_and_leaves_the_generator_alone() -> None:
    data = Numbers(torch.arange(50))
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first, second = data.sample(8, seed=2), data.sample(8, seed=2)
    assert torch.equal(first["value"], second["value"]) and torch.equal(torch.rand(3), expected)
    assert not torch.equal(first["index"], data.sample(8, seed=3)["index"])


@pytest.mark.parametrize("source", ["digits", "topics", "tones", "orbit"])
def test_a_column_that_is_not_there_is_an_error_of_the_user(source: str) -> None:
    with pytest.raises(UserError, match="label must be left out for"):
        open_data(source, label="x")


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ValueError, match=r"open_data has no option lable; did you mean label\?"):
        open_data("digits", lable="x")  # type: ignore[call-arg]


def _sound() -> bytes:
    stream = io.BytesIO()
    pytest.importorskip("soundfile").write(stream, np.zeros(800), 8000, format="WAV")
    return stream.getvalue()


def _picture() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stream, "png")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "kind"),
    [(_sound, "audio"), (_picture, "image"), (lambda: "A sentence of some words.", "text")],
    ids=["sounds", "pictures", "texts"],
)
@pytest.mark.parametrize("struct", [True, False])
def test_columns_tell_what_a_table_holds(content, kind: str, struct: bool, tmp_path: Path) -> None:
    value = content()
    cell = {"bytes": value, "path": None} if struct and kind != "text" else value
    # A transcript or caption beside the sounds or pictures makes no data of texts.
    pq.write_table(
        pa.table({"sentence": ["a b", "c d"], "content": [cell, cell]}), tmp_path / "train.parquet"
    )
    for name in ("README.md", "dataset_info.json", "notes.txt"):
        (tmp_path / name).write_text("{}")
    assert kind_of(tmp_path) == kind_of(tmp_path / "train.parquet") == kind


def test_a_table_of_numbers_or_of_nonsense_is_taken_for_images_as_before(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1.0, 2.0]}), tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(b"PAR1 nonsense")
    assert kind_of(tmp_path / "a.parquet") == kind_of(tmp_path / "b.parquet") == "image"


def test_a_table_of_numbers_or_one_that_is_packed_does_not_hide_the_texts_beside_it(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1.0, 2.0]}), tmp_path / "statistics.parquet")
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text("A sentence of some words.")
    assert kind_of(tmp_path) == "text"
    (tmp_path / "statistics.parquet").rename(tmp_path / "statistics.parquet.gz")
    assert kind_of(tmp_path) == "text"


def test_pictures_with_spoken_captions_are_images(tmp_path: Path) -> None:
    """As `datasets` notes both columns."""
    features = {"caption": {"_type": "Audio"}, "image": {"_type": "Image"}}
    about = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    cells = {name: [{"bytes": value, "path": None}] for name, value in zip(features, (_sound(), _picture()))}
    pq.write_table(pa.table(cells).replace_schema_metadata(about), tmp_path / "a.parquet")
    assert kind_of(tmp_path) == "image"
