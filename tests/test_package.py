"""The wheel and the source distribution work where there is no repository: nothing that they need is left behind."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DATA = (".html", ".css", ".md", ".json", ".toml", ".npz", ".txt")
"""Ends of files in the package that are no code."""

pytestmark = pytest.mark.golden


def call(*words: str, folder: Path, **environment: str) -> str:
    done = subprocess.run(
        words, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    call(sys.executable, "-m", "pip", "install", "-q", "--target", "backend", "hatchling", folder=folder)
    program = (
        f"import hatchling.build, os; os.chdir({str(ROOT)!r}); hatchling.build.build_sdist({str(folder)!r})"
    )
    call(sys.executable, "-c", program, folder=folder, PYTHONPATH=str(folder / "backend"))
    return next(folder.glob("unlabeled-*.tar.gz"))


def test_the_source_distribution_gives_the_same_wheel_and_that_runs_without_the_repository(
    sdist: Path,
) -> None:
    folder = sdist.parent
    for number, source in enumerate((str(ROOT), str(sdist))):
        words = ("-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder / str(number)), source)
        call(sys.executable, *words, folder=folder)
    wheels = [next((folder / str(number)).glob("*.whl")) for number in range(2)]
    contents = [{one.filename: one.CRC for one in zipfile.ZipFile(wheel).infolist()} for wheel in wheels]
    assert contents[0] == contents[1]
    package = ROOT / "src" / "unlabeled"
    files = {
        str(file.relative_to(package.parent)) for file in package.rglob("*") if file.suffix in (*DATA, ".py")
    }
    assert files <= contents[0].keys() and any(name.endswith("templates/card.md") for name in files)
    with tarfile.open(sdist) as archive:
        names = archive.getnames()
    assert not [name for name in names if "/shared/" in name or "/.venv" in name]
    words = ("-m", "pip", "install", "-q", "--no-deps", "--target", str(folder / "site"), str(wheels[0]))
    call(sys.executable, *words, folder=folder)
    where = {
        "PYTHONPATH": str(folder / "site"),
        "UNLABELED_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    unlabeled = str(folder / "site" / "bin" / "unlabeled")
    assert str(folder / "site") in call(
        sys.executable, "-c", "import unlabeled; print(unlabeled.__file__)", folder=folder, **where
    )
    options = ("--steps", "2", "--batch-size", "32", "--out", "run")
    call(unlabeled, "pretrain", "rotnet", "digits", *options, folder=folder, **where)
    call(
        unlabeled, "evaluate", "run", "digits", "--probe", "knn", "--controls", "raw", folder=folder, **where
    )
    call(unlabeled, "report", "run", folder=folder, **where)
    call(unlabeled, "publish", "run", "me/net", folder=folder, **where)
    assert "<html" in (folder / "run" / "report.html").read_text()
    assert "raw input" in (folder / "run" / "published" / "README.md").read_text()
    assert "problems" in call(unlabeled, "doctor", folder=folder, **where)
