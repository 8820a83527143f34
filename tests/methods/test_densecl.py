"""DenseCL: which cells match, the loss of a step against a slow twin, the teacher and the queue."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled import encoders
from unlabeled.methods.densecl import DenseCL, correspondence
from unlabeled.parts.maps import blank_maps, vector_and_map


def build(encoder: str = "conv4", size: int = 8, **options) -> DenseCL:
    torch.manual_seed(0)
    options = {"queue": 20, "projection_dim": 6, "splits": 1} | options
    return DenseCL(encoders.build(encoder, image_size=size), **options)


def images(count: int = 8, size: int = 8) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(count))


def give(method: DenseCL, first: Tensor, second: Tensor) -> DenseCL:
    method.two_views = lambda batch: (first, second)  # type: ignore[method-assign]
    return method


def test_cells_of_equal_views_match_themselves_and_shifted_ones_follow_the_shift() -> None:
    maps = torch.randn(3, 10, 4, 4, generator=torch.Generator().manual_seed(0))
    cells = torch.arange(16).expand(3, 16)
    assert torch.equal(correspondence(maps.flatten(2), 5 * maps.flatten(2)), cells)
    shifted = maps.roll(1, 3).flatten(2)  # what was in column j is in column j + 1
    expected = torch.arange(16).view(4, 4).roll(-1, 1).flatten()
    assert torch.equal(correspondence(maps.flatten(2), shifted), expected.expand(3, 16))


def test_the_cells_are_those_of_the_deepest_map_with_four_rows() -> None:
    assert build(size=8).layer == "s2" and build(size=8).grid == 4
    assert build(size=32).layer == "s4" and build(size=32).grid == 4
    assert build(size=2).grid == 2  # the largest there is
    assert build("vit-small", size=32).grid == 8


@pytest.mark.parametrize("network", ["conv4", "resnet10", "vit-small"])
def test_one_pass_gives_the_features_and_the_last_map(network: str) -> None:
    torch.manual_seed(0)
    encoder = encoders.build(network, image_size=32).eval()
    x = images(2, 32)
    *_, last = blank_maps(encoder)
    vector, map_ = vector_and_map(encoder, x, last)
    torch.testing.assert_close(vector, encoder(x))
    torch.testing.assert_close(map_, encoder.maps(x)[last])


def slow(method: DenseCL, first: Tensor, second: Tensor, stored: Tensor) -> Tensor:
    """Cell by cell: cross-entropy of the matching key among it and the stored ones."""

    def nce(query: Tensor, key: Tensor, negatives: Tensor) -> Tensor:
        cosines = torch.stack([F.cosine_similarity(query, other, 0) for other in [key, *negatives]]) / 0.2
        return cosines.logsumexp(0) - cosines[0]

    networks = [method.encoder, method.head, method.cell_head], list(method.teacher.networks)
    sides = []
    for (encoder, head, cell_head), view in zip(networks, (first, second)):
        maps = encoder.maps(view)
        sides.append((head(encoder(view)), cell_head(maps["s2"]).flatten(2), maps["s2"].flatten(2)))
    whole, dense = [], []
    for n in range(len(first)):
        whole.append(nce(sides[0][0][n], sides[1][0][n], stored[:, :6]))
        for cell in range(16):
            likeness = [F.cosine_similarity(sides[0][2][n, :, cell], k, 0) for k in sides[1][2][n].T]
            best = int(torch.stack(likeness).argmax())
            dense.append(nce(sides[0][1][n, :, cell], sides[1][1][n, :, best].detach(), stored[:, 6:]))
    return 0.7 * torch.stack(whole).mean() + 0.3 * torch.stack(dense).mean()


def test_value_and_gradient_are_those_of_a_loop_over_cells() -> None:
    first, second = images(3).double(), images(3).flip(3).double()
    method = give(build(cell_weight=0.3).double().eval(), first, second)
    value, expected = method({}), slow(method, first, second, method.queue.rows)
    torch.testing.assert_close(value, expected)
    weights = [method.head[0].weight, method.cell_head[0].weight, method.encoder.trunk["s1"][0].weight]
    for ours, theirs in zip(*(torch.autograd.grad(x, weights) for x in (value, expected))):
        torch.testing.assert_close(ours, theirs)
        assert ours.abs().max() > 1e-6


def test_equal_vectors_have_the_loss_of_chance() -> None:
    method = give(build(), images(), images())
    with torch.no_grad():
        for layer in (method.head[-1], method.cell_head[-1]):
            layer.weight.zero_()
            layer.bias.fill_(1.0)
    method.teacher.restart()
    method.queue.rows.fill_(1.0)
    assert method({}).item() == pytest.approx(method.chance(8), rel=1e-5)
    assert build(queue=65536, projection_dim=1).chance(8) == pytest.approx(11.0904, abs=5e-5)


def test_with_one_cell_and_equal_heads_both_losses_are_one() -> None:
    """A dense head on a map of one pixel is a head on the vector."""
    method = build(size=1, projection_dim=4)
    assert method.grid == 1
    with torch.no_grad():
        for layer, other in zip(method.cell_head[::2], method.head[::2]):
            layer.weight.copy_(other.weight[:, :, None, None])
            layer.bias.copy_(other.bias)
        method.queue.rows[:, 4:] = method.queue.rows[:, :4]
    method.teacher.restart()
    values = []
    for weight in (0.0, 1.0):
        method.cell_weight = weight
        values.append(give(method.eval(), images(8, 1), images(8, 1).flip(1))({}))
    torch.testing.assert_close(*values)


def test_pooled_keys_are_stored_after_they_were_used_and_replace_the_oldest() -> None:
    method = give(build(), images(), images().flip(3))
    before = method.queue.rows.clone()
    encoder, head, cell_head = method.teacher.networks
    vector, features = vector_and_map(encoder, images().flip(3), method.layer)
    keys = F.normalize(head(vector), dim=1), F.normalize(cell_head(features).mean((2, 3)), dim=1)
    method({})
    torch.testing.assert_close(method.queue.rows[:8], torch.cat(keys, 1))
    assert torch.equal(method.queue.rows[8:], before[8:])
    after = method.queue.rows.clone()
    method.eval()({})
    assert torch.equal(method.queue.rows, after)


def test_teacher_gets_no_gradient_and_follows_both_heads_after_the_step() -> None:
    method = give(build(momentum=0.9), images(), images().flip(3))
    student = [
        parameter
        for part in (method.encoder, method.head, method.cell_head)
        for parameter in part.parameters()
    ]
    teacher = list(method.teacher.parameters())
    assert len(student) == len(teacher) and all(torch.equal(a, b) for a, b in zip(student, teacher))
    method({}).backward()
    assert all(p.grad is None for p in teacher) and all(p.grad is not None for p in student)
    start = [parameter.clone() for parameter in teacher]
    with torch.no_grad():
        for parameter in student:
            parameter.add_(1)
    method.after_step(0.5)
    for before, now, goal in zip(start, teacher, student):
        torch.testing.assert_close(now, 0.9 * before + 0.1 * goal)


def test_norms_see_the_groups_and_not_the_batch() -> None:
    whole, split = (give(build(splits=splits), images(16), images(16).flip(3)) for splits in (1, 2))
    assert not torch.isclose(whole({}), split({}), rtol=1e-4)


def test_pictures_rebuild_a_view_from_the_cells_of_an_equal_one() -> None:
    method = give(build().eval(), images(), images())
    pictures = method.pictures({"image": images()})
    torch.testing.assert_close(pictures["query from cells of the key"], pictures["query"])


def recognised(wrong: bool) -> float:
    """Fraction of cells whose matching key beats the stored ones, after a training; if wrong, of other images."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 16, 2, 2), nn.ReLU())
    method = DenseCL(encoders.wrap(network, image_size=8), queue=64, projection_dim=8, splits=1, momentum=0.9)
    shown = torch.rand(16, 3, 8, 8)

    def two_views(batch: object) -> tuple[Tensor, Tensor]:
        others = torch.rand(16, 3, 8, 8) if wrong else shown
        return shown + 0.05 * torch.randn_like(shown), others + 0.05 * torch.randn_like(shown)

    method.two_views = two_views  # type: ignore[method-assign]
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=3e-3)
    for step in range(80):
        optimizer.zero_grad()
        value = method({})
        value.backward()
        optimizer.step()
        method.after_step(step / 80)
    return math.exp(-value.item())


def test_cells_are_recognised_but_not_those_of_other_images() -> None:
    assert recognised(wrong=False) > 2 * recognised(wrong=True)


def test_the_default_queue_holds_at_most_one_key_per_image() -> None:
    method = build(queue=None)
    method.prepare(range(30))  # type: ignore[arg-type]
    assert method.queue.rows.shape == (30, 12) and method.chance(8) == pytest.approx(math.log(31))


def test_training_step_in_bfloat16_is_finite() -> None:
    method = build(temperature=0.04, size=16)
    with torch.autocast("cpu", torch.bfloat16):
        value = method({"image": torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)})
    value.backward()
    assert value.dtype == method.queue.rows.dtype == torch.float32 and value.isfinite()
    assert method.queue.rows.isfinite().all()
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)
