"""A published run: what its folder and its card say, and the way to the Hub and back by a stand-in for its server."""

import base64
import hashlib
import json
import re
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image

import unlabeled
from unlabeled import encoders, hub
from unlabeled.cli import main
from unlabeled.publishing.card import _on_the_hub as hub_name
from unlabeled.publishing.card import cell
from unlabeled.publishing.published import shortened
from unlabeled.run import Run, load

SECRET = "my-private-folder"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on pictures of a folder, with written scores: one won, one lost, one test sample seen."""
    folder = tmp_path_factory.mktemp("made") / SECRET
    generator = torch.Generator().manual_seed(0)
    for number in range(12):
        path = folder / "pictures" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(0, 256, (8, 8, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(path)
    options = {"encoder": "conv4", "image_size": 8, "batch_size": 4, "steps": 3, "device": "cpu"}
    run = unlabeled.pretrain("rotnet", folder / "pictures", out=folder / "run", quiet=True, **options)
    from unlabeled.run import fingerprint

    about = {
        "data": "digits | <b>",
        "encoder": fingerprint(run.encoder.state_dict()),
        "options": {"source": str(folder / "pictures")},
        "seed": 0,
        "training_samples": 90,
        "test_samples": 50,
        "seen_in_pretraining": {"samples": 1, "of": 50, "paths": [str(folder / "x.png")]},
        "note": f"the encoder was pre-trained on 1 of the 50 test images too, without their labels ({folder}/x.png)",
    }
    run.add_evaluation({"data": "old", "encoder": "0", "options": {}}, [record("knn", "unlabeled", 0.111)])
    records = [record("knn", "raw", 0.5), record("knn", "random", 0.5312), record("knn", "unlabeled", 0.9)]
    records += [record("linear", "raw", 0.8), record("linear", "unlabeled", 0.4)]
    run.add_evaluation(about, records)
    return run.path


def command(*words: str) -> int:
    """Exit code of a command."""
    with pytest.raises(SystemExit) as stopped:
        main(words)
    return int(stopped.value.code or 0)


def record(probe: str, features: str, value: float) -> dict[str, Any]:
    row = {"probe": probe, "features": features, "layer": None, "labels_per_class": "all", "unit": "accuracy"}
    row |= {"better": "higher", "value": value, "low": value - 0.05, "high": value + 0.05, "std": None}
    return row | {
        "draws": 1,
        "samples": 50,
        "units": 50,
        "counted": "test samples",
        "detail": "",
        "labels": 90,
    }


class Hub(BaseHTTPRequestHandler):
    """What huggingface_hub asks of its server: to create a model, take a commit, and hand out files."""

    models: dict[str, dict[str, bytes]]
    commits: list[list[str]]
    asked: list[str]
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def answer(self, content: Any, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = urlsplit(self.path).path
        self.asked.append(f"POST {path}")
        if path == "/api/repos/create":
            about = json.loads(body)
            name = f"{about['organization']}/{about['name']}"
            if about["organization"] == "stranger":
                return self.answer({"error": "You don't have the rights"}, 403)
            self.models.setdefault(name, {})
            return self.answer({"url": f"http://{self.headers['Host']}/{name}"})
        if path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        owner, name = path.split("/")[3:5]
        if "/preupload/" in path:
            files = [{"path": one["path"], "uploadMode": "regular"} for one in json.loads(body)["files"]]
            return self.answer({"files": [file | {"shouldIgnore": False} for file in files]})
        files = self.models[f"{owner}/{name}"]
        lines = [json.loads(line) for line in body.splitlines()]
        for line in lines:
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            if line["key"] == "deletedFile":
                del files[line["value"]["path"]]
        self.commits.append([line["key"] for line in lines])
        self.answer(
            {
                "commitUrl": f"http://{self.headers['Host']}/{owner}/{name}/commit/{'a' * 40}",
                "commitOid": "a" * 40,
                "success": True,
            }
        )

    def do_GET(self) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        self.asked.append(f"{self.command} {'/'.join(parts)}")
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        if name not in self.models:
            return self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
        files = self.models[name]
        if parts[0] != "api":
            content = files[parts[-1]]
            digest = hashlib.sha1(content).hexdigest()
            return self.answer(content, ETag=f'"{digest}"', X_Repo_Commit="a" * 40)
        if "tree" in parts:
            rows = [{"type": "file", "path": file, "size": len(files[file]), "oid": "0"} for file in files]
            return self.answer(rows)
        self.answer({"id": name, "sha": "a" * 40, "siblings": [{"rfilename": file} for file in files]})

    do_HEAD = do_GET


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    handler = type("Fresh", (Hub,), {"models": {}, "commits": [], "asked": []})
    served = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    served.daemon_threads = True
    thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    address = f"http://127.0.0.1:{served.server_port}"
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield handler
    served.shutdown()
    thread.join()
    served.server_close()


def test_the_card_has_every_score_with_its_controls_won_or_lost(made: Path, tmp_path: Path) -> None:
    done = unlabeled.publish(made, "me/net", out=tmp_path / "out", license="cc-by-4.0")
    card = ModelCard.load(done.path / "README.md")
    text = card.text
    for row in (
        "raw input | 50.0 [45.0, 55.0]",
        "random weights | 53.1 [48.1, 58.1]",
        "**unlabeled** | 90.0 [85.0, 95.0]",
    ):
        assert f"| {row} |" in text
    assert "knn: unlabeled beats every control beyond noise with all labels (+36.9)." in text
    assert "linear: unlabeled loses with all labels (-40.0 to raw input)." in text
    assert "**Note that the encoder was pre-trained on 1 of the 50 test images too" in text
    assert (
        "### digits | &lt;b>" in text
        and "11.1" not in text
        and "1 more evaluation was made of earlier" in text
    )
    assert "These weights: cc-by-4.0. They started from random weights." in text
    data, results = card.data.to_dict(), getattr(card.data, "eval_results")  # noqa: B009 (its class is made at run time)
    about = {"license": "cc-by-4.0", "library_name": "unlabeled", "pipeline_tag": "image-feature-extraction"}
    assert about.items() <= data.items()
    knn = "accuracy (knn, all labels; beats every control beyond noise; hardest control: random weights 53.1)"
    linear = "accuracy (linear, all labels; loses; hardest control: raw input 80.0)"
    assert [(one.metric_name, one.metric_value) for one in results] == [(knn, 0.9), (linear, 0.4)]


def test_the_card_tells_features_apart_and_lists_no_score_twice_and_none_that_is_unfinished(
    made: Path, tmp_path: Path
) -> None:
    shutil.copytree(made, tmp_path / "run")
    run = Run(tmp_path / "run")
    (about, *_) = run.evaluations
    about = {name: about[name] for name in ("data", "encoder", "seed", "training_samples", "test_samples")}
    lost = [record("knn", "raw", 0.95), record("knn", "supervised", 0.99), record("knn", "unlabeled", 0.8)]
    outliers = record("outliers", "unlabeled", 0.7) | {"unit": "mean AUROC", "by_class": {"a": 0.6, "b": 0.8}}
    run.add_evaluation(about | {"options": {"k": 5}}, [*lost, outliers])
    run.add_evaluation(about | {"options": {"features": "layer2:whiten"}}, lost)
    run.add_evaluation(about | {"options": {"k": 7}, "unfinished": True}, [record("knn", "unlabeled", 0.1)])
    (run.path / "skipped.csv").write_text("path,reason\na.png,truncated\nb.csv,labels: of its column label\n")
    card = ModelCard.load(unlabeled.publish(run, "me/net", out=tmp_path / "out").path / "README.md")
    assert "loses in 3." in card.text  # knn of both features, and linear
    assert "### digits | &lt;b>, features output" in card.text and "features layer2:whiten" in card.text
    results = getattr(card.data, "eval_results")  # noqa: B009 (as above)
    names = [one.metric_name for one in results]
    assert len(names) == len(set(names)) == 4 and 0.1 not in [one.metric_value for one in results]
    assert sum("knn" in name and "; loses;" in name for name in names) == 2  # no win hides a loss
    assert "()" not in card.text and "**outliers: AUROC by class**" in card.text
    assert "1 file of the data could not be read and was skipped." in card.text


def test_no_path_of_this_machine_is_published(made: Path, tmp_path: Path) -> None:
    run = Run(made)
    run.config["settings"]["weights"] = str(made / "weights.safetensors")
    done = unlabeled.publish(run, "me/net", out=tmp_path / "out")
    for file in done.path.iterdir():
        assert SECRET.encode() not in file.read_bytes(), file
    published = Run(done.path)
    assert published.config["data"]["source"] == "pictures"
    assert published.measured["seen_in_pretraining"] == {"samples": 1, "of": 50}
    assert "too, without their labels (x.png)" in published.measured["note"]
    card = done.path / "README.md"
    assert "made from weights.safetensors (licence: not known here)." in card.read_text()
    assert any("the licence of weights.safetensors, from which" in note for note in done.notes)
    (made / "README.md").write_text("---\nlicense: mit\n---\n")
    try:
        unlabeled.publish(run, "me/net", out=tmp_path / "out")
    finally:
        (made / "README.md").unlink()
    assert "made from weights.safetensors (licence: mit)." in card.read_text()
    run.config["settings"]["weights"] = "timm:resnet18.a1_in1k"
    done = unlabeled.publish(run, "me/net", out=tmp_path / "out", digests=False)
    assert "made from timm:resnet18.a1\\_in1k (licence: apache-2.0)." in card.read_text()
    assert ModelCard.load(card).data.to_dict()["base_model"] == "timm/resnet18.a1_in1k"
    assert not (done.path / "samples.npy").exists() and "samples.npy" not in card.read_text()
    kept = ["hub:me/data", "hf:me/net", "timm:resnet18.a1_in1k", "conv4"]
    assert shortened({"a": kept, "b": f"pans:{tmp_path}/x", "paths": []}) == {"a": kept, "b": "pans:x"}


def test_a_relative_path_is_not_published_from_another_folder(made: Path, tmp_path: Path) -> None:
    run, weights = Run(Path(shutil.copytree(made, tmp_path / "run"))), f"../{SECRET}/a b/start"
    run.config["settings"] |= {"weights": weights, "group": "(speaker[0-9]+)/"}
    run.config["options"]["teacher"] = f"{SECRET}/gone"
    public = record("knn", "public", 0.5) | {"detail": f"{SECRET}/a b/w0, frozen; k=20"}
    records = [public, record("knn", "unlabeled", 0.9) | {"unit": "bits/byte"}]
    about = {
        "data": f"{SECRET}/pictures",
        "note": f"in {weights}/x",
        "training_samples": 9,
        "test_samples": 9,
    }
    about["options"] = {"source": f"{SECRET}/pictures", "public_weights": weights}
    run.add_evaluation(about | {"public": {"weights": f"{SECRET}/a b/w0", "ours": None}}, records)
    done = unlabeled.publish(run, "me/net", out=tmp_path / "out")
    for file in done.path.iterdir():
        assert SECRET.encode() not in file.read_bytes(), file
    assert SECRET not in " ".join(done.notes) and "the licence of start and gone, from" in " ".join(
        done.notes
    )
    published = Run(done.path)
    assert published.config["settings"]["weights"] == "start"
    assert published.config["settings"]["group"] == "(speaker[0-9]+)/"
    measured = published.measured
    assert measured["records"][0]["detail"] == "w0, frozen; k=20" and measured["note"] == "in start/x"
    assert measured["records"][1]["unit"] == "bits/byte"


def test_text_from_data_cannot_change_the_card() -> None:
    assert cell("a | b\n# c <img> ![x](y) *z* `q`") == "a \\| b # c &lt;img> ![x]\\(y) \\*z\\* \\`q\\`"


def test_an_edited_card_is_kept_and_other_folders_are_refused(made: Path, tmp_path: Path) -> None:
    done = unlabeled.publish(made, "me/net", out=tmp_path / "out")
    before = (done.path / "README.md").read_text()
    assert unlabeled.publish(made, "me/net", out=tmp_path / "out").notes == done.notes
    (done.path / "README.md").write_text(f"{before}mine")
    again = unlabeled.publish(made, "me/net", out=tmp_path / "out")
    assert (done.path / "README.md").read_text() == f"{before}mine" and "was edited" in again.notes[-1]
    assert "was edited" in unlabeled.publish(made, "me/net", out=tmp_path / "out").notes[-1]
    (done.path / "thesis.txt").write_text("")
    for folder, message in (
        (done.path, "nothing else, got .* with thesis.txt"),
        (made, "one that publish wrote"),
    ):
        with pytest.raises(ValueError, match=message):
            unlabeled.publish(made, "me/net", out=folder)
    for name in ("net", "me/net/x", "me/-net", "../net", "me/x.git", "me/x--y", f"me/{'x' * 120}"):
        with pytest.raises(ValueError, match="name must be OWNER/NAME"):
            unlabeled.publish(made, name, out=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_nothing_leaves_the_machine_without_push(
    made: Path, tmp_path: Path, server: type[Hub], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("publish", str(made), "me/net", "--out", str(tmp_path / "out")) == 0
    said = capsys.readouterr()
    assert "nothing was uploaded; --push uploads" in said.err and "encoder.safetensors" in said.out
    assert not server.asked


def test_a_run_goes_to_the_hub_and_back_and_is_opened_offline(
    made: Path,
    tmp_path: Path,
    server: type[Hub],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("UNLABELED_CACHE", str(tmp_path / "ours"))
    server.models["me/net"] = {"features.safetensors": b"old", "notes.txt": b"theirs"}
    assert command("publish", str(made), "me/net", "--out", str(tmp_path / "out"), "--push") == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("/me/net")
    files = server.models["me/net"]
    sent = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    assert files == sent | {"notes.txt": b"theirs"} and len(server.commits) == 1
    back = load("hub:me/net")
    assert not (back.path / "notes.txt").exists()
    ours = Run(made)
    for name, value in ours.encoder.state_dict().items():
        assert torch.equal(value, back.encoder.state_dict()[name])
    assert back.digests is not None and len(back.digests) == 12 and back.scores == ours.scores
    back.add_evaluation({"data": "new"}, [record("knn", "unlabeled", 0.3)])
    server.asked.clear()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    again = load("hub:me/net")
    assert again.measured["data"] == "new" and len(again.evaluations) == 3 and not server.asked
    assert (again.path / "scores.json").read_bytes() == sent[
        "scores.json"
    ]  # the cache is not ours to write to
    assert again.results_folder.parent == tmp_path / "ours" / "runs"
    monkeypatch.chdir(tmp_path)
    assert unlabeled.publish(again, "me/other").path == Path("published")
    assert {file.name for file in again.path.iterdir()} <= set(hub.FILES)
    options = {"encoder": "conv4", "image_size": 8, "batch_size": 4, "steps": 1, "device": "cpu"}
    pictures = made.parent / "pictures"
    continued = unlabeled.pretrain(
        "rotnet", pictures, out=tmp_path / "on", quiet=True, weights="hub:me/net", **options
    )
    assert continued.config["settings"]["weights"] == "hub:me/net"
    started = encoders.build("conv4", image_size=8, weights="hub:me/net").state_dict()
    assert all(torch.equal(value, started[name]) for name, value in ours.encoder.state_dict().items())
    assert hub_name("hub:me/net@main") == "me/net" and not server.asked
    with pytest.raises(ValueError, match=r"got hub:me/other .*cache"):
        load("hub:me/other")


def test_a_run_whose_settings_are_empty_is_refused_where_it_is_opened(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("")
    with pytest.raises(ValueError, match=r"run.toml must be a file that a run wrote: method is missing"):
        load(tmp_path)


def test_what_the_hub_refuses_is_one_line(
    made: Path, tmp_path: Path, server: type[Hub], capsys: pytest.CaptureFixture[str]
) -> None:
    for words, message in (
        (
            ["publish", str(made), "stranger/net", "--out", str(tmp_path / "x"), "--push"],
            "you may write to, got stranger",
        ),
        (
            ["embed", "hub:me/nothing", "digits", "--out", "x.npy"],
            "got hub:me/nothing .not found, or private",
        ),
        (["embed", "hub:nothing", "digits", "--out", "x.npy"], "name must be OWNER/NAME"),
    ):
        assert command(*words) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and re.search(message, said), said
