"""One battery over every method: what the loop, the command line and the users rely on."""

import inspect
import math
import re
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from unlabeled import encoders, methods, options, pretrain
from unlabeled.check import UserError
from unlabeled.data import Data, open_data, worlds
from unlabeled.data.audio.data import Sounds, from_waveforms
from unlabeled.data.text.data import Texts
from unlabeled.encoders import Encoder
from unlabeled.method import Method, Waveforms
from unlabeled.parts.color import lab_to_rgb, rgb_to_lab
from unlabeled.parts.teacher import Follower, Teacher
from unlabeled.run import CHECKPOINT, Run, read_checkpoint
from unlabeled.selftest import example, smallest
from unlabeled.training import checkpoints, holdout, judge
from unlabeled.training.settings import Settings

pytestmark = pytest.mark.usefixtures("small_networks", "small_sequences")

SIZE = 16
MANY = 54
"""Samples of which some can be held out, which takes 50."""
BATCH, STEPS, KILLED = 16, 5, 4
"""Samples of a step of a run of `MANY` samples, steps into its second epoch, and those after which it is killed."""


def images(count: int = 30) -> Tensor:
    """Smooth coloured gradients: structure to learn from, colours to predict, no two alike."""
    generator = torch.Generator().manual_seed(7)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, size=SIZE, mode="bilinear")
    return (fine * 255).to(torch.uint8)


def grouped(pixels: Tensor) -> Data:
    """Images in groups of three, as some methods need several images of one place."""
    opened = open_data(pixels)
    opened.groups = torch.arange(len(opened)) // 3
    return opened


@cache
def world(built_in: str) -> Data:
    """Samples of a built-in set, of which no more are made than are taken; sounds and texts begin only."""
    with mock.patch.dict(worlds.SIZES, dict.fromkeys(worlds.SIZES, (MANY, MANY))):
        opened = open_data(built_in).subset(torch.arange(MANY))
    if isinstance(opened, Texts):
        opened.texts = [text[:400] for text in opened.texts]
    if isinstance(opened, Sounds):
        lengths = opened.lengths.clamp(max=opened.sample_rate // 2)
        whole = opened.batch(torch.arange(MANY))["waveform"]
        return from_waveforms(
            whole[:, : int(lengths.max())], opened.sample_rate, lengths=lengths, name=built_in
        )
    return opened


def data(name: str, count: int = 30) -> Data:
    """A few samples that a method can learn from, without labels."""
    if methods.describe(name).kind == "image":
        return grouped(images(count))
    opened = world(example(name)).subset(torch.arange(count))
    opened.labels = None
    return opened


def network(name: str) -> Encoder:
    """The encoder of a method, fitted to its data."""
    kind, settings = methods.load(name), smallest(name)
    encoder = settings.get("encoder") or kind.defaults["encoder"]
    if kind.kind == "image":
        return encoders.build(encoder, image_size=SIZE, input=kind.encoder_input)
    size = settings.get("image_size")
    return encoders.fitted(encoder, data(name), kind=kind.encoder_kind or kind.kind, image_size=size)


def build(name: str, encoder: Encoder | None = None, **changes: Any) -> Method:
    """A method that is ready for a step, around an encoder of its own or a given one."""
    torch.manual_seed(0)
    chosen = {key: value for key, value in smallest(name).items() if key not in ("encoder", "image_size")}
    method = methods.load(name)(encoder or network(name), **chosen | changes)
    read = method.training_view(data(name))
    method.prepare(read)
    method.begin_epoch(read)
    return method.train()


def sample(name: str, method: Method, count: int) -> dict[str, Tensor]:
    """Training samples of a method."""
    return method.training_view(data(name)).sample(count)


def tiny(name: str, steps: int) -> dict[str, Any]:
    """Settings of a run of a few small steps."""
    return {"batch_size": 8, "steps": steps, "quiet": True, **smallest(name)}


def long(name: str) -> dict[str, Any]:
    """Settings of a run of `STEPS` steps."""
    return tiny(name, STEPS) | {"batch_size": BATCH}


def total(losses: Any) -> Tensor:
    return torch.stack(list(losses.values())).sum() if isinstance(losses, dict) else losses


every_method = pytest.mark.parametrize("name", methods.names())
every_option = pytest.mark.parametrize(
    ("name", "option"),
    [(name, option) for name in methods.names() for option in methods.describe(name).options],
)


@every_method
def test_loss_is_a_finite_scalar_and_reaches_every_encoder_parameter(name: str) -> None:
    method = build(name)  # for other networks of images, tests/methods/test_gradients.py asks for more
    batch = sample(name, method, 8)
    before = [parameter.detach().clone() for parameter in method.encoder.parameters()]
    loss = total(method(batch))
    assert loss.ndim == 0 and torch.isfinite(loss)
    if not loss.requires_grad:  # it moves its weights itself
        assert any(not torch.equal(a, b) for a, b in zip(before, method.encoder.parameters(), strict=True))
        return
    # Heads that start at zero, so that the first loss is chance, pass gradients on after a step.
    loss.backward()
    torch.optim.SGD([p for p in method.parameters() if p.grad is not None], lr=0.1).step()
    method.zero_grad()
    total(method(batch)).backward()
    for parameter_name, parameter in method.encoder.named_parameters():
        if not parameter.requires_grad:  # fixed positions
            continue
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, parameter_name


def fallen(loss: float, share: float) -> float:
    """A loss after a fall by a share of its size."""
    return loss - share * abs(loss)


@every_method
def test_loss_falls_on_one_batch(name: str) -> None:
    method = build(name)
    batch = sample(name, method, 8)
    optimizer = torch.optim.AdamW(
        [p for p in method.parameters() if p.requires_grad] or [torch.zeros(())], lr=2e-3
    )
    buffers = {name: buffer.clone() for name, buffer in method.named_buffers()}
    losses, moved = [], None
    for step in range(25):
        torch.manual_seed(3)
        for (
            name,
            buffer,
        ) in method.named_buffers():  # else a queue fills up with the very images it is asked for
            if moved is False:
                buffer.copy_(buffers[name])
        value = method(batch)
        moved = not total(value).requires_grad  # the buffers of such methods are weights
        if not moved:
            optimizer.zero_grad()
            total(value).backward()
            optimizer.step()
        losses.append(
            [float(part.detach()) for part in (value.values() if isinstance(value, dict) else [value])]
        )
        # Of two players, one may lose. Most losses are far down after a few steps.
        parts = list(zip(*losses, strict=True))
        if step > 5 and any(max(part[-3:]) < fallen(part[0], 0.1) for part in parts):
            return
    assert any(min(part[-5:]) < fallen(part[0], 0.03) for part in parts)


@every_method
def test_same_seed_gives_the_same_losses(name: str) -> None:
    first, second = build(name), build(name)
    batch = sample(name, first, 8)

    def losses(method: Method) -> list[float]:
        values = []
        for step in range(3):
            torch.manual_seed(step)
            values.append(float(total(method(batch)).detach()))
            method.after_step((step + 1) / 3)
        return values

    assert losses(first) == losses(second)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    """A run of a method that nothing interrupts, without labels and with nothing held out.

    Beside it lie its files as they were before the step `KILLED`, which is all that a killed process would leave.
    """
    folder = tmp_path_factory.mktemp("undisturbed")

    @cache
    def train(name: str) -> Path:
        def copy(step: int) -> None:
            # The step before ends with a checkpoint.
            checkpoints.SECONDS_BETWEEN_CHECKPOINTS = 0.0 if step == KILLED - 1 else 60.0
            if step == KILLED:
                shutil.copytree(folder / name, folder / "killed" / name)

        part = holdout.divide(data(name, MANY), 0.1, seed=0).train
        assert len(part) < MANY
        with mock.patch.object(checkpoints, "SECONDS_BETWEEN_CHECKPOINTS", 60.0):
            return pretrain(name, part, out=folder / name, holdout=0.0, on_step=copy, **long(name)).path

    return lambda name: Run(train(name))


def assert_same_state(first: Run, second: Run) -> None:
    """Weights, buffers and the state of the optimizer agree in every bit."""
    one, other = (read_checkpoint(run.path / CHECKPOINT)[0] for run in (first, second))
    assert one.keys() == other.keys()
    for group, tensors in one.items():
        assert tensors.keys() == other[group].keys()
        for key, tensor in tensors.items():
            assert torch.equal(tensor, other[group][key]), f"{group} {key}"


@every_method
def test_killed_and_resumed_run_ends_bit_identical(name: str, undisturbed: Callable[[str], Run]) -> None:
    whole = undisturbed(name)
    killed = whole.path.parent / "killed" / name
    assert read_checkpoint(killed / CHECKPOINT)[1]["step"] == KILLED
    part = holdout.divide(data(name, MANY), 0.1, seed=0).train
    resumed = pretrain(name, part, out=killed, resume=True, quiet=True)
    method = build(name)
    moves_itself = not total(method(sample(name, method, 8))).requires_grad
    assert ("optimizer" in read_checkpoint(whole.path / CHECKPOINT)[0]) != moves_itself
    assert_same_state(whole, resumed)
    without_speed = [{k: v for k, v in entry.items() if k != "samples_per_second"} for entry in whole.history]
    assert without_speed == [
        {k: v for k, v in e.items() if k != "samples_per_second"} for e in resumed.history
    ]


@every_method
def test_neither_labels_nor_looking_at_held_out_samples_changes_anything(
    name: str, undisturbed: Callable[[str], Run], tmp_path: Path
) -> None:
    labelled = data(name, MANY)
    labelled.labels = torch.arange(MANY) % 3
    looked = pretrain(name, labelled, out=tmp_path / "looked", holdout=0.1, **long(name))
    blind = undisturbed(name)
    assert_same_state(blind, looked)
    losses = [entry.get("holdout_loss") for entry in looked.history]
    measures = methods.load(name).held_out != "undefined"
    assert all(math.isfinite(loss) if measures else loss is None for loss in losses)
    assert len(losses) < 2 or not measures or losses[0] != losses[-1]
    assert "holdout_loss" not in blind.history[-1]


@pytest.mark.filterwarnings("ignore:queue")
@every_method
def test_one_sample_is_learned_from_or_refused_in_one_line(name: str, tmp_path: Path) -> None:
    one = data(name).subset(torch.arange(1))
    settings = tiny(name, steps=2)
    try:
        run = pretrain(name, one, out=tmp_path / "one", **settings)
    except ValueError as error:
        assert "\n" not in str(error) and "per channel" not in str(error) and not (tmp_path / "one").exists()
        return
    assert "NaN" not in (run.path / "log.jsonl").read_text()


@every_method
def test_batches_of_one_are_learned_from_or_refused_in_one_line(name: str, tmp_path: Path) -> None:
    settings = tiny(name, steps=2) | {"batch_size": 1}
    try:
        run = pretrain(name, data(name), out=tmp_path / "one", **settings)
    except ValueError as error:
        assert "batch_size must be at least 2" in str(error) and not (tmp_path / "one").exists()
        return
    assert "NaN" not in (run.path / "log.jsonl").read_text()


@pytest.mark.parametrize("name", ["simclr", "moco", "byol", "swav"])
def test_a_look_runs_the_encoder_once(name: str) -> None:
    method, calls = build(name), []
    method.encoder.register_forward_hook(lambda *given: calls.append(1))
    batch = sample(name, method, 6)
    features, embedding = judge.look(method, batch)
    assert len(calls) == 1 and embedding is not features
    method.eval()
    torch.testing.assert_close(embedding, method.head(method.encoder(method.encoder.inputs(batch))))


@every_method
def test_method_says_its_chance_and_shows_its_pictures(name: str) -> None:
    method = build(name).eval()
    chance = method.chance(8)
    assert chance is None or math.isfinite(chance)
    with torch.no_grad():
        pictures = method.pictures(sample(name, method, 4))
    assert len(pictures) >= 2
    for label, picture in pictures.items():
        if isinstance(picture, list):
            assert len(picture) == 4 and all(picture), label
            continue
        if isinstance(picture, Waveforms):
            assert picture.waveform.isfinite().all() and len(picture.waveform) == len(picture.length) == 4, (
                label
            )
            continue
        assert picture.ndim == 4 and len(picture) == 4, label
        assert picture.isfinite().all() and picture.min() >= 0 and picture.max() <= 1, label


@every_method
def test_parts_that_follow_the_training_are_driven_whatever_hooks_a_method_has(name: str) -> None:
    method, calls = build(name), []
    followers = [part for part in method.modules() if isinstance(part, Follower)]
    for part in followers:
        part.follow = lambda progress, part=part: calls.append((part, progress))  # type: ignore[method-assign]
        part.restart = lambda part=part: calls.append((part, None))  # type: ignore[method-assign]
    method.after_step(0.5)
    method.prepare(method.training_view(data(name)))
    assert calls == [(part, when) for when in (0.5, None) for part in followers]
    moving = any(isinstance(part, Teacher) for part in method.modules())  # others stand still
    assert bool(followers) == (moving or methods.load(name).encoder_kind == "words")


@every_method
def test_features_are_those_of_the_encoder_and_leave_it_untouched(name: str) -> None:
    method = build(name).eval()
    before = {key: value.clone() for key, value in method.state_dict().items()}
    batch = sample(name, method, 6)
    features = method.features(batch)
    assert len(features) == 6 and (method.kind != "image" or features.shape[1] == method.encoder.dim)
    halves = torch.cat(
        [
            method.features({k: v[:3] for k, v in batch.items()}),
            method.features({k: v[3:] for k, v in batch.items()}),
        ]
    )
    torch.testing.assert_close(features, halves, rtol=1e-4, atol=1e-5)
    for key, value in method.state_dict().items():
        assert torch.equal(value, before[key]), key


@every_option
def test_option_has_help_and_collides_with_no_run_option(name: str, option: methods.Option) -> None:
    assert re.fullmatch(r"[A-Z].*\.( \[default: .+\])?", option.help), option.help
    assert ("[default: " in option.help) == (option.default is None)
    assert option.name not in {*Settings.__dataclass_fields__, *inspect.signature(pretrain).parameters}


encoder_of = cache(network)


@every_option
def test_bad_value_is_refused_by_name(name: str, option: methods.Option) -> None:
    plain, _, _ = options.resolve(option.type)
    for bad in {int: [-1, 2.5, True], float: [math.nan, "hot"], bool: ["yes", 1]}.get(plain, ["nonsense"]):
        with pytest.raises(UserError, match=f"^{option.name} must be "):
            build(name, encoder_of(name), **{option.name: bad})


@every_method
def test_docstring_tells_the_idea_the_source_and_the_shortcut(name: str) -> None:
    text = inspect.getdoc(inspect.getmodule(methods.load(name))) or ""
    for word in ("Withheld:", "Predicted:", "Source:", "Shortcut:"):
        assert word in text.replace("predicted:", "Predicted:"), word
    assert len(methods.describe(name).summary) < 110


def seen(method: Method, images: Tensor) -> Tensor:
    """What reaches the encoder in a training step on float images, at a fixed seed."""
    captured: list[Tensor] = []
    hook = method.encoder.adapt.register_forward_pre_hook(
        lambda _, inputs: captured.append(inputs[0].detach())
    )
    torch.manual_seed(5)
    method({"image": images, "index": torch.arange(len(images))})
    hook.remove()
    return captured[0]


@pytest.mark.parametrize("name", ["context_encoder", "denoising"])
def test_withheld_pixels_never_reach_the_encoder(name: str) -> None:
    method, clean = build(name, crop=1.0, flip=0.0), images(8) / 255
    shown = seen(method, clean)
    hidden = (shown - clean).abs() > 1e-4
    assert 0.05 < hidden.float().mean() < 0.6
    assert torch.equal(seen(method, torch.where(hidden, 1 - clean, clean)), shown)


def test_withheld_colours_never_reach_the_encoder() -> None:
    method, clean = build("colorization", crop=1.0, flip=0.0), images(8) / 255
    lab = rgb_to_lab(clean)
    duller = lab_to_rgb(torch.cat([lab[:, :1], lab[:, 1:] / 2], 1))
    assert (duller - clean).abs().max() > 0.05
    torch.testing.assert_close(seen(method, duller), seen(method, clean), rtol=0, atol=1e-4)
