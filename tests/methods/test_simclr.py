"""SimCLR: chance, half precision, the head of version 2; NT-Xent is tested in tests/parts/test_info_nce.py."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from unlabeled import encoders, pretrain
from unlabeled.evaluation.twins import untrained
from unlabeled.exporting import export
from unlabeled.methods.simclr import SimCLR
from unlabeled.parts.info_nce import nt_xent


@pytest.mark.parametrize(("images", "value"), [(4, 1.9459), (256, 6.23637), (512, 6.93049)])
def test_collapsed_vectors_have_the_loss_of_chance(images: int, value: float) -> None:
    vectors = torch.ones(images, 3, dtype=torch.float64)
    chance = SimCLR(encoders.build("conv4", image_size=8)).chance(images)
    assert nt_xent(vectors, vectors, 0.2).item() == pytest.approx(chance, rel=1e-12)
    assert chance == pytest.approx(value, abs=5e-5)


def test_training_step_in_bfloat16_is_finite() -> None:
    method = SimCLR(encoders.build("conv4", image_size=8), temperature=0.04)
    with torch.autocast("cpu", torch.bfloat16):
        value = method({"image": torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)})
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite()
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)


def photos(count: int = 16) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8)


def build(**options: int) -> SimCLR:
    torch.manual_seed(0)
    return SimCLR(encoders.build("conv4", image_size=16), **options)  # type: ignore[arg-type]


def layers(network: nn.Module) -> list[tuple[int, int]]:
    return [
        (part.in_features, part.out_features) for part in network.modules() if isinstance(part, nn.Linear)
    ]


def test_the_defaults_are_version_1() -> None:
    torch.manual_seed(0)
    encoder = encoders.build("conv4", image_size=16)
    first, second = nn.Linear(64, 64, bias=False), nn.Linear(64, 128, bias=False)
    method = build()
    assert not len(method.encoder.neck) and "neck" not in method.encoder.config
    assert method.state_dict().keys() - {f"encoder.{name}" for name in encoder.state_dict()} == {
        f"head.{number}.{name}"
        for number, names in (
            (0, ["weight"]),
            (3, ["weight"]),
            *((n, ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]) for n in (1, 4)),
        )
        for name in names
    }
    assert torch.equal(method.head[0].weight, first.weight) and torch.equal(
        method.head[3].weight, second.weight
    )


def test_version_2_has_a_deeper_head_of_which_one_layer_becomes_part_of_the_encoder() -> None:
    deeper = build(head_layers=3)
    assert layers(deeper.head) == [(64, 64), (64, 64), (64, 128)] and not len(deeper.encoder.neck)
    method = build(head_layers=3, feature_layer=1)
    assert layers(method.encoder.neck) == [(64, 64)] and layers(method.head) == [(64, 64), (64, 128)]
    method.eval()
    x = torch.rand(4, 3, 16, 16)
    pooled = method.encoder.trunk(method.encoder.adapt(x))
    weight, norm = method.encoder.neck[0].weight, method.encoder.neck[1]
    expected = F.relu(pooled @ weight.T / (1 + norm.eps) ** 0.5)  # type: ignore[operator]
    torch.testing.assert_close(method.encoder(x), expected)
    torch.testing.assert_close(
        method.features({"image": (255 * x).to(torch.uint8)}), expected, atol=0.05, rtol=0
    )


def test_splitting_the_head_changes_no_loss_and_no_gradient() -> None:
    """The same three layers, whether the first belongs to the head or to the encoder."""
    whole, split = (
        build(head_layers=3, projection_dim=6),
        build(head_layers=3, feature_layer=1, projection_dim=6),
    )
    split.encoder.neck.load_state_dict(whole.head[:3].state_dict())
    rest = whole.head[3:].state_dict().values()
    split.head.load_state_dict(dict(zip(split.head.state_dict(), rest, strict=True)))
    losses, images = [], photos()
    for method in (whole, split):
        torch.manual_seed(1)
        losses.append(method({"image": images}))
        losses[-1].backward()
    assert losses[0].item() == losses[1].item()
    assert torch.equal(whole.head[0].weight.grad, split.encoder.neck[0].weight.grad)  # type: ignore[arg-type]
    assert torch.equal(whole.encoder.trunk.s1[0].weight.grad, split.encoder.trunk.s1[0].weight.grad)


def test_a_run_keeps_the_layer_with_its_encoder(tmp_path: Path) -> None:
    options = {"head_layers": 3, "feature_layer": 2, "projection_dim": 8, "encoder": "conv4", "batch_size": 8}
    images = photos(24)
    run = pretrain("simclr", images, out=tmp_path / "run", steps=2, quiet=True, **options)
    x = torch.rand(3, 3, 16, 16)
    assert layers(run.encoder.neck) == [(64, 64)] * 2 and run.encoder.config["neck"] == [64, 64]
    assert layers(run.method.encoder.neck) == [(64, 64)] * 2 and layers(run.method.head) == [(64, 8)]
    torch.testing.assert_close(run.method.encoder(x), run.encoder(x))
    twin = untrained(run.encoder)
    assert twin.state_dict().keys() == run.encoder.state_dict().keys()
    assert not torch.equal(twin.neck[0].weight, run.encoder.neck[0].weight)
    assert export(run, tmp_path / "out.safetensors").difference == 0
    longer = pretrain("simclr", images, out=tmp_path / "run", resume=True, steps=3, quiet=True)
    assert layers(longer.encoder.neck) == [(64, 64)] * 2


def test_a_layer_that_the_head_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="feature_layer must be below head_layers, 2, got 2"):
        build(feature_layer=2)


def test_weights_of_a_run_bring_its_layer_which_cannot_be_undone(tmp_path: Path) -> None:
    build(head_layers=3, feature_layer=2).encoder.save(tmp_path / "encoder.safetensors")
    saved = encoders.load(tmp_path / "encoder.safetensors")
    built = encoders.build("conv4", image_size=16, weights=tmp_path / "encoder.safetensors")
    again = encoders.build("conv4", image_size=16, neck=[64], weights=tmp_path / "encoder.safetensors")
    x = torch.rand(3, 3, 16, 16)
    for encoder in (built, again):
        assert encoder.config["neck"] == [64, 64]
        torch.testing.assert_close(encoder.eval()(x), saved.eval()(x))
    assert layers(SimCLR(built, head_layers=4, feature_layer=3).encoder.neck) == [(64, 64)] * 3
    with pytest.raises(
        ValueError, match="feature_layer must be at least 3, the layers that the encoder has, got 1"
    ):
        SimCLR(built, feature_layer=1)
