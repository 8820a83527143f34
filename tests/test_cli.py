"""The command line as users meet it: help, typos, exit codes, and the whole path on a folder."""

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import redirect_stdout, suppress
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from unlabeled import methods
from unlabeled.cli import _unwrap, _with_flags, _words, main
from unlabeled.data import worlds
from unlabeled.encoders.building import KINDS, names
from unlabeled.run import load
from unlabeled.training import auto
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


@cache
def help_of(method: str) -> str:
    """What `pretrain METHOD --help` prints, in one line without frames."""
    with redirect_stdout(io.StringIO()) as shown:
        assert run("pretrain", method, "--help") == 0
    return re.sub(r"[│\s]+", " ", shown.getvalue())


@pytest.mark.parametrize("name", methods.names())
def test_help_shows_every_option_with_its_default(name: str) -> None:
    text = help_of(name)
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
        (["pretrain", "simclar", "digits"], "no method is called simclar; did you mean simclr"),
        (["pretrain", "--temperature", "1"], "no method is called --temperature"),
        (["pretrain", "simclr"], "data must be named, or known from --config"),
        (["pretrain", "simclr", "--resume"], "data must be named, or known from --config"),
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
    assert run(*words) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("unlabeled: ") and captured.err.count("\n") == 1 and not captured.out
    assert re.search(message, captured.err), captured.err


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
    assert run("show", "runs/x") == 0
    assert (tmp_path / "runs/x/pictures.png").read_bytes().startswith(b"\x89PNG")
    assert run("embed", "runs/x", str(folder), "--out", "x.parquet") == 0
    capsys.readouterr()
    assert run("report", "runs/x") == 0
    next_command = f"next: unlabeled embed runs/x {shlex.quote(str(folder))} --out features.parquet"
    assert capsys.readouterr().err.splitlines()[-1] == next_command
    assert "<html" in (tmp_path / "runs/x/report.html").read_text()
    assert run("export", "runs/x", "--format", "safetensors", "--out", "x.safetensors") == 0
    assert capsys.readouterr().err.splitlines()[-2:] == [
        "in Python: unlabeled.encoders.load('x.safetensors')",
        "next: unlabeled publish runs/x OWNER/NAME",
    ]
    import pyarrow.parquet

    written = pyarrow.parquet.read_table(tmp_path / "x.parquet")
    assert written.num_rows == 40 and "path" in written.column_names


def test_show_says_where_sounds_can_be_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(worlds, "SIZES", dict.fromkeys(worlds.SIZES, (24, 8)))
    options = ["--steps", "1", "--batch-size", "8", "--encoder", "gru1-8", "--out", "x"]
    assert run("pretrain", "audio_restoration", "tones", *options) == 0
    capsys.readouterr()
    assert run("show", "x", "--samples", "2") == 0
    assert capsys.readouterr().out.splitlines() == [
        "x/pictures.png",
        "to hear the sounds: unlabeled report x",
    ]


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


def test_a_stored_run_is_repeated_and_resumed_without_naming_method_or_data(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--batch-size", "8", "--encoder", "conv4", "--image-size", "16"]
    first, again, third = (str(tmp_path / name) for name in ("first", "again", "third"))
    assert (
        run("pretrain", "simclr", str(folder), *small, "--steps", "1", "--crop", "0.4", "--out", first) == 0
    )
    config = ["--config", f"{first}/run.toml"]
    assert run("pretrain", *config, "--out", again, "--steps", "2") == 0
    assert run("pretrain", *config, "digits", "--out", third) == 0
    assert run("pretrain", "simclr", "--resume", "--out", again) == 0
    stored = [load(path).config for path in (first, again, third)]
    assert [one["method"] for one in stored] == ["simclr"] * 3
    assert [one["options"]["crop"] for one in stored] == [0.4] * 3
    assert [one["settings"]["steps"] for one in stored] == [1, 2, 1]
    assert [one["data"]["source"] for one in stored] == [str(folder), str(folder), "digits"]
    assert run("pretrain", "rotnet", *config, "--out", again) == 2
    assert "method must be simclr to repeat" in capsys.readouterr().err


def test_a_run_of_data_without_a_source_asks_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.toml").write_text('method = "simclr"\nsettings = {}\noptions = {}\nchosen = []\n')
    assert run("pretrain", "--config", str(tmp_path / "run.toml")) == 2
    assert "data must be named, as " in capsys.readouterr().err
    (tmp_path / "run.toml").write_text('method = "Own"\n')
    assert run("pretrain", "--config", str(tmp_path / "run.toml")) == 2
    assert "no method is called Own" in capsys.readouterr().err


def test_options_become_the_words_that_give_them() -> None:
    given = {"batch_size": 8, "betas": [0.5, 0.9], "normalize": False, "stacked": True, "label": "a b"}
    assert _words(given) == [
        *("--batch-size", "8", "--betas", "0.5,0.9", "--no-normalize", "--stacked", "--label", "a b")
    ]


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
    assert re.fullmatch(r"unlabeled: .*(a file|missing\.toml).*\n", capsys.readouterr().err)


def test_adapt_needs_weights_and_has_defaults_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("adapt", "simclr", "digits", "--steps", "1") == 2
    assert "weights must be named to adapt them" in capsys.readouterr().err
    for verb, default in (("adapt", "0.75"), ("pretrain", "1.0")):
        run(verb, "simclr", "--help")
        words = " ".join(capsys.readouterr().out.replace("│", "").split())
        assert re.search(rf"--layer-decay [^-]*\[default: {default}\]", words)


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
    said = capsys.readouterr().out
    assert said.count("\nraw input ") == 1 and said.count("knn (k=") == 1  # one table
    assert all(re.search(rf"(?m)^{row}  +\d", said) for row in ("simclr", "rotnet", "random weights"))
    assert "\nknn: simclr " in said and "\nknn: rotnet " in said and said.count("Controls: ") == 1


def test_compare_takes_the_choice_of_auto_as_one_of_its_methods(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "both"
    choice = auto.MEASURED["image"]
    assert choice.settings["encoder"] == "dictionary2-400"
    small = choice.settings | {"encoder": "dictionary-16"}
    monkeypatch.setitem(auto.MEASURED, "image", choice._replace(settings=small))
    words = ("--steps", "2", "--probe", "knn", "--controls", "none", "--out", str(out))
    assert run("compare", "auto", "rotnet", str(folder), *words) == 0
    assert load(out / "auto").encoder.config["name"] == "dictionary-16"
    assert "rotnet" in (out / "report.html").read_text()


def test_record_passes_its_words_on_and_says_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from unlabeled.worlds import vizdoom_walks

    asked: list[object] = []

    def record(*given: object, **named: object) -> list[Path]:
        asked.extend([given, named])
        return [tmp_path] * 3

    monkeypatch.setattr(vizdoom_walks, "record", record)
    assert run("record", str(tmp_path), "--trajectories", "3", "--steps", "5", "--seed", "7") == 0
    assert asked == [(tmp_path, 3, 5, 7), {"scenario": "my_way_home", "size": 48}]
    assert capsys.readouterr().out == f"{tmp_path}: 3 trajectories of 5 frames\n"


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
        words = ["--trajectories", walks, "--steps", "20", "--seed", seed, "--size", "16"]
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
    said = capsys.readouterr()
    assert "Note that the encoder was pre-trained on all test images too" in said.out
    words = shlex.join(["audit", str(folder), str(copy), "--out", "audit.html"])
    assert said.err.splitlines()[-1] == f"next: unlabeled {words}"
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
    assert done.stderr.splitlines() == ["next: unlabeled pretrain METHOD --help", "warning: mind that"]


@pytest.mark.parametrize(
    "command", ["evaluate", "compare", "embed", "audit", "show", "report", "export", "curate", "explore"]
)
def test_no_option_of_a_command_is_there_twice(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with suppress(SystemExit):
        main([command, "--help"])
    options = re.findall(r"^│ [* ]*(--[a-z-]+)", capsys.readouterr().out, re.M)
    assert options and len(options) == len(set(options))


@pytest.mark.parametrize("name", methods.names())
def test_every_option_of_a_method_says_its_range(name: str) -> None:
    text = help_of(name)
    for option in methods.describe(name).options:
        if option.rule:
            help_ = option.help.partition(" [default")[0]
            assert f"{help_} [{option.rule}] [default: " in text, option


@pytest.mark.parametrize(
    "words",
    [
        ["pretrain", "simclr"],
        ["evaluate"],
        ["compare"],
        ["embed"],
        ["audit"],
        ["show"],
        ["report"],
        ["record"],
        ["curate"],
        ["explore"],
    ],
)
def test_every_option_says_its_default_or_is_required(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run(*words, "--help")
    entries = re.split(r"^│ (?:\* )? {0,2}(?=--(?!no-))", capsys.readouterr().out, flags=re.M)[1:]
    assert len(entries) > 2
    for entry in entries:
        assert re.search(r"\[(default: |required\])", entry), entry


@pytest.mark.parametrize(
    ("command", "usage"),
    [
        ("audit", "Usage: unlabeled audit DATA... [OPTIONS]"),
        ("report", "Usage: unlabeled report RUN... [OPTIONS]"),
        ("show", "Usage: unlabeled show RUN [DATA] [OPTIONS]"),
        ("curate", "Usage: unlabeled curate DATA [RUN] [OPTIONS]"),
        ("pretrain", "Usage: unlabeled pretrain METHOD DATA [OPTIONS]"),
    ],
)
def test_usage_names_what_is_given_by_position(
    command: str, usage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run(command, "--help")
    assert capsys.readouterr().out.startswith(usage + "\n")


@pytest.mark.parametrize("kind", KINDS)
def test_help_names_every_built_in_encoder(kind: str) -> None:
    described = map(methods.describe, methods.names())
    method = next(one.name for one in described if (one.encoder_kind or one.kind) == kind)
    listed = help_of(method).partition("Network to train: ")[2].partition("[default")[0]
    assert set(names(kind)) <= set(re.split(r"[ ,()]+", listed))


def test_features_are_named_once_for_scores_tables_and_exports(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    assert run("pretrain", "simclr", str(folder), "--out", out, "--steps", "1", "--image-size", "16") == 0
    capsys.readouterr()
    words = "--features", "s3:2x2", "--directions", "views"
    assert run("evaluate", out, str(folder), "--probe", "knn", "--controls", "raw", *words) == 0
    fitted = "the features are s3:2x2:views, scaled by the 32 training images without their labels"
    printed = capsys.readouterr()
    assert fitted in printed.err and f"Note that {fitted}" in printed.out
    table = str(tmp_path / "x.parquet")
    assert run("embed", out, str(folder), "--out", table, *words, "--thumbnails", "--coordinates") == 0
    assert fitted in (printed := capsys.readouterr()).err
    assert re.search(r"40 samples x (29|30|31) dimensions", printed.out), (
        "32 images span at most 31 directions"
    )
    encoder = str(tmp_path / "x.safetensors")
    assert run("export", out, "--out", encoder, *words) == 0
    assert fitted in capsys.readouterr().err
    assert run("export", out, "--out", encoder, "--data", str(folder)) == 2
    assert "data must come with features to fit to it" in capsys.readouterr().err
    assert run("evaluate", out, str(folder), "--features", "choose", "--controls", "raw") == 0
    assert "chosen for every row and draw by held-out training labels" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("pretrain", "simclr", "a", "b"),
            "too many arguments: b; usage: unlabeled pretrain simclr DATA [OPTIONS]",
        ),
        (
            ("evaluate", "a", "b", "c d"),
            "too many arguments: 'c d'; usage: unlabeled evaluate RUN DATA [OPTIONS]",
        ),
        (("methods", "x"), "too many arguments: x; usage: unlabeled methods [OPTIONS]"),
    ],
)
def test_words_too_many_are_named_with_what_the_command_takes(
    words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words) == 2
    assert capsys.readouterr().err == f"unlabeled: {said}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("pretrain", "simclr", "gone/"), "data must be a path that exists, got gone/, which does not exist"),
        (
            ("pretrain", "gpt", "a/b.txt"),
            "data must be a path that exists, got a/b.txt, but a does not exist",
        ),
        (
            ("audit", "digits", "here/x.wav"),
            r"got here/x\.wav, which does not exist; did you mean here/y\.wav\?",
        ),
        (
            ("pretrain", "apc", "*.wav"),
            r"got \*\.wav; patterns are read with --stream only, so name the folder",
        ),
        (("pretrain", "simclr", "*.tar", "--stream"), r"must be a pattern that matches a file, got \*\.tar"),
        (
            ("bet", "digits", "gone/"),
            "TARGET_DATA must be a path that exists, got gone/, which does not exist",
        ),
        (("compare", "simclr", "gone"), "data must be a path that exists, one of .*, which does not exist"),
        (("choose", "gone/", "--minutes", "1"), "data must be a path that exists, got gone/"),
        (("curate", "gone/", "--out", "out"), "data must be a path that exists, got gone/"),
        (("report", "gone"), r"got gone \(it does not exist\)"),
    ],
)
def test_a_path_that_does_not_exist_is_named_before_anything_is_written(
    words: tuple[str, ...],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    (tmp_path / "here/y.wav").touch()
    assert run(*words) == 2
    assert re.search(said, error := capsys.readouterr().err) and error.count("\n") == 1, error
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("evaluate . digits --probe lineer", "--probe must be one of .*; did you mean linear?"),
        ("evaluate . digits --controls superwised", "--controls must be one of .*; did you mean supervised?"),
        ("evaluate . digits --label-per-class 1", "did you mean --labels-per-class?"),
        ("evaluate . digits --labels-per-class x", "--labels-per-class must be whole numbers above 0.*got x"),
        ("pretrain simclr digits --temperature 0", "--temperature must be above 0, got 0.0"),
        ("pretrain simclr digits --batch-size 0", "--batch-size must be at least 1, got 0"),
        ("adapt simcrl digits", "no method is called simcrl; did you mean simclr?"),
        ("audit digits --kind imgae", "--kind must be one of image, .*; did you mean image?"),
        ("embed . digits --out x.xyz", "--out must end with"),
    ],
)
def test_misspelt_names_get_the_nearest_and_options_are_called_as_they_are_written(
    words: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.toml").write_text('method = "simclr"\nsettings = {}\noptions = {}\nchosen = []\n')
    assert run(*words.split()) == 2
    error = capsys.readouterr().err
    assert re.search(said.replace("?", r"\?"), error, re.I), error


def test_errors_about_values_are_not_taken_for_errors_of_options() -> None:
    flags = {"features": "--features", "out": "--out", "labels_per_class": "--labels-per-class"}
    assert _with_flags("features must be finite, got NaN", flags) == "features must be finite, got NaN"
    assert _with_flags("features must be a map, got out", flags) == "--features must be a map, got out"
    assert _with_flags("x/labels_per_class must be y, got labels_per_class", flags).count("--") == 0
    assert (
        _with_flags("draws and labels_per_class must be y", flags) == "draws and --labels-per-class must be y"
    )


def test_audits_hint_at_training_only_where_nothing_leaks(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clean, empty = shlex.quote(str(folder / "day")), tmp_path / "empty"
    empty.mkdir()
    assert run("audit", str(folder / "day"), "--no-near") == 0
    assert capsys.readouterr().err.splitlines()[-1] == f"next: unlabeled pretrain auto {clean}"
    assert run("audit", str(folder / "day"), str(folder), "--no-near") == 0
    assert capsys.readouterr().err.splitlines()[-1].endswith("--out audit.html")
    assert run("audit", str(empty)) == 0
    assert "next:" not in capsys.readouterr().err


def test_a_finished_run_says_so_when_it_is_resumed_and_a_dry_run_names_skipped_files(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "x")
    small = ["--batch-size", "8", "--encoder", "conv4", "--image-size", "16", "--steps", "2"]
    assert run("pretrain", "simclr", str(folder), *small, "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "40 images, 1 skipped" in printed and re.search(r"^skipped .*broken\.jpg: ", printed, re.M)
    assert run("pretrain", "simclr", str(folder), *small, "--out", out) == 0
    assert "is finished" not in capsys.readouterr().err
    assert run("pretrain", "simclr", str(folder), "--resume", "--out", out) == 0
    assert f"{out} is finished: all 2 steps are done; set more --steps" in capsys.readouterr().err


def test_adapt_says_at_which_rates_it_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--batch-size", "8", "--encoder", "conv4", "--steps", "1"]
    start, out = str(tmp_path / "start"), str(tmp_path / "out")
    assert run("pretrain", "rotnet", "digits", *small, "--out", start) == 0
    assert "adapting" not in capsys.readouterr().err
    assert run("adapt", "rotnet", "digits", "--weights", start, *small[:2], "--steps", "1", "--out", out) == 0
    said = capsys.readouterr().err
    assert re.search(r"adapting: the encoder learns at [\d.e-]+ \(--encoder-rate 0\.1\), down to ", said)
    assert "(--layer-decay 0.75); the heads are trained alone for the first 10 % of the steps" in said


def test_help_is_wrapped_by_the_terminal_not_by_the_source() -> None:
    def command() -> None:
        """A summary that
        goes on.

        A paragraph, and
        more of it:
        a line of its own.

        Args:
            out: A file; or
                a folder.
            data: Samples.
        """

    _unwrap(command)
    summary, paragraph, arguments = (command.__doc__ or "").split("\n\n")
    assert summary == "A summary that goes on."
    assert paragraph == "A paragraph, and more of it:\na line of its own."
    assert arguments == "Args:\n    out: A file; or a folder.\n    data: Samples."


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "unlabeled", "methods"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("audit pics --out pics/0.png", "--out must end with .html, got pics/0.png"),
        ("audit pics --json pics/0.png", "--json must end with .json, got pics/0.png"),
        (
            "audit pics --json pics/labels.json",
            "--json must be a new file, or one outside the data pics, got",
        ),
        (
            "show run pics --out pics/0.png",
            "--out must be a new file, or one outside the data pics, got pics/0.png",
        ),
        (
            "show run --out pics/0.png",
            "--out must be a new file, or one outside the data pics, got pics/0.png",
        ),
        ("show run --out pics/labels.json", "--out must end with .png, got pics/labels.json"),
        ("report run --out pics/0.png", "--out must end with .html, got pics/0.png"),
        (
            "curate pics run --out pics",
            "--out must be a new or empty folder, or one that curate wrote, got pics",
        ),
        (
            "curate pics run --out pics/labels.csv",
            "--out must be a new file, or one outside the data pics, got",
        ),
        (
            "explore run pics --out page --parquet pics/a.parquet",
            "--parquet must be a new file, or one outside",
        ),
    ],
)
def test_no_page_or_picture_is_written_over_data(
    words: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ("pics/0.png", "pics/labels.json", "pics/labels.csv", "pics/a.parquet", "run/run.toml")
    for path in map(Path, names):
        path.parent.mkdir(exist_ok=True)
        path.write_text('[data]\nsource = "pics"\n' if path.name == "run.toml" else path.name)
    monkeypatch.setattr("unlabeled.data.opening.kind_of", lambda *_, **__: "image")
    monkeypatch.setattr("unlabeled.run.load", lambda *_: SimpleNamespace(path=Path("run"), own_network=False))
    assert run(*words.split()) == 2
    assert message in capsys.readouterr().err
    assert [Path(name).read_text() for name in names[:4]] == [Path(name).name for name in names[:4]]
    assert {*map(str, Path().rglob("*"))} == {"pics", "run", *names}


def test_a_page_among_the_data_is_written_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "0.png")
    for _ in range(2):
        assert run("audit", str(tmp_path), "--out", str(tmp_path / "audit.html")) == 0


@pytest.mark.parametrize(
    ("command", "module"), [("choose digits", "choosing.choose"), ("bet digits digits", "bets.bet")]
)
def test_what_trains_several_runs_is_continued_by_the_same_command(
    command: str, module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*words: object, **options: object) -> None:
        raise KeyboardInterrupt("stopped after step 3; --resume continues from somewhere")

    monkeypatch.setattr(f"unlabeled.evaluation.{module}", interrupted)
    assert run(*command.split()) == 130
    shown = capsys.readouterr().err
    assert "the same command continues" in shown and "--resume" not in shown
