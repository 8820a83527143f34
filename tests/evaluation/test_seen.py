"""Test samples that the encoder was pre-trained on are noticed by their content, whatever they are called."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from unlabeled import encoders
from unlabeled.data import Data, from_images, open_data, open_splits
from unlabeled.data.audio.data import from_waveforms
from unlabeled.data.audio_visual import from_pairs
from unlabeled.data.cameras import from_views
from unlabeled.data.splits import divide
from unlabeled.data.text.data import Texts
from unlabeled.data.trajectories import from_trajectories
from unlabeled.data.video.data import from_videos
from unlabeled.evaluation import embed, evaluate, near_copies, seen
from unlabeled.evaluation.sources import Parts, Source
from unlabeled.run import Run, load, write_samples
from unlabeled.training.train import pretrain


def pictures(folder: Path, names: dict[str, range]) -> None:
    """Noise of 9 pixels, which its number decides, in folders of classes."""
    for name, seeds in names.items():
        for seed in seeds:
            pixels = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), np.uint8)
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / name / f"{seed}.png")


@pytest.fixture(scope="module")
def pics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pics")
    pictures(root / "pics", {"a": range(20), "b": range(100, 120)})
    pictures(root / "split" / "train", {"a": range(16), "b": range(100, 116)})
    pictures(root / "split" / "test", {"a": range(16, 20), "b": range(116, 120)})
    pictures(root / "others", {"a": range(200, 220), "b": range(300, 320)})
    shutil.copytree(root / "pics", root / "copy")
    parts = [sorted((root / "pics" / name).iterdir(), key=lambda path: path.name) for name in "ab"]
    images = np.stack([np.array(Image.open(path)) for part in parts for path in part])
    np.savez(root / "pics.npz", images=images, labels=np.arange(40) // 20)
    return root


@pytest.fixture(scope="module")
def run(pics: Path) -> Run:
    here = Path.cwd()
    os.chdir(pics)
    try:
        return pretrain("rotnet", "pics", out=pics / "run", steps=1, batch_size=8, quiet=True)
    finally:
        os.chdir(here)


def judged(run: Run, data, **options):
    return evaluate(load(run.path), data, probe="knn", controls=(), **options)


@pytest.mark.parametrize("spelling", ["pics", "pics/", "./pics", "{root}/pics", "copy", "pics.npz"])
def test_test_images_are_noticed_however_they_are_named(run, pics, monkeypatch, spelling):
    monkeypatch.chdir(pics)
    scores = judged(run, spelling.format(root=pics))
    assert (
        scores.about["seen_in_pretraining"]["samples"]
        == 8
        == len(scores.about["seen_in_pretraining"]["paths"])
    )
    assert "pre-trained on all test images too, without their labels" in scores.verdict()
    assert "and 5 more" in scores.verdict()


def test_test_images_are_noticed_where_only_they_were_trained_on(pics, tmp_path):
    run = pretrain("rotnet", pics / "split" / "test", out=tmp_path / "run", steps=1, batch_size=8, quiet=True)
    assert "pre-trained on all test images" in judged(run, pics / "split").verdict()
    assert judged(run, pics / "pics").about["seen_in_pretraining"]["samples"] in range(1, 8)


def test_a_run_on_the_training_part_or_on_others_has_no_note(pics, tmp_path):
    for source in ("split", "others"):
        run = pretrain("rotnet", pics / source, out=tmp_path / source, steps=1, batch_size=8, quiet=True)
        scores = judged(run, pics / "split")
        assert scores.about["seen_in_pretraining"] == {"samples": 0, "of": 8, "paths": []}
        assert "note" not in scores.about


def test_grey_images_are_noticed_in_three_channels(tmp_path):
    images = torch.randint(0, 256, (40, 1, 9, 9), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    grey, labels = from_images(images), torch.arange(40) % 2
    colour = from_images(images.expand(-1, 3, -1, -1).contiguous(), labels)
    run = pretrain("rotnet", grey, out=tmp_path / "run", steps=1, batch_size=8, quiet=True)
    assert seen.account(run, Parts(Source(colour), None, colour))["seen_in_pretraining"]["samples"] == 40


def test_tasks_notice_seen_samples_too(tmp_path):
    images = torch.randint(0, 256, (40, 1, 9, 9), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    data = from_images(images)
    data.factors = {"brightness": images.float().mean((1, 2, 3))}
    run = pretrain("rotnet", data, out=tmp_path / "run", steps=1, batch_size=8, quiet=True)
    scores = evaluate(load(run.path), data, probe="factors")
    assert scores.about["seen_in_pretraining"]["samples"] == 8
    assert "pre-trained on all test images too" in scores.verdict()
    train, test = open_splits(data)
    run = pretrain("rotnet", train, out=tmp_path / "other", steps=1, batch_size=8, quiet=True)
    assert "note" not in evaluate(load(run.path), (train, test), probe="factors").about


@pytest.mark.usefixtures("small_networks", "small_worlds")
def test_walks_that_a_task_measures_are_noticed(tmp_path):
    walks = open_data("rooms", split="train").subset(torch.arange(16))
    run = pretrain("trajectory_unmasking", walks, out=tmp_path / "run", steps=1, batch_size=4, quiet=True)
    assert "note" not in evaluate(load(run.path), "rooms", probe="zones").about
    assert evaluate(load(run.path), walks, probe="zones").about["seen_in_pretraining"]["samples"] == 16


def test_equal_images_in_both_parts_are_counted_and_named(pics, tmp_path):
    root = tmp_path / "both"
    pictures(root / "train", {"a": range(10), "b": range(50, 60)})
    pictures(root / "test", {"a": range(8, 12), "b": range(57, 61)})
    (root / "test" / "b" / "9.png").write_bytes((root / "train" / "a" / "9.png").read_bytes())
    encoder = encoders.build("conv4", in_channels=3, image_size=9)
    about = evaluate(encoder, root, probe="knn", controls=()).about
    assert about["in_training_part"]["samples"] == 6 and "seen_in_pretraining" not in about
    names = [Path(path).name for path in about["in_training_part"]["paths"]]
    assert names == ["8.png", "9.png", "57.png", "58.png", "59.png", "9.png"]
    assert "6 of the 9 test images are in the training part too" in about["note"]
    assert "3 equal images have contradictory labels" in about["note"]


def clouds(count: int, side: int, seed: int) -> torch.Tensor:
    """Random colours at several scales, uint8, shape (count, 3, side, side)."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.zeros(count, 3, side, side)
    for cells in (2, 4, 8, 16):
        noise = torch.rand(count, 3, cells, cells, generator=generator)
        images += torch.nn.functional.interpolate(noise, (side, side), mode="bicubic") / cells**0.5
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    return ((images - low) / (high - low) * 255).round().to(torch.uint8)


def account_of(train: torch.Tensor, test: torch.Tensor) -> dict:
    first, second = from_images(train, name="train"), from_images(test, name="test")
    return seen.account(None, Parts(Source(None), first, second))


def test_near_copies_across_the_parts_are_counted_and_named():
    train, test = clouds(300, 40, seed=1), clouds(60, 40, seed=2)
    test[5], test[9] = train[17].flip(-1), train[40]  # one near-duplicate, one that is equal
    test[7] = test[5]
    crop = train[100:101, :, 3:, :36].float()
    test[8] = torch.nn.functional.interpolate(crop, (40, 40), mode="bicubic")[0].clamp(0, 255).to(torch.uint8)
    train[7] = train[6].flip(-1)  # within one part
    about = account_of(train, test)
    assert about["in_training_part"]["paths"] == ["test[9]"]
    assert about["near_in_training_part"] == {
        "samples": 3,
        "of": 60,
        "paths": ["test[5]", "test[7]", "test[8]"],
        "copies": ["train[17]", "train[17]", "train[100]"],
    }
    assert (
        "3 of the 60 test images are probably near-duplicates of images in the training part" in about["note"]
    )
    assert "(test[5] of train[17], test[7] of train[17], test[8] of train[100])" in about["note"]


def test_the_verdict_names_near_copies():
    train, test = clouds(60, 32, seed=1), clouds(20, 32, seed=2)
    test[3] = train[4].flip(-1)
    encoder = encoders.build("conv4", in_channels=3, image_size=32)
    parts = [from_images(part, torch.arange(len(part)) % 2) for part in (train, test)]
    assert "(array[3] of array[4])" in evaluate(encoder, tuple(parts), probe="knn", controls=()).verdict()


@pytest.fixture
def run_on(tmp_path: Path):
    """A run on images in a folder `pics`, in order, of which no step is trained."""

    def trained(images: torch.Tensor, source: str | None = "pics") -> Run:
        for number, pixels in enumerate(images):
            (tmp_path / "pics").mkdir(exist_ok=True)
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(tmp_path / "pics" / f"{number:03}.png")
        (tmp_path / "run").mkdir(exist_ok=True)
        named = f"source = '{tmp_path / source}'\n" if source else ""
        (tmp_path / "run" / "run.toml").write_text(f"method = 'simclr'\n[data]\n{named}kind = 'image'")
        write_samples(tmp_path / "run", from_images(images))
        return load(tmp_path / "run")

    return trained


def test_near_copies_of_images_of_the_pretraining_are_counted_and_named(run_on):
    learned, test = clouds(50, 40, seed=1), clouds(12, 40, seed=2)
    test[5], test[9] = learned[17].flip(-1), learned[40]  # one near-duplicate, one that is equal
    data = from_images(test, name="test")
    about = seen.account(run_on(learned), Parts(Source(None), None, data))
    assert about["seen_in_pretraining"]["paths"] == ["test[9]"]
    copies = about["near_in_pretraining"]
    assert (copies["samples"], copies["of"], copies["paths"]) == (1, 12, ["test[5]"])
    assert [Path(path).name for path in copies["copies"]] == [
        "017.png"
    ] and "near_in_training_part" not in about
    start = "1 of the 12 test images is probably a near-duplicate of an image that the encoder was pre-trained on "
    assert (
        start + "(test[5] of " in about["note"]
        and "1 of the 12 test images too, without its label" in about["note"]
    )


def test_one_sentence_says_that_near_copies_in_the_training_part_were_pretrained_on_too(run_on, monkeypatch):
    images, test = clouds(50, 40, seed=1), clouds(12, 40, seed=2)
    test[5], test[7], test[8] = (images[row].flip(-1) for row in (17, 18, 45))
    train, test = from_images(images[:40], name="train"), from_images(test, name="test")
    about = seen.account(run_on(images), Parts(Source(None), train, test))
    assert about["near_in_training_part"]["paths"] == ["test[5]", "test[7]"]
    assert about["near_in_pretraining"]["paths"] == ["test[5]", "test[7]", "test[8]"]
    monkeypatch.setattr(near_copies, "open_data", None)  # nothing but the training part needs to be opened
    about = seen.account(run_on(images[:40]), Parts(Source(None), train, test))
    assert about["near_in_pretraining"] == about["near_in_training_part"]
    part = "2 of the 12 test images are probably near-duplicates of images in the training part that the encoder was"
    assert about["note"] == f"{part} pre-trained on too (test[5] of train[17], test[7] of train[18])"


@pytest.mark.parametrize("source", [None, "gone", "pics"])
def test_images_of_the_pretraining_that_cannot_be_compared_are_said(run_on, source, tmp_path, monkeypatch):
    run, data = run_on(clouds(20, 40, seed=1), source), from_images(clouds(12, 40, seed=2))
    why = {
        None: "the run does not name its images",
        "gone": "its source cannot be opened again",
        "pics": "its source does not hold them",
    }
    if source == "pics":
        (tmp_path / "pics" / "003.png").unlink()
    about = seen.account(run, Parts(Source(None), None, data))
    assert f"near-duplicates of {'1 image' if source == 'pics' else '20 images'} that" in about["note"]
    assert why[source] in about["note"] and ("near_in_pretraining" in about) == (source != "pics")
    monkeypatch.setattr(near_copies, "MOST_COMPARED", 31)
    monkeypatch.setattr(near_copies, "open_data", None)
    about = seen.account(run, Parts(Source(None), None, data))
    assert about["near_in_pretraining"] is None and "looked for among at most 31" in about["note"]


@pytest.mark.parametrize("many", ["tiny", "flat", "noise", "clouds"])
def test_images_without_near_copies_give_no_note(many):
    generator = torch.Generator().manual_seed(0)
    images = {
        "tiny": clouds(40, 15, seed=1).repeat(2, 1, 1, 1),
        "flat": (torch.arange(80).view(-1, 1, 1, 1) * 3 + torch.zeros(80, 3, 32, 32)).to(torch.uint8),
        "noise": torch.randint(0, 256, (80, 1, 20, 20), generator=generator).to(torch.uint8),
        "clouds": clouds(80, 32, seed=1),
    }[many]
    train = images[:40].flip(-1) if many == "tiny" else images[:40]
    assert account_of(train, images[40:]) == {}


def test_built_in_digits_give_no_note_of_near_copies():
    assert seen.account(None, Source("digits").open()) == {}


def test_near_copies_among_many_images_are_left_to_the_audit(monkeypatch):
    monkeypatch.setattr(near_copies, "MOST_COMPARED", 99)
    about = account_of(clouds(60, 32, seed=1), clouds(40, 32, seed=2))
    assert about["near_in_training_part"] is None
    assert "near-duplicates among the 100 images are not counted" in about["note"]
    assert "unlabeled audit" in about["note"]


def test_noise_that_is_there_four_times_scores_at_chance():
    images = torch.randint(0, 256, (100, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    data = from_images(images.repeat(4, 1, 1, 1).to(torch.uint8), (torch.arange(100) % 2).repeat(4))
    encoder = encoders.build("conv4", in_channels=1, image_size=8)
    for record in evaluate(encoder, data, probe=("knn", "linear"), controls="raw"):
        assert record["value"] < 0.8, record


def test_a_run_that_kept_no_digests_says_so(run, pics, tmp_path):
    shutil.copytree(run.path, tmp_path / "older")
    (tmp_path / "older" / "samples.npy").unlink()
    scores = judged(load(tmp_path / "older"), pics / "others")
    assert scores.about["seen_in_pretraining"] is None
    assert "whether the encoder was pre-trained on these test images is not known" in scores.verdict()


def test_damaged_digests_are_refused_in_one_line(run, pics, tmp_path):
    shutil.copytree(run.path, tmp_path / "damaged")
    for content in (b"", b"nonsense", (run.path / "samples.npy").read_bytes()[:-9]):
        (tmp_path / "damaged" / "samples.npy").write_bytes(content)
        with pytest.raises(ValueError, match=r"samples.npy must be a"):
            judged(load(tmp_path / "damaged"), pics / "pics")


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(1)).to(torch.uint8)


POSES = torch.rand(6, 5, 3, generator=torch.Generator().manual_seed(2))
SOUNDS = torch.rand(6, 90, generator=torch.Generator().manual_seed(3)) - 0.5
KINDS: dict[str, Data] = {
    "image": from_images(noise(6, 3, 8, 7)),
    "text": Texts([f"The {number}th text, which has a few words." for number in range(6)]),
    "audio": from_waveforms(SOUNDS, 8000),
    "video": from_videos(noise(6, 5, 3, 8, 7)),
    "audio-visual": from_pairs(noise(6, 3, 8, 7), SOUNDS, sample_rate=8000),
    "cameras": from_views(noise(6, 2, 5, 3, 8, 8)),
    "trajectory": from_trajectories({"video": noise(6, 5, 3, 8, 8), "pose": POSES}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_samples_of_every_kind_are_noticed_in_another_order(kind, tmp_path):
    data = KINDS[kind]
    trained = data.subset(torch.tensor([4, 1, 3]))
    (tmp_path / "run.toml").write_text(
        f"method = 'simclr'\n[data]\nsource = ''\nsamples = 3\nkind = '{kind}'"
    )
    write_samples(tmp_path, trained)
    about = seen.account(load(tmp_path), Parts(Source(data), None, data))
    assert about["seen_in_pretraining"]["paths"] == [data.paths[row] for row in (1, 3, 4)]
    assert f"pre-trained on 3 of the 6 test {data.unit} too" in about["note"]
    others = data.subset(torch.tensor([0, 2, 5]))
    assert "note" not in seen.account(load(tmp_path), Parts(Source(others), None, others))


def test_speakers_in_both_parts_are_said_with_a_remedy():
    sounds = from_waveforms(SOUNDS, 8000)
    sounds.factors = {"speaker": torch.tensor([0, 1, 0, 1, 2, 2]), "pitch": torch.arange(6)}
    crossing, apart = torch.tensor([1, 2, 4]), torch.tensor([4, 5])
    rest = torch.tensor([0, 3])
    said = seen.account(None, Parts(Source(None), sounds.subset(rest), sounds.subset(crossing)))["note"]
    part = "2 of the 3 values of speaker in the test part are in the training part too"
    assert said == f"{part}; --group speaker takes each as one unit"
    assert seen.account(None, Parts(Source(None), sounds.subset(rest), sounds.subset(apart))) == {}


def test_sounds_are_noticed_at_the_rate_of_their_training(tmp_path):
    generator = np.random.default_rng(0)
    for number in range(20):
        file = tmp_path / "sounds" / "ab"[number % 2] / f"{number}.wav"
        file.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(file, generator.uniform(-0.5, 0.5, 1600), 8000)
    encoder = encoders.build("gru1-16", kind="audio", sample_rate=4000)
    run = pretrain(
        "apc", tmp_path / "sounds", encoder=encoder, out=tmp_path / "run", steps=1, batch_size=4, quiet=True
    )
    assert judged(run, tmp_path / "sounds").about["seen_in_pretraining"]["samples"] == 4


def test_samples_count_that_the_weights_a_run_started_from_were_trained_on(run, pics, tmp_path):
    later = pretrain(
        "rotnet",
        pics / "others",
        weights=str(run.path / "encoder.safetensors"),
        out=tmp_path / "later",
        steps=1,
        batch_size=8,
        quiet=True,
    )
    for source in ("pics", "others"):
        assert "pre-trained on all test images" in judged(later, pics / source).verdict()
    assert "note" in judged(run, pics / "pics").about and "note" not in judged(run, pics / "others").about


def test_the_group_of_a_run_holds_for_its_own_data_and_for_no_other(pics, tmp_path, caplog):
    group = r"([ab]/\d\d?)"
    run = pretrain(
        "rotnet", pics / "pics", group=group, out=tmp_path / "run", steps=1, batch_size=8, quiet=True
    )
    judged(run, pics / "pics")
    assert "by 22 groups" in caplog.text
    caplog.clear()
    judged(run, pics / "copy")
    assert "groups" not in caplog.text
    judged(run, pics / "copy", group=group)
    assert "by 22 groups" in caplog.text
    for source, groups in (("pics", 22), ("copy", 0)):
        embed(run, pics / source, out=tmp_path / "features.csv")
        lines = (tmp_path / "features.csv").read_text().splitlines()[1:]
        assert len({line.split(",")[3] for line in lines} - {""}) == groups


@pytest.mark.parametrize("group", ["column", r"(p\d)_"])
def test_groups_that_are_in_both_official_parts_are_said(tmp_path, group, caplog):
    rng, rows = np.random.default_rng(0), ["file,label,column"]
    for number in range(24):
        part, patient = ("train", number // 4) if number < 16 else ("test", number // 4 - 2)
        name = f"{part}/p{patient}_{number}.png"  # p0 to p3, then p2 and p3
        (tmp_path / part).mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(tmp_path / name)
        rows.append(f"{name},{number % 2},P{patient}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    train, test = open_splits(tmp_path, group=group)
    part = "groups of the test part are in the training part too"
    name = "P" if group == "column" else "p"
    assert seen.account(None, Parts(Source(None), train, test)) == {"note": f"all {part} ({name}2, {name}3)"}
    assert train.groups is not None
    first = train.subset(torch.arange(len(train))[train.groups != train.groups[-1]])  # without p3
    assert seen.account(None, Parts(Source(None), first, test))["note"] == f"1 of the 2 {part} ({name}2)"
    apart = train.subset(torch.arange(8))
    assert seen.account(None, Parts(Source(None), apart, test)) == {}
    assert seen.account(None, Parts(Source(None), *divide(train))) == {}
