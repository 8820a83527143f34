"""The documentation site: every method has its page, no internal link is dead, and every command on it can be run."""

import importlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cyclopts import CycloptsError

from unlabeled import cli, methods
from unlabeled.check import UserError
from unlabeled.data import BUILT_IN

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
GUIDES = sorted((DOCS / "guides").glob("*.md"))


@pytest.fixture(scope="module")
def site() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DOCS)
        yield importlib.import_module("pages")
        for name in ("pages", "make", "links", "mathml"):
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def links(site: Any) -> Any:
    return importlib.import_module("links")


@pytest.fixture(scope="module")
def sources(site: Any) -> dict[str, str]:
    """All pages by their path in the repository, whether they are files or made."""
    files = [*DOCS.glob("*.md"), *GUIDES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    written = {file.relative_to(ROOT).as_posix(): file.read_text(encoding="utf-8") for file in files}
    return written | {f"docs/{path}": text for path, text in site.pages().items()}


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.M | re.S)


def letters(text: str) -> str:
    return "".join(re.findall(r"\w", text))


def parse(line: str) -> None:
    """Parse a command as the program does, without running it."""
    words = shlex.split(line, comments=True)[1:]
    if "--help" in words:
        words.remove("--help")
        command = cli.command_for(words)
        for word in words:
            command = command[word]
        return
    cli.command_for(words).parse_args(words, exit_on_error=False, print_error=False, verbose=False)


def test_no_internal_link_is_dead(links: Any, sources: dict[str, str]) -> None:
    assert not links.dead(sources, ROOT)


@pytest.mark.parametrize(
    ("link", "why"),
    [
        ("other.md", "there is no a/other.md"),
        ("../b.md#missing", "no such heading"),
        ("#missing", "no such heading"),
        ("../pictures/none.webp", "there is no pictures/none.webp"),
    ],
)
def test_a_dead_link_is_found_and_a_live_one_is_not(links: Any, tmp_path: Path, link: str, why: str) -> None:
    live = "# Top\n\n[a](../b.md#the---x-heading) [b](#top) [c](https://example.org/none) `[d](none.md)`\n"
    pages = {"a/page.md": live, "b.md": "## The `--x` heading\n"}
    assert not links.dead(pages, tmp_path)
    (line,) = links.dead(pages | {"a/page.md": f"{live}[x]({link})\n"}, tmp_path)
    assert line.startswith("a/page.md: ") and why in line


def test_a_dead_link_of_the_built_site_is_found(links: Any, tmp_path: Path) -> None:
    (tmp_path / "b.html").write_text('<h1 id="here"></h1>')
    page = tmp_path / "a.html"
    page.write_text('<a href="b.html#here"></a><img src="https://example.org/none.png">')
    assert links.dead_in_site(tmp_path) == []
    for bad in ('<a href="b.html#gone">', '<img src="gone.png">', '<script src="gone.js">'):
        page.write_text(bad)
        assert len(links.dead_in_site(tmp_path)) == 1


def test_every_page_of_a_method_has_all_that_was_written_about_it(site: Any) -> None:
    made = site.pages()
    for name in methods.names():
        method, page = methods.describe(name), made[f"methods/{name}.md"]
        assert (
            f"unlabeled pretrain {name} " in page
            and f"[{site.title(method)}]({name}.md)" in made["methods/index.md"]
        )
        assert "def forward(" in page and "\n## Shortcut\n" in page
        for option in method.options:
            assert f"| `{option.name}` |" in page
        words = letters(page.partition("## Options")[0])
        for part in re.split(r"(?:Source|Differs|Shortcut):", method.text):
            assert letters(part)[1:] in words


def test_code_on_the_pages_is_the_code_of_the_library(site: Any) -> None:
    for name in methods.names():
        text = (ROOT / "src" / "unlabeled" / "methods" / f"{name}.py").read_text(encoding="utf-8")
        shown = site.code(methods.describe(name))
        other = "".join(
            (ROOT / "src" / "unlabeled" / file).read_text(encoding="utf-8")
            for file in re.findall(r"^# (parts/\w+\.py)$", shown, flags=re.M)
        )
        lines = {line.strip() for line in (text + other).splitlines()}
        for line in shown.splitlines()[1:]:
            known = line.strip() in lines or line.strip().removesuffix('"""') in lines
            assert known or line.startswith(("class ", "# parts/")), f"{name}: {line}"


def test_formulas_and_pictures_belong_to_methods(site: Any) -> None:
    for file in (DOCS / "formulas").iterdir():
        text, pseudo = site.formula(file.stem)
        assert file.stem in methods.names() and text.count("$$") >= 2 and text.count("$$") % 2 == 0
        assert pseudo and max(map(len, pseudo.splitlines())) <= 54, f"{file.stem}: its column is narrow"
    files = list((DOCS / "pictures").glob("*"))
    assert {file.stem for file in files} <= set(methods.names())
    assert sum(file.stat().st_size for file in files) < 2.5e6
    assert all(file.stat().st_size < 30_000 for file in files)


def test_rows_of_results_go_to_their_method_and_to_no_other(site: Any) -> None:
    def row(*cells: str, section: str = "") -> Any:
        return site.Row("tables.md", section, "", "", (), cells)

    assert site.belongs(row("`mae`, first layer", "1"), "mae") and site.belongs(row("data", "mae"), "mae")
    for other in ("maes", "*mae*", "videomae", "control: mae", "mae_2"):
        assert not site.belongs(row(other, "1"), "mae")
    assert site.belongs(row("8 rotations", section="How many rotations to tell apart"), "rotnet")
    assert not site.belongs(row("8 rotations", section="Video"), "rotnet")
    rows = [row for row in site.results() if site.belongs(row, "simclr")]
    assert {"Every image method, its defaults, the same network and time"} < {row.section for row in rows}
    assert all(len(row.cells) == len(row.header) for row in site.results())


def test_every_command_of_the_pages_is_accepted(sources: dict[str, str]) -> None:
    commands = set()
    for path, text in sources.items():
        if path.startswith("docs/") and path not in (
            "docs/benchmarks.md",
            "docs/tables.md",
            "docs/methods.md",
        ):
            commands |= {line for block in blocks(text, "sh") for line in block.splitlines()}
            commands |= set(re.findall(r"`(unlabeled [a-z]+ [^`]+)`", text))
    plain = re.compile(r"unlabeled (?:pretrain|show) (?:runs/)?(\w+)[ -](\w+)\s+#.*")
    whole = [line for line in commands if line.startswith("unlabeled ") and not plain.fullmatch(line)]
    pairs = [match.groups() for match in map(plain.fullmatch, commands) if match]
    assert {name for name, _ in pairs} >= set(methods.names()) and len(whole) > 100
    for name, data in pairs:  # of which the contract's tests run one for each method
        assert name in (*methods.names(), "auto") and data in (*BUILT_IN, "pictures"), (name, data)
    for line in whole:
        try:
            parse(line.replace("METHOD", "simclr"))
        except (CycloptsError, UserError) as error:
            pytest.fail(f"{line}: {error}")


@pytest.mark.parametrize(
    "line", ["pretrain simclr x --temprature 1", "pretrain simclr x --epochs 2.5", "evaluate a"]
)
def test_a_command_that_is_wrong_is_not_accepted(line: str) -> None:
    with pytest.raises((CycloptsError, UserError)):
        parse(f"unlabeled {line}")


@pytest.mark.parametrize(
    "guide", [guide for guide in GUIDES if "```python" in guide.read_text()], ids=lambda g: g.stem
)
def test_python_of_the_guides_runs(guide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks(guide.read_text(encoding="utf-8"), "python"):
        exec(compile(block, guide.name, "exec"), names)


@pytest.mark.golden
def test_the_site_is_built_without_a_warning() -> None:
    done = subprocess.run(
        ["make", "-o", ".venv/.ready", "docs"],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (DOCS / "_build" / "methods" / "simclr.html").is_file()


def test_every_formula_becomes_mathml_without_a_command_left_over(site: Any) -> None:
    pytest.importorskip("latex2mathml")
    mathml = importlib.import_module("mathml").mathml
    count = 0
    for file in [*DOCS.glob("*.md"), *GUIDES, *(DOCS / "formulas").glob("*.md")]:
        text = re.sub(r"^```.*?^```", "", file.read_text(encoding="utf-8"), flags=re.M | re.S)
        for block, inline in re.findall(r"\$\$(.*?)\$\$|(?<![\\$\w])\$([^$\n]+)\$(?!\w)", text, flags=re.S):
            assert mathml(block or inline, bool(block)).startswith("<math"), file
            count += 1
    assert count > 300
    assert mathml(r"\lVert x \rVert", False).count("&#x02016;") == 2
    with pytest.raises(ValueError, match=r"got .unknowncommand in"):
        mathml(r"\unknowncommand x", False)
