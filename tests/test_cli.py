"""The command line as users meet it: help, typos, exit codes, and the whole path on a folder."""

import os
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unlabeled import methods
from unlabeled.cli import main
from unlabeled.run import load
from unlabeled.training.settings import Settings


def run(*words: str) -> int:
    try:
        main(words)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of 20 small photographs with spaces in their names, and a broken file."""
    generator = np.random.default_rng(0)
    for number in range(40):
        path = tmp_path / "my photos" / ("night" if number % 2 else "day") / f"picture {number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        level = 40 if number % 2 else 200
        Image.fromarray(generator.integers(level - 40, level + 40, (20, 24, 3), dtype=np.uint8)).save(path)
    (tmp_path / "my photos" / "day" / "broken.jpg").write_bytes(b"\xff\xd8not a picture")
    return tmp_path / "my photos"


def test_methods_lists_every_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("methods") == 0
    lines = capsys.readouterr().out.splitlines()
    named = [line.split()[0] for line in lines if line.startswith("  ")]
    assert sorted(named) == list(methods.names()) and "image:" in lines


@pytest.mark.parametrize("name", methods.names())
def test_help_shows_every_option_with_its_default(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("pretrain", name, "--help") == 0
    text = re.sub(r"[│\s]+", " ", capsys.readouterr().out)
    for option in methods.describe(name).options:
        assert f"--{option.name.replace('_', '-')}" in text
        if option.default is not None and not isinstance(option.default, bool):
            assert f"[default: {option.default}" in text, option
    for field in Settings.__dataclass_fields__:
        assert f"--{field.replace('_', '-')}" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pretrain", "simclr", "digits", "--temprature", "0.3"], "Did you mean --temperature"),
        (["pretrain", "simclar", "digits"], 'Did you mean "simclr"'),
        (["evalute", "x", "y"], 'Did you mean "evaluate"'),
        (["pretrain", "simclr", "digits", "--epochs", "2.5"], "must be a whole number, got 2.5"),
        (["pretrain", "simclr", "digits", "--temperature", "hot"], "hot"),
        (["pretrain", "simclr", "digits", "--temperature", "0"], "temperature must be above 0, got 0.0"),
        (["pretrain", "simclr", "digitz"], "digits"),
        (["evaluate", "nowhere", "digits"], "run must be a folder that pretrain wrote"),
        (["evaluate", "nowhere", "digits", "--labels-per-class", "many"], "nowhere|labels_per_class"),
        (["compare", "simclr"], "compare must get at least one method and the data"),
    ],
)
def test_mistakes_get_one_clear_message_and_a_failing_exit(
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*words) not in (0, None)
    captured = capsys.readouterr()
    text = re.sub(r"[│\s]+", " ", captured.out + captured.err)
    assert re.search(message, text), text
    assert "Traceback" not in text


def test_whole_path_from_a_folder_to_an_exported_encoder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--steps", "4", "--batch-size", "8", "--encoder", "conv4", "--image-size", "16"]
    assert run("pretrain", "simclr", str(folder), *options, "--out", "runs/x") == 0
    assert "picture" not in (tmp_path / "runs/x/skipped.csv").read_text()
    assert "broken.jpg" in (tmp_path / "runs/x/skipped.csv").read_text()
    assert run("evaluate", "runs/x", str(folder), "--labels-per-class", "2,all", "--draws", "2") == 0
    assert "labels per class" in capsys.readouterr().out
    assert run("show", "runs/x", str(folder)) == 0
    assert (tmp_path / "runs/x/pictures.png").read_bytes().startswith(b"\x89PNG")
    assert run("embed", "runs/x", str(folder), "--out", "x.parquet") == 0
    assert run("report", "runs/x") == 0
    assert "<html" in (tmp_path / "runs/x/report.html").read_text()
    assert run("export", "runs/x", "--format", "safetensors", "--out", "x.safetensors") == 0
    import pyarrow.parquet

    written = pyarrow.parquet.read_table(tmp_path / "x.parquet")
    assert written.num_rows == 40 and "path" in written.column_names


def test_resume_needs_no_options_again(folder: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "x")
    assert (
        run(
            "pretrain",
            "simclr",
            str(folder),
            "--steps",
            "2",
            "--temperature",
            "0.4",
            "--image-size",
            "16",
            "--out",
            out,
        )
        == 0
    )
    assert run("pretrain", "simclr", str(folder), "--resume", "--out", out) == 0
    assert run("pretrain", "simclr", str(folder), "--resume", "--temperature", "0.5", "--out", out) == 2


def test_help_starts_fast_and_without_torch() -> None:
    # Imports bound the time, so they are what is counted; seconds would depend on the machine.
    heavy = "'torch' in sys.modules, 'numpy' in sys.modules"
    program = f"import sys\nimport unlabeled.cli\nprint(len(sys.modules), {heavy})"
    modules, *found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    ).stdout.split()
    assert int(modules) < 700 and found == ["False", "False"]


def test_names_that_are_not_utf8_are_no_reason_to_stop(folder: Path, tmp_path: Path) -> None:
    (folder / "day" / "picture 00.png").rename(folder / "day" / os.fsdecode(b"n\xff.png"))
    (folder / "day" / os.fsdecode(b"x\xfe.jpg")).write_bytes(b"broken")
    options = ["--steps", "1", "--batch-size", "8", "--encoder", "conv4", "--image-size", "16"]
    assert run("pretrain", "simclr", str(folder), *options, "--out", str(tmp_path / "x")) == 0
    assert len(load(tmp_path / "x").skipped) == 2
    assert run("embed", str(tmp_path / "x"), str(folder), "--out", str(tmp_path / "x.parquet")) == 0


def test_pictures_can_be_of_data_the_run_never_saw(folder: Path, tmp_path: Path) -> None:
    options = ["--steps", "1", "--batch-size", "8", "--encoder", "conv4", "--image-size", "16"]
    for name, data in (("deepcluster", str(folder)), ("simclr", "digits")):
        out = tmp_path / name
        assert run("pretrain", name, data, *options, "--out", str(out)) == 0
        other = "digits" if data != "digits" else str(folder)
        assert run("show", str(out), other) == 0


@pytest.mark.parametrize("words", [["--out", "a file/x"], ["--config", "missing.toml"]])
def test_system_errors_are_one_line(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a file").write_text("")
    assert run("pretrain", "simclr", "digits", "--steps", "1", *words) == 2
    assert re.search(r"unlabeled: .*: .*(a file|missing.toml)", capsys.readouterr().err)


def test_compare_trains_judges_and_reports(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [
        "--steps",
        "2",
        "--batch-size",
        "8",
        "--encoder",
        "conv4",
        "--image-size",
        "16",
        "--probe",
        "knn",
    ]
    out = tmp_path / "both"
    assert run("compare", "simclr", "rotnet", str(folder), *options, "--out", str(out)) == 0
    assert "simclr" in (out / "report.html").read_text()
    assert capsys.readouterr().out.count("raw input") >= 2


def test_record_passes_its_words_on_and_says_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from unlabeled.worlds import vizdoom_walks

    asked: list[object] = []

    def record(*given: object, **named: object) -> list[Path]:
        asked.extend([given, named])
        return [tmp_path] * 3

    monkeypatch.setattr(vizdoom_walks, "record", record)
    assert run("record", str(tmp_path), "--walks", "3", "--steps", "5", "--seed", "7") == 0
    assert asked == [(tmp_path, 3, 5, 7), {"scenario": "my_way_home", "size": 48}]
    assert capsys.readouterr().out == f"{tmp_path}: 3 walks of 5 frames\n"


def test_record_names_the_extra_where_vizdoom_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "vizdoom", None)
    assert run("record", str(tmp_path / "walks")) == 2
    assert "pip install 'unlabeled[embodied]'" in capsys.readouterr().err
    assert not (tmp_path / "walks").exists()


def test_recorded_walks_are_data_for_trajectory_unmasking(tmp_path: Path) -> None:
    pytest.importorskip("vizdoom")
    for split, walks, seed in (("train", "3", "0"), ("test", "2", "1")):
        words = ["--walks", walks, "--steps", "20", "--seed", seed, "--size", "16"]
        assert run("record", str(tmp_path / "walks" / split), *words) == 0
    options = ["--zones", "3", "--zone-frames", "2", "--masked", "1", "--batch-size", "2", "--steps", "1"]
    words = [
        "pretrain",
        "trajectory_unmasking",
        str(tmp_path / "walks"),
        *options,
        "--out",
        str(tmp_path / "run"),
    ]
    assert run(*words) == 0
    assert load(tmp_path / "run").path == tmp_path / "run"


def test_no_picture_of_no_sample(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", "nowhere", "digits", "--samples", "0") == 2
    assert "samples must be at least 1, got 0" in capsys.readouterr().err


def test_a_copy_of_what_was_trained_on_is_noticed_and_groups_are_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert run("pretrain", "rotnet", str(folder), "--steps", "1", "--batch-size", "8", "--out", str(out)) == 0
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    judge = ["evaluate", str(out), str(copy), "--probe", "knn", "--controls", "none"]
    assert run(*judge, "--group", r"picture (\d)") == 0
    assert "Mind that the encoder was pre-trained on all test images too" in capsys.readouterr().out
    assert load(out).measured["seen_in_pretraining"]["samples"] == 10
    assert run(*judge, "--group", "(nothing)") == 2
    assert "group must match paths such as day/picture 00.png, got (nothing)" in capsys.readouterr().err


def test_compare_takes_every_method_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["compare", "simclr", "simclr", "digits"])
    assert stopped.value.code == 2 and "every method once, got simclr 2 times" in capsys.readouterr().err


def test_a_warning_is_one_line_without_source() -> None:
    code = (
        "import contextlib, warnings\nfrom unlabeled.cli import main\n"
        "with contextlib.suppress(SystemExit):\n    main(['methods'])\nwarnings.warn('mind that')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "warning: mind that\n"


@pytest.mark.parametrize("command", ["evaluate", "compare", "embed", "audit", "show", "report", "export"])
def test_no_option_of_a_command_is_there_twice(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with suppress(SystemExit):
        main([command, "--help"])
    options = re.findall(r"^│ [* ]*(--[a-z-]+)", capsys.readouterr().out, re.M)
    assert options and len(options) == len(set(options))
