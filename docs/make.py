"""Write docs/methods.md and the tables of README.md from what the methods declare: make docs"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import get_args

from unlabeled import methods
from unlabeled.data import BUILT_IN
from unlabeled.options import resolve

DOCS = Path(__file__).parent
README = DOCS.parent / "README.md"
MARKERS = "<!-- methods: made by `make docs` -->", "<!-- end of methods -->"
HEAD = """# The methods

Generated from the docstrings by `make docs`. Every option is a command-line option, with dashes for underscores, and a
keyword argument in Python.
"""
TITLES = {
    "image": "Images",
    "text": "Text",
    "audio": "Sound",
    "video": "Video",
    "audio-visual": "Audio-visual",
    "cameras": "Several cameras",
    "trajectory": "Agent trajectories",
}
TASKS = {
    "image": "`multilabel`, `segmentation`, `detection`, `outliers`",
    "text": "`perplexity`, `continuation`, `zero_shot`, `few_shot`, `similarity`, `analogies`",
    "audio": "`abx`, `factors`",
    "video": "`recognition`, `propagation` of masks and key points",
    "audio-visual": "`retrieval`, `localisation`",
    "cameras": "`alignment`, `imitation`",
    "trajectory": "`zones`, `factors`",
}
"""What can be measured of data of a kind, besides probes."""


def page() -> str:
    """docs/methods.md."""
    return HEAD + "".join(
        f"\n# {title}\n" + "".join(map(section, of_kind(kind))) for kind, title in titles().items()
    )


def titles() -> dict[str, str]:
    """Headings by kind of data, for which there are methods."""
    kinds = {methods.describe(name).kind for name in methods.names()}
    return {kind: title for kind, title in TITLES.items() if kind in kinds} | {
        kind: kind.capitalize() for kind in sorted(kinds - TITLES.keys())
    }


def of_kind(kind: str) -> list[methods.Description]:
    """The methods for data of a kind."""
    return [method for method in map(methods.describe, methods.names()) if method.kind == kind]


def section(method: methods.Description) -> str:
    """One method: its docstring, then a table of its options."""
    text = re.sub(r"\n+(Source|Differs|Shortcut):", r"\n\n**\1:**", method.text)
    table = "".join(map(row, method.options))
    if table:
        table = f"\n| option | default | values | meaning |\n|---|---|---|---|\n{table}"
    return f"\n## {method.class_name} (`{method.name}`)\n\n*{idea(method)}*\n\n{text}\n{table}"


def idea(method: methods.Description) -> str:
    """What a method does, in a sentence without its name; names such as iBOT keep their first letter."""
    text = method.summary.partition(": ")[2]
    return text if text[1].isupper() else text[0].upper() + text[1:]


def row(option: methods.Option) -> str:
    """An option in a table."""
    plain, range_, _ = resolve(option.type)
    values = ", ".join(f"`{choice}`" for choice in get_args(plain)) or str(range_ or "")
    meaning, _, chosen = option.help.removesuffix("]").partition(" [default: ")
    default = chosen or f"`{option.default}`"
    return f"| `{option.name}` | {default} | {values} | {meaning.replace('|', '/')} |\n"


def tables() -> str:
    """The part of README.md between the markers: image methods with a number, then all others by kind of data."""
    cifar10 = json.loads((DOCS / "cifar10.json").read_text(encoding="utf-8"))
    scores, controls = cifar10["methods"], cifar10["controls"]
    lines = ["| method | idea | CIFAR-10: default options | selected options |", "|---|---|---|---|"]
    for name in sorted(scores, key=lambda name: scores[name]["chosen"], reverse=True):
        idea = methods.describe(name).summary.partition(": ")[2].rstrip(".")
        values = " | ".join(f"{100 * scores[name][options]:.1f} %" for options in ("defaults", "chosen"))
        lines.append(f"| `{name}` | {idea} | {values} |")
    raw, random = (f"{100 * controls[name]:.1f} %" for name in ("raw", "random"))
    lines += ["", f"{cifar10['budget']} Raw pixels reach {raw}, the untrained network {random}."]
    lines += ["Held-out training images selected between the defaults and one other set of options; see"]
    lines += [
        "[docs/benchmarks.md](docs/benchmarks.md). Newer methods beside these: [docs/tables.md](docs/tables.md). "
        "All options: [docs/methods.md](docs/methods.md). Guides, and a page with formula, code and picture for each: "
        "[docs/index.md](docs/index.md), a site by `make docs`."
    ]
    lines += ["", "| data | methods | built-in data sets | tasks besides probes |", "|---|---|---|---|"]
    for kind, title in titles().items():
        names = [method.name for method in of_kind(kind)]
        others = listed(name for name in names if name not in scores)
        known = [text for text in ("the above" if scores.keys() & set(names) else "", others) if text]
        sets = listed(name for name, its in BUILT_IN.items() if its == kind)
        lines.append(f"| {title.lower()} | {', '.join(known)} | {sets} | {TASKS.get(kind, '')} |")
    return "\n".join(lines)


def listed(names: Iterable[str]) -> str:
    """Names as code, separated by commas."""
    return ", ".join(f"`{name}`" for name in names)


def readme() -> str:
    """README.md with its tables made anew."""
    before, _, rest = README.read_text(encoding="utf-8").partition(MARKERS[0])
    return f"{before}{MARKERS[0]}\n\n{tables()}\n\n{MARKERS[1]}{rest.partition(MARKERS[1])[2]}"


if __name__ == "__main__":
    (DOCS / "methods.md").write_text(page(), encoding="utf-8")
    README.write_text(readme(), encoding="utf-8")
