"""MoCo v3: the loss against the authors' formula, the shape of the heads, and the frozen patch embedding."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled import encoders
from unlabeled.methods.moco_v3 import MoCoV3
from unlabeled.parts.teacher import cosine_momentum


def build(network: str = "conv4", **options) -> MoCoV3:
    torch.manual_seed(0)
    options = {"projection_dim": 6, "hidden_dim": 12} | options
    return MoCoV3(encoders.build(network, image_size=8), **options)


def images(count: int = 6) -> Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(count))


def give(method: MoCoV3, first: Tensor, second: Tensor) -> MoCoV3:
    method.two_views = lambda batch: (first, second)  # type: ignore[method-assign]
    return method


def authors(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of each query's own key among all keys, times 2 T, row by row."""
    terms = []
    for number, query in enumerate(queries):
        cosines = torch.stack([F.cosine_similarity(query, key, 0) for key in keys])
        terms.append((cosines / temperature).logsumexp(0) - cosines[number] / temperature)
    return torch.stack(terms).mean() * 2 * temperature


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_value_and_gradient_are_those_of_the_authors_formula(temperature: float) -> None:
    first, second = images().double(), images().flip(3).double()
    method = give(build(temperature=temperature).double(), first, second)
    value = method({})
    queries = [method.predictor(method.head(method.encoder(view))) for view in (first, second)]
    keys = [method.teacher(view) for view in (first, second)]
    expected = authors(queries[0], keys[1], temperature) + authors(queries[1], keys[0], temperature)
    torch.testing.assert_close(value, expected)
    weights = [method.predictor[0].weight, method.head[0].weight, method.encoder.trunk["s1"][0].weight]
    for found, wanted in zip(torch.autograd.grad(value, weights), torch.autograd.grad(expected, weights)):
        torch.testing.assert_close(found, wanted)
        assert found.abs().max() > 1e-5


def test_collapsed_vectors_have_the_chance_loss() -> None:
    method = give(build(temperature=0.3), images(), images().flip(3))
    with torch.no_grad():
        method.predictor[-1].weight.zero_()
    assert method({}).item() == pytest.approx(method.chance(6), rel=1e-6)
    assert method.chance(6) == pytest.approx(4 * 0.3 * math.log(6))


def test_swapping_the_views_does_not_change_the_loss() -> None:
    first, second = images(), images().flip(3)
    torch.testing.assert_close(give(build(), first, second)({}), give(build(), second, first)({}))


def test_teacher_has_no_predictor_gets_no_gradient_and_moves_after_the_step() -> None:
    method = give(build(momentum=0.9), images(), images().flip(3))
    student, teacher = (
        [*method.encoder.parameters(), *method.head.parameters()],
        [*method.teacher.parameters()],
    )
    assert len(student) == len(teacher) and all(torch.equal(a, b) for a, b in zip(student, teacher))
    method({}).backward()
    assert all(parameter.grad is None for parameter in teacher)
    assert all(parameter.grad is not None for parameter in [*student, *method.predictor.parameters()])
    start = [parameter.clone() for parameter in teacher]
    with torch.no_grad():
        for parameter in student:
            parameter.add_(1)
    method({})
    assert all(torch.equal(a, b) for a, b in zip(start, teacher))
    method.after_step(0.5)
    momentum = cosine_momentum(0.9, 0.5)
    for before, now, goal in zip(start, teacher, student):
        torch.testing.assert_close(now, momentum * before + (1 - momentum) * goal)


def kinds(head: nn.Sequential) -> str:
    """L for a linear layer, N and n for norms with and without scale, R for ReLU."""
    letters = {nn.Linear: "L", nn.ReLU: "R", nn.BatchNorm1d: "N"}
    return "".join("n" if getattr(part, "affine", True) is False else letters[type(part)] for part in head)


def test_heads_are_those_of_the_paper_for_convolutional_networks_and_for_vits() -> None:
    for network, head, predictor in (("conv4", "LNRLn", "LNRL"), ("vit-small", "LNRLNRLn", "LNRLn")):
        method = build(network)
        assert (kinds(method.head), kinds(method.predictor)) == (head, predictor)
        assert all(
            part.bias is None
            for part in method.modules()
            if type(part) is nn.Linear and part.out_features < 13
        )


@pytest.mark.parametrize("freeze", [True, False])
def test_frozen_patch_embedding_of_a_vit_does_not_change_even_by_weight_decay(freeze: bool) -> None:
    from unlabeled.training import optimizers
    from unlabeled.training.settings import Settings

    method = give(build("vit-small", freeze_patches=freeze), images(), images().flip(3))
    patches, other = method.encoder.trunk.model.patch_embed.proj, method.encoder.trunk.model.blocks[0].mlp.fc1
    before = [patches.weight.clone(), patches.bias.clone(), other.weight.clone()]
    optimizer = optimizers.make(method, Settings(optimizer="adamw", lr=0.1, weight_decay=0.5))
    for _ in range(2):
        optimizer.zero_grad()
        method({}).backward()
        optimizer.step()
        method.after_step(0.5)
    for now, start in zip([patches.weight, patches.bias], before):
        assert torch.equal(now, start) == freeze
    assert not torch.equal(other.weight, before[2])
    assert torch.equal(method.teacher.networks[0].trunk.model.patch_embed.proj.weight, before[0]) == freeze


def test_only_the_second_view_is_solarized() -> None:
    method = build(solarize=1.0, jitter=0.0, gray=0.0, crop=1.0, flip=0.0)
    first, second = method.two_views({"image": torch.full((2, 3, 8, 8), 250, dtype=torch.uint8)})
    assert first.min() > 0.9 and second.max() < 0.1


def agreement(wrong: bool) -> float:
    """Fraction of the queries whose own key is nearest, in new views, perhaps of different images."""
    method = build(
        projection_dim=32, hidden_dim=64, crop=0.6, jitter=0.2, gray=0.0, solarize=0.0, momentum=0.9
    )
    views, coarse = method.two_views, torch.rand(16, 3, 3, 3, generator=torch.Generator().manual_seed(1))
    batch = {"image": (F.interpolate(coarse, 8, mode="bilinear") * 255).to(torch.uint8)}
    if wrong:
        method.two_views = lambda batch: (views(batch)[0], views(batch)[1][torch.randperm(16)])  # type: ignore
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=3e-3)
    for step in range(20):
        torch.manual_seed(step)
        optimizer.zero_grad()
        method(batch).backward()
        optimizer.step()
        method.after_step(step / 20)
    with torch.no_grad():
        first, second = method.two_views(batch)
        queries, keys = method.predictor(method.head(method.encoder(first))), method.teacher(second)
    nearest = (F.normalize(queries, dim=1) @ F.normalize(keys, dim=1).T).argmax(1)
    return (nearest == torch.arange(16)).float().mean().item()


def test_own_keys_are_recognised_but_not_if_views_show_different_images() -> None:
    assert agreement(wrong=False) > 0.4 > 2 * agreement(wrong=True)


@pytest.mark.parametrize("network", ["conv4", "vit-small"])
def test_training_step_in_bfloat16_is_finite(network: str) -> None:
    method = build(network, temperature=0.04)
    with torch.autocast("cpu", torch.bfloat16):
        value = method({"image": torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)})
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite()
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)
