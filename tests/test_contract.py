"""One battery over every method: what the loop, the command line and the users rely on."""

import copy
import inspect
import math
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from unlabeled import encoders, methods, options, pretrain
from unlabeled.check import UserError
from unlabeled.data import Data, open_data
from unlabeled.method import Method
from unlabeled.parts.color import lab_to_rgb, rgb_to_lab
from unlabeled.parts.teacher import Follower
from unlabeled.run import CHECKPOINT, read_checkpoint
from unlabeled.selftest import example, smallest
from unlabeled.training import checkpoints, holdout, judge
from unlabeled.training.settings import Settings

SIZE = 32


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
    """A few samples of a built-in set."""
    return open_data(built_in).subset(torch.arange(30))


def data(labels: Tensor | None = None, name: str = "simclr") -> Data:
    """A few samples that a method can learn from."""
    image = methods.describe(name).kind == "image"
    opened = grouped(images()) if image else copy.copy(world(example(name)))
    opened.labels = labels
    return opened


def build(name: str, network: str | None = None, **changes: Any) -> Method:
    torch.manual_seed(0)
    kind = methods.load(name)
    settings = smallest(name) | changes
    network = network or settings.get("encoder") or kind.defaults["encoder"]
    if kind.kind == "image":
        encoder = encoders.build(network, image_size=SIZE, input=kind.encoder_input)
    else:
        encoder = encoders.fitted(network, data(name=name), kind=kind.encoder_kind or kind.kind)
    method = kind(encoder, **{key: value for key, value in settings.items() if key != "encoder"})
    read = method.training_view(data(name=name))
    method.prepare(read)
    method.begin_epoch(read)
    return method.train()


def sample(name: str, method: Method, count: int) -> dict[str, Tensor]:
    """Training samples of a method."""
    return method.training_view(data(name=name)).sample(count)


def tiny(name: str, steps: int) -> dict[str, Any]:
    """Settings of a run of a few small steps."""
    return {"batch_size": 8, "steps": steps, "quiet": True, **smallest(name)}


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


@every_method
def test_loss_falls_on_one_batch(name: str) -> None:
    method = build(name)
    batch = sample(name, method, 8)
    optimizer = torch.optim.AdamW(
        [p for p in method.parameters() if p.requires_grad] or [torch.zeros(())], lr=2e-3
    )
    buffers = {name: buffer.clone() for name, buffer in method.named_buffers()}
    losses, moved = [], None
    for _ in range(25):
        torch.manual_seed(3)
        for (
            name,
            buffer,
        ) in method.named_buffers():  # else a queue fills up with the very images it is asked for
            if moved is False:
                buffer.copy_(buffers[name])
        value = method(batch)
        moved = not total(value).requires_grad  # the buffers of such methods are weights
        parts = value.values() if isinstance(value, dict) else [value]
        if not moved:
            optimizer.zero_grad()
            total(value).backward()
            optimizer.step()
        losses.append([float(part.detach()) for part in parts])
    # Of two players, one may lose.
    assert any(min(part[-5:]) < 0.97 * part[0] for part in zip(*losses, strict=True))


@every_method
def test_same_seed_gives_the_same_losses(name: str) -> None:
    batch = sample(name, build(name), 8)

    def losses() -> list[float]:
        method = build(name)
        values = []
        for step in range(3):
            torch.manual_seed(step)
            values.append(float(total(method(batch)).detach()))
            method.after_step((step + 1) / 3)
        return values

    assert losses() == losses()


@every_method
def test_killed_and_resumed_run_ends_bit_identical(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    settings = tiny(name, steps=7)
    whole = pretrain(name, data(name=name), out=tmp_path / "whole", **settings)

    def die(step: int) -> None:
        if step == 4:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        pretrain(name, data(name=name), out=tmp_path / "parts", on_step=die, **settings)
    resumed = pretrain(name, data(name=name), out=tmp_path / "parts", resume=True, quiet=True)
    first, second = (read_checkpoint(run.path / CHECKPOINT)[0] for run in (whole, resumed))
    method = build(name)
    moves_itself = not total(method(sample(name, method, 8))).requires_grad
    assert first.keys() == second.keys() and ("optimizer" in first) != moves_itself
    for group, tensors in first.items():
        for key, tensor in tensors.items():
            assert torch.equal(tensor, second[group][key]), f"{group} {key}"
    without_speed = [{k: v for k, v in entry.items() if k != "samples_per_second"} for entry in whole.history]
    assert without_speed == [
        {k: v for k, v in e.items() if k != "samples_per_second"} for e in resumed.history
    ]


@every_method
def test_looking_at_held_out_samples_changes_nothing(name: str, tmp_path: Path) -> None:
    opened = grouped(images(54)) if methods.describe(name).kind == "image" else open_data(example(name))
    opened = opened.subset(torch.arange(min(54, len(opened))))
    settings = tiny(name, steps=8)
    looked = pretrain(name, opened, out=tmp_path / "looked", holdout=0.1, **settings)
    part = holdout.divide(opened, 0.1, seed=0).train
    assert len(part) < len(opened)
    blind = pretrain(name, part, out=tmp_path / "blind", holdout=0.0, **settings)
    first, second = (read_checkpoint(run.path / CHECKPOINT)[0] for run in (looked, blind))
    assert first.keys() == second.keys()
    for group, tensors in first.items():
        for key, tensor in tensors.items():
            assert torch.equal(tensor, second[group][key]), f"{group} {key}"
    losses = [entry.get("holdout_loss") for entry in looked.history]
    measures = methods.load(name).held_out != "undefined"
    assert all(math.isfinite(loss) if measures else loss is None for loss in losses)
    assert len(losses) < 2 or not measures or losses[0] != losses[-1]
    assert "holdout_loss" not in blind.history[-1]


@pytest.mark.filterwarnings("ignore:queue")
@every_method
def test_one_sample_is_learned_from_or_refused_in_one_line(name: str, tmp_path: Path) -> None:
    one = data(name=name).subset(torch.arange(1))
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
        run = pretrain(name, data(name=name), out=tmp_path / "one", **settings)
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
def test_labels_never_matter(name: str, tmp_path: Path) -> None:
    settings = tiny(name, steps=3)
    first = pretrain(name, data(torch.arange(30) % 2, name), out=tmp_path / "first", **settings)
    second = pretrain(name, data(torch.arange(30) % 3, name), out=tmp_path / "second", **settings)
    third = pretrain(name, data(None, name), out=tmp_path / "third", **settings)
    for key, value in first.method.state_dict().items():
        assert torch.equal(value, second.method.state_dict()[key])
        assert torch.equal(value, third.method.state_dict()[key])


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
    method.prepare(method.training_view(data(name=name)))
    assert calls == [(part, when) for when in (0.5, None) for part in followers]
    moving = isinstance(getattr(method, "teacher", None), Follower)  # a teacher may also stand still
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


@every_option
def test_bad_value_is_refused_by_name(name: str, option: methods.Option) -> None:
    plain, _, _ = options.resolve(option.type)
    for bad in {int: [-1, 2.5, True], float: [math.nan, "hot"], bool: ["yes", 1]}.get(plain, ["nonsense"]):
        with pytest.raises(UserError, match=f"^{option.name} must be "):
            build(name, **{option.name: bad})


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
