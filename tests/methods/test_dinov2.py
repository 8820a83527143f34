"""DINOv2: KoLeo and Gram anchoring against slow twins, which earlier teacher anchors, and when."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from unlabeled import encoders
from unlabeled.encoders import ImageEncoder
from unlabeled.encoders.adapt import Adapt
from unlabeled.encoders.from_timm import vit_small
from unlabeled.methods.dinov2 import DINOv2, gram, koleo
from unlabeled.methods.ibot import IBOT
from unlabeled.parts.self_distillation import read

SIZES: dict[str, Any] = {"prototypes": 5, "hidden_dim": 12, "bottleneck_dim": 6, "freeze_steps": 0}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def network(size: int = 16) -> ImageEncoder:
    trunk = vit_small(1, size, blocks=1, width=48)
    return ImageEncoder(Adapt("color", 1), trunk, {"name": "own", "in_channels": 1, "image_size": size})


def small(**options: Any) -> DINOv2:
    return DINOv2(network(), **SIZES | {"local_crops": 1} | options)


def batch(count: int = 4) -> dict[str, Tensor]:
    return {"image": torch.randint(256, (count, 1, 16, 16), dtype=torch.uint8)}


def seeded(method: Any, given: dict[str, Tensor]) -> Tensor:
    torch.manual_seed(3)
    return method(given)


def test_koleo_and_its_gradient_are_those_of_a_loop() -> None:
    features = torch.randn(6, 4).double().requires_grad_()
    unit = [row / row.square().sum().sqrt() for row in features]
    logs = []
    for one in range(6):
        distances = [(unit[one] - unit[other]).square().sum().sqrt() for other in range(6) if other != one]
        logs.append(torch.stack(distances).min().log())
    slow, fast = -torch.stack(logs).mean(), koleo(features)
    torch.testing.assert_close(fast, slow, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(
        *(torch.autograd.grad(x, features)[0] for x in (fast, slow)), atol=1e-6, rtol=1e-5
    )


def test_koleo_of_orthogonal_equal_and_single_vectors() -> None:
    assert koleo(3 * torch.eye(5)).item() == pytest.approx(-0.3466, abs=1e-4)
    equal = torch.ones(4, 192, requires_grad=True)
    value = koleo(equal)
    assert value.item() == pytest.approx(-math.log(1e-4), abs=1e-3)
    assert torch.autograd.grad(value, equal)[0].isfinite().all()
    near = (torch.ones(2, 8) + 1e-6 * torch.randn(2, 8)).requires_grad_()
    assert torch.autograd.grad(koleo(near), near)[0].abs().max() < 1e4
    assert koleo(torch.ones(1, 4)) == 0


def test_gram_and_its_gradient_are_those_of_a_loop_over_pairs_of_patches() -> None:
    student, teacher = torch.randn(2, 3, 4).double().requires_grad_(), torch.randn(2, 3, 6).double()
    terms = [
        (torch.cosine_similarity(a[i], a[j], 0) - torch.cosine_similarity(b[i], b[j], 0)) ** 2
        for a, b in zip(student, teacher)
        for i in range(3)
        for j in range(3)
    ]
    slow, fast = torch.stack(terms).mean(), gram(student, teacher)
    torch.testing.assert_close(fast, slow)
    torch.testing.assert_close(*(torch.autograd.grad(x, student)[0] for x in (fast, slow)))
    assert gram(5 * student, student) < 1e-12
    assert gram(torch.ones(1, 6, 6), torch.eye(6)[None]).item() == pytest.approx(1 - 1 / 6)


def test_without_its_additions_it_is_ibot_and_koleo_adds_both_large_crops() -> None:
    options: dict[str, Any] = SIZES | {"local_crops": 1, "shared_head": False, "crop": 0.4}
    torch.manual_seed(1)
    plain = IBOT(network(), **options)
    torch.manual_seed(1)
    method = DINOv2(network(), koleo=0.0, **options)
    torch.manual_seed(1)
    spread = DINOv2(network(), koleo=0.3, **options)
    given = batch()
    assert torch.equal(seeded(plain, given), seeded(method, given))
    torch.manual_seed(3)
    large = torch.cat([spread.views(given) for _ in range(2)])
    spread.distill.small_crops(given)
    mask = spread.distill.draw_masks(large)
    features, _ = read(spread.encoder, large, (mask, spread.hidden_token))
    both = koleo(features[:4]) + koleo(features[4:])
    torch.testing.assert_close(seeded(spread, given), seeded(method, given) + 0.3 * both)
    torch.testing.assert_close(spread.metrics["koleo"], both.detach())


def test_separate_heads_are_two_and_both_start_as_their_teachers() -> None:
    for shared in (False, True):
        method = small(shared_head=shared)
        heads, teachers = method.distill.heads, method.distill.teacher.networks[1:]
        assert len(heads) == len(teachers) == 2 - shared
        for head, teacher in zip(heads, teachers):
            assert all(torch.equal(a, b) for a, b in zip(head.parameters(), teacher.parameters()))
    assert not torch.equal(*(head.prototypes for head in small().distill.heads))


def test_the_anchor_is_the_teacher_of_its_time_and_acts_from_when_it_should() -> None:
    method, given, states = small(gram=2.0, gram_teacher=0.3, gram_from=0.6), batch(), {}
    anchor, teacher = method.gram_teacher, method.distill.teacher
    assert anchor is not None
    for step in range(1, 11):
        method(given)
        assert ("gram" in method.metrics) == (step - 1 >= 6)
        with torch.no_grad():
            for parameter in method.encoder.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        method.after_step(step / 10)
        states[step] = [p.clone() for p in teacher.network.parameters()]
        if step >= 3:
            assert all(torch.equal(a, b) for a, b in zip(anchor.network.parameters(), states[3]))
    assert not any(p.requires_grad for p in anchor.parameters())
    method.after_step(0.2)  # of a training that was extended
    assert anchor.ready
    resumed = small(gram=2.0, gram_teacher=0.3, gram_from=0.6)
    resumed.load_state_dict(method.state_dict())
    assert torch.equal(seeded(method, given), seeded(resumed, given))
    method.prepare(None)
    assert not anchor.ready


def test_the_anchor_adds_the_difference_of_similarities_and_sees_whole_crops() -> None:
    method, given = small(gram=2.0, gram_teacher=0.0, gram_from=0.0), batch()
    before = seeded(method, given)
    method.after_step(0.1)
    with torch.no_grad():
        for parameter in method.gram_teacher.parameters():  # type: ignore[union-attr]
            parameter += 0.1 * torch.randn_like(parameter)
    for assign in (method.distill.assign, method.distill.assign_patches):
        assign.restart()
    after = seeded(method, given)
    torch.manual_seed(3)
    large = torch.cat([method.views(given) for _ in range(2)])
    method.distill.small_crops(given)
    mask = method.distill.draw_masks(large)
    patches = read(method.encoder, large, (mask, method.hidden_token))[1]
    expected = gram(patches, read(method.gram_teacher.network, large)[1])  # type: ignore[union-attr]
    torch.testing.assert_close(after - before, 2 * expected, atol=1e-5, rtol=1e-5)
    assert expected > 1e-4


def test_registers_are_tokens_that_no_feature_reads_and_nonsense_is_refused() -> None:
    encoder = encoders.build("vit-registers-small", image_size=16)
    assert encoder.prefix_tokens == 5 and encoder.trunk.model.reg_token.shape == (1, 4, 192)
    images = torch.rand(2, 3, 16, 16)
    tokens = encoder.tokens(images)
    changed = tokens.clone()
    changed[:, 1:5] += 1
    assert torch.equal(encoder.pooled(tokens), encoder(images))
    assert torch.equal(encoder.pooled(changed), encoder(images))
    with pytest.raises(ValueError, match=r"gram_teacher must be at most gram_from \(0.3\), got 0.5"):
        small(gram=1.0, gram_from=0.3)


def test_koleo_keeps_features_of_noise_apart_but_makes_them_tell_nothing() -> None:
    """Where nothing can be known, views of one image stay no closer than those of others."""
    torch.manual_seed(0)
    method = DINOv2(network(4), koleo=0.5, local_crops=0, **SIZES)
    method.views = lambda batch: torch.rand(16, 1, 4, 4)
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], 3e-3)
    spreads = []
    for step in range(40):
        optimizer.zero_grad()
        method({}).backward()
        optimizer.step()
        method.after_step(step / 40)
        spreads.append(method.metrics["koleo"].item())
    assert sum(spreads[-5:]) < sum(spreads[:5]) - 1
    first, second = (torch.nn.functional.normalize(method.encoder(method.views({})), dim=1) for _ in range(2))
    right = ((first @ second.T).argmax(1) == torch.arange(16)).float().mean()
    assert right < 0.35
