"""Write docs/methods.md from the docstrings of the methods: python docs/make_methods.py"""

import ast
import re
from pathlib import Path

from unlabeled import methods

HEAD = """# The methods

Made from the docstrings by `python docs/make_methods.py`. Every option is an option of the command line, with dashes
for underscores, and a keyword in Python.
"""

TITLES = {
    "image": "Images",
    "text": "Text",
    "audio": "Sound",
    "video": "Video",
    "audio-visual": "Sight and sound",
    "cameras": "Many cameras",
    "trajectory": "Walks of an agent",
}


def page() -> str:
    """The whole page, as Markdown."""
    kinds = dict.fromkeys(["image", *(methods.describe(name).kind for name in methods.names())])
    return HEAD + "".join(
        f"\n# {TITLES[kind]}\n"
        + "".join(section(name) for name in methods.names() if methods.describe(name).kind == kind)
        for kind in kinds
    )


def section(name: str) -> str:
    """One method: its docstring, then a table of its options."""
    description = methods.describe(name)
    source = Path(methods.__file__).parent / f"{name}.py"
    _, _, text = (ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or "").partition("\n\n")
    text = re.sub(r"\n+(Source|Differs|Shortcut):", r"\n\n**\1:**", text)
    idea = description.summary.partition(": ")[2]
    rows = "".join(
        f"| `{o.name}` | `{o.default}` | {o.help.replace('|', '/')} |\n" for o in description.options
    )
    table = f"| option | default | meaning |\n|---|---|---|\n{rows}" if rows else ""
    return f"\n## {description.class_name} (`{name}`)\n\n*{idea[0].upper()}{idea[1:]}*\n\n{text.strip()}\n\n{table}"


if __name__ == "__main__":
    (Path(__file__).parent / "methods.md").write_text(page(), encoding="utf-8")
