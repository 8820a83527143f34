"""A new method is two files: its own and its test. Everything else finds it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
METHOD = '''"""Mean colour: predict the mean colour of an image from a view of it.

Withheld: the pixels outside the view. Predicted: the mean of all pixels.

Source: Somebody, "Mean Colours", 2026, https://example.org
Shortcut: a view of everything holds the answer.
"""

from typing import ClassVar, Unpack

from torch import Tensor, nn

from unlabeled.encoders import ImageEncoder
from unlabeled.method import Batch, Method
from unlabeled.options import Count, ViewOptions
from unlabeled.parts.augment import Views

__all__ = ["MeanColor"]


class MeanColor(Method[ImageEncoder]):
    """Predict the mean colour of an image from a view of it.

    Args:
        encoder: Network whose features are kept.
        hidden_dim: Width of the hidden layer.
        **views: How the views are drawn.
    """

    view_defaults = ViewOptions(crop=0.3)
    recipe: ClassVar = {"epochs": 2}
    smallest: ClassVar = {"hidden_dim": 7}
    example = "photos"

    def __init__(
        self, encoder: ImageEncoder, *, hidden_dim: Count = 64, **views: Unpack[ViewOptions]
    ) -> None:
        super().__init__(encoder)
        self.views = Views(encoder.image_size, **self.view_options(views))
        self.head = nn.Sequential(
            nn.Linear(encoder.dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, encoder.in_channels)
        )

    def forward(self, batch: Batch) -> Tensor:
        mean = self.encoder.inputs(batch).mean((2, 3))
        return (self.head(self.encoder(self.views(batch))) - mean).square().mean()

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        return {"image": self.encoder.inputs(batch), "view": self.views(batch)}
'''
PROGRAM = """
import json, runpy, sys
sys.path.insert(0, sys.argv[1] + "/benchmarks")
import methods as benchmark
from unlabeled import methods, selftest
make = runpy.run_path(sys.argv[1] + "/docs/make.py")
print(json.dumps({
    "options": [(o.name, o.default, o.rule) for o in methods.describe("mean_color").options],
    "selftest": [name for name, _ in selftest._checks() if "mean_color" in name],
    "set": selftest.example("mean_color"),
    "trains": selftest._trains("mean_color"),
    "page": make["page"](),
    "readme": make["readme"](),
    "benchmark": "mean_color" in benchmark.names("image"),
}))
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with one more file; loops that are compiled already come along."""
    root = tmp_path_factory.mktemp("project")
    unfinished = shutil.ignore_patterns("*.tmp.*", "*.pyc.*")  # which other processes may be writing
    for folder in ("src", "docs", "benchmarks"):
        shutil.copytree(ROOT / folder, root / folder, ignore=unfinished)
    shutil.copy(ROOT / "README.md", root)
    (root / "src" / "unlabeled" / "methods" / "mean_color.py").write_text(METHOD)
    return root


def python(root: Path, *words: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(root / "src"), "COLUMNS": "200"}
    done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_command_line_lists_a_new_file_and_explains_its_options(copy: Path) -> None:
    listing = python(copy, "-m", "unlabeled", "methods")
    assert "  mean_color " in listing and "predict the mean colour of an image" in listing
    text = python(copy, "-m", "unlabeled", "pretrain", "mean_color", "--help")
    assert "MeanColor options" in text and 'Source: Somebody, "Mean Colours"' in text
    assert "Width of the hidden layer. [at least 1] [default: 64]" in text
    assert (
        "Smallest fraction of the image's area that a view shows. [above 0 and at most 1] [default: 0.3]"
        in text
    )


def test_selftest_docs_and_benchmarks_have_a_new_file(copy: Path) -> None:
    found = json.loads(python(copy, "-c", PROGRAM, str(copy)))
    assert found["options"] == [["hidden_dim", 64, "at least 1"], ["crop", 0.3, "above 0 and at most 1"]]
    assert found["selftest"] == ["mean_color trains"] and found["set"] == "photos" and found["trains"][1]
    assert "## MeanColor (`mean_color`)" in found["page"] and "Width of the hidden layer." in found["page"]
    images = next(line for line in found["readme"].splitlines() if line.startswith("| images |"))
    assert "`mean_color`" in images and found["benchmark"]
