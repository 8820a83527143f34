"""What this machine and this installation have, in seconds and without training: what a bug report needs."""

import importlib.metadata
import os
import platform
import re
import shutil
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from unlabeled import check
from unlabeled.version import __version__

__all__ = ["doctor", "written"]

OPTIONAL = {
    "onnx": ("export --format onnx", "unlabeled[onnx]"),
    "onnxscript": ("export --format onnx", "unlabeled[onnx]"),
    "onnxruntime": ("export --format onnx", "unlabeled[onnx]"),
    "imagecodecs": ("TIFF with rare compressions", "unlabeled[tiff]"),
    "pillow-heif": ("images in HEIC", "pillow-heif"),
    "pillow-jxl-plugin": ("images in JPEG XL", "pillow-jxl-plugin"),
    "s3fs": ("pretrain --stream of s3:// addresses", "unlabeled[s3]"),
    "faiss-cpu": ("curate above a million samples", "unlabeled[faiss]"),
    "peft": ("pretrain and adapt --lora", "unlabeled[lora]"),
    "vizdoom": ("record", "unlabeled[embodied]"),
    "tensorboard": ("pretrain --track tensorboard", "tensorboard"),
    "wandb": ("pretrain --track wandb", "wandb"),
    "trackio": ("pretrain --track trackio", "trackio"),
    "mlflow": ("pretrain --track mlflow", "mlflow"),
    "jieba": ("pretrain --segmenter jieba", "jieba"),
    "pythainlp": ("pretrain --segmenter pythainlp", "pythainlp"),
}
"""What needs each optional package, and what to install for it."""
NAMED = (
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "datasets",
    "numpy",
    "numba",
    "pillow",
    "av",
)
"""Packages whose versions are told; all that are needed are checked."""
THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "GOMP_SPINCOUNT",
    "KMP_BLOCKTIME",
    "CUDA_VISIBLE_DEVICES",
)
"""Environment variables that decide about threads and devices."""
CACHES = ("UNLABELED_CACHE", "HF_HOME", "HF_HUB_CACHE", "TORCH_HOME", "NUMBA_CACHE_DIR")
"""Environment variables that name folders of caches."""
MOST_FILES = 100_000
"""Files of a cache that are counted."""
GIB, LEAST_SPACE = 2**30, 2.0
"""Bytes in a GiB, and GiB of disk space below which a run may not find room for its data and checkpoints."""


def doctor() -> dict[str, Any]:
    """Look at versions, devices, threads, optional packages, caches and disk space.

    Returns:
        Sections by name, of JSON types; sizes in bytes. `problems` has a line for each thing that should be changed.
    """
    report: dict[str, Any] = {"versions": _versions(), "machine": _machine()}
    problems = _unfit_packages()
    try:
        report |= _torch()
    except Exception as error:  # a broken installation is what this is for
        problems.append(f"torch cannot be imported: {check.reason(error)}")
    report["environment"] = {name: os.environ[name] for name in THREADS if name in os.environ}
    report["optional packages"] = {
        name: {"installed": _version(name), "for": use, "install": f"pip install '{what}'"}
        for name, (use, what) in OPTIONAL.items()
    }
    problems += _no_folders()
    for title, look in {"caches": _caches, "compiled kernels": _kernels, "disk space": _space}.items():
        try:
            report[title] = look(problems)
        except Exception as error:  # what is wrong with one section must not hide the others
            report[title] = {}
            problems.append(f"{title} cannot be checked: {check.reason(error)}")
    return report | {"problems": problems + _wrong_threads(report)}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _versions() -> dict[str, str | None]:
    python = f"{platform.python_version()} ({sys.executable})"
    return {"unlabeled": __version__, "python": python, **{name: _version(name) for name in NAMED}}


def _unfit_packages() -> list[str]:
    """Packages that the installed library needs and that are missing or too old."""
    try:
        needed = importlib.metadata.requires("unlabeled") or []
    except importlib.metadata.PackageNotFoundError:
        return ["unlabeled is not installed as a package, so what it needs was not checked: pip install ."]
    problems = []
    for line in needed:
        match = re.match(r"([\w.-]+)\s*>=\s*([\d.]+)$", line)  # the others belong to extras
        if match is None:
            continue
        name, least = match.groups()
        version = _version(name)
        if version is None or _numbers(version) < _numbers(least):
            problems.append(
                f"{name} must be at least {least}, got {version or 'none'}: pip install '{name}>={least}'"
            )
    return problems


def _numbers(version: str) -> list[int]:
    """The numbers at the beginning of a version."""
    leading = re.match(r"\d+(?:\.\d+)*", version)
    return [int(part) for part in leading[0].split(".")] if leading else []


def _machine() -> dict[str, Any]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = {}
    with suppress(OSError, ValueError, AttributeError):
        page = os.sysconf("SC_PAGE_SIZE")
        memory = {
            "memory": page * os.sysconf("SC_PHYS_PAGES"),
            "memory free": page * os.sysconf("SC_AVPHYS_PAGES"),
        }
    limits = {}
    with suppress(OSError, ValueError):  # of a container
        limits["memory limit"] = int(Path("/sys/fs/cgroup/memory.max").read_text())
    with suppress(OSError, ValueError):
        quota, period = map(int, Path("/sys/fs/cgroup/cpu.max").read_text().split())
        limits["processor limit"] = quota / period
    system = f"{platform.system()} {platform.release()}, {platform.machine()}"
    return {"system": system, "processors": os.cpu_count(), "usable processors": usable, **memory, **limits}


def _torch() -> dict[str, Any]:
    """Devices and threads."""
    import torch

    devices = {}
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(number)
            about = {"name": torch.cuda.get_device_name(number), "memory": total, "memory free": free}
            devices[f"cuda:{number}"] = about
    if torch.backends.mps.is_available():
        devices["mps"] = {"name": "Apple GPU"}
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no GPU"
    return {
        "devices": {"torch is built for": built, "gpus": devices},
        "threads": {
            "torch": torch.get_num_threads(),
            "between operations": torch.get_num_interop_threads(),
            "openmp": torch.backends.openmp.is_available(),
            "mkl": torch.backends.mkl.is_available(),
            "onednn": torch.backends.mkldnn.is_available(),
        },
    }


def _no_folders() -> list[str]:
    """Folders of caches, as the environment names them, that are files or lie below one."""
    problems = []
    for variable in CACHES:
        folder = Path(os.path.expanduser(os.environ.get(variable) or "."))
        place = next((one for one in (folder, *folder.parents) if os.path.lexists(one)), None)
        if place is not None and not os.path.isdir(place):
            problems.append(f"{variable} must name a folder, got {folder} ({place} is no folder)")
    return problems


def _caches(problems: list[str]) -> dict[str, dict[str, Any]]:
    from unlabeled.data.cache import folder_of

    hub = os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME") or "~/.cache/huggingface") / "hub"
    folders = {
        "decoded data (UNLABELED_CACHE)": folder_of(None) or "~/.cache/unlabeled",
        "Hugging Face (HF_HOME)": hub,
        "torch (TORCH_HOME)": os.environ.get("TORCH_HOME") or "~/.cache/torch",
    }
    caches = {}
    for name, named in folders.items():
        try:
            folder = Path(named).expanduser()
        except RuntimeError as error:
            problems.append(f"{name} has no folder: {check.reason(error)}")
            continue
        caches[name] = {"folder": str(folder), **_size(folder, name, problems)}
    return caches


def _size(folder: Path, cache: str, problems: list[str]) -> dict[str, int]:
    """Files of a folder and their bytes, up to a number of files; the first part that cannot be read is a problem."""
    files = size = 0
    errors: list[OSError] = []
    for root, _, names in os.walk(folder, onerror=errors.append):
        for name in names:
            with suppress(OSError):
                status = os.lstat(os.path.join(root, name))
                files, size = files + 1, size + status.st_size
            if files >= MOST_FILES:
                return {"files": files, "bytes": size}
    absent = (FileNotFoundError, NotADirectoryError)  # not made yet, or named as no folder already
    if unread := next((error for error in errors if not isinstance(error, absent)), None):
        problems.append(f"{cache} cannot be read: {check.reason(unread)}: {unread.filename}")
    return {"files": files, "bytes": size}


def _kernels(problems: list[str]) -> dict[str, Any]:
    """Which files of compiled loops have machine code on disk; others are compiled at their first use."""
    try:
        from unlabeled.kernels import lanes

        folder = lanes.cache_folder()
    except Exception as error:
        problems.append(f"numba cannot be imported: {check.reason(error)}")
        return {}
    if folder is None:
        problems.append(
            "compiled loops cannot be cached, so each start compiles them: set NUMBA_CACHE_DIR to a folder"
        )
        return {"folder": None}
    names = ("assignment", "fused_views", "patch_code", "word_vectors")
    return {"folder": str(folder), **{name: any(folder.glob(f"{name}.*.nbi")) for name in names}}


def _space(problems: list[str]) -> dict[str, Any]:
    from unlabeled.data.cache import folder_of

    space = {}
    for name, folder in {"this folder": Path.cwd(), "decoded data": folder_of(None)}.items():
        parents = (folder, *folder.parents) if folder else ()
        place = next((one for one in parents if os.path.exists(one)), None)  # Path.exists raises on 3.11
        if place is None:
            continue
        free = space[name] = shutil.disk_usage(place).free
        if free < LEAST_SPACE * GIB:
            problems.append(
                f"only {_gib(free)} are free for {name} ({place}): runs and decoded data may not fit"
            )
        if not os.access(place, os.W_OK):
            problems.append(f"{name} ({place}) cannot be written to")
    return space


def _wrong_threads(report: Mapping[str, Any]) -> list[str]:
    """More threads than processors, which only wait for each other."""
    usable, threads = report["machine"]["usable processors"], report.get("threads", {}).get("torch", 0)
    limit = min(usable, report["machine"].get("processor limit", usable))
    if threads <= max(1, limit):
        return []
    return [
        f"torch uses {threads} threads for {limit:g} processors: set OMP_NUM_THREADS={max(1, int(limit))}"
    ]


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 2**20:.0f} MiB"


def written(report: Mapping[str, Any]) -> str:
    """The report as plain text, what should be changed last."""
    lines = []
    for title, section in report.items():
        if title in ("problems", "optional packages"):
            continue
        lines += [title, *(f"  {name:<30} {value}" for name, value in _rows(section))]
    packages = report["optional packages"]
    lines.append("optional packages")
    for name, about in packages.items():
        state = about["installed"] or f"missing: {about['install']}"
        lines.append(f"  {name:<30} {state} ({about['for']})")
    problems = report["problems"]
    lines += ["problems", *(f"  {problem}" for problem in problems or ["none"])]
    return "\n".join(lines)


def _rows(section: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Lines of a section; sizes in words."""
    rows = []
    for name, value in section.items():
        if isinstance(value, Mapping):
            words = ", ".join(f"{key} {text}" if key != "name" else text for key, text in _rows(value))
            rows.append((name, words or "none"))
        elif isinstance(value, bool):
            rows.append((name, "yes" if value else "no"))
        elif isinstance(value, int) and value > 2**20:
            rows.append((name, _gib(value)))
        else:
            rows.append((name, "none" if value is None else str(value)))
    return rows
