"""Low-rank adaptation: the products are what is trained, they merge exactly, and a run resumes bit by bit."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import unlabeled
from unlabeled import encoders
from unlabeled.check import UserError
from unlabeled.data import from_images
from unlabeled.encoders import lora

pytest.importorskip("peft")
IMAGES = torch.randint(256, (16, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
SETTINGS: dict[str, Any] = {"batch_size": 8, "image_size": 16, "quiet": True, "holdout": 0.0, "lr": 0.05}
LAYER = "trunk.model.blocks.0.mlp.fc1"


def adapted(rank: int = 3) -> Any:
    """A small ViT with products that are not 0."""
    torch.manual_seed(0)
    encoder = encoders.build("vit-gap-tiny", image_size=16).eval()
    lora.add(encoder, rank, from_images(IMAGES))
    for name, weight in encoder.named_parameters():
        if weight.requires_grad:
            weight.data = torch.randn(weight.shape) * (0.1 if "lora_B" in name else 1)
    return encoder


def start(folder: Path) -> Path:
    torch.manual_seed(0)
    encoders.build("vit-gap-tiny", image_size=16).save(folder / "start.safetensors")
    return folder / "start.safetensors"


def test_nothing_changes_at_first_and_what_is_trained_is_counted() -> None:
    torch.manual_seed(0)
    encoder: Any = encoders.build("vit-gap-tiny", image_size=16).eval()
    linear = [part for part in encoder.trunk.modules() if isinstance(part, nn.Linear)]
    trained = sum(5 * (part.in_features + part.out_features) for part in linear)
    every = sum(weight.numel() for weight in encoder.parameters())
    before = encoder(IMAGES / 255)
    lora.add(encoder, 5, from_images(IMAGES))
    assert torch.equal(encoder(IMAGES / 255), before)
    assert sum(weight.numel() for weight in encoder.parameters() if weight.requires_grad) == trained
    assert encoder.notes[-1].startswith(f"lora: the {every:,} weights of the encoder stay, {trained:,} are ")


def test_merged_weights_give_the_same_features() -> None:
    encoder = adapted()
    unmerged = encoder(IMAGES / 255)
    plain = encoders.build("vit-gap-tiny", image_size=16).eval()
    before = plain(IMAGES / 255)
    plain.load_state_dict(lora.merged(encoder.state_dict()))
    torch.testing.assert_close(plain(IMAGES / 255), unmerged, atol=1e-4, rtol=1e-4)
    assert (unmerged - before).abs().max() > 0.1
    lora.merge(encoder)
    assert torch.equal(encoder(IMAGES / 255), plain(IMAGES / 255))
    assert encoder.state_dict().keys() == plain.state_dict().keys()
    assert all(weight.requires_grad for weight in encoder.trunk.model.blocks.parameters())


def test_a_run_moves_linear_layers_by_that_rank_only_and_resumes_bit_by_bit(tmp_path: Path) -> None:
    weights = start(tmp_path)
    settings = SETTINGS | {
        "weights": weights,
        "lora": 2,
        "steps": 4,
        "head_warmup": 0.25,
        "encoder_rate": 1.0,
    }

    def stop(step: int) -> None:
        if step == 2:
            raise KeyboardInterrupt

    # Its teacher is a copy of the encoder, made with the products.
    whole = unlabeled.adapt("byol", IMAGES, out=tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        unlabeled.adapt("byol", IMAGES, out=tmp_path / "parts", on_step=stop, **settings)
    unlabeled.adapt("byol", IMAGES, out=tmp_path / "parts", resume=True, **settings)
    files = [tmp_path / run / name for run in ("whole", "parts") for name in ("encoder", "checkpoint")]
    states = [load_file(file.with_suffix(".safetensors")) for file in files]
    for one, other in zip(states[:2], states[2:], strict=True):
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    before, after = load_file(weights), states[0]
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert f"{LAYER}.weight" in moved
    for name in moved:
        assert torch.linalg.matrix_rank(after[name].double() - before[name].double(), rtol=1e-3) <= 2, name
    teacher = whole.method.state_dict()  # heads and teacher are read without peft
    assert any(name.endswith(f"{LAYER}.weight") and "encoder." not in name[:8] for name in teacher)


class Unusual(nn.Module):
    """Attention of torch, which uses the weights of a linear layer without calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.linear = nn.MultiheadAttention(3, 1, batch_first=True), nn.Linear(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(2).transpose(1, 2)[:, :4]
        return self.linear(self.attention(x, x, x)[0].mean(1))


def test_layers_whose_weights_are_used_without_a_call_get_no_product() -> None:
    encoder: Any = encoders.wrap(Unusual(), in_channels=3, image_size=16)
    lora.add(encoder, 2, from_images(IMAGES))
    trained = [name for name, weight in encoder.named_parameters() if weight.requires_grad]
    assert len(trained) == 2 and all(".linear." in name for name in trained)


class Shared(nn.Module):
    """A layer in two places, and one whose weights another layer has too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.tied, self.last = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 4)
        self.second, self.embedding = self.first, nn.Embedding(3, 3)
        self.embedding.weight = self.tied.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.tied(self.second(self.first(x.mean((2, 3))))) + self.embedding.weight[0])


def test_layers_that_share_weights_get_no_product() -> None:
    encoder: Any = encoders.wrap(Shared(), in_channels=3, image_size=16)
    lora.add(encoder, 2, from_images(IMAGES))
    trained = [name for name, weight in encoder.named_parameters() if weight.requires_grad]
    assert len(trained) == 2 and all(".last." in name for name in trained)
    for name, weight in encoder.named_parameters():
        weight.data += name in trained
    before = encoder.eval()(IMAGES / 255)
    lora.merge(encoder)
    torch.testing.assert_close(encoder(IMAGES / 255), before, atol=1e-4, rtol=1e-5)


def test_what_has_no_place_for_products_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conv = encoders.build("conv4", image_size=16)
    with pytest.raises(
        UserError, match=r"lora must be left out for networks that run no nn\.Linear, got 2 for conv4"
    ):
        lora.add(conv, 2, from_images(IMAGES))
    with pytest.raises(
        UserError, match="lora must be left out without weights, as random ones would stay, got 2"
    ):
        unlabeled.pretrain("simclr", IMAGES, lora=2, steps=1, out=tmp_path / "run", **SETTINGS)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"lora needs peft .*; run pip install 'unlabeled\[lora\]"):
        lora.add(conv, 2, from_images(IMAGES))
