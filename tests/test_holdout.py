"""Samples held out of the training: which they are, that looking at them changes nothing, and when the loss turns."""

import contextlib
import io
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import unlabeled
from unlabeled import encoders
from unlabeled.data import Data, Images, from_images, open_data
from unlabeled.data.text.data import Texts
from unlabeled.encoders import text_trunks
from unlabeled.encoders.text import fitted
from unlabeled.method import Batch, Method
from unlabeled.methods.gpt import GPT
from unlabeled.run import CHECKPOINT, Run, held_out_rise, read_checkpoint, write_checkpoint
from unlabeled.training import checkpoints, guard, holdout
from unlabeled.training.holdout import divide
from unlabeled.training.settings import Settings
from unlabeled.training.watch import Measurement, find_rise

pytestmark = pytest.mark.usefixtures("small_networks")


def pictures(count: int, groups: Tensor | None = None) -> Data:
    generator = torch.Generator().manual_seed(0)
    data = open_data(torch.randint(0, 256, (count, 3, 16, 16), generator=generator, dtype=torch.uint8))
    data.groups = groups
    return data


def rows(part: Data | None) -> list[str]:
    assert part is not None
    return part.paths


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Flatten(), nn.Linear(3 * 16 * 16, 8), nn.BatchNorm1d(8)
    return encoders.wrap(nn.Sequential(*layers), image_size=16)


class Memorises(Method):
    """A number for each sample is learned by heart, and what is said of others gets ever worse."""

    held_out = "stop"
    most_epochs = 100

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__(encoder)
        self.sure = nn.Parameter(torch.zeros(()))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("known", torch.zeros(1000, dtype=torch.bool))

    calls: Tensor
    known: Tensor

    def forward(self, batch: Batch) -> Tensor:
        self.calls += 1
        if self.encoder.training:
            self.known[batch["image"].float().mean((1, 2, 3)).mul(7).long() % 1000] = True
        # Held-out samples want 0.1, samples of the training 1.
        wanted = 1.0 if self.encoder.training else 0.1
        return (self.sure - wanted).square() + 0 * self.encoder(self.encoder.inputs(batch)).mean()


def test_held_out_rows_are_random_but_the_same_for_seed_and_size() -> None:
    data = pictures(500)
    first, again, other = (divide(data, 0.02, seed) for seed in (3, 3, 4))
    assert rows(first.held_out) == rows(again.held_out) != rows(other.held_out)
    assert len(rows(first.held_out)) == 10
    assert not set(rows(first.held_out)) & set(first.train.paths)
    assert len(first.train) + 10 == 500
    assert first.note.startswith("10 of 500 images are held out")


@pytest.mark.parametrize(("share", "count"), [(0.02, 4), (0.2, 12), (0.5, 30)])
def test_at_least_four_samples_are_held_out(share: float, count: int) -> None:
    assert len(rows(divide(pictures(60), share, 0).held_out)) == count


def test_of_small_data_nothing_is_held_out_and_that_is_said() -> None:
    divided = divide(pictures(49), 0.02, 0)
    assert divided.held_out is None and len(divided.train) == 49
    assert divided.note == "nothing is held out to monitor the loss: that takes 50 images, got 49"
    assert divide(pictures(100), 0.0, 0).note == ""


def test_whole_groups_are_held_out() -> None:
    groups = torch.arange(300) // 3 * 7
    data = pictures(300, groups[torch.randperm(300, generator=torch.Generator().manual_seed(1))])
    divided = divide(data, 0.05, 0)
    assert (
        divided.held_out is not None
        and divided.held_out.groups is not None
        and divided.train.groups is not None
    )
    assert 15 <= len(divided.held_out) <= 18
    assert not set(divided.held_out.groups.tolist()) & set(divided.train.groups.tolist())


def test_groups_that_are_too_large_are_not_torn_apart() -> None:
    divided = divide(pictures(90, torch.arange(90) // 30), 0.02, 0)
    assert divided.held_out is None and "the smallest group has 30 of 90 images" in divided.note
    assert len(divided.train) == 90


def test_small_groups_come_before_large_ones() -> None:
    """A group of a tenth of the samples is held out only where there is no smaller one."""
    large = torch.arange(300) // 30
    mixed = torch.cat([large[:270], torch.arange(270, 300)])
    for groups, count in [(large, 30), (mixed, 6)]:
        for seed in range(5):
            held = divide(pictures(300, groups), 0.02, seed).held_out
            assert held is not None and len(held) == count


def test_of_one_document_the_end_is_held_out() -> None:
    data = Texts([f"part {row}" for row in range(200)], documents=torch.zeros(200, dtype=torch.int64))
    divided = divide(data, 0.02, 0)
    assert divided.held_out is not None and divided.held_out.texts == [
        f"part {row}" for row in range(196, 200)
    ]  # type: ignore[attr-defined]


def test_documents_are_held_out_as_a_whole() -> None:
    documents = torch.arange(400) // 4
    data = Texts([f"part {row}" for row in range(400)], documents=documents)
    held = divide(data, 0.02, 0).held_out
    assert held is not None and len(held) == 8
    assert all((held.documents == document).sum() == 4 for document in held.documents.unique())  # type: ignore[attr-defined]


def test_of_a_few_texts_a_long_one_is_held_out_that_is_at_most_a_tenth() -> None:
    long = [f"{row} " * 1000 for row in range(100, 115)]
    held = [divide(Texts([*long, "short"]), 0.02, seed) for seed in range(5)]
    assert {part for one in held for part in one.held_out.texts} <= set(long)  # type: ignore[union-attr]
    assert all(one.note == "1 of 16 texts is held out to monitor the loss" for one in held)
    for few in (long[:9], ["short"] * 20, [*long[:3], long[0] * 6], [long[0]] * 20):
        assert divide(Texts(few), 0.02, 0).held_out is None


def curve(losses: list[float], training: list[float] | None = None) -> list[Measurement]:
    training = training or [2 - 0.05 * place for place in range(len(losses))]
    return [
        Measurement(10 * (place + 1), *both) for place, both in enumerate(zip(losses, training, strict=True))
    ]


def test_a_lasting_rise_is_noticed() -> None:
    measured = curve([2.0, 1.8, 1.75, 1.72, 1.7, 1.72, 1.75, 1.8, 1.85, 1.9, 1.95])
    found = find_rise(measured)
    assert found is not None and (found.best.step, found.now.step, found.measurements) == (50, 110, 6)
    assert find_rise(measured[:9]) is None


def test_no_rise_without_memorising() -> None:
    falling = [2 - 0.1 * place for place in range(12)]
    assert find_rise(curve(falling)) is None
    rising = [2.0, 1.8, 1.7, 1.75, 1.8, 1.85, 1.9, 1.95]
    assert find_rise(curve(rising, [1.0 + 0.1 * place for place in range(8)])) is None, (
        "the training itself gets worse"
    )
    assert find_rise(curve([1.0] * 12)) is None
    assert find_rise([]) is None


def test_noise_alone_is_hardly_ever_a_rise() -> None:
    generator = torch.Generator().manual_seed(0)
    alarms = 0
    for _ in range(100):
        noise = 1 + 0.05 * torch.randn(60, generator=generator)
        alarms += any(
            find_rise(curve(noise[:end].tolist(), [2 - place / 60 for place in range(end)]))
            for end in range(1, 61)
        )
    assert alarms <= 2


@pytest.mark.parametrize("wobble", [0.0, 0.01, 0.03])
def test_a_rise_is_seen_through_noise(wobble: float) -> None:
    generator = torch.Generator().manual_seed(1)
    losses = torch.cat([torch.linspace(2, 1, 15), torch.linspace(1, 1.6, 25)]) + wobble * torch.randn(
        40, generator=generator
    )
    measured = curve(losses.tolist())
    seen = next(end for end in range(1, 41) if find_rise(measured[:end]))
    assert 20 <= seen <= 35


def test_looking_leaves_no_trace() -> None:
    """Buffers, modes, metrics and random numbers are as before."""
    method = Memorises(network())
    method.metrics = {"before": torch.ones(())}
    method.train()
    method.encoder.eval()
    held = holdout.HeldOut(pictures(20), method, 8, 0)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    random = torch.random.get_rng_state()
    first, second = held.loss(), held.loss()
    assert first == second == pytest.approx(0.01)
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    assert torch.equal(random, torch.random.get_rng_state())
    assert list(method.metrics) == ["before"] and method.training and not method.encoder.training


def test_all_held_out_batches_have_one_size() -> None:
    for count, batch, size, batches in [(20, 8, 6, 3), (7, 8, 7, 1), (3000, 256, 256, 4)]:
        held = holdout.HeldOut(pictures(count), Memorises(network()), batch, 0)
        assert held.batches.shape == (batches, size) and len(held.batches.unique()) == batches * size


def test_infinite_loss_on_held_out_data_is_no_loss() -> None:
    class Infinite(Memorises):
        def forward(self, batch: Batch) -> Tensor:
            return super().forward(batch) * (1 if self.encoder.training else math.inf)

    assert holdout.HeldOut(pictures(20), Infinite(network()), 8, 0).loss() is None


SETTINGS: dict[str, Any] = {"batch_size": 8, "lr": 0.03, "weight_decay": 0.0}


def memorised(folder: Path, **length: int) -> tuple[Run, str]:
    """A training that learns by heart, and what it says."""
    with contextlib.redirect_stderr(io.StringIO()) as said:
        run = unlabeled.pretrain(
            Memorises, pictures(100), encoder=network(), out=folder / "run", **SETTINGS, **length
        )
    return run, said.getvalue()


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, str]:
    """Of a length that nobody has named."""
    return memorised(tmp_path_factory.mktemp("stopped"))


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, str]:
    """Of 40 epochs, as was asked for."""
    return memorised(tmp_path_factory.mktemp("named"), epochs=40)


def test_a_training_of_chosen_length_stops_and_keeps_the_best_state(stopped: tuple[Run, str]) -> None:
    run, text = stopped
    state, position = read_checkpoint(run.path / CHECKPOINT)
    losses = {entry["step"]: entry["holdout_loss"] for entry in run.history}
    assert position["stopped"] == run.history[-1]["step"] < run.config["settings"]["epochs"] * 12
    assert position["step"] == min(losses, key=lambda step: losses[step]) < position["stopped"]
    assert (float(state["method"]["sure"]) - 0.1) ** 2 == pytest.approx(min(losses.values()), abs=1e-6)
    assert "the model is memorising; stopped at step" in text and "best" not in state
    assert run.history[-1]["holdout_lowest_at"] == run.history[-1]["result_step"] == position["step"]
    best = f"the held-out loss went the wrong way from step {position['step']} on"
    assert held_out_rise(run.history).startswith(best)
    assert held_out_rise(run.history).endswith(
        f"so training was stopped and the encoder is that of step {position['step']}"
    )


def test_a_stopped_run_resumes_to_itself_and_goes_on_when_told(
    stopped: tuple[Run, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(stopped[0].path, tmp_path / "run")
    before = (out / CHECKPOINT).read_bytes()
    again: dict[str, Any] = {"out": out, "resume": True, "encoder": network()}
    unlabeled.pretrain(Memorises, pictures(100), **again)
    assert (out / CHECKPOINT).read_bytes() == before
    assert "stopped at step" in capsys.readouterr().err
    step = read_checkpoint(out / CHECKPOINT)[1]["step"]
    longer = unlabeled.pretrain(Memorises, pictures(100), epochs=40, **again)
    position = read_checkpoint(longer.path / CHECKPOINT)[1]
    assert longer.config["ends"] == [step] and longer.history[-1]["step"] == position["step"] == 480
    assert position["stopped"] is None


def test_a_stopped_run_is_repeated_by_its_config(stopped: tuple[Run, str], tmp_path: Path) -> None:
    first, _ = stopped
    again: dict[str, Any] = {"config": first.path / "run.toml", "quiet": True, "encoder": network()}
    second = unlabeled.pretrain(Memorises, pictures(100), out=tmp_path / "b", **again)
    one, other = (read_checkpoint(run.path / CHECKPOINT) for run in (first, second))
    assert one[1]["stopped"] == other[1]["stopped"] is not None and one[1]["step"] == other[1]["step"]
    assert torch.equal(one[0]["method"]["sure"], other[0]["method"]["sure"])


def test_where_the_length_was_named_the_run_only_says_so(named: tuple[Run, str]) -> None:
    run, text = named
    assert run.history[-1]["step"] == 480
    assert "result_step" not in run.history[-1]
    assert "the encoder memorises its training data; fewer steps" in held_out_rise(run.history)
    assert text.count("the model is memorising; use fewer steps or more data") == 1
    assert "loss on held-out images has risen for " in text and " epochs since step " in text


def test_the_verdict_names_a_held_out_loss_that_rose(named: tuple[Run, str]) -> None:
    run, _ = named
    images = pictures(20).batch(torch.arange(20))["image"]
    data = from_images(images, torch.arange(20) % 2)
    scores = unlabeled.evaluate(run, (data, data), probe="knn", controls=())
    assert f"Note that {held_out_rise(run.history)}" in scores.verdict()


@pytest.fixture
def small_gpt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(text_trunks.TRANSFORMERS, "gpt-tiny", (1, 48, 2))
    monkeypatch.setattr("unlabeled.training.settings.FEWEST_STEPS", 100)


def pretrain_gpt(out: Path, step: int | None, **length: int) -> Run:
    """Train on sentences in which each word is some places after the last one, a random number of them if None."""
    words = [f"{first}{last}" for first in "bcdfghkl" for last in ("ad", "el", "in", "or", "up")]
    generator = torch.Generator().manual_seed(0)
    sentences = []
    for _ in range(60):
        steps = torch.randint(40, (6,), generator=generator) if step is None else torch.full((6,), step)
        start = torch.randint(40, (1,), generator=generator)
        sentences.append(" ".join(words[place] for place in ((start + steps.cumsum(0)) % 40).tolist()))
    data = Texts(sentences)
    torch.manual_seed(0)
    method = GPT(fitted("gpt-tiny", data, length=16))
    return unlabeled.pretrain(method, data, out=out, lr=1e-2, batch_size=16, quiet=True, **length)


@pytest.mark.usefixtures("small_gpt")
def test_gpt_stops_before_it_knows_a_tiny_text_by_heart(tmp_path: Path) -> None:
    run = pretrain_gpt(tmp_path / "run", None)
    last = run.history[-1]
    assert last["result_step"] < last["step"] < 100, "words in random order cannot be foreseen"


@pytest.mark.usefixtures("small_gpt")
def test_gpt_goes_on_while_what_it_learns_holds_for_other_text(tmp_path: Path) -> None:
    run = pretrain_gpt(tmp_path / "run", 3)
    assert run.history[-1]["step"] >= 100 and not held_out_rise(run.history)


@pytest.mark.usefixtures("small_gpt")
def test_gpt_takes_the_steps_that_were_asked_for_and_says_what_came_of_it(tmp_path: Path) -> None:
    run = pretrain_gpt(tmp_path / "run", None, steps=150)
    assert run.history[-1]["step"] == 150 and "memorises its training data" in held_out_rise(run.history)


def test_killed_amid_a_chosen_length_it_stops_at_the_same_step(
    stopped: tuple[Run, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, settings = stopped[0], SETTINGS | {"quiet": True}
    position = read_checkpoint(whole.path / CHECKPOINT)[1]

    def die(step: int) -> None:
        if step == position["step"] + 14:
            monkeypatch.setattr(checkpoints, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
        if step == position["step"] + 15:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        unlabeled.pretrain(
            Memorises, pictures(100), encoder=network(), out=tmp_path / "parts", on_step=die, **settings
        )
    resumed = unlabeled.pretrain(
        Memorises, pictures(100), encoder=network(), out=tmp_path / "parts", resume=True, quiet=True
    )
    first, second = (read_checkpoint(run.path / CHECKPOINT) for run in (whole, resumed))
    for name, value in first[0]["method"].items():
        assert torch.equal(value, second[0]["method"][name]), name
    assert [first[1][name] for name in ("step", "stopped", "measured")] == [
        second[1][name] for name in ("step", "stopped", "measured")
    ]


def test_long_epochs_are_measured_within(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"epochs": 1, "encoder": network(), "out": tmp_path / "run", "quiet": True}
    run = unlabeled.pretrain(Memorises, pictures(400), **SETTINGS | {"batch_size": 4}, **settings)
    assert list(run.history[0]["holdout_losses"]) == ["20", "40", "60", "80", "98"]


def test_runs_from_before_hold_nothing_out(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"encoder": "conv4", "steps": 3, "batch_size": 8, "quiet": True}
    run = unlabeled.pretrain("rotnet", pictures(80), out=tmp_path / "run", holdout=0.0, **settings)
    config = (run.path / "run.toml").read_text()
    (run.path / "run.toml").write_text(config.replace("holdout = 0.0\n", ""))
    state, position = read_checkpoint(run.path / CHECKPOINT)
    write_checkpoint(run.path / CHECKPOINT, state, position | {"step": 2})
    unlabeled.pretrain("rotnet", pictures(80), out=tmp_path / "run", resume=True, quiet=True)
    again = unlabeled.pretrain(
        "rotnet", pictures(80), out=tmp_path / "b", config=run.path / "run.toml", quiet=True
    )
    assert again.config["settings"]["holdout"] == 0 and "holdout_loss" not in again.history[-1]


@pytest.mark.parametrize("share", [-0.1, 0.51, math.nan])
def test_bad_share_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=r"holdout must be between 0 and 0.5, got"):
        Settings(holdout=share)


def test_chosen_epochs_are_fewer_where_a_method_learns_by_heart() -> None:
    epochs = []
    for samples, most in [(420, 800), (420, 20), (40, 20), (100_000, 20)]:
        settings = Settings(batch_size=32).resolve(samples, cuda=False, most_epochs=most)
        epochs.append(settings.epochs)
    assert epochs == [154, 20, 250, 10]


def test_no_gradient_remains_after_looking() -> None:
    method = Memorises(network())
    holdout.HeldOut(pictures(20), method, 8, 0).loss()
    assert all(weight.grad is None for weight in method.parameters())
    assert guard.infinite(method) == set()


def test_chance_is_logged_for_batches_of_held_out_samples_that_are_smaller(tmp_path: Path) -> None:
    options: dict[str, Any] = {"encoder": "conv4", "batch_size": 32, "steps": 3, "quiet": True}
    run = unlabeled.pretrain("simclr", pictures(100), out=tmp_path / "a", **options)
    assert run.history[-1]["holdout_chance"] == pytest.approx(math.log(2 * 4 - 1))
    assert run.history[-1]["chance"] == pytest.approx(math.log(2 * 32 - 1))


def test_a_training_computes_the_digests_of_its_data_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents, rows = Images._contents, []

    def counted(data: Images) -> Iterator[int]:
        rows.append(len(data))
        return contents(data)

    monkeypatch.setattr(Images, "_contents", counted)
    settings: dict[str, Any] = {"encoder": "conv4", "batch_size": 8, "quiet": True, "out": tmp_path / "run"}
    for length in ({"steps": 2}, {"resume": True}):
        rows.clear()
        unlabeled.pretrain("rotnet", pictures(60), **settings | length)
        assert rows == [60]
