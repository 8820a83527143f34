"""The audit: what it finds in folders, tables and arrays, and how it tells."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import unlabeled
from unlabeled.auditing import audit
from unlabeled.cli import main
from unlabeled.data import from_images
from unlabeled.reporting.audit_page import write_page


def picture(seed: int, side: int = 48) -> Image.Image:
    numbers = np.random.default_rng(seed)
    layers = [
        np.asarray(
            Image.fromarray(numbers.integers(0, 256, (cells, cells, 3), np.uint8)).resize((side, side))
        )
        for cells in (3, 6, 12)
    ]
    return Image.fromarray(np.mean(layers, axis=0).astype(np.uint8))


@pytest.fixture
def pics(tmp_path: Path) -> Path:
    """An equal pair, a near pair and broken files in the training part; the test part repeats two images."""
    root = tmp_path / "pics"
    for split, start in (("train", 0), ("test", 100)):
        for number, name in enumerate(("cat", "dog")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for place in range(6):
                picture(start + 10 * number + place).save(folder / f"{place}.png")
    (root / "test" / "cow").mkdir()
    picture(300).save(root / "test" / "cow" / "0.png")
    picture(0).save(root / "test" / "dog" / "leak.png")
    picture(1).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(root / "test" / "cat" / "leak.jpg", quality=60)
    picture(2).save(root / "train" / "cat" / "again.png")
    picture(3).crop((0, 0, 41, 41)).save(root / "train" / "dog" / "part.png")
    (root / "train" / "cat" / "broken.png").write_bytes(b"\x89PNG but no more")
    (root / "train" / "cat" / "empty.jpg").touch()
    return root


def names(record: list[dict[str, str]]) -> set[str]:
    return {"/".join(Path(sample["path"]).parts[-3:]) for sample in record}


def test_everything_planted_is_found(pics: Path) -> None:
    record = audit(pics).record()
    assert [part["name"] for part in record["parts"]] == ["pics/train", "pics/test"]
    assert [part["samples"] for part in record["parts"]] == [14, 15]
    assert [names(group) for group in record["equal"]] == [
        {"train/cat/0.png", "test/dog/leak.png"},
        {"train/cat/2.png", "train/cat/again.png"},
    ]
    near = {frozenset(names(pair["samples"])): pair["mirrored"] for pair in record["near"]}
    assert near == {
        frozenset({"train/cat/1.png", "test/cat/leak.jpg"}): True,
        frozenset({"train/cat/3.png", "train/dog/part.png"}): False,
    }
    assert [names(group) for group in record["disagreements"]] == [{"train/cat/0.png", "test/dog/leak.png"}]
    assert [names(pair["samples"]) for pair in record["near_disagreements"]] == [
        {"train/cat/3.png", "train/dog/part.png"}
    ]
    assert record["classes_in_one_part"] == {"cow": "pics/test"}
    assert {Path(skip["path"]).name for skip in record["parts"][0]["left_out"]} == {"broken.png", "empty.jpg"}
    assert all(skip["reason"] for skip in record["parts"][0]["left_out"])


def test_copies_are_counted_by_part(pics: Path) -> None:
    assert audit(pics).copies == [[(2, 2), (1, 1)], [(1, 1), (0, 0)]]


def test_several_sources_are_compared_whatever_their_layout(pics: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "array.npy", np.stack([np.asarray(picture(seed)) for seed in (2, 400)]))
    found = audit(pics / "train", tmp_path / "array.npy")
    assert [part.name for part in found.parts] == ["train", "array.npy"]
    assert found.copies[1] == [(1, 0), (0, 0)]
    assert len(found.across[0]) == 3


def test_grey_images_equal_those_of_three_equal_channels() -> None:
    grey = torch.randint(256, (4, 1, 16, 16), dtype=torch.uint8)
    found = audit(
        from_images(grey, name="grey"), from_images(grey.expand(-1, 3, -1, -1), name="colour"), near=False
    )
    assert [len(group) for group in found.across] == [2, 2, 2, 2]


@pytest.mark.parametrize("images", [1, 2])
def test_few_images_without_labels_are_fine(images: int) -> None:
    found = audit(from_images(torch.randint(256, (images, 3, 20, 20), dtype=torch.uint8)))
    assert not found.leaks and found.parts[0].unlabelled == images and not found.lonely_classes
    assert "No duplicates" in found.table()


def test_a_folder_of_broken_files_does_not_stop_the_audit(pics: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for place in range(5):
        (broken / f"{place}.png").write_bytes(b"nothing")
    found = audit(pics, broken)
    assert found.parts[-1].data is None and len(found.parts[-1].skipped) == 1
    assert "not an image" in found.parts[-1].skipped[0].reason
    assert len(found.across) == 1


def test_arrays_are_audited_and_called_by_their_type() -> None:
    assert [part.name for part in audit(torch.rand(3, 1, 8, 8)).parts] == ["Tensor"]


def test_a_name_that_is_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no-such-folder"):
        audit("no-such-folder")
    with pytest.raises(ValueError, match="at least one source"):
        audit()


def test_texts_are_compared_exactly_and_nearly(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0)
    words, others = (["".join(numbers.choice(list("abcdefgh"), 6)) for _ in range(200)] for _ in range(2))
    for split, texts in (("train", [words, others]), ("test", [words, [*words[:-1], "other"]])):
        folder = tmp_path / "texts" / split / "a"
        folder.mkdir(parents=True)
        for place, text in enumerate(texts):
            (folder / f"{place}.txt").write_text(" ".join(text))
    found = audit(tmp_path / "texts")
    assert [len(group) for group in found.groups] == [2] and len(found.across) == 1
    assert len(found.near or []) == 1
    assert "characters" in found.table()


@pytest.mark.usefixtures("small_worlds")
@pytest.mark.parametrize("name", ["tones", "moving_digits", "rooms", "orbit", "chiming_shapes"])
def test_every_kind_of_data_is_audited(name: str) -> None:
    data = unlabeled.open_data(name)
    part = data.subset(torch.arange(6))
    found = audit(part, data.subset(torch.arange(4, 10)))
    assert len(found.across) == 2 and found.near == []


def test_labels_of_numbers_and_of_names_do_not_disagree() -> None:
    images = torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8)
    numbers = from_images(images, torch.tensor([0, 1]), name="numbers")
    named = from_images(images, torch.tensor([1, 0]), name="named", classes=["one", "zero"])
    assert not audit(numbers, named).disagreements
    assert len(audit(numbers, from_images(images, torch.tensor([0, 0]), name="other")).disagreements) == 1


def test_the_command_writes_json_and_page_and_tells_by_its_status(
    pics: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["audit", str(pics), "--json", str(tmp_path / "a.json"), "--out", str(tmp_path / "a.html")]
    with pytest.raises(SystemExit) as status:
        main([*words, "--strict"])
    assert status.value.code == 1
    told = capsys.readouterr().out
    assert "pics/train" in told and "leak.png (dog)" in told and "cow: only in pics/test" in told
    assert max(map(len, told.splitlines())) <= 300
    record = json.loads((tmp_path / "a.json").read_text())
    assert record == audit(pics).record() and record["schema"] == 1
    assert 'src="data:image/png' in (tmp_path / "a.html").read_text()


@pytest.mark.parametrize("words", [[], ["--strict"]])
def test_clean_data_leave_status_0(words: list[str], tmp_path: Path) -> None:
    for place in range(4):
        picture(place).save(tmp_path / f"{place}.png")
    with pytest.raises(SystemExit) as status:
        main(["audit", str(tmp_path), *words])
    assert status.value.code == 0


def test_the_page_needs_nothing_from_outside_and_names_are_escaped(tmp_path: Path) -> None:
    images = torch.randint(256, (3, 3, 16, 16), dtype=torch.uint8)[[0, 0, 1]]
    data = from_images(images, torch.tensor([0, 1, 1]), name="<script>", classes=["<b>", "plain"])
    text = write_page(audit(data), tmp_path / "page.html").read_text()
    assert "<script" not in text and "&lt;b&gt;" in text
    assert "http" not in text.replace("http-equiv", "")
    assert 'id="disagreements"' in text and 'id="left_out"' not in text


def test_the_page_names_the_json_of_what_it_omits_only_where_there_is_one(tmp_path: Path) -> None:
    images = torch.randint(256, (30, 3, 16, 16), dtype=torch.uint8).repeat(2, 1, 1, 1)
    found = audit(from_images(images, name="twice"), near=False)
    assert "… and 6 more.</p>" in write_page(found, tmp_path / "page.html").read_text()
    text = write_page(found, tmp_path / "page.html", json="folder/all.json").read_text()
    assert "… and 6 more, all in all.json.</p>" in text


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no browser")
def test_the_page_is_drawn_by_a_browser(pics: Path, tmp_path: Path) -> None:
    page = write_page(audit(pics), tmp_path / "page.html")
    shot = tmp_path / "shot.png"
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1000,1600"]
    subprocess.run(
        [*command, f"--screenshot={shot}", page.as_uri()], check=True, capture_output=True, timeout=120
    )
    colours = np.asarray(Image.open(shot).convert("RGB")).reshape(-1, 3)
    assert len(np.unique(colours, axis=0)) > 1000
