"""The rooms and who may enter which, read from the source."""

import ast
import graphlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
SOURCE = Path(__file__).parents[1] / "src" / "unlabeled"
LOWEST = {"check", "files", "hub", "notebook", "options", "progress", "version"}
PARTS = LOWEST | {"kernels", "parts", "worlds", "encoders", "data"}
METHOD = PARTS | {"method"}
MIDDLE = METHOD | {"run", "methods", "training", "trackers"}
MAY_IMPORT = {
    "version": set(),
    "check": set(),
    "files": {"check"},
    "options": {"check"},
    "progress": set(),
    "hub": {"check"},
    "notebook": set(),
    "kernels": LOWEST | {"kernels"},
    "parts": LOWEST | {"kernels", "parts"},
    "encoders": LOWEST | {"kernels", "parts", "encoders"},
    "worlds": LOWEST | {"parts", "worlds"},
    "data": LOWEST | {"parts", "worlds", "data"},
    "method": LOWEST | {"parts", "encoders", "data"},
    "methods": METHOD - {"worlds"} | {"methods"},
    "run": METHOD | {"methods"},
    "training": MIDDLE,
    "trackers": LOWEST | {"trackers"},
    "auditing": LOWEST | {"auditing", "data"},
    "evaluation": MIDDLE | {"auditing", "evaluation"},
    "curating": MIDDLE | {"auditing", "evaluation", "curating"},
    "reporting": MIDDLE | {"auditing", "evaluation", "curating", "reporting"},
    "exploring": MIDDLE | {"auditing", "evaluation", "curating", "reporting", "exploring"},
    "exporting": MIDDLE | {"exporting"},
    "publishing": MIDDLE | {"auditing", "evaluation", "reporting", "exporting", "publishing"},
}
FOR_TYPES = {"encoders": {"data"}}
"""What they may import beside that for type checking only."""
FILES = sorted(SOURCE.rglob("*.py"))
MODULES = {
    ".".join(file.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__"): file
    for file in FILES
}


def named(node: ast.AST, *names: str) -> bool:
    return isinstance(node, ast.Name) and node.id in names


@cache
def nodes(file: Path) -> list[ast.AST]:
    """All parts of a file."""
    return list(ast.walk(ast.parse(file.read_text())))


@cache
def imports(file: Path, types: bool = False) -> set[str]:
    """Dotted names of our own modules that a file imports, with or without those for type checking only."""
    checked = [node for node in nodes(file) if isinstance(node, ast.If) and named(node.test, "TYPE_CHECKING")]
    for_types = {part for node in checked for line in node.body for part in ast.walk(line)}
    found = set()
    for node in nodes(file):
        if node in for_types and not types:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.startswith("unlabeled.")}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_rooms_import_only_what_they_may(file: Path) -> None:
    room = file.relative_to(SOURCE).parts[0].removesuffix(".py")
    if room in {"cli", "demo", "doctor", "selftest", "__init__", "__main__"}:
        return
    for types, allowed in (
        (False, MAY_IMPORT[room]),
        (True, MAY_IMPORT[room] | {room} | FOR_TYPES.get(room, set())),
    ):
        for name in imports(file, types):
            target = name.split(".")[1]
            if (SOURCE / f"{target}.py").exists() or (SOURCE / target).is_dir():
                assert target in allowed, f"{room} may not import {name}"
            assert target != "cli", "nothing imports cli"


def imported_modules(file: Path, types: bool) -> set[str]:
    """Modules that a file imports: `from unlabeled.data import Data` imports unlabeled.data."""
    names = imports(file, types)
    return {name if name in MODULES else name.rpartition(".")[0] for name in names} & MODULES.keys()


def room_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def test_no_circle_of_imports_not_even_with_those_for_types() -> None:
    modules = {name: imported_modules(file, types=True) for name, file in MODULES.items()}
    assert sum(map(len, modules.values())) > len(modules)
    rooms: dict[str, set[str]] = {}
    for name, targets in modules.items():
        rooms.setdefault(room_of(name), set()).update({*map(room_of, targets)} - {room_of(name)})
    for graph in (modules, rooms):
        graphlib.TopologicalSorter(graph).prepare()  # raises a CycleError that names the circle


def test_no_method_imports_another() -> None:
    names = {file.stem for file in (SOURCE / "methods").glob("[a-z]*.py")}
    for file in (SOURCE / "methods").glob("[a-z]*.py"):
        for name in imports(file):
            assert not (name.startswith("unlabeled.methods.") and name.split(".")[2] in names)


def test_no_drawer_names() -> None:
    for file in FILES:
        assert not {"utils", "core", "common", "base", "misc", "helpers"} & {
            part.removesuffix(".py") for part in file.parts
        }
        assert len(file.relative_to(SOURCE).parts) <= 3


def test_every_method_has_its_test() -> None:
    for file in (SOURCE / "methods").glob("[a-z]*.py"):
        assert (Path(__file__).parent / "methods" / f"test_{file.stem}.py").exists()


def test_fabric_is_imported_in_one_file_only() -> None:
    for file in FILES:
        if file.name != "processes.py":
            assert "lightning" not in file.read_text(), file


PUBLIC = {"_replace", "_asdict", "_fields", "_make"}
"""Names of NamedTuple with an underscore only so that no field has them."""


def own_names(file: Path) -> Iterator[str]:
    """Names that a file defines: functions, classes, variables and attributes of `self` or `cls`."""
    for node in nodes(file):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and of_self(node):
            yield node.attr


def of_self(node: ast.Attribute) -> bool:
    value = node.value
    return named(value, "self", "cls") or (isinstance(value, ast.Call) and named(value.func, "super"))


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_uses(file: Path, own: set[str]) -> Iterator[str]:
    """Private names that a file imports, reads or sets, by attribute or by string, and replaced classes."""
    for node in nodes(file):
        if isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("unlabeled"):
            yield from filter(
                private, [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            )
        if isinstance(node, ast.Import):
            yield from (part for alias in node.names for part in alias.name.split(".") if private(part))
        if isinstance(node, ast.Attribute) and private(node.attr) and not of_self(node):
            yield from {node.attr} - own - PUBLIC
        if isinstance(node, ast.Attribute) and node.attr == "__class__" and isinstance(node.ctx, ast.Store):
            yield node.attr
        if isinstance(node, ast.Call) and named(node.func, "getattr", "setattr", "hasattr", "delattr"):
            name = node.args[1]
            if isinstance(name, ast.Constant) and private(name.value):
                yield name.value


def test_private_names_of_other_libraries_are_used_in_one_file_only() -> None:
    own = {name for file in FILES for name in own_names(file)}
    uses = {str(file.relative_to(SOURCE)): [*private_uses(file, own)] for file in FILES}
    assert {file: names for file, names in uses.items() if names}.keys() == {"kernels/compat.py"}


@pytest.mark.parametrize("words", [["--help"], ["methods"], ["pretrain", "simclr", "--help"]])
def test_help_does_not_import_torch(words: list[str]) -> None:
    program = (
        "import sys\nfrom unlabeled.cli import main\n"
        f"try:\n    main({words!r})\nexcept SystemExit:\n    pass\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


OF_HELP = {"attr", "attrs", "cyclopts", "docstring_parser", "rich"}
OF_TORCH = {"dill", "numpy", "torch", "torchgen", "tqdm", "typing_extensions"}
"""With libraries of CUDA and of Cython, which tests cannot know."""
HEAVY = {
    "aiohttp",
    "av",
    "datasets",
    "faiss",
    "fsspec",
    "huggingface_hub",
    "lightning_fabric",
    "llvmlite",
    "numba",
}
HEAVY |= {
    "pandas",
    "pyarrow",
    "scipy",
    "sklearn",
    "soundfile",
    "timm",
    "tokenizers",
    "torchvision",
    "transformers",
}


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        ("import unlabeled", set()),
        (
            "import sys\nfrom unlabeled.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass",
            OF_HELP,
        ),
        (
            "from unlabeled import evaluate, open_data, pretrain\nimport unlabeled.data.streaming.opening",
            None,
        ),
    ],
    ids=["package", "help", "training"],
)
def test_what_starts_imports_no_library_that_it_does_not_need(code: str, allowed: set[str] | None) -> None:
    program = f"import sys\nbefore = {{*sys.modules}}\n{code}\nprint('modules', *{{*sys.modules}} - before)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    modules = {name.partition(".")[0] for name in done.stdout.rpartition("modules ")[2].split()}
    libraries = modules - sys.stdlib_module_names - {"unlabeled"}
    assert not libraries & HEAVY if allowed is None else libraries <= allowed


def test_the_command_of_a_method_is_made_without_those_of_the_others() -> None:
    program = (
        "from unlabeled.cli import main, pretrain_app\ntry: main(['pretrain', 'byol', '--help'])\n"
        "except SystemExit: pass\nassert 'byol' in pretrain_app and 'simclr' not in pretrain_app"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def spelling(name: str) -> str:
    """The one spelling that all spellings of the name of a distribution have in common."""
    return re.sub(r"[-_.]+", "-", name).lower()


def names(requirements: Iterable[str]) -> set[str]:
    """Distributions that requirements name."""
    return {spelling(Requirement(one).name) for one in requirements}


def installed_by(requirement: str, depth: int = 2) -> set[str]:
    """A distribution, what it needs with the extras that are asked for, and so on."""
    one = Requirement(requirement)
    distributions, needs = {spelling(one.name)}, map(Requirement, requires(one.name) or () if depth else ())
    for need in needs:
        if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in ("", *one.extras)):
            distributions |= installed_by(str(need), depth - 1)
    return distributions


def libraries(file: Path) -> set[str]:
    """Top-level names of the libraries that a file imports anywhere, without those of Python and our own."""
    names = set()
    for node in nodes(file):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names - sys.stdlib_module_names - {"unlabeled"}


def test_streaming_needs_no_library_beside_the_dependencies_and_what_these_install() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    installed, homes = set().union(*map(installed_by, project["dependencies"])), packages_distributions()
    extras = set().union(*map(names, project["optional-dependencies"].values()))
    for file in FILES:
        allowed = installed if "streaming" in file.parts else installed | extras
        for library in libraries(file):
            assert {*map(spelling, homes.get(library, [library]))} & allowed, f"{file} imports {library}"


def test_no_package_or_module_has_the_name_of_a_public_function() -> None:
    import unlabeled

    rooms = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or any(path.glob("*.py"))}
    assert not rooms & {name for name in unlabeled.__all__ if name.islower()}
    with pytest.raises(AttributeError, match="nonsense"):
        _ = unlabeled.nonsense
