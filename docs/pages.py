"""Pages of the documentation site that are made from code: one for each method, and their index.

Nothing on them is written by hand but docs/formulas/METHOD.md, which is the formula, then the pseudo-code of the
paper as a code block. They are made when the site is built and are not part of the repository.
"""

import ast
import json
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import make
from links import slug

from unlabeled import methods
from unlabeled.data import BUILT_IN

DOCS = Path(__file__).parent
ROOT = DOCS.parent
SOURCES = ROOT / "src" / "unlabeled"
FOLDER = "methods"
INDEX = """# Methods

Each page has a picture that the library drew, the formula, the paper's algorithm beside our code, every option, what
differs from the paper, and the numbers that were measured. `unlabeled methods` lists them in the terminal.
"""
UTILITIES = {"gather", "ragged"}
"""Modules of parts whose functions are no part of any formula."""
MOST_LINES = 110
"""Lines of code on a page."""


class Row(NamedTuple):
    """A row of a table of results.

    Attributes:
        page: File of the table, in docs.
        section: Title of its section.
        subject: What the table is about, in bold before it; may be empty.
        command: What its numbers come from; empty if the section prints none.
        header: Cells of the header.
        cells: Cells of the row.
    """

    page: str
    section: str
    subject: str
    command: str
    header: tuple[str, ...]
    cells: tuple[str, ...]


def pages() -> dict[str, str]:
    """All pages that are made from code, by their path in docs."""
    made = {f"{FOLDER}/{name}.md": page(methods.describe(name)) for name in methods.names()}
    return made | {f"{FOLDER}/index.md": index()}


def write() -> None:
    """Write the pages that changed, and remove those of methods that are gone."""
    made = pages()
    (DOCS / FOLDER).mkdir(exist_ok=True)
    for path, text in made.items():
        file = DOCS / path
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
    for file in (DOCS / FOLDER).glob("*.md"):
        if f"{FOLDER}/{file.name}" not in made:
            file.unlink()
    for folder, lack in (("formulas", "formula"), ("pictures", "picture")):
        drawn = {file.stem for file in (DOCS / folder).glob("*.*")}
        if missing := [name for name in methods.names() if name not in drawn]:
            print(f"without a {lack} in docs/{folder}: {', '.join(missing)}")


def index() -> str:
    """The list of the methods, by kind of data."""
    parts = [INDEX]
    for kind, heading in make.titles().items():
        listed = make.of_kind(kind)
        rows = "".join(f"| [{title(m)}]({m.name}.md) | `{m.name}` | {make.idea(m)} |\n" for m in listed)
        names = "\n".join(m.name for m in listed)
        parts.append(
            f"\n## {heading}\n\n| method | name | idea |\n|---|---|---|\n{rows}\n"
            f"```{{toctree}}\n:hidden:\n:caption: {heading}\n:maxdepth: 1\n\n{names}\n```\n"
        )
    return "".join(parts)


def title(method: methods.Description) -> str:
    """The name of a method as its paper spells it."""
    return method.summary.partition(": ")[0]


def page(method: methods.Description) -> str:
    """The page of a method."""
    rest, shortcut = method.text.partition("Shortcut:")[::2]
    rest, differs = rest.partition("Differs:")[::2]
    task, source = rest.partition("Source:")[::2]
    sections = {
        "In one picture": picture(method.name),
        "Formula": formula(method.name)[0],
        "The algorithm and our code": beside(method),
        "Shortcut": paragraphs(shortcut),
        "Source": linked(paragraphs(source)),
        "What differs from the paper": linked(paragraphs(differs)),
        "Options": options(method),
        "Run it": commands(method),
        "Measured": measured(method.name),
    }
    return f"# {title(method)}\n\n*{make.idea(method)}*\n\n{paragraphs(task)}\n" + "".join(
        f"\n## {heading}\n\n{text.strip()}\n" for heading, text in sections.items() if text.strip()
    )


def paragraphs(text: str) -> str:
    """Prose that begins with a capital letter, in which what is withheld and what is predicted stands out."""
    text = re.sub(r"\b(Withheld|Predicted|Features):", r"**\1:**", text.strip())
    return text[:1].upper() + text[1:]


def linked(text: str) -> str:
    """Text whose addresses are links, without the punctuation after them; what a new sentence adds stands alone."""
    text = re.sub(r"(https?://\S+)\n(?=[A-Z])", r"\1\n\n", text)
    return re.sub(r"https?://[^\s;,]+[^\s;,.]", r"<\g<0>>", text)


def picture(name: str) -> str:
    """What docs/pictures.py drew, and the command that it is from."""
    facts_file, image = DOCS / "pictures" / f"{name}.json", DOCS / "pictures" / f"{name}.webp"
    if not facts_file.exists():
        return ""
    facts = json.loads(facts_file.read_text(encoding="utf-8"))
    parts = (
        [f"![Pictures of {name}, one row for each kind](../pictures/{image.name})"] if image.exists() else []
    )
    if texts := facts["texts"]:
        rows = zip(*texts.values())
        parts.append(table(list(texts), ([plain(text) for text in row] for row in rows)))
    sketch = f"As `unlabeled show` draws it after {facts['steps']:,} steps: a sketch, not a result."
    parts.append(f"{sketch}\n\n```sh\n{facts['command']}\n```")
    return "\n\n".join(parts)


def plain(text: str) -> str:
    """A text in which nothing is markup, for a cell of a table."""
    return re.sub(r"([\\`*_{}\[\]<>#|$~])", r"\\\1", text)


def table(header: list[str], rows: object) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]  # type: ignore[misc]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def formula(name: str) -> tuple[str, str]:
    """The formula of a method and the pseudo-code of its paper; both empty if nobody has written them yet."""
    file = DOCS / "formulas" / f"{name}.md"
    text, fence, code = (file.read_text(encoding="utf-8") if file.exists() else "").partition("```text\n")
    return text.strip(), code.partition("```")[0].rstrip() if fence else ""


def beside(method: methods.Description) -> str:
    """The pseudo-code of the paper beside our lines."""
    pseudo = formula(method.name)[1]
    ours = f"```python\n{code(method)}\n```"
    where = f"Ours is the part of `src/unlabeled/methods/{method.name}.py` that computes the loss"
    if not pseudo:
        return f"{where}.\n\n{ours}"
    left = f":::{{container}}\n**The paper's, in our words**\n\n```text\n{pseudo}\n```\n:::"
    right = f":::{{container}}\n**Ours**\n\n{ours}\n:::"
    return (
        f"{where}, without what draws, checks and reports.\n\n::::{{container}} beside\n{left}\n{right}\n::::"
    )


def code(method: methods.Description) -> str:
    """The lines that compute the loss: `forward`, what it calls, and the losses that the method shares with others."""
    file = SOURCES / "methods" / f"{method.name}.py"
    source, tree = parsed(file)
    class_ = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == method.class_name)
    own = {n.name: n for n in class_.body if isinstance(n, ast.FunctionDef)}
    functions = {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef)}
    chosen: dict[str, str] = {}

    def add(node: ast.FunctionDef, source: str, indent: str = "") -> None:
        if node.name in chosen or sum(text.count("\n") for text in chosen.values()) > MOST_LINES:
            return
        chosen[node.name] = indent + lines(node, source).replace("\n", f"\n{indent}")
        for called in ast.walk(node):
            if isinstance(called, ast.Call):
                reach(called.func)

    def reach(called: ast.expr) -> None:
        match called:
            case ast.Attribute(value=ast.Name(id="self"), attr=name) if name in own:
                add(own[name], source, "    ")
            case ast.Name(id=name) if name in functions:
                add(functions[name], source)
            case ast.Name(id=name):
                shared(name, name)
            case ast.Attribute(value=ast.Name(id=module), attr=name):
                shared(module, name)

    def shared(imported: str, name: str) -> None:
        where = origin(tree, imported)
        if where is None or where.stem in UTILITIES or not where.is_file():
            return
        text, other = parsed(where)
        node = next((n for n in other.body if isinstance(n, ast.FunctionDef) and n.name == name), None)
        if node is not None and "calar" in (ast.get_docstring(node) or "").partition("Returns:")[2]:
            chosen.setdefault(name, f"# {where.relative_to(SOURCES)}\n{lines(node, text)}")

    if "forward" in own:
        add(own["forward"], source, "    ")
    else:
        base = next((b for b in map(ast.unparse, class_.bases) if origin(tree, b) is not None), "")
        return f"# {class_.name} has the loss of its base {base}" if base else lines(class_, source)
    at_top = [text for text in chosen.values() if not text.startswith("    ")]
    inside = [text for text in chosen.values() if text.startswith("    ")]
    head = f"class {class_.name}({', '.join(map(ast.unparse, class_.bases))}):"
    return "\n\n\n".join([*reversed(at_top), f"{head}\n" + "\n\n".join(inside)])


@cache
def parsed(file: Path) -> tuple[str, ast.Module]:
    """The text of a module and its syntax tree."""
    text = file.read_text(encoding="utf-8")
    return text, ast.parse(text)


def origin(tree: ast.Module, name: str) -> Path | None:
    """The file among parts that a name of a module is imported from, or that it stands for."""
    for node in tree.body:
        module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
        if module.startswith("unlabeled.parts") and name in {a.asname or a.name for a in node.names}:  # type: ignore[union-attr]
            folder = SOURCES.joinpath(*module.split(".")[1:])
            inner = folder / f"{name}.py"
            return inner if inner.exists() else folder.with_suffix(".py")
    return None


def lines(node: ast.FunctionDef | ast.ClassDef, source: str) -> str:
    """Source of a function without its docstring but the first line, as it is in the file but not indented."""
    text = source.splitlines()
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    kept = list(range(first, (node.end_lineno or first) + 1))
    documentation = node.body[0]
    if isinstance(documentation, ast.Expr) and isinstance(documentation.value, ast.Constant):
        last = documentation.end_lineno or documentation.lineno
        kept = [number for number in kept if not documentation.lineno < number <= last]
        if last > documentation.lineno:  # the first line alone, closed
            text = [*text]
            text[documentation.lineno - 1] = text[documentation.lineno - 1].rstrip() + '"""'
    return "\n".join(text[number - 1][node.col_offset :] for number in kept)


def options(method: methods.Description) -> str:
    """A table of the options, and which run settings the method sets."""
    rows = "".join(map(make.row, method.options))
    text = f"| option | default | values | meaning |\n|---|---|---|---|\n{rows}" if rows else ""
    if method.defaults:
        settings = ", ".join(f"`{key} = {value}`" for key, value in method.defaults.items())
        text += f"\nRun settings that it sets unless you do: {settings}.\n"
    return text


def commands(method: methods.Description) -> str:
    """How to run a method, and what trains it at length."""
    data = method.example or next(name for name, kind in BUILT_IN.items() if kind == method.kind)
    lines = [
        f"unlabeled pretrain {method.name} {data}     # or a folder of your own",
        f"unlabeled pretrain {method.name} --help",
        f"unlabeled show runs/{method.name}-{data}    # what it withholds and predicts",
    ]
    sets = make.listed(name for name, kind in BUILT_IN.items() if kind == method.kind)
    text = "```sh\n{}\n```\n\nBuilt-in data of its kind: {}.".format("\n".join(lines), sets)
    if slow := golden(method.name):
        return text + "\n\nA slow training whose result is checked:\n\n```sh\n{}\n```".format("\n".join(slow))
    return f"{text} `make golden` does not train it; the commands of the tables below do."


def golden(name: str) -> list[str]:
    """Commands of the golden tests that train a method."""
    file = ROOT / "tests" / "test_golden.py"
    nodes = [node for node in parsed(file)[1].body if isinstance(node, ast.FunctionDef)]
    tests = [n.name for n in nodes if n.name.startswith("test_") and f"'{name}'" in ast.unparse(n)]
    return [f".venv/bin/python -m pytest -m golden tests/{file.name} -k {test}" for test in tests]


def measured(name: str) -> str:
    """The rows of a method in all tables of results."""
    groups: dict[tuple[str, ...], dict[tuple[str, tuple[str, ...]], list[tuple[str, ...]]]] = {}
    for row in results():
        if belongs(row, name):
            group = groups.setdefault((row.page, row.section, row.command), {})
            group.setdefault((row.subject, row.header), []).append(row.cells)
    parts = []
    for (file, section, command), tables in groups.items():
        parts.append(f"### {section}\n\n[The whole table](../{file}#{slug(section)})")
        if command:
            parts[-1] += f", by `{command}`"
        for (subject, header), rows in tables.items():
            parts += [f"**{subject}**"] * bool(subject) + [table([cell or " " for cell in header], rows)]
    readouts = json.loads((DOCS / "tables" / "readouts.json").read_text(encoding="utf-8")).get(name, {})
    if readouts:
        rows = [
            [f"`{map_}`", *(f"{100 * value:.1f}" for value in scores.values())]
            for map_, scores in readouts.items()
        ]
        header = ["features", *next(iter(readouts.values()))]
        parts.append(
            "### Other features of a run\n\nIn % on 2,000 other training images, by `python benchmarks/readouts.py`."
            f"\n\n{table(header, rows)}"
        )
    if not parts:
        return "Its row is in no table yet: nothing has been measured at length."
    budget = "Budgets are minutes of one core; what each table measured is said beside it."
    return "\n\n".join([budget, *parts])


def belongs(row: Row, name: str) -> bool:
    """Whether a row of a table is of a method."""
    first, second = (*row.cells, "")[:2]
    if (row.section, first.strip(" *`")) in labels(name):
        return True
    if first.strip().startswith("*"):  # a control
        return False
    return bool(re.match(rf"{name}(?![\w])", first.strip(" `"))) or second.strip(" `*") == name


@cache
def labels(name: str) -> frozenset[tuple[str, str]]:
    """Titles of tables and names of rows of a method that are called otherwise, such as by their options."""
    files = [
        tomllib.loads(file.read_text(encoding="utf-8"))
        for file in (ROOT / "benchmarks" / "tables").glob("*.toml")
    ]
    return frozenset(
        (table["title"], row["name"]) for table in files for row in table["rows"] if row.get("method") == name
    )


@cache
def results() -> tuple[Row, ...]:
    """The rows of all tables in the pages of results."""
    return tuple(row for file in ("tables.md", "benchmarks.md") for row in rows_of(file))


def rows_of(file: str) -> Iterator[Row]:
    """The rows of the tables of a page."""
    section = subject = command = ""
    header: tuple[str, ...] | None = None
    for line in (DOCS / file).read_text(encoding="utf-8").splitlines():
        if mark := re.match(r"#+ (.*)", line):
            section, subject, command = mark[1], "", ""
        elif mark := re.match(r"\*\*`?([^*`]+)`?\*\*", line):
            subject = mark[1].rstrip(".")
        elif mark := re.match(r"    (python benchmarks/\S.*)", line):
            command = mark[1].strip()
        if not line.startswith("|"):
            header = None
            continue
        cells = tuple(cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip()[1:-1]))
        if header is None:
            header = cells
        elif not set(line) <= set("|-: "):
            yield Row(file, section, subject, command, header, cells)


if __name__ == "__main__":
    write()
