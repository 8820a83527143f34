"""The page of explore: what it holds, and what it does in a browser where there is one."""

import base64
import csv
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from unlabeled import encoders
from unlabeled.cli import main
from unlabeled.data import open_data
from unlabeled.data.audio.data import from_waveforms
from unlabeled.data.image.data import from_images
from unlabeled.data.text.data import Texts
from unlabeled.exploring import explore, sprites
from unlabeled.exploring.layout import hilbert, layout
from unlabeled.exploring.vectors import quantized, recall, to_bytes

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ENCODER = encoders.build("conv4", in_channels=3, image_size=16).eval()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_bytes_keep_directions_to_half_a_step() -> None:
    vectors = torch.randn(50, 20, generator=generator())
    values = to_bytes(vectors)
    assert values.dtype == torch.int8 and bool((values.abs().amax(1) == 127).all())
    scale = vectors.abs().amax(1, keepdim=True) / 127
    assert bool((values * scale - vectors).abs().le(scale / 2 + 1e-6).all())
    assert not to_bytes(torch.zeros(2, 3)).any()


def test_recall_counts_the_nearest_that_both_name() -> None:
    features = torch.randn(40, 8, generator=generator())
    assert recall(features, features - features.mean(0)) == 1
    other = torch.randn(40, 8, generator=generator(1))

    def nearest(values: Tensor, row: int) -> set[int]:
        cosines = torch.nn.functional.cosine_similarity(values, values[row : row + 1])
        cosines[row] = -9
        return set(cosines.topk(10).indices.tolist())

    centred = features - features.mean(0)
    expected = np.mean([len(nearest(centred, row) & nearest(other, row)) / 10 for row in range(40)])
    assert recall(features, other) == pytest.approx(float(expected))
    assert recall(features[:1], other[:1]) == 1


def test_only_as_many_components_as_are_needed_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    low = torch.randn(300, 20, generator=generator()) @ torch.randn(20, 300, generator=generator(1))
    mostly = low + 0.01 * torch.randn(300, 300, generator=generator(2))
    narrow, wide = quantized(mostly), quantized(torch.randn(300, 300, generator=generator()))
    assert narrow.values.shape == (300, 64) and narrow.recall > 0.95
    assert wide.values.shape == (300, 256)
    assert narrow.recall == recall(mostly, narrow.values)
    monkeypatch.setattr("unlabeled.exploring.vectors.MOST_PRODUCTS", 300 * 128)
    assert quantized(torch.randn(300, 300, generator=generator())).values.shape == (300, 128)


def test_the_curve_passes_every_cell_once_by_steps_of_one() -> None:
    side = 2**5
    grid = torch.cartesian_prod(torch.arange(side), torch.arange(side))
    # Cells of a coarser grid, in the order of the curve, are neighbours too.
    order = hilbert((grid * 32 + 15.5) / (2**10 - 1)).argsort()
    steps = grid[order].diff(dim=0).abs().sum(1)
    assert bool((steps == 1).all())


def test_samples_that_are_not_arranged_lie_among_their_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    centres = torch.eye(3, 6).repeat_interleave(60, 0)
    features = centres + 0.01 * torch.randn(180, 6, generator=generator())
    monkeypatch.setattr("unlabeled.exploring.layout.LANDMARKS", 45)
    points, name = layout(features)
    assert points.shape == (180, 2) and "of 45 samples" in name
    groups = points.view(3, 60, 2)
    middle = groups.mean(1)
    nearest = torch.cdist(points, middle).argmin(1)
    assert torch.equal(nearest, torch.arange(3).repeat_interleave(60))


def test_pictures_lie_on_sheets_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shades = [Image.new("RGB", (20, 10), (n * 12, 0, 0)) for n in range(20)]
    monkeypatch.setattr(sprites, "COLUMNS", 4)
    monkeypatch.setattr(sprites, "PER_SHEET", 16)
    assert sprites.write_sheets(shades, tmp_path, 8) == 2
    first, second = (np.array(Image.open(tmp_path / f"{n}.webp").convert("RGBA")) for n in range(2))
    assert first.shape == (32, 32, 4)
    for number in range(20):
        sheet, place = (first, number) if number < 16 else (second, number - 16)
        cell = sheet[place // 4 * 8 :, place % 4 * 8 :][:8, :8]
        assert abs(int(cell[4, 4, 0]) - number * 12) < 16
        assert cell[0, 4, 3] == 0 and cell[4, 4, 3] == 255  # a wide picture leaves room above and below
    assert sprites.side_for(10, 32) == 32 and sprites.side_for(100_000, 200) == 48


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of two classes, the name of one with all that a table must quote."""
    root = tmp_path_factory.mktemp("some") / "pictures"
    colours = torch.rand(45, 3, generator=generator())
    for number, colour in enumerate(colours):
        own = root / ("dark" if number % 3 else "light")
        own.mkdir(parents=True, exist_ok=True)
        pixels = (colour * 200 + 50 * torch.rand(16, 16, 3, generator=generator(number))).byte().numpy()
        Image.fromarray(pixels).save(own / ('0, "zero".png' if number == 0 else f"{number}.png"))
    return root


@pytest.fixture(scope="module")
def written(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pages") / "page"
    parquet = out.with_suffix(".parquet")
    done = explore(ENCODER, folder, out=out, parquet=parquet, device="cpu")
    assert done.path == out / "index.html" and done.samples == 45
    assert "recall@10" in "\n".join(done.summary())
    return out


def content(page: Path) -> tuple[dict[str, Any], np.ndarray]:
    """What a page knows of its samples, and their vectors."""
    text = (page / "samples.js").read_text()
    about = json.loads(text.removeprefix("explore.samples(").rstrip().removesuffix(")"))
    packed = (page / "vectors.js").read_text().split('"')[1]
    return about, np.frombuffer(base64.b64decode(packed), np.int8).reshape(-1, about["dims"])


def test_the_page_holds_all_samples_with_their_classes(folder: Path, written: Path) -> None:
    about, vectors = content(written)
    data = open_data(folder)
    paths = [about["root"] + path for path in about["paths"]]
    assert sorted(paths) == sorted(map(str, data.paths))
    labels = dict(zip(data.paths, data.class_names()))
    assert [about["classes"][n] for n in about["labels"]] == [labels[path] for path in paths]
    assert len(vectors) == 45 and about["files"]
    points = np.frombuffer(base64.b64decode(about["points"]), np.uint16)
    assert points.shape == (90,) and points.max() == 65535
    assert {file.name for file in written.iterdir()} == {
        "index.html",
        "explore.js",
        "samples.js",
        "vectors.js",
        "sheets",
    }


def test_nothing_is_loaded_from_elsewhere(written: Path) -> None:
    for name in ("index.html", "explore.js"):
        text = (written / name).read_text()
        assert "http" not in text.replace("http-equiv", "") and "@import" not in text
    assert "default-src 'none'" in (written / "index.html").read_text()


def test_the_parquet_file_has_map_and_pictures(written: Path) -> None:
    import pandas as pd

    table = pd.read_parquet(written.with_suffix(".parquet"))
    assert {"path", "label", "embedding", "x", "y", "image"} <= {*table.columns} and len(table) == 45
    assert table["x"].between(0, 1).all() and table["x"].nunique() > 30


def test_a_page_is_written_over_an_earlier_one_but_over_nothing_else(folder: Path, written: Path) -> None:
    some = open_data(folder).subset(torch.arange(30))
    explore(ENCODER, some, out=written.with_name("again"), device="cpu")
    assert explore(ENCODER, some, out=written.with_name("again"), device="cpu").samples == 30
    with pytest.raises(ValueError, match="out must be a new or empty folder"):
        explore(ENCODER, some, out=folder, device="cpu")


def test_more_than_a_page_holds_are_a_random_part(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("unlabeled.exploring.exploration.MOST", 20)
    images = from_images((255 * torch.rand(30, 3, 16, 16, generator=generator())).byte())
    done = explore(ENCODER, images, out=tmp_path / "x", device="cpu")
    assert done.samples == 20 and "20 of 30 samples" in done.notes[0]
    assert content(tmp_path / "x")[0]["files"] is False


def test_texts_are_shown_and_sounds_can_be_played(tmp_path: Path) -> None:
    class Sums(torch.nn.Module):
        """Stands for an encoder: numbers of a batch, in a few sums."""

        kind, key, config = "text", "tokens", {}

        def evaluation_view(self, data: Any) -> Any:
            return data

        def inputs(self, batch: dict[str, Tensor]) -> Tensor:
            return batch[self.key].float()

        def features(self, values: Tensor, layer: str | None = None) -> Tensor:
            size = values.shape[1]
            return torch.stack([values[:, at::4].sum(1) for at in range(4)], 1) / size + torch.arange(4)

    texts = Texts([f"<b>word {n}</b> {'x' * n}" for n in range(12)], labels=torch.arange(12) % 2)
    explore(Sums(), texts, out=tmp_path / "t", device="cpu")
    about, _ = content(tmp_path / "t")
    assert sorted(about["texts"]) == sorted(texts.texts) and "side" not in about
    encoder = Sums()
    encoder.kind, encoder.key = "audio", "waveform"
    sounds = from_waveforms(torch.rand(5, 4000, generator=generator()) - 0.5, 8000)
    explore(encoder, sounds, out=tmp_path / "s", device="cpu")
    about, _ = content(tmp_path / "s")
    assert about["sounds"] == "copies" and len(list((tmp_path / "s" / "sounds").glob("*.ogg"))) == 5
    assert (tmp_path / "s" / "sheets" / "0.webp").is_file()


def test_the_command_says_what_was_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    ENCODER.save(tmp_path / "encoder.safetensors")
    with pytest.raises(SystemExit) as ended:
        main(["explore", "encoder.safetensors", str(folder)])
    shown = capsys.readouterr()
    assert ended.value.code == 0 and "45 samples" in shown.out
    assert f"runs/explore-{folder.name}/index.html" in shown.out
    assert "next: unlabeled evaluate encoder.safetensors labels.csv" in shown.err


SCRIPT = """
const told = {}, area = document.getElementById("map"), box = area.getBoundingClientRect();
const point = (type, left, top, more = {}) => area.dispatchEvent(new PointerEvent(type,
  { clientX: box.left + left, clientY: box.top + top, bubbles: true, pointerId: 1, ...more }));
told.nearest = explore.nearest([5], 10);
told.answer = document.getElementById("answer").textContent;
told.took = explore.search([7]);
point("pointerdown", 1, 1, { shiftKey: true });
for (const [left, top] of [[box.width - 1, 1], [box.width - 1, box.height - 1], [1, box.height - 1]])
  point("pointermove", left, top);
point("pointerup", 1, box.height - 1);
told.selected = document.getElementById("selected").textContent;
explore.select([...Array(told.count = 45).keys()].filter(row => row > 19), false);
document.getElementById("name").value = 'a "new", label';
document.getElementById("label").requestSubmit();
explore.select([30, 31]);
told.table = explore.table();
document.getElementById("words").value = "light";
document.getElementById("words").dispatchEvent(new Event("input"));
told.matches = document.getElementById("matches").textContent;
told.tiles = document.querySelectorAll(".tile").length;
const shown = document.createElement("pre");
shown.id = "told"; shown.textContent = JSON.stringify(told);
document.body.append(shown);
"""


def in_browser(page: Path, script: str, tmp_path: Path, address: str = "") -> dict[str, Any]:
    """What a script tells of a page that it runs in."""
    copy = tmp_path / "page"
    shutil.copytree(page, copy)
    (copy / "told.js").write_text(script)
    index = copy / "index.html"
    index.write_text(index.read_text().replace("<noscript>", '<script src="told.js"></script><noscript>'))
    words = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [str(CHROMIUM), *words, "--dump-dom", f"{index.as_uri()}{address}"],
        capture_output=True,
        timeout=120,
        check=True,
    )
    text = done.stdout.decode()
    match = re.search(r'<pre id="told">(.*?)</pre>', text, re.S)
    assert match, text[-3000:]
    return json.loads(match[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_the_page_searches_selects_and_saves_a_list_that_is_data(written: Path, tmp_path: Path) -> None:
    told = in_browser(written, SCRIPT, tmp_path, "#like=3")
    about, vectors = content(written)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = units @ units[5]
    cosines[5] = -9
    expected = np.argsort(-cosines, kind="stable")[:10]
    assert [one["row"] for one in told["nearest"]] == expected.tolist()
    assert np.allclose([one["score"] for one in told["nearest"]], cosines[expected], atol=1e-5)
    assert re.search(r"44 nearest of 45 in [\d.]+ ms", told["answer"])
    assert told["took"] < 100 and told["selected"] == "45"
    light = sum("light" in path for path in about["paths"])
    assert told["matches"] == f"{light} found" and told["tiles"] == light
    rows = list(csv.DictReader(io.StringIO(told["table"])))
    assert [row["label"] for row in rows] == 20 * ['a "new", label'] + ["", ""]
    assert [row["path"] for row in rows[:20]] == [about["root"] + path for path in about["paths"][:20]]
    table = tmp_path / "labels.csv"
    table.write_text(told["table"])
    data = open_data(str(table))
    assert len(data) == 22
    assert data.class_names().count('a "new", label') == 20 and data.class_names().count(None) == 2


@pytest.mark.golden
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_a_hundred_thousand_are_searched_within_a_tenth_of_a_second(written: Path, tmp_path: Path) -> None:
    about, _ = content(written)
    count, dims = 100_000, 128
    page = tmp_path / "large"
    shutil.copytree(written, page)
    points = torch.rand(count, 2, generator=generator())
    about |= {
        "dims": dims,
        "paths": [f"{n}.png" for n in range(count)],
        "labels": [n % 2 for n in range(count)],
    }
    about["points"] = base64.b64encode((points * 65535).numpy().astype(np.uint16).tobytes()).decode()
    values = np.random.default_rng(0).integers(-127, 128, (count, dims), dtype=np.int8)
    (page / "samples.js").write_text(f"explore.samples({json.dumps(about)})")
    (page / "vectors.js").write_text(f'explore.vectors("{base64.b64encode(values.tobytes()).decode()}")')
    script = """
    const took = [];
    for (let row = 0; row < 20; row++) took.push(explore.search([row * 4999]));
    const told = { took: took.sort((a, b) => a - b), found: explore.nearest([1], 1).length };
    const shown = document.createElement("pre");
    shown.id = "told"; shown.textContent = JSON.stringify(told);
    document.body.append(shown);
    """
    told = in_browser(page, script, tmp_path)
    print(
        f"fastest {told['took'][0]:.1f} ms, median {told['took'][10]:.1f} ms, slowest {told['took'][-1]:.1f} ms"
    )
    assert told["took"][0] < 100  # the least disturbed by other programs
