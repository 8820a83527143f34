"""Going on from weights: rates layer by layer, heads first, and features that are kept near their start."""

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import unlabeled
from unlabeled import encoders
from unlabeled.check import UserError
from unlabeled.data import from_images
from unlabeled.data.text.data import Texts
from unlabeled.evaluation.twins import calibrate_
from unlabeled.methods.patch_dictionary import PatchDictionary
from unlabeled.methods.simclr import SimCLR
from unlabeled.training import optimizers
from unlabeled.training.keep_close import KeepClose, distance
from unlabeled.training.layer_rates import factors, layer_numbers
from unlabeled.training.schedule import Schedule, climb
from unlabeled.training.settings import Settings

pytestmark = pytest.mark.usefixtures("small_networks")
IMAGES = torch.randint(256, (16, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
PLAIN: dict[str, Any] = {"batch_size": 8, "holdout": 0.0, "quiet": True}


def simclr(seed: int = 0) -> SimCLR:
    torch.manual_seed(seed)
    return SimCLR(encoders.build("conv4", image_size=8))


def state_of(method: Any) -> dict[str, torch.Tensor]:
    return copy.deepcopy(method.encoder.state_dict())


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_layers_are_numbered_from_the_input() -> None:
    conv = layer_numbers(encoders.build("conv4", image_size=8))
    assert {name.split(".")[1]: number for name, number in conv.items()} == {
        "s1": 0,
        "s2": 1,
        "s3": 2,
        "s4": 3,
    }
    audio = layer_numbers(encoders.build("audio-conv", kind="audio"))
    for number in range(4):
        assert audio[f"trunk.convolutions.{number}.weight"] == audio[f"trunk.norms.{number}.bias"] == number
    bert = layer_numbers(encoders.fitted("bert-tiny", Texts(["a few words", "some more"]), kind="text"))
    numbers = {
        name: number
        for name, number in bert.items()
        if name.endswith(("word_embeddings.weight", "query.bias"))
    }
    assert list(numbers.values()) == [0, 1, 2]


def test_models_of_timm_number_their_layers_themselves() -> None:
    encoder = encoders.build("vit-small", image_size=16)
    encoder.extend(8)
    numbers = layer_numbers(encoder)
    assert numbers["trunk.model.patch_embed.proj.weight"] == numbers["trunk.model.cls_token"] == 0
    assert [numbers[f"trunk.model.blocks.{block}.mlp.fc1.weight"] for block in range(4)] == [1, 2, 3, 4]
    assert numbers["trunk.model.norm.weight"] == 4 and numbers["neck.0.weight"] == 5


def test_each_layer_has_the_rate_of_the_one_above_times_the_decay() -> None:
    rates = factors(encoders.build("conv4", image_size=8), 0.1, 0.5)
    by_layer = {name.split(".")[1]: rate for name, rate in rates.items()}
    assert by_layer == pytest.approx({"s4": 0.1, "s3": 0.05, "s2": 0.025, "s1": 0.0125})


def test_weights_move_by_their_own_rates() -> None:
    method = simclr()
    settings = Settings(
        optimizer="sgd", sgd_momentum=0.0, weight_decay=0.0, lr=2.0, encoder_rate=0.1, layer_decay=0.5
    )
    optimizer = optimizers.make(method, settings)
    weights = {name: weight for name, weight in method.named_parameters() if weight.requires_grad}
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    for group in optimizer.param_groups:
        group["lr"] = 2.0 * group["factor"]
    for weight in weights.values():
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    expected = {"s1": 0.025, "s2": 0.05, "s3": 0.1, "s4": 0.2}
    for name, weight in weights.items():
        moved = expected[name.split(".")[2]] if name.startswith("encoder") else 2.0
        torch.testing.assert_close(before[name] - weight, torch.full_like(weight, moved))


def test_the_encoder_keeps_every_bit_while_heads_are_trained() -> None:
    method, states, heads = simclr(), [], []

    def look(step: int) -> None:
        states.append(state_of(method))
        heads.append(copy.deepcopy(method.head.state_dict()))

    unlabeled.pretrain(method, IMAGES, steps=6, head_warmup=0.5, lr=0.1, on_step=look, **PLAIN)
    assert all(same(states[0], state) for state in states[1:4])  # weights and statistics of norms
    assert not any(same(before, after) for before, after in itertools.pairwise(heads))
    assert not same(states[3], states[4])


def test_the_encoder_thaws_as_slowly_as_a_training_begins() -> None:
    schedule = Schedule(200)
    rates = [schedule.thaw(step, 20) for step in range(200)]
    assert climb(200) == 10
    assert rates[:20] == [0.0] * 20 and rates[20:30] == pytest.approx([n / 10 for n in range(1, 11)])
    assert set(rates[30:]) == {1.0}
    assert schedule.longer(400).first == 200  # a run that is trained longer freezes nothing anew


def test_the_distance_of_features_has_the_gradient_of_a_cosine() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(3, 5, generator=generator, dtype=torch.double).float().requires_grad_()
    b = torch.randn(3, 5, generator=generator)
    distance(a, b).backward()
    ours, other = F.normalize(a.detach(), dim=1), F.normalize(b, dim=1)
    cosine = (ours * other).sum(1, keepdim=True)
    torch.testing.assert_close(a.grad, -(other - cosine * ours) / a.detach().norm(dim=1, keepdim=True) / 3)
    assert distance(b, 3 * b).item() == pytest.approx(0, abs=1e-6) and distance(
        b, -b
    ).item() == pytest.approx(2)


def test_distillation_adds_its_share_and_the_start_never_moves() -> None:
    method = simclr()
    module = KeepClose(method, 0.5)
    start, batch = copy.deepcopy(module.start.state_dict()), from_images(IMAGES).batch(torch.arange(8))
    assert module.eval()(batch)["distillation"].item() == pytest.approx(0, abs=1e-6)
    module.train()
    with torch.no_grad():
        for weight in method.encoder.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    before = state_of(method)
    torch.manual_seed(1)
    losses = module(batch)
    sum(losses.values()).backward()
    after = state_of(method)
    method.encoder.load_state_dict(before)
    torch.manual_seed(1)
    torch.testing.assert_close(losses["loss"], method(batch))
    assert same(after, method.encoder.state_dict()) and method.encoder.trunk.s1[1].training
    method.encoder.load_state_dict(after)
    x = method.encoder.inputs(batch)
    expected = 0.5 * (1 - F.cosine_similarity(method.encoder.eval()(x), module.start(x))).mean()
    torch.testing.assert_close(losses["distillation"], expected)
    assert same(start, module.start.state_dict()) and all(
        weight.grad is None for weight in module.start.parameters()
    )


def test_more_distillation_leaves_the_features_nearer_to_the_start(tmp_path: Path) -> None:
    far = []
    for weight in (0.0, 100.0):
        method = simclr()
        calibrate_(method.encoder, from_images(IMAGES))
        start = copy.deepcopy(method.encoder).eval()
        unlabeled.pretrain(
            method, IMAGES, steps=20, lr=0.005, distill_weight=weight, out=tmp_path / str(weight), **PLAIN
        )
        far.append(distance(method.encoder.eval()(IMAGES / 255), start(IMAGES / 255)).item())
    assert far[1] < 0.5 * far[0]


def test_adapting_resumes_bit_by_bit(tmp_path: Path) -> None:
    encoders.build("conv4", image_size=8).save(tmp_path / "start.safetensors")
    settings = PLAIN | {
        "steps": 6,
        "head_warmup": 0.4,
        "distill_weight": 2.0,
        "weights": tmp_path / "start.safetensors",
    }

    def stop(step: int) -> None:
        if step == 3:
            raise KeyboardInterrupt

    whole = unlabeled.adapt("simclr", IMAGES, out=tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        unlabeled.adapt("simclr", IMAGES, out=tmp_path / "parts", on_step=stop, **settings)
    (tmp_path / "start.safetensors").unlink()
    parts = unlabeled.adapt("simclr", IMAGES, out=tmp_path / "parts", resume=True, **settings)
    assert same(whole.encoder.state_dict(), parts.encoder.state_dict())
    stored = whole.config["settings"]
    assert (stored["encoder_rate"], stored["layer_decay"], stored["head_warmup"]) == (0.1, 0.75, 0.4)
    assert stored["encoder"] == "conv4" and stored["image_size"] == 8


def test_resuming_takes_what_is_stored_and_no_default_of_adapt(tmp_path: Path) -> None:
    encoders.build("conv4", image_size=8).save(tmp_path / "start.safetensors")
    own = {"head_warmup": 0.3, "layer_decay": 0.5, "weights": tmp_path / "start.safetensors"}
    unlabeled.adapt("simclr", IMAGES, out=tmp_path / "run", steps=2, **(PLAIN | own))
    again: dict[str, Any] = {"out": tmp_path / "run", "resume": True, "quiet": True}
    with pytest.raises(UserError, match=r"head_warmup must be 0.3 to resume .*, got 0.1"):
        unlabeled.adapt("simclr", IMAGES, head_warmup=0.1, **again)
    stored = unlabeled.adapt("simclr", IMAGES, steps=3, **again).config["settings"]
    assert (stored["encoder_rate"], stored["layer_decay"], stored["head_warmup"]) == (0.1, 0.5, 0.3)


def test_what_cannot_be_adapted_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"weights must be named to adapt them, .* got none"):
        unlabeled.adapt("simclr", IMAGES)
    method = PatchDictionary(encoders.build("dictionary-16", image_size=8))
    with pytest.raises(
        UserError, match="distill_weight must be 0 for PatchDictionary, whose loss has no gradient"
    ):
        unlabeled.pretrain(method, IMAGES, steps=2, distill_weight=1.0, out=tmp_path / "run", **PLAIN)


def test_the_last_step_at_least_moves_the_encoder(tmp_path: Path) -> None:
    start = encoders.build("conv4", image_size=8)
    start.save(tmp_path / "start.safetensors")
    settings = PLAIN | {"steps": 2, "head_warmup": 0.99, "lr": 0.1, "weights": tmp_path / "start.safetensors"}
    run = unlabeled.adapt("simclr", IMAGES, out=tmp_path / "run", **settings)
    pairs = zip(start.parameters(), run.encoder.parameters(), strict=True)
    assert any(not torch.equal(before, after) for before, after in pairs)
