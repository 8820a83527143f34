"""The page: what it shows, what it leaves out, and that it needs nothing from outside."""

import base64
import io
import math
import re
import shutil
import subprocess
import wave
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from unlabeled.data import open_data, worlds
from unlabeled.evaluation import Scores, geometry
from unlabeled.method import Waveforms
from unlabeled.reporting import charts, pictures, report, sounds, tables
from unlabeled.reporting.entry import Entry
from unlabeled.reporting.sections import metric_title
from unlabeled.reporting.tracks import painted
from unlabeled.run import fingerprint, load
from unlabeled.training.train import pretrain

HOSTILE = '<script>alert("1")</script>'


class FakeData:
    name, unit = "shapes", "images"

    def __init__(
        self, samples: int = 40, channels: int = 1, size: int = 8, labels: Tensor | None = None
    ) -> None:
        numbers = torch.Generator().manual_seed(0)
        shape = (samples, channels, size, size)
        self.images = torch.randint(256, shape, dtype=torch.uint8, generator=numbers)
        self.labels, self.classes, self.skipped = labels, None, []
        self.samples_drawn = 0

    def __len__(self) -> int:
        return len(self.images)

    def sample(self, count: int, seed: int = 0) -> dict[str, Tensor]:
        self.samples_drawn += 1
        index = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))[:count]
        return {"image": self.images[index], "index": index}


class FakeEncoder(nn.Module):
    kind, dim = "image", 16

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.in_channels, self.image_size = channels, size
        self.conv = nn.Conv2d(channels, 16, 3)

    def inputs(self, batch: dict[str, Tensor]) -> Tensor:
        return batch["image"].float() / 255

    def raw(self, batch: dict[str, Tensor]) -> Tensor:
        return self.inputs(batch).flatten(1)

    def evaluation_view(self, data: FakeData) -> FakeData:
        return data

    def features(self, images: Tensor, layer: str | None = None) -> Tensor:
        return self.conv(images).amax((2, 3))


class FakeMethod(nn.Module):
    def __init__(self, encoder: FakeEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def training_view(self, data: FakeData) -> FakeData:
        return data

    def features(self, batch: dict[str, Tensor], layer: str | None = None) -> Tensor:
        return self.encoder.features(self.encoder.inputs(batch), layer)

    def pictures(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        assert not self.training
        images = (self.encoder.inputs(batch) + 0.1 * torch.rand(())).clamp(0, 1)
        return {"image": images, "predicted <b>": images.mean(0, keepdim=True).expand_as(images)}


def epoch(number: int, **changes: Any) -> dict[str, Any]:
    line = {
        "epoch": number,
        "step": 10 * number,
        "loss": 6 / number,
        "chance": 6.2,
        "spread": 0.5,
        "rank": 9.0,
    }
    line |= {"cosine": 0.1, "samples_per_second": 1000.0, "verdict": "Healthy.", "metrics": {"accuracy": 0.3}}
    return line | changes


def record(features: str, value: float, width: float = 0.01, **changes: Any) -> dict[str, Any]:
    made = {"probe": "knn", "features": features, "layer": None, "labels_per_class": "all", "value": value}
    made |= {"low": value - width, "high": value + width, "detail": "k=20, T=0.07", "samples": 360}
    return made | changes


class FakeRun(SimpleNamespace):
    @property
    def evaluations(self) -> list[dict[str, Any]]:
        return [self.measured] if self.measured["records"] else []


def make_run(folder: Path, channels: int = 1, size: int = 8, **changes: Any) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    encoder = FakeEncoder(channels, size)
    config = {
        "method": "simclr",
        "data": {"source": "shapes/", "name": "shapes", "samples": 40},
        "settings": {"encoder": "tiny", "batch_size": 256, "image_size": size, "seed": 0},
        "options": {"temperature": 0.2},
        "chosen": ["batch_size"],
        "parameters": 421_000,
        "started": "2026-01-02T03:04:05+00:00",
        "versions": {"torch": "2.15.0"},
    }
    (folder / "run.toml").write_text('method = "simclr"\n')
    run = {
        "path": folder,
        "config": config,
        "history": [epoch(number) for number in range(1, 6)],
        "measured": {"records": [record("raw", 0.5), record("random", 0.4), record("unlabeled", 0.9)]},
        "skipped": [("broken.jpg", "truncated")],
        "predictions": {},
        "encoder": encoder,
        "reading": {"channels": channels},
        "method": FakeMethod(encoder),
    }
    return FakeRun(**(run | changes))


def section_of(page: Path, name: str) -> str:
    (section,) = re.findall(rf'<section id="{name}">(.*?)</section>', page.read_text(encoding="utf-8"), re.S)
    return section


def sections(text: str) -> list[str]:
    return re.findall(r'<section id="(\w+)"', text)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_full_run_has_every_section(tmp_path: Path, channels: int) -> None:
    data = FakeData(channels=channels, labels=torch.arange(40) % 4)
    path = report(make_run(tmp_path / "run", channels), data=data)
    text = path.read_text(encoding="utf-8")
    assert path == tmp_path / "run" / "report.html"
    assert sections(text) == ["scores", "training", "pretext", "neighbors", "filters", "map", "repeat"]
    for fact in (
        "simclr on shapes",
        "tiny, 421 k weights",
        "2 Jan 2026, 03:04 UTC",
        "5 epochs, 50 steps",
    ):
        assert fact in text
    assert "broken.jpg: truncated" in text and "Healthy." in text and "batch_size 256" in text
    assert [file.name for file in path.parent.iterdir() if file.name.startswith(".")] == []


def test_the_scores_name_the_controls_that_were_measured_and_no_others(tmp_path: Path) -> None:
    measured = {"records": [record("random", 0.4), record("unlabeled", 0.9)]}
    scores = section_of(report(make_run(tmp_path / "random", measured=measured)), "scores")
    assert "on the same test samples: random weights." in scores and "raw input" not in scores
    alone = make_run(tmp_path / "alone", measured={"records": [record("unlabeled", 0.9)]})
    assert "No control was measured" in section_of(report(alone), "scores")


def test_tasks_that_train_show_their_predictions_and_the_scores_of_classes(tmp_path: Path) -> None:
    rows = [
        record(
            features,
            value,
            probe="detection",
            unit="AP50",
            better="higher",
            labels_per_class=25,
            by_class={"cat": value, "dog": 0.1},
        )
        for features, value in (("random", 0.3), ("unlabeled", 0.6))
    ]
    shown = {
        "detection": pictures.sheet({"true": torch.rand(2, 3, 8, 8), "unlabeled": torch.rand(2, 3, 8, 8)})
    }
    path = report(make_run(tmp_path / "run", measured={"records": rows}, predictions=shown))
    assert "answers and predictions of detection" in section_of(path, "predictions")
    scores = " ".join(section_of(path, "scores").split())
    assert "AP50 with 25 images" in scores and "detection: AP50 by class with 25 images" in scores
    assert '<th scope="col">dog</th>' in scores and "<td>0.600</td>" in scores


@pytest.fixture
def small_worlds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of built-in sets no more samples are made than are taken."""
    monkeypatch.setattr(worlds, "SIZES", dict.fromkeys(worlds.SIZES, (16, 8)))


@pytest.mark.usefixtures("small_worlds", "small_networks")
def test_masks_are_carried_along_where_the_data_has_them(tmp_path: Path) -> None:
    data = open_data("blobs").subset(torch.arange(16))
    settings = {"steps": 1, "batch_size": 8, "quiet": True, "encoder": "frames-conv4", "image_size": 32}
    run = pretrain("video_colorization", data, out=tmp_path / "run", **settings)
    text = report(run, data=data).read_text(encoding="utf-8")
    assert "tracks" in sections(text)
    assert text.count(", mask propagated") == text.count(", mask true") == 3 * 8
    data.masks = None
    assert "tracks" not in sections(report(run, data=data).read_text(encoding="utf-8"))


@pytest.mark.usefixtures("small_worlds", "small_networks")
def test_demonstrations_are_imitated_where_an_arm_can_be_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unlabeled.evaluation.imitation.STEPS", 5)
    data = open_data("arm").subset(torch.arange(4))
    settings = {"steps": 1, "batch_size": 2, "quiet": True, "image_size": 16, "moments": 4}
    run = pretrain("time_contrastive", data, out=tmp_path / "run", **settings)
    section = section_of(report(run, data=data), "imitation")
    assert section.count(', demonstration"') == section.count(', imitation"') == 3 * 8
    data.simulator = None
    assert "imitation" not in sections(report(run, data=data).read_text(encoding="utf-8"))


def test_painted_masks_leave_the_rest_as_it_is() -> None:
    frames = torch.full((1, 1, 2, 2), 255, dtype=torch.uint8)
    image = painted(frames, torch.tensor([[[0, 1], [2, 7]]], dtype=torch.uint8))
    assert image.shape == (1, 3, 2, 2) and image[0, :, 0, 0].tolist() == [1, 1, 1]
    assert torch.equal(image[0, :, 0, 1], image[0, :, 1, 1]) and not torch.equal(
        image[0, :, 0, 1], image[0, :, 1, 0]
    )


def played(tag: str) -> tuple[dict[str, int], Tensor]:
    """What the file in a player says of itself, and its samples as int16."""
    (data,) = re.findall(r'src="data:audio/wav;base64,([^"]*)"', tag)
    with wave.open(io.BytesIO(base64.b64decode(data))) as file:
        facts = {"rate": file.getframerate(), "channels": file.getnchannels(), "bytes": file.getsampwidth()}
        return facts, torch.tensor(memoryview(file.readframes(file.getnframes())).cast("h").tolist())


def test_sounds_of_a_method_can_be_played_on_the_page(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    waveform = torch.rand(8, 300) - 0.5
    heard = Waveforms(waveform, torch.arange(300, 292, -1), 8_000)
    run.method.pictures = lambda batch: {"image": run.encoder.inputs(batch), HOSTILE: heard}
    text = report(run, data=FakeData()).read_text(encoding="utf-8")
    tags = re.findall(r"<audio .*?</audio>", section_of(tmp_path / "report.html", "pretext"))
    assert len(tags) == 4 and all(" controls " in tag for tag in tags)
    assert "of4" in section_of(tmp_path / "report.html", "pretext"), "room for a button"
    assert "media-src data:" in text and "<script" not in text
    assert set(re.findall(r'src="([^"]{5})', text)) == {"data:"}
    for row, tag in enumerate(tags):
        facts, samples = played(tag)
        assert facts == {"rate": 8_000, "channels": 1, "bytes": 2} and len(samples) == 300 - row
        assert (samples / (2**15 - 1) - waveform[row, : 300 - row]).abs().max() < 1e-4


def test_a_method_with_sounds_alone_has_a_section(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.method.pictures = lambda batch: {"sound": Waveforms(torch.zeros(8, 10), torch.full((8,), 10), 8_000)}
    assert "pretext" in sections(report(run, data=FakeData()).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("sound", "expected"),
    [
        ([0.0, 0.5, -1.0], [0, 16384, -32767]),
        ([4.0, -2.0, 1.0], [32767, -16384, 8192]),
        ([math.nan, math.inf, 0.5], [0, 0, 16384]),
        ([], []),
    ],
)
def test_samples_are_rounded_louder_ones_scaled_and_others_silent(
    sound: list[float], expected: list[int]
) -> None:
    _, samples = played(sounds.player(torch.tensor(sound), 100, "x"))
    assert samples.tolist() == expected


def test_of_long_sounds_the_beginning_is_played() -> None:
    _, samples = played(sounds.player(torch.linspace(0, 1, 1_000), 100, "x"))
    assert len(samples) == 100 * sounds.LONGEST and samples[-1] < 2**15 * 0.41


def test_training_time_is_images_over_speed(tmp_path: Path) -> None:
    text = report(make_run(tmp_path), data=FakeData()).read_text(encoding="utf-8")
    assert f"<dd>{50 * 256 / 1000:.0f} s</dd>" in text


def test_nothing_is_loaded_from_outside(tmp_path: Path) -> None:
    text = report(make_run(tmp_path, 3), data=FakeData(channels=3)).read_text(encoding="utf-8")
    assert set(re.findall(r'(?:src|href|action|data|poster)="([^"]{5})', text)) == {"data:"}
    assert not re.search(r"<script|<link|<iframe|@import|url\(|https?://", text)


def test_hostile_names_are_escaped_everywhere(tmp_path: Path) -> None:
    config = {
        "method": HOSTILE,
        "data": {"source": HOSTILE, "name": HOSTILE},
        "settings": {"encoder": HOSTILE},
        "options": {HOSTILE: HOSTILE},
        "chosen": [HOSTILE],
        "versions": {HOSTILE: HOSTILE},
        "started": HOSTILE,
    }
    data = FakeData(labels=torch.arange(40) % 2)
    data.classes = [HOSTILE, HOSTILE]
    history = [epoch(1, verdict=HOSTILE, metrics={HOSTILE: 1.0}), epoch(2)]
    scores = [
        record(name, 0.5, detail=HOSTILE, layer=HOSTILE, probe=HOSTILE) for name in ("random", "unlabeled")
    ]
    measured = {"records": scores, "data": HOSTILE, "note": HOSTILE, "encoder": HOSTILE}
    measured |= {"training_samples": 9, "test_samples": 9, "seed": 0}
    run = make_run(tmp_path, config=config, history=history, measured=measured, skipped=[(HOSTILE, HOSTILE)])
    run.method.pictures = lambda batch: {HOSTILE: run.encoder.inputs(batch)}
    (tmp_path / "run.toml").write_text(HOSTILE)
    text = report([run, run], data=data).read_text(encoding="utf-8")
    assert "<script" not in text
    assert text.count("&lt;script&gt;") > 20


def test_sections_without_data_are_left_out(tmp_path: Path) -> None:
    bare = make_run(tmp_path, history=[], measured={"records": []}, skipped=[], method=None)
    bare.config["data"] = {"source": "", "name": "array"}
    text = report(bare).read_text(encoding="utf-8")
    assert sections(text) == ["filters", "repeat"]
    assert "Not evaluated yet" in text and "Last epoch.</b> None was finished." in text


def test_data_that_is_gone_costs_only_its_sections(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.config["data"]["source"] = str(tmp_path / "deleted")
    assert sections(report(run).read_text(encoding="utf-8")) == ["scores", "training", "filters", "repeat"]
    with pytest.raises((ValueError, OSError)):
        report(run, data=tmp_path / "deleted")


def test_method_that_cannot_be_built_again_costs_only_its_pictures(tmp_path: Path) -> None:
    class Foreign(FakeRun):
        @property
        def method(self) -> Any:
            raise ValueError("not one of the library's methods")

    fields = vars(make_run(tmp_path))
    del fields["method"]
    with pytest.warns(
        UserWarning, match="no pictures of what was withheld: not one of the library's methods"
    ):
        found = sections(report(Foreign(**fields), data=FakeData()).read_text(encoding="utf-8"))
    assert "pretext" not in found and "neighbors" in found


@pytest.mark.parametrize("bad", [None, math.nan, math.inf])
def test_single_epoch_and_values_that_are_no_numbers(tmp_path: Path, bad: float | None) -> None:
    history = [
        epoch(
            1, loss=bad, chance=None, spread=bad, rank=bad, samples_per_second=bad, metrics={"accuracy": bad}
        )
    ]
    scores = [record("raw", 0.5, low=bad, high=bad), record("unlabeled", 0.9, low=None, high=None)]
    run = make_run(tmp_path, history=history, measured={"records": scores})
    text = report(run, data=FakeData()).read_text(encoding="utf-8")
    assert not re.search(
        r'="[^"]*\b(nan|inf)\b', re.sub(r"base64,[^\"]*", "", text)
    )  # pixels may spell anything
    assert '">50.0</td>' in text and 'class="best"' not in text


def test_the_loss_on_held_out_samples_is_drawn_beside_that_of_the_training(tmp_path: Path) -> None:
    history = [epoch(number, holdout_loss=2.0 / number) for number in range(1, 4)]
    history[2] |= {"holdout_losses": {"25": 0.75, "30": 2 / 3}, "holdout_lowest_at": 25}
    run = make_run(tmp_path, history=history)
    assert Entry(run, [], None).holdout == ([1.0, 2.0, 2.5, 3.0], [2.0, 1.0, 0.75, 2 / 3])
    section = section_of(report(run), "training")
    assert "on held-out samples it went from 2 to 0.667" in section
    assert (
        "The held-out loss went the wrong way from step 25 on (0.75 -&gt; 0.6667 at step 30): the enc"
        in section
    )
    assert "dotted: held out" in section and section.count('class="line dotted"') == 1
    assert "<title>held out, simclr</title>" in section


def test_without_held_out_samples_the_page_does_not_speak_of_them(tmp_path: Path) -> None:
    run = make_run(tmp_path, history=[epoch(1), epoch(2)])
    section = section_of(report(run), "training")
    assert "Here the loss went from 6 to 3 (chance: 6.2)." in section
    assert not re.search("held.out", section)


def test_collapsed_or_broken_features_give_no_map(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    for value in (0.0, math.nan):
        nn.init.constant_(run.encoder.conv.weight, value)
        assert "No map" in report(run, data=FakeData()).read_text(encoding="utf-8")


def test_runs_side_by_side_are_named_by_what_differs(tmp_path: Path) -> None:
    amounts, data = (0.0, 0.1, 0.25, 0.5), FakeData()
    runs = [make_run(tmp_path / str(amount)) for amount in amounts]
    for run, amount in zip(runs, amounts, strict=True):
        run.config |= {"method": "denoising", "options": {"amount": amount}}
    text = report(runs, data=data, out=tmp_path / "all.html").read_text(encoding="utf-8")
    assert "<h1>4 runs of denoising on shapes</h1>" in text
    for amount in amounts:
        assert f"<figcaption>amount {amount}</figcaption>" in text
    assert len(re.findall('alt="first-layer filters"', text)) == 4
    assert data.samples_drawn == 5  # one sample for all runs, and a batch of pictures for each


def test_a_run_that_is_the_only_one_of_its_method_bears_its_name(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name) for name in "abc"]
    for run, method, amount in zip(runs, ("simclr", "denoising", "denoising"), (0.0, 0.1, 0.5), strict=True):
        run.config |= {"method": method, "options": {"amount": amount}}
    text = report(runs, data=FakeData()).read_text(encoding="utf-8")
    for label in ("simclr", "denoising, amount 0.1", "denoising, amount 0.5"):
        assert f"<figcaption>{label}</figcaption>" in text


def test_state_of_the_model_and_of_torch_is_left_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.method.train()
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = report(run, data=FakeData(60)).read_text(encoding="utf-8")
    assert run.method.training and torch.equal(before, torch.get_rng_state())
    assert report(run, data=FakeData(60)).read_text(encoding="utf-8") == first


def test_page_of_photos_stays_small(tmp_path: Path) -> None:
    data = FakeData(samples=100, channels=3, size=96)  # noise, which PNG cannot compress
    path = report([make_run(tmp_path / name, 3, 96) for name in ("a", "b")], data=data)
    assert path.stat().st_size < 3_000_000


def drawn_by(tmp_path: Path, rows: dict[str, Any]) -> str:
    """The section of pictures of a run whose method draws these rows."""
    run = make_run(tmp_path)
    run.method.pictures = lambda batch: rows
    return section_of(report(run, data=FakeData()), "pretext")


@pytest.mark.parametrize(
    ("height", "width", "count", "longest"),
    [
        (32, 32, 8, 32),
        (96, 96, 8, 96),
        (96, 160, 4, 160),
        (200, 200, 4, 240),
        (40, 96, 4, 96),
        (32, 640, 2, 480),
    ],
)
def test_wide_and_large_pictures_get_room(
    tmp_path: Path, height: int, width: int, count: int, longest: int
) -> None:
    text = drawn_by(tmp_path, {"given": torch.rand(8, 3, height, width), "small": torch.rand(8, 3, 8, 8)})
    shown = re.findall(r'width="(\d+)" height="(\d+)" alt="given', text)
    assert len(shown) == count == text.count('alt="small')
    assert min(longest, 100) <= max(map(int, shown[0])) <= longest


def test_only_a_few_texts_are_shown(tmp_path: Path) -> None:
    text = drawn_by(tmp_path, {"withheld": [f"word {n}" for n in range(8)], "predicted": ["x"] * 8})
    assert "word 2" in text and "word 3" not in text and "Each column" not in text


@pytest.mark.parametrize(("width", "columns"), [(320, 2), (60, 4), (32, 8)])
def test_words_about_pictures_stand_beneath_each_of_them(tmp_path: Path, width: int, columns: int) -> None:
    text = drawn_by(
        tmp_path, {"answer": [f"word {n}" for n in range(8)], "given": torch.rand(8, 3, 32, width)}
    )
    assert text.index('alt="given') < text.index("word 0")
    assert [n for n in range(8) if f"word {n}" in text] == list(range(columns))


def test_one_epoch_of_one_step_is_singular(tmp_path: Path) -> None:
    text = report(make_run(tmp_path, history=[epoch(1) | {"step": 1}])).read_text(encoding="utf-8")
    assert "1 epoch, 1 step<" in text


def test_neighbours_of_texts_are_counted_as_texts(tmp_path: Path) -> None:
    data = FakeData(labels=torch.arange(40) % 4)
    data.unit, data.texts = "texts", ["words"] * 40  # type: ignore[attr-defined]
    text = report(make_run(tmp_path), data=data).read_text(encoding="utf-8")
    assert "with each of 40 texts as the query" in text


def test_scores_must_belong_to_the_runs(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name) for name in ("a", "b")]
    with pytest.raises(ValueError, match="scores must hold one list for each of the 2 runs, got 1"):
        report(runs, data=FakeData(), scores=[record("raw", 0.5)])
    with pytest.raises(ValueError, match="runs must hold at least one run"):
        report([])


def test_scores_stand_beside_their_data_and_warn_when_they_are_not_this_encoders(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.measured |= {"data": "blobs", "training_samples": 1200, "test_samples": 60, "seed": 3}
    run.measured |= {"encoder": fingerprint(run.encoder.state_dict()), "note": "the moon was full"}
    text = report(run, data=FakeData()).read_text(encoding="utf-8")
    assert "Measured on blobs: 1,200 training and 60 test samples, seed 3." in text
    assert text.count("Note that the moon was full.") == 1
    assert "has changed since" not in text
    nn.init.zeros_(run.encoder.conv.weight)
    assert report(run, data=FakeData()).read_text(encoding="utf-8").count("has changed since") == 1
    given = Scores(run.measured["records"], {"encoder": "of another"})
    assert "has changed since" in report(run, data=FakeData(), scores=given).read_text(encoding="utf-8")


def test_a_caveat_of_several_evaluations_is_stated_once(tmp_path: Path) -> None:
    def measured(value: float, **about: Any) -> dict[str, Any]:
        return {"records": [record("raw", 0.5), record("unlabeled", value)]} | about

    evaluations = [
        measured(0.9, data=name, note="3 are copies (a.png)") for name in ("blobs", "blobs", "digits")
    ]
    evaluations.append(measured(0.7, data="shapes"))
    run = SimpleNamespace(**vars(make_run(tmp_path)), evaluations=evaluations)
    text = report(run, data=FakeData()).read_text(encoding="utf-8")
    assert text.count("a.png") == 1 and "On blobs and digits: Note that 3 are copies (a.png)." in text
    assert text.count("See the caveat at the top of the page.") == 3
    assert text.count("In parentheses: points of accuracy above the best control.") == 1


def test_log_cut_off_in_its_last_line_is_read_up_to_there(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("method = 'simclr'")
    (tmp_path / "log.jsonl").write_text('{"epoch": 1}\n{"epoch": 2}\n{"epo')
    assert load(tmp_path).history == [{"epoch": 1}, {"epoch": 2}]


def test_names_that_are_no_unicode_are_written_with_backslashes(tmp_path: Path) -> None:
    run = make_run(tmp_path, skipped=[("caf\udce9.jpg", "truncated")])
    assert "caf\\udce9.jpg: truncated" in report(run, data=FakeData()).read_text(encoding="utf-8")


def test_principal_axes_of_wide_data_are_those_of_the_singular_values() -> None:
    points = torch.randn(20, 70, dtype=torch.float64)
    left, values, _ = torch.linalg.svd(points, full_matrices=False)
    assert torch.allclose(geometry._principal(points).abs(), (left * values).abs())


def test_winner_needs_intervals_that_separate() -> None:
    assert tables.winner([record("raw", 0.5), record("random", 0.4), record("unlabeled", 0.6)]) == 2
    assert tables.winner([record("raw", 0.5), record("unlabeled", 0.51)]) is None
    assert tables.winner([record("raw", 0.7), record("unlabeled", 0.6)]) == 0
    assert tables.winner([None, record("unlabeled", 0.6)]) is None
    assert tables.winner([record("raw", 0.1, low=None, high=None), record("unlabeled", 0.6)]) is None


def test_margin_measured_sample_by_sample_decides_before_the_intervals() -> None:
    ours = record("unlabeled", 0.51)
    ahead = record("raw", 0.5, margin=0.01, margin_low=0.002, margin_high=0.02)
    unsure = record("raw", 0.4, margin=0.11, margin_low=-0.01, margin_high=0.2)
    behind = record("raw", 0.52, margin=-0.01, margin_low=-0.02, margin_high=-0.001)
    assert tables.winner([ahead, ours]) == 1
    assert tables.winner([unsure, ours]) is None
    assert tables.winner([behind, ours]) == 0


def test_tables_have_columns_for_labels_layers_or_probes() -> None:
    few = [
        record(name, 0.5, probe="linear", labels_per_class=n)
        for n in ("all", 10, 1)
        for name in ("raw", "unlabeled")
    ]
    layers = [record("unlabeled", 0.5, probe="layers", layer=layer) for layer in ("s1", "s2")]
    layers.append(record("raw", 0.6, probe="layers"))
    singles = [record("unlabeled", 0.5), record("unlabeled", 0.5, probe="finetune")]
    probes, linear, deep = tables.arrange([("run", [*few, *layers, *singles])])
    assert probes.columns == ["nearest neighbours", "fine-tuning"] and probes.axis == "probe"
    assert linear.columns == ["1", "10", "all"] and linear.axis == "labels per class"
    assert deep.columns == ["s1", "s2"] and deep.axis == "layer"
    assert [cell and cell["value"] for cell in deep.rows[0].cells] == [0.6, 0.6]


def test_controls_that_all_runs_share_are_listed_once() -> None:
    runs = [
        (name, [record("raw", 0.5), record("random", value), record("unlabeled", 0.9)])
        for name, value in (("a", 0.3), ("b", 0.4))
    ]
    (table,) = tables.arrange(runs)
    names = ["raw input", "random weights · a", "random weights · b", "a", "b"]
    assert [row.name for row in table.rows] == names


def test_nearest_equals_a_slow_search() -> None:
    features = torch.randn(20, 5)
    for row, found in enumerate(geometry.nearest(features, 3).tolist()):
        cosines = [
            (F.cosine_similarity(features[row], features[other], dim=0).item(), other) for other in range(20)
        ]
        best = sorted((pair for pair in cosines if pair[1] != row), reverse=True)[:3]
        assert found == [other for _, other in best]


def test_agreement_counts_known_labels_only() -> None:
    labels, neighbors = torch.tensor([0, 0, 1, -1]), torch.tensor([[1, 2], [3, 0], [3, 3], [0, 1]])
    assert geometry.agreement(labels, neighbors) == pytest.approx(2 / 3)


def test_map_is_the_same_twice_and_tells_clouds_apart() -> None:
    far = torch.arange(60) // 30
    features = torch.randn(60, 8) + 40.0 * far[:, None]
    points, name = geometry.flat(features) or pytest.fail("no map")
    again, _ = geometry.flat(features) or pytest.fail("no map")
    assert name == "t-SNE" and torch.equal(points, again)
    assert points.min() >= 0 and points.max() <= 1
    nearest = torch.cdist(points, points).fill_diagonal_(torch.inf).argmin(1)
    assert torch.equal(far[nearest], far)
    assert (geometry.flat(features[:10]) or pytest.fail("no map"))[1] == "PCA"


def test_filters_are_the_weights_in_order_with_zero_at_mid_grey() -> None:
    encoder = FakeEncoder(1, 8)
    nn.init.zeros_(encoder.conv.weight)
    with torch.no_grad():
        encoder.conv.weight[3, 0, 0, 0], encoder.conv.weight[3, 0, 2, 2] = 2.0, -1.0
    found = pictures.filters(encoder)
    assert found is not None and found.shape == (16, 1, 3, 3)
    assert found[3, 0, 0, 0] == 1 and found[3, 0, 2, 2] == 0.25 and bool((found[2] == 0.5).all())


def test_rows_of_a_fully_connected_layer_take_the_shape_of_the_image() -> None:
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 7))
    encoder.image_size = 4  # type: ignore[assignment]
    found, weight = pictures.filters(encoder), encoder[1].weight.detach()
    assert found is not None and found.shape == (7, 3, 4, 4)
    assert torch.allclose(found[0].flatten(), 0.5 + weight[0] / weight[0].abs().max() / 2)
    encoder.image_size = 5  # type: ignore[assignment]
    assert pictures.filters(encoder) is None


def test_names_on_a_map_do_not_cover_one_another() -> None:
    svg = charts.scatter([(0.5, 0.5)] * 4, [0, 1, 2, 3], ["cat", "dog", "deer", "horse"])
    heights = sorted(float(y) for y in re.findall(r'class="word" x="[\d.]+" y="([\d.]+)"', svg))
    assert all(below - above >= 13 for above, below in pairwise(heights)) and len(heights) == 4


def test_tile_keeps_the_pixels_and_leaves_gaps_clear() -> None:
    images = torch.rand(3, 1, 8, 8)
    sheet = pictures.tile(images, 2, gap=2, cell=8)
    assert sheet.shape == (4, 18, 18)
    assert torch.equal(sheet[:3, :8, 10:], images[1].expand(3, -1, -1))
    assert bool((sheet[3, :, 8:10] == 0).all()) and bool((sheet[3, 10:, 10:] == 0).all())


def test_mosaic_puts_images_where_they_lie() -> None:
    images = torch.tensor([0.2, 0.4, 0.6, 0.8])[:, None, None, None].expand(4, 1, 8, 8)
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    canvas = pictures.mosaic(images, points, cells=2, side=5)
    corners = canvas[0, [8, 8, 2, 2], [2, 8, 2, 8]]
    assert torch.allclose(corners, torch.tensor([0.2, 0.4, 0.6, 0.8]))


def test_png_of_any_channels_can_be_read_again() -> None:
    for channels, mode in ((1, "L"), (2, "L"), (3, "RGB"), (4, "RGBA")):
        picture = Image.open(io.BytesIO(pictures.png(torch.full((channels, 4, 6), 0.5))))
        assert (picture.mode, picture.size) == (mode, (6, 4))
    bad = Image.open(io.BytesIO(pictures.png(torch.tensor([[[math.nan, 2.0, -1.0]]]))))
    assert list(bad.tobytes()) == [0, 255, 0]


def test_sheet_has_a_row_for_each_name_and_a_column_for_each_sample() -> None:
    rows = {"image": torch.ones(10, 1, 8, 8), "a long name of a row": torch.zeros(3, 3, 8, 8)}
    sheet = Image.open(io.BytesIO(pictures.sheet(rows)))
    assert sheet.height == 12 + 2 * (72 + 12)
    assert sheet.width > 8 * 72
    with pytest.raises(ValueError, match="pictures must hold at least one row"):
        pictures.sheet({})


def test_the_images_of_a_sheet_stand_below_each_other_whatever_their_sizes() -> None:
    ramp = torch.linspace(0.2, 0.8, 3)[:, None, None, None]
    rows = {"small": ramp.expand(3, 1, 5, 5), "large": ramp.expand(3, 1, 80, 80)}
    sheet = Image.open(io.BytesIO(pictures.sheet(rows))).convert("L")
    pixels = torch.tensor(list(sheet.tobytes())).view(sheet.height, sheet.width)
    centres = []
    for shades in (pixels[40], pixels[-40]):
        centres.append([(shades == round(255 * float(shade))).nonzero().float().mean() for shade in ramp])
    torch.testing.assert_close(*map(torch.tensor, centres), rtol=0, atol=0.5)


def test_ticks_are_round_and_inside() -> None:
    assert charts.ticks(0, 1) == [0, 0.25, 0.5, 0.75, 1]
    assert charts.ticks(1, 60, 5) == [20, 40, 60]
    assert charts.ticks(3, 3) == [3]


def test_numbers_are_short() -> None:
    values = (0, 0.12345, 12345.6, 1e-7, math.nan, None)
    assert [charts.number(value) for value in values] == ["0", "0.123", "12,346", "1e-07", "–", "–"]


def test_page_renders_in_a_browser(tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here")
    page = report(make_run(tmp_path), data=FakeData(labels=torch.arange(40) % 4))
    shot = tmp_path / "shot.png"
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
    quiet += [
        "--disable-background-networking",
        "--disable-component-update",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    command = [browser, *quiet, f"--screenshot={shot}", "--window-size=1100,2400", page.as_uri()]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    except (subprocess.SubprocessError, OSError) as error:
        pytest.skip(f"Chromium does not run here: {error}")
    colors = Image.open(shot).convert("RGB").getcolors(maxcolors=1 << 24) or []
    background = max(colors)[0]
    assert len(colors) > 50 and 0.3 < background / (1100 * 2400) < 0.97


def test_images_in_the_page_are_png(tmp_path: Path) -> None:
    text = report(make_run(tmp_path), data=FakeData()).read_text(encoding="utf-8")
    found = re.findall(r"data:image/png;base64,([^\"]+)", text)
    assert len(found) > 20
    assert all(base64.b64decode(data).startswith(b"\x89PNG") for data in found)


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("gain_covered_db", "Gain covered (dB)"),
        ("psnr_db", "PSNR (dB)"),
        ("same_frame_accuracy", "Same frame accuracy"),
    ],
)
def test_charts_of_metrics_have_units(name: str, title: str) -> None:
    assert metric_title(name) == title
