"""Instance discrimination: a step against its formula, and what is recognised; the bank is tested in tests/parts."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled import encoders
from unlabeled.methods.instance_discrimination import InstanceDiscrimination
from unlabeled.parts.memory_bank import softmax


def build(samples: int = 20, **options) -> InstanceDiscrimination:
    torch.manual_seed(0)
    options = {"projection_dim": 8, "negatives": 10} | options
    method = InstanceDiscrimination(encoders.build("conv4", image_size=8), **options)
    method.prepare(range(samples))  # type: ignore[arg-type]
    return method


def images(count: int = 20) -> Tensor:
    coarse = torch.rand(count, 3, 3, 3, generator=torch.Generator().manual_seed(count))
    return (F.interpolate(coarse, 8, mode="bilinear") * 255).to(torch.uint8)


def batch(*index: int) -> dict[str, Tensor]:
    rows = torch.tensor(index)
    return {"image": images()[rows], "index": rows}


def give(method: InstanceDiscrimination) -> InstanceDiscrimination:
    method.views = lambda batch: batch["image"] / 255  # type: ignore[assignment]
    return method


def test_step_compares_with_the_bank_before_it_stores() -> None:
    method, given = give(build(proximal=0.7)), batch(7, 3, 11)
    before = method.bank.rows.clone()
    vectors = F.normalize(method.head(method.encoder(given["image"] / 255)), dim=1)
    squares = (vectors - before[given["index"]]).square().sum(1).mean()
    expected = softmax(vectors, before, given["index"], 0.1) + 0.7 * squares
    value = method(given)
    torch.testing.assert_close(value, expected)
    found, wanted = (torch.autograd.grad(x, method.head[0].weight)[0] for x in (value, expected))
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(
        method.bank.rows[given["index"]], F.normalize((before[given["index"]] + vectors) / 2, dim=1)
    )
    rest = [number for number in range(20) if number not in (3, 7, 11)]
    assert torch.equal(method.bank.rows[rest], before[rest])


def test_evaluation_mode_stores_nothing() -> None:
    for loss in ("softmax", "nce"):
        method = build(loss=loss).eval()
        before = {name: value.clone() for name, value in method.state_dict().items()}
        method(batch(1, 2))
        assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())


@pytest.mark.parametrize(
    ("options", "value"), [({}, 2.9957), ({"loss": "nce", "negatives": 4096}, 9.3179)], ids=["softmax", "nce"]
)
def test_chance_is_the_loss_of_equal_vectors(options: dict, value: float) -> None:
    method = give(build(**options))
    method.bank.rows.copy_(F.normalize(torch.ones(20, 8), dim=1))
    with torch.no_grad():
        method.head[0].weight.zero_()
        method.head[0].bias.fill_(1.0)
    assert method(batch(0, 1)).item() == pytest.approx(method.chance(2), abs=1e-3)
    assert method.chance(2) == pytest.approx(value, abs=5e-5)


def test_resumed_method_continues_with_the_same_bank_and_constant() -> None:
    method, resumed = build(loss="nce"), build(loss="nce")
    method(batch(0, 5, 6))
    resumed.load_state_dict(method.state_dict())
    values = []
    for one in (method, resumed):
        torch.manual_seed(5)
        values.append(one(batch(2, 5, 9)))
    assert torch.equal(*values) and torch.equal(method.bank.rows, resumed.bank.rows)
    assert method.bank.log_constant.isfinite() and method.bank.log_constant == resumed.bank.log_constant


def test_training_before_the_bank_is_filled_is_refused() -> None:
    method = InstanceDiscrimination(encoders.build("conv4", image_size=8))
    assert method.chance(2) is None
    with pytest.raises(ValueError, match="memory bank must be filled first"):
        method(batch(0))


def recognised(loss: str, wrong: bool) -> float:
    """Fraction of the images recognised from new views, perhaps after a training in which numbers change owners."""
    method = build(loss=loss, crop=0.6, jitter=0.2, gray=0.0)
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    given = batch(*range(20))
    for step in range(30):
        torch.manual_seed(step)
        optimizer.zero_grad()
        method(given | {"index": torch.randperm(20)} if wrong else given).backward()
        optimizer.step()
    with torch.no_grad():
        vectors = method.embed_features(method.encoder(method.views(given)))
    return ((vectors @ method.bank.rows.T).argmax(1) == torch.arange(20)).float().mean().item()


@pytest.mark.parametrize("loss", ["softmax", "nce"])
def test_images_are_recognised_in_new_views(loss: str) -> None:
    assert recognised(loss, wrong=False) > 0.5


def test_indices_that_change_between_images_cannot_be_learned() -> None:
    assert recognised("softmax", wrong=True) < 0.25


@pytest.mark.parametrize("loss", ["softmax", "nce"])
def test_training_step_in_bfloat16_is_finite(loss: str) -> None:
    method = build(loss=loss, temperature=0.04)
    with torch.autocast("cpu", torch.bfloat16):
        value = method(batch(1, 2, 3, 4))
    value.backward()
    assert value.dtype == method.bank.rows.dtype == torch.float32 and value.isfinite()
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)


def test_pictures_show_the_nearest_of_any_images_to_a_view() -> None:
    method = build(samples=4).eval()  # images beyond those of the training have no stored vector
    method.views = lambda batch: batch["image"].roll(1, 0) / 255  # type: ignore[assignment]
    given = batch(2, 9, 15, 11)
    pictures = method.pictures(given)
    assert list(pictures) == ["view", "original image", "nearest image"]
    assert torch.equal(pictures["original image"], given["image"] / 255)
    assert torch.equal(pictures["nearest image"], pictures["original image"].roll(1, 0))
