"""DeepCluster: what an epoch begins with, and what a step predicts."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from unlabeled import encoders
from unlabeled.methods.deepcluster import DeepCluster
from unlabeled.parts import gather
from unlabeled.parts.kmeans import agreement


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


class Images:
    """Four kinds of stripes, as a data set."""

    def __init__(self, samples: int = 60) -> None:
        self.kinds = torch.arange(samples) % 4
        ramp = torch.arange(12.0)
        waves = [ramp * 1.5, ramp[:, None] * 0.7, ramp + ramp[:, None], 0.8 * (ramp - ramp[:, None])]
        patterns = torch.stack([torch.sin(wave).expand(12, 12) for wave in waves])
        images = 128 + 100 * patterns[self.kinds][:, None] + 5 * torch.randn(samples, 3, 12, 12)
        self.images = images.clamp(0, 255).to(torch.uint8)

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, index: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"image": self.images[index], "index": index}

    def batches(self, size: int):
        for index in torch.arange(len(self)).split(min(size, 25)):
            yield self.batch(index)


def build(data: Images | None = None, **options) -> DeepCluster:
    encoder = encoders.build("conv4", image_size=12, input="sobel")
    method = DeepCluster(encoder, **options)
    if data is not None:
        method.prepare(data)  # type: ignore[arg-type]
    return method


def test_epoch_begins_with_clusters_that_are_never_empty_and_weights_that_balance_them():
    data = Images(100)
    method = build(data, clusters=7)
    weights = method.begin_epoch(data)
    sizes = torch.bincount(method.assignments, minlength=7)
    assert (sizes > 0).all() and sizes.sum() == 100
    drawn = torch.multinomial(weights, 14_000, replacement=True)
    share = torch.bincount(method.assignments[drawn], minlength=7) / 14_000
    torch.testing.assert_close(share, torch.full((7,), 1 / 7), atol=0.015, rtol=0)
    assert weights.sum() == pytest.approx(1, abs=1e-5)


def test_kinds_of_images_are_found():
    data = Images(80)
    method = build(data, clusters=4, components=3)
    method.begin_epoch(data)
    assert agreement(method.assignments, data.kinds) > 0.9


def test_epoch_renews_the_head_and_leaves_the_encoder():
    data = Images()
    method = build(data)
    method.encoder.train()
    weight = method.head.weight
    before, encoder = weight.detach().clone(), {k: v.clone() for k, v in method.encoder.state_dict().items()}
    method.begin_epoch(data)
    assert method.head.weight is weight  # the optimizer holds it
    assert not torch.equal(weight, before)
    assert weight.std().item() == pytest.approx(0.01, rel=0.05) and (method.head.bias == 0).all()
    for name, value in method.encoder.state_dict().items():  # norms see the data in evaluation mode only
        assert torch.equal(value, encoder[name])
    assert method.encoder.training


def test_agreement_of_epochs_is_logged_and_kept():
    data = Images()
    method = build(data)
    method.begin_epoch(data)
    assert method.agreement == 0
    before = method.assignments.clone()
    method.begin_epoch(data)
    assert method.agreement == agreement(before, method.assignments) > 0
    method(data.batch(torch.arange(20)))
    assert method.metrics["agreement"] == method.agreement
    assert {"assignments", "agreement", "used"} <= method.state_dict().keys()


def test_first_loss_of_an_epoch_is_at_chance():
    data = Images(300)
    method = build(data, clusters=30)
    method.begin_epoch(data)
    loss = method(data.batch(torch.arange(300)))
    assert loss.item() == pytest.approx(math.log(30), abs=0.02)
    assert method.chance(300) == pytest.approx(math.log(30))


def test_loss_is_the_cross_entropy_with_the_cluster_of_the_row():
    data = Images(200)
    method = build(data, clusters=5, crop=1.0, flip=0.0)
    method.begin_epoch(data)
    nn.init.normal_(method.head.weight)
    method.eval()
    index = torch.tensor([7, 150, 3, 3])
    batch = data.batch(index)
    logits = method.head(method.encoder(data.images[index] / 255))
    expected = [-F.log_softmax(row, 0)[method.assignments[i]] for row, i in zip(logits, index)]
    torch.testing.assert_close(method(batch), torch.stack(expected).mean(), rtol=1e-4, atol=1e-4)


def test_default_is_a_hundred_clusters_or_a_tenth_of_the_samples():
    method = build()
    assert method.chance(8) == pytest.approx(math.log(100))
    data = Images(60)
    method.prepare(data)  # type: ignore[arg-type]
    assert method.chance(8) == pytest.approx(math.log(6))
    method.begin_epoch(data)  # type: ignore[arg-type]
    assert method.assignments.max() == 5
    method(data.batch(torch.arange(60))).backward()
    assert (method.head.weight.grad[6:] == 0).all() and (method.head.weight.grad[:6] != 0).any()


def test_too_many_clusters_are_refused():
    with pytest.raises(ValueError, match="clusters must be at most a quarter of the samples, 15, got 16"):
        build(Images(60), clusters=16)


def test_training_before_the_first_clustering_is_refused():
    with pytest.raises(ValueError, match="call prepare"):
        build()(Images().batch(torch.arange(8)))


def test_training_learns_the_clusters_and_not_the_gradient_filters():
    data = Images()
    method = build(data, clusters=4, components=3, crop=0.6)
    method.begin_epoch(data)
    fixed = {name: value.clone() for name, value in method.encoder.adapt.state_dict().items()}
    optimizer = torch.optim.Adam(method.parameters(), lr=3e-3)
    for _ in range(15):
        loss = method(data.batch(torch.arange(60)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.8 * math.log(4)
    for name, value in method.encoder.adapt.state_dict().items():
        assert torch.equal(value, fixed[name])
    assert not any(name.startswith("adapt") for name, _ in method.encoder.named_parameters())


def test_clusterings_follow_the_default_generator():
    data = Images()
    method = build(data)
    torch.manual_seed(1)
    method.begin_epoch(data)
    first, weight = method.assignments.clone(), method.head.weight.detach().clone()
    torch.manual_seed(1)
    method.begin_epoch(data)
    assert torch.equal(first, method.assignments) and torch.equal(weight, method.head.weight)


def test_clusters_and_head_are_those_of_the_first_process(monkeypatch):
    data = Images()
    method = build(data)
    sent = {torch.long: (torch.arange(60) + 1) % 6, torch.float: torch.full((100, method.encoder.dim), 0.5)}
    monkeypatch.setattr(gather, "broadcast", lambda value: sent[value.dtype])
    weights = method.begin_epoch(data)
    assert torch.equal(method.assignments, sent[torch.long])
    assert torch.equal(method.head.weight, sent[torch.float])
    torch.testing.assert_close(weights, torch.full((60,), 1 / 60))


def test_pictures_show_a_mate_of_the_same_cluster():
    data = Images(80)
    method = build(data, clusters=4)
    method.begin_epoch(data)
    batch = data.batch(torch.arange(16))
    shown = method.pictures(batch)
    assert all(picture.shape == (16, 3, 12, 12) for picture in shown.values())
    with torch.no_grad():
        labels = method._logits(batch["image"] / 255).argmax(1).tolist()
    for row, mate in enumerate(shown["same predicted cluster"]):
        others = [batch["image"][i] / 255 for i in range(16) if i != row and labels[i] == labels[row]]
        assert any(torch.equal(mate, other) for other in others) if others else bool((mate == 0.5).all())


@pytest.mark.parametrize(
    "name, value", [("clusters", 1), ("components", 0), ("iterations", 0), ("crop", 0.0), ("flip", 2.0)]
)
def test_bad_values_are_named(name, value):
    with pytest.raises(ValueError, match=name):
        build(**{name: value})
