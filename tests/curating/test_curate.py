"""A balanced part: closed forms, brute-force twins, and files that are read again."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from unlabeled import encoders
from unlabeled.auditing import audit
from unlabeled.cli import main
from unlabeled.curating import Curation, anomalies, curate
from unlabeled.curating.balance import draw, fill
from unlabeled.curating.hierarchy import default_clusters, flat_sizes, hierarchy
from unlabeled.curating.subset import write_subset
from unlabeled.data import Data, open_data
from unlabeled.data.audio.data import from_waveforms
from unlabeled.data.image.data import from_images
from unlabeled.data.text.data import Texts
from unlabeled.evaluation.geometry import unit_components


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(*sizes: int, distance: float = 20.0) -> Tensor:
    """Round groups of points far from one another, in order."""
    centres = distance * torch.eye(len(sizes), 4)
    return torch.cat([c + torch.randn(n, 4, generator=generator(n)) for c, n in zip(centres, sizes)])


@pytest.mark.parametrize("seed", range(20))
def test_filling_equals_giving_one_at_a_time_to_whoever_has_least(seed: int) -> None:
    sizes = torch.randint(0, 12, (7,), generator=generator(seed))
    for target in range(int(sizes.sum()) + 1):
        quotas = [0] * len(sizes)
        for _ in range(target):
            open_ = [n for n in range(len(sizes)) if quotas[n] < sizes[n]]
            quotas[min(open_, key=lambda n: quotas[n])] += 1
        got = fill(sizes, target, generator(seed))
        assert sorted(got.tolist()) == sorted(quotas)
        assert int(got.sum()) == target and bool((got <= sizes).all())
        smaller = got < sizes  # nobody with samples left has two fewer than another
        assert not smaller.any() or int(got.max()) - int(got[smaller].min()) <= 1


def test_more_than_there_is_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="target must be at most the number of samples, 5, got 6"):
        fill(torch.tensor([2, 3]), 6, generator())


def test_blobs_of_sizes_ten_to_one_give_equal_numbers() -> None:
    points = blobs(500, 50)
    levels = hierarchy(points, [2], seed=0)
    rows = draw(levels, [2], 100, seed=0)
    assert len(rows.unique()) == 100
    assert int((rows >= 500).sum()) == 50
    # Where all of the small one is not enough, the large one gives the rest.
    assert int((draw(levels, [2], 200, seed=0) >= 500).sum()) == 50


def test_each_level_is_balanced_from_the_top() -> None:
    # Two groups: one of a single cluster, one of two clusters, of which one is small.
    levels, counts = [torch.tensor([0] * 60 + [1] * 60 + [2] * 10), torch.tensor([0, 1, 1])], [3, 2]
    assert [sizes.tolist() for sizes in flat_sizes(levels, counts)] == [[60, 60, 10], [60, 70]]
    rows = draw(levels, counts, 60, seed=3)
    assert levels[0][rows].bincount().tolist() == [30, 20, 10]


def test_clustering_again_moves_centres_into_the_sparse_half() -> None:
    """Source: Vo et al. 2024, figure 2: resampling makes centres follow the extent of data, not its density."""
    dense = torch.rand(4000, 1, generator=generator(1))
    sparse = 1 + torch.rand(200, 1, generator=generator(2))
    points = torch.cat([dense, sparse])

    def in_sparse(rounds: int) -> float:
        clusters = hierarchy(points, [40], rounds=rounds, seed=0)[0]
        return len(clusters[4000:].unique()) / 40

    assert in_sparse(10) > in_sparse(0) + 0.08
    assert 0.35 < in_sparse(10) < 0.6  # half of the line


def test_clusters_by_default_are_ever_fewer() -> None:
    assert default_clusters(30) == [1]
    assert default_clusters(1000) == [25]
    assert default_clusters(100_000) == [2500, 250, 25]


def test_more_clusters_than_points_are_refused() -> None:
    with pytest.raises(ValueError, match="clusters must be at most as many as what they group, 10, got 11"):
        hierarchy(torch.rand(20, 2), [10, 11])


def test_directions_of_components_keep_cosines() -> None:
    points = torch.randn(50, 6, generator=generator())
    units = unit_components(points)
    centred = torch.nn.functional.normalize(points - points.mean(0), dim=1)
    assert torch.allclose(units @ units.T, centred @ centred.T, atol=1e-5)


def test_isolation_is_the_mean_distance_to_the_nearest_others(monkeypatch: pytest.MonkeyPatch) -> None:
    units = unit_components(torch.randn(40, 6, generator=generator()))
    distances = (1 - units.double() @ units.double().T).fill_diagonal_(9).sort(1).values[:, :3].mean(1)
    monkeypatch.setattr(anomalies, "ENTRIES", 40 * 7)  # in several blocks
    assert torch.allclose(anomalies.isolation(units, 3).double(), distances, atol=1e-5)
    assert anomalies.fence(torch.arange(101.0)) == 75 + 3 * 50


PICTURES = torch.nn.functional.interpolate(
    torch.rand(60, 3, 6, 6, generator=generator(5)), (24, 24), mode="bicubic"
).clamp(0, 1)
"""Smooth pictures that are all different."""
with torch.random.fork_rng():
    torch.manual_seed(0)
    ENCODER = encoders.build("conv4", in_channels=3, image_size=24).eval()
OPTIONS = {"device": "cpu", "rounds": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures in two classes of 45 and 15, of which 3 has a copy 60 and a mirrored near one 61."""
    root = tmp_path_factory.mktemp("pool")
    pixels = (PICTURES * 255).byte().permute(0, 2, 3, 1).numpy()
    pixels = [*pixels, pixels[3], np.clip(pixels[3][:, ::-1].astype(int) + 3, 0, 255).astype(np.uint8)]
    for number, picture in enumerate(pixels):
        own = root / ("common" if number % 4 else "rare")
        own.mkdir(exist_ok=True)
        Image.fromarray(picture).save(own / f"{number:02d}.png")
    return root


def names(paths: list[str]) -> set[int]:
    return {int(Path(path).stem) for path in paths}


def test_copies_leave_and_half_remains_with_a_reason_for_each_other(folder: Path) -> None:
    curation = curate(folder, ENCODER, **OPTIONS)
    assert len(curation.rows) == 31 == len(set(curation.rows.tolist()))
    assert set(curation.reasons) | set(curation.rows.tolist()) == set(range(62))
    assert len(curation.reasons) == 31
    by_name = {int(Path(curation.data.paths[row]).stem): reason for row, reason in curation.reasons.items()}
    copies = {number for number, reason in by_name.items() if not reason.startswith("surplus")}
    assert len(copies) == 2 and copies < {3, 60, 61}
    assert sum(by_name[number].startswith("equal to") for number in copies) == 1
    assert sum(by_name[number].startswith("near-duplicate of") for number in copies) == 1
    assert "omitted: 1 equal to others, 1 near-duplicates, 0 outliers, 29 surplus" in "\n".join(
        curation.summary()
    )


def test_the_seed_decides_and_labels_do_not(folder: Path) -> None:
    data = open_data(folder)
    first, again, other = (curate(data, ENCODER, seed=seed, near=False, **OPTIONS).rows for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    unlabelled = data.subset(torch.arange(len(data)))
    unlabelled.labels = None
    assert torch.equal(curate(unlabelled, ENCODER, near=False, **OPTIONS).rows, first)


def test_a_list_of_what_was_taken_is_data_with_the_same_classes(folder: Path, tmp_path: Path) -> None:
    curation = curate(folder, ENCODER, size=20, **OPTIONS)
    expected = {
        Path(path).name: name for path, name in zip(curation.subset.paths, curation.subset.class_names())
    }
    for out in (tmp_path / "a", tmp_path / "list.csv", tmp_path / "list.txt", tmp_path / "x.parquet"):
        paths = write_subset(curation, out)
        data = open_data(str(paths["subset"]))
        assert {Path(path).name: name for path, name in zip(data.paths, data.class_names())} == expected, out
        assert sorted(data.digests().tolist()) == sorted(curation.subset.digests().tolist())
    with (tmp_path / "a" / "omitted.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 42 and all(row["reason"] for row in rows)
    assert json.loads((tmp_path / "a" / "curation.json").read_text())["size"] == 20
    assert audit(str(tmp_path / "a" / "subset.csv"), near=False).parts[0].data is not None


def test_outliers_are_listed_and_omitted_only_when_that_is_asked_for(tmp_path: Path) -> None:
    plain = torch.full((40, 3, 24, 24), 100, dtype=torch.uint8)
    plain[:, :, :12] += torch.arange(40, dtype=torch.uint8)[:, None, None, None]
    strange = (255 * torch.rand(1, 3, 24, 24, generator=generator())).byte()
    data = from_images(torch.cat([plain, strange]))
    listed, omitted = (
        curate(data, ENCODER, share=1.0, near=False, outliers=choice, **OPTIONS)
        for choice in ("keep", "omit")
    )
    assert 40 in listed.outliers.tolist() and 40 in listed.rows.tolist()
    assert 40 in omitted.outliers.tolist() and omitted.reasons[40].startswith("outlier: ")
    assert "only" in "\n".join(omitted.summary())  # fewer are left than were asked for
    with write_subset(omitted, tmp_path)["outliers"].open() as file:
        rows = {row["path"]: row["taken"] for row in csv.DictReader(file)}
    assert rows["array[40]"] == "no"


def all_of(data: Data, *rows: int) -> Curation:
    """A curation that takes some rows."""
    nothing = torch.full((len(data),), torch.nan)
    levels = torch.zeros(1, len(data), dtype=torch.int64)
    rest = {row: "surplus" for row in range(len(data)) if row not in rows}
    return Curation("x", data, torch.tensor(rows), rest, levels, nothing, torch.zeros(0).long(), 0.0, [], {})


def test_texts_and_sounds_are_written_with_their_content(tmp_path: Path) -> None:
    words = [f"number {n} of the texts, {'a' * n} and {'b' * (n % 7)}" for n in range(30)]
    texts = Texts(words, labels=torch.arange(30) % 2, classes=["even", "odd"])
    taken = all_of(texts, *range(5, 15))
    for name in ("", "x.csv", "x.parquet"):
        data = open_data(str(write_subset(taken, tmp_path / name)["subset"]), kind="text")
        assert data.texts == words[5:15] and data.class_names() == taken.subset.class_names()
    sounds = from_waveforms(torch.rand(12, 1600, generator=generator()) - 0.5, 8000)
    taken = all_of(sounds, 2, 7)
    data = open_data(str(write_subset(taken, tmp_path / "s")["subset"]), kind="audio")
    assert torch.equal(data.digests(), sounds.digests()[[2, 7]])


def test_a_folder_of_links_has_the_folders_of_the_classes(folder: Path, tmp_path: Path) -> None:
    from unlabeled.curating import subset

    part = open_data(folder).subset(torch.tensor([0, 1, 50]))
    subset.WRITERS[""](part, tmp_path / "links")
    linked = open_data(tmp_path / "links")
    assert names(linked.paths) == names(part.paths)
    assert linked.classes == part.classes


def test_the_command_writes_all_and_says_what_comes_next(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ENCODER.save(tmp_path / "encoder.safetensors")
    words = ["encoder.safetensors", "--share", "0.25", "--no-near", "--clusters", "6,2", "--rounds", "1"]
    with pytest.raises(SystemExit) as ended:
        main(["curate", str(folder), *words])
    assert ended.value.code == 0
    shown = capsys.readouterr()
    out = Path("runs") / f"curated-{folder.name}"
    assert f"{folder}: 15 of 62 images taken" in shown.out
    assert f"next: unlabeled pretrain auto {out / 'subset.csv'}" in shown.err
    page = (out / "clusters.html").read_text()
    assert "15 of 62 images taken" in page and page.count("<img") >= 12


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--share", "0"], "share must be above 0"),
        (["--share", "0.5", "--size", "3"], "share must be left out where there is a size"),
        (["--clusters", "a"], "clusters must be whole numbers"),
        (["--out", "list.xlsx"], "out must end with .csv, .txt, .parquet"),
    ],
)
def test_bad_words_get_one_line(
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["curate", "digits", "nowhere", *words])
    assert message in capsys.readouterr().err


def test_a_run_that_is_none_is_named_with_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"run must be a run, auto, or weights such as timm:NAME.* got atuo"):
        curate("digits", "atuo")


def test_clusters_are_checked_before_anything_is_opened() -> None:
    with pytest.raises(ValueError, match="clusters must be at least 1, got 0"):
        curate("nowhere", "nothing", clusters=[0])
