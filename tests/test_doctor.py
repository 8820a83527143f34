"""What `unlabeled doctor` says is true, and what should be changed is named."""

import importlib.metadata
import json
import shutil
import tomllib
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch

from unlabeled import doctor as module
from unlabeled.cli import main
from unlabeled.doctor import OPTIONAL, doctor, written
from unlabeled.trackers import TRACKERS


def test_json_says_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UNLABELED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    (tmp_path / "cache" / "deep").mkdir(parents=True)
    for number, name in enumerate(("one", "deep/two")):
        (tmp_path / "cache" / name).write_bytes(bytes(1000 + number))
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--json"])
    assert not ended.value.code
    report = json.loads(capsys.readouterr().out)
    assert report["versions"]["torch"] == importlib.metadata.version("torch")
    assert report["threads"]["torch"] == torch.get_num_threads()
    assert report["environment"]["OMP_WAIT_POLICY"] == "passive"
    cache = report["caches"]["decoded data (UNLABELED_CACHE)"]
    assert cache == {"folder": str(tmp_path / "cache"), "files": 2, "bytes": 2001}
    monkeypatch.setattr(module, "MOST_FILES", 1)
    assert doctor()["caches"]["decoded data (UNLABELED_CACHE)"]["files"] == 1
    installed = {name for name, about in report["optional packages"].items() if about["installed"]}
    assert installed == {name for name in OPTIONAL if any(importlib.metadata.distributions(name=name))}


def test_kernels_are_cached_where_their_machine_code_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unlabeled.kernels import lanes

    (tmp_path / "fused_views.loop-515.py311.nbi").write_bytes(b"")
    monkeypatch.setattr(lanes, "cache_folder", lambda: tmp_path)
    kernels = doctor()["compiled kernels"]
    assert kernels.pop("folder") == str(tmp_path) and [name for name, one in kernels.items() if one] == [
        "fused_views"
    ]
    assert len(kernels) == 4
    monkeypatch.setattr(lanes, "cache_folder", lambda: None)
    assert any("NUMBA_CACHE_DIR" in line for line in doctor()["problems"])


def test_what_should_be_changed_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    versions = {"einops": "0.7.9", "timm": None}

    def version(name: str) -> str:
        if (known := versions.get(name, "999")) is None:
            raise importlib.metadata.PackageNotFoundError
        return known

    needed = ["einops>=0.8", "timm>=1.0.20", "torch>=2.11", "onnx>=1.17; extra == 'onnx'"]
    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: needed)
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(2**30))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.setattr(module, "_machine", lambda: {"usable processors": 8, "processor limit": 2.5})
    report: dict[str, Any] = doctor()
    expected = [
        "einops must be at least 0.8, got 0.7.9: pip install 'einops>=0.8'",
        "timm must be at least 1.0.20, got none: pip install 'timm>=1.0.20'",
    ]
    assert report["problems"][:2] == expected
    assert "only 1.0 GiB are free for this folder" in report["problems"][2]
    assert report["problems"][-1] == "torch uses 64 threads for 2.5 processors: set OMP_NUM_THREADS=2"
    assert all(f"  {line}" in written(report).splitlines() for line in report["problems"])


def test_a_bad_cache_is_a_problem_and_the_report_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    variables = ("UNLABELED_CACHE", "HF_HOME", "NUMBA_CACHE_DIR")
    for variable in variables:
        monkeypatch.setenv(variable, str(tmp_path / "file"))
    report = doctor()
    for variable in variables:
        assert any(line.startswith(f"{variable} must name a folder") for line in report["problems"]), variable
    for variable in variables:
        monkeypatch.setenv(variable, str(tmp_path / "not made yet"))

    def walk(folder: Path, onerror: Any) -> list[Any]:
        onerror(PermissionError(13, "Permission denied", str(folder)))
        return []

    def no_home(*_: object) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(module.os, "walk", walk)
    report = doctor()
    assert not any("must name a folder" in line for line in report["problems"])
    words = f"Hugging Face (HF_HOME) cannot be read: Permission denied: {tmp_path / 'not made yet' / 'hub'}"
    assert words in report["problems"]
    with monkeypatch.context() as patched:
        patched.setattr(Path, "expanduser", no_home)
        patched.setattr(Path, "cwd", no_home)
        report = doctor()
    assert any(line.startswith("torch (TORCH_HOME) has no folder: Could not") for line in report["problems"])
    assert any(line.startswith("disk space cannot be checked: Could not") for line in report["problems"])
    assert all(f"  {line}" in written(report).splitlines() for line in report["problems"])


def test_every_package_of_an_extra_is_listed() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    extras = {
        name: packages
        for name, packages in project["optional-dependencies"].items()
        if name not in ("dev", "docs", "s3-tests")
    }
    for extra, packages in extras.items():
        for package in packages:
            assert OPTIONAL[package.partition(">=")[0]][1] == f"unlabeled[{extra}]"
    assert set(TRACKERS) <= OPTIONAL.keys()
