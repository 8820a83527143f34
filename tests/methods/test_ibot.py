"""iBOT: the loss of a step against a slow twin, what hidden patches may know, and a world of noise."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled import encoders
from unlabeled.encoders import ImageEncoder
from unlabeled.encoders.adapt import Adapt
from unlabeled.encoders.from_timm import vit_small
from unlabeled.methods.dino import DINO
from unlabeled.methods.ibot import IBOT
from unlabeled.parts.self_distillation import Assignments, masked_prediction, read
from unlabeled.parts.sinkhorn import sinkhorn
from unlabeled.parts.token_masks import some_blockwise

SIZES = {"prototypes": 5, "hidden_dim": 12, "bottleneck_dim": 6, "freeze_steps": 0, "local_crops": 2}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def network(gap: bool = False, registers: int = 0, size: int = 16) -> ImageEncoder:
    """One block on 8 x 8 patches of 2 x 2 pixels, or on 4 x 4 pixels."""
    trunk = vit_small(1, size, blocks=1, width=48, gap=gap, registers=registers)
    return ImageEncoder(Adapt("color", 1), trunk, {"name": "own", "in_channels": 1, "image_size": size})


def small(gap: bool = False, registers: int = 0, **options) -> IBOT:
    return IBOT(network(gap, registers), **SIZES | {"crop": 0.4} | options)


def give(method: IBOT, count: int = 3) -> list[Tensor]:
    """Fixed crops, which the method then sees: two large and two small ones."""
    crops = [torch.rand(count, 1, size, size).to(method.distill.assign.center) for size in (16, 16, 8, 8)]
    turn = iter(crops[:2] * 50)
    method.views = lambda batch: next(turn)
    method.distill.small_crops = lambda batch: crops[2:]  # type: ignore[assignment]
    return crops


def fixed(method: IBOT, crops: int = 6) -> Tensor:
    mask = method.distill.draw_masks(torch.zeros(crops, 1))
    method.distill.draw_masks = lambda crops: mask  # type: ignore[method-assign]
    return mask


@pytest.mark.parametrize(
    ("gap", "registers", "shared"), [(False, 0, True), (True, 0, False), (False, 2, False)]
)
def test_value_and_gradient_are_those_of_loops_over_crops_and_hidden_patches(
    gap: bool, registers: int, shared: bool
) -> None:
    method = small(gap, registers, shared_head=shared, patch_weight=0.7).double().eval()
    with torch.no_grad():
        method.hidden_token.normal_()
        for assign in (method.distill.assign, method.distill.assign_patches):
            assign.center.copy_(0.2 * torch.randn(5))
        for parameter in method.distill.teacher.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    crops, mask, prefix = give(method), fixed(method), 0 if gap else 1 + registers
    teacher, heads = method.distill.teacher.networks, method.distill.heads
    tokens = [
        method.encoder.tokens(crop, masked=(part, method.hidden_token))
        for crop, part in zip(crops[:2], mask.chunk(2))
    ]
    features = [part.mean(1) if gap else part[:, 0] for part in tokens] + [
        method.encoder(x) for x in crops[2:]
    ]
    whole = [teacher[0].tokens(crop) for crop in crops[:2]]  # type: ignore[operator]
    pairs, patches = [], torch.zeros((), dtype=torch.double)
    for image in range(3):
        for told in range(2):
            seen = whole[told][image].mean(0) if gap else whole[told][image, 0]
            target = F.softmax((teacher[1](seen[None])[0] - method.distill.assign.center) / 0.04, 0)
            for one in range(4):
                if one != told:
                    said = F.log_softmax(heads[0](features[one][[image]])[0] / 0.1, 0)
                    pairs.append(-(target * said).sum())
            hidden, errors = mask[told * 3 + image].nonzero()[:, 0].tolist(), []
            for place in hidden:
                seen, said = (
                    heads_[-1](x[image, [prefix + place]])[0]
                    for heads_, x in ((teacher, whole[told]), (heads, tokens[told]))
                )
                target = F.softmax((seen - method.distill.assign_patches.center) / 0.04, 0)
                errors.append(-(target * F.log_softmax(said / 0.1, 0)).sum())
            patches = patches + (sum(errors) / len(errors) if errors else 0)
    expected = torch.stack(pairs).mean() + 0.7 * patches / 6
    value = method({})
    torch.testing.assert_close(value, expected)
    weights = [p for p in method.parameters() if p.requires_grad]
    for ours, theirs in zip(*(torch.autograd.grad(x, weights) for x in (value, expected))):
        torch.testing.assert_close(ours, theirs)
    assert len(heads) == 2 - shared and (mask.any(1).sum() == 3)


def test_without_masks_it_is_dino_bit_for_bit() -> None:
    method, dino = small(masked_crops=0.0), DINO(network(), **SIZES | {"crop": 0.4})
    dino.encoder.load_state_dict(method.encoder.state_dict())
    dino.head.load_state_dict(method.distill.heads[0].state_dict())
    dino.teacher.restart()
    method.distill.teacher.restart()
    crops = give(method)
    dino.two_views = lambda batch: (crops[0], crops[1])  # type: ignore[method-assign]
    dino.small_crops = method.distill.small_crops
    ours, theirs = method({}), dino({})
    assert torch.equal(ours, theirs)
    for first, second in zip(
        *(
            torch.autograd.grad(x, list(m.encoder.trunk.model.blocks.parameters()))  # type: ignore
            for x, m in ((ours, method), (theirs, dino))
        )
    ):
        assert torch.equal(first, second)


def test_a_uniform_student_has_the_loss_of_chance_whatever_the_teacher() -> None:
    method = small(prototypes=1024)
    give(method)
    with torch.no_grad():
        method.distill.heads[0].prototypes.copy_(torch.ones(1024, 6))
    assert method({}).item() == pytest.approx(method.chance(6), rel=1e-5)
    assert method.chance(6) == pytest.approx(1.5 * math.log(1024))


def test_hidden_pixels_reach_neither_features_nor_tokens_but_set_the_assignments() -> None:
    method = small()
    images, mask = torch.rand(4, 1, 16, 16), fixed(method, 4)
    place = mask.view(4, 1, 8, 8).repeat_interleave(2, 2).repeat_interleave(2, 3)
    others = torch.where(place, torch.rand_like(images), images)
    outputs = [read(method.encoder, x, (mask, method.hidden_token)) for x in (images, others)]
    assert all(torch.equal(*pair) for pair in zip(*outputs))
    first, second = (method.distill.assigned(x, mask)[1] for x in (images, others))
    assert len(first) == mask.sum() and (first - second).abs().max() > 1e-3


def test_only_hidden_patches_count_each_crop_alike() -> None:
    mask = torch.tensor([[True, True, False], [False, False, False], [False, False, True]])
    scores = torch.randn(3, 4).double().requires_grad_()
    codes = torch.randn(3, 4).double().softmax(1)
    errors = [-(code * (row / 0.2).log_softmax(0)).sum() for row, code in zip(scores, codes)]
    slow = ((errors[0] + errors[1]) / 2 + errors[2]) / 3
    fast = masked_prediction(scores, codes, mask, 0.2)
    torch.testing.assert_close(fast, slow)
    torch.testing.assert_close(*(torch.autograd.grad(x, scores)[0] for x in (fast, slow)))
    nothing = masked_prediction(scores[:0], codes[:0], torch.zeros(2, 3, dtype=torch.bool), 0.2)
    assert nothing == 0 and torch.autograd.grad(nothing, scores)[0].eq(0).all()


def test_half_of_the_crops_have_hidden_patches_whose_shares_spread_evenly() -> None:
    torch.manual_seed(1)
    masks = torch.stack([some_blockwise(20, (8, 8), 0.5, (0.1, 0.5), torch.device("cpu")) for _ in range(50)])
    counts = masks.sum(2)
    assert ((counts > 0).sum(1) == 10).all()
    sizes = counts.sort(1).values[:, 10:]
    low, width = 0.1 * 64, 0.04 * 64
    for number in range(10):  # one from each tenth of the range, rounded down
        assert (sizes[:, number] >= math.floor(low + width * number)).all()
        assert (sizes[:, number] <= low + width * (number + 1)).all()
    assert masks.float().mean() == pytest.approx(0.5 * 0.3, abs=0.01)
    assert (counts > 0).float().mean(0).amax() < 0.9 and (masks.float().mean((0, 1)) > 0.01).all()


def test_the_center_is_the_mean_over_all_samples_since_the_last_step_and_ignores_empty_steps() -> None:
    assign = Assignments(3, 0.04, 0.9)
    first, second = torch.randn(2, 3), torch.randn(5, 3)
    for part in (first, second):
        torch.testing.assert_close(assign(part), (part / 0.04).softmax(1))
    assign.follow(0.1)
    center = 0.1 * torch.cat([first, second]).mean(0)
    torch.testing.assert_close(assign.center, center)
    assign(first[:0])
    assign.follow(0.2)
    assert torch.equal(assign.center, assign.center.clone()) and assign.center.isfinite().all()
    torch.testing.assert_close(assign.center, center)
    assign.eval()(second)
    assert not assign.count


def test_sinkhorn_balances_prototypes_and_its_rows_sum_to_one() -> None:
    scores = torch.randn(40, 5) * 0.3 + torch.tensor([2.0, 0, 0, 0, 0])
    codes = Assignments(5, 0.1, 0.9, "sinkhorn")(scores)
    torch.testing.assert_close(codes, sinkhorn(scores, 0.1, 3))
    assert (codes.sum(1) - 1).abs().max() < 1e-5
    assert codes.sum(0).max() < 12 < 39 < (scores / 0.1).softmax(1).sum(0)[0]


def trained(noise: bool = False, seed: int = 0, steps: int = 120) -> tuple[dict[str, float], float]:
    """Metrics after a short training, and how much better the student names hidden patches than by their place.

    Every quarter of an image is dark or bright; in noise every pixel is, and nothing but the place can be known.
    """
    torch.manual_seed(seed)
    sizes = {"local_crops": 0, "hidden_dim": 32, "bottleneck_dim": 16, "masked_crops": 1.0, "mask_max": 0.3}
    method = IBOT(network(gap=True, size=4), **SIZES | sizes, momentum=0.9, shared_head=False)
    side = 4 if noise else 2

    def images(count: int) -> Tensor:
        shades = (torch.rand(count, 1, side, side) > 0.5).float() * 0.8 + 0.1
        return shades.repeat_interleave(4 // side, 2).repeat_interleave(4 // side, 3)

    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], 3e-3)
    for step in range(steps):
        shown = images(24)
        method.views = lambda batch, shown=shown: shown
        optimizer.zero_grad()
        method({}).backward()
        optimizer.step()
        method.after_step(step / steps)
    shown, mask = images(320), method.eval().distill.draw_masks(torch.zeros(320, 1))
    with torch.no_grad():
        true = method.distill.assigned(shown, mask)[1].argmax(1)
        said = method.distill.heads[-1](read(method.encoder, shown, (mask, method.hidden_token))[1][mask])
    place = mask.nonzero()[:, 1]
    commonest = sum(torch.bincount(true[place == one]).max() for one in place.unique()) / len(true)
    better = (said.argmax(1) == true).float().mean().item() - float(commonest)
    return {name: value.item() for name, value in method.metrics.items()}, better


def test_hidden_patches_are_named_where_the_rest_of_the_image_tells_them_and_not_in_noise() -> None:
    metrics, better = trained()
    assert better > 0.1 and metrics["patch used"] > 1.8
    assert trained(noise=True)[1] < 0.03


def test_pictures_of_perfect_predictions_show_the_view() -> None:
    method = small(gap=True, jitter=0.0, gray=0.0)
    images = torch.randint(256, (3, 1, 16, 16), dtype=torch.uint8)
    shown = method.eval().pictures({"image": images})
    assert set(shown) == {"view", "visible", "best fit"}
    assert ((shown["visible"] - shown["view"]).abs() > 0).any() and torch.isin(  # type: ignore[operator]
        shown["best fit"],
        shown["view"],  # type: ignore[arg-type]
    ).all()


def test_frozen_prototypes_keep_their_directions_and_nonsense_is_refused() -> None:
    method = small(freeze_steps=1)
    start = method.distill.heads[0].prototypes.detach().clone()
    give(method)
    for step in range(2):
        optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.5)
        optimizer.zero_grad()
        method({}).backward()
        optimizer.step()
        method.after_step(step / 2)
        same = F.cosine_similarity(start, method.distill.heads[0].prototypes, 1).min() > 1 - 1e-6
        assert bool(same) == (step == 0)
    with pytest.raises(ValueError, match=r"mask_min must be at most mask_max \(0.2\), got 0.3"):
        small(mask_min=0.3, mask_max=0.2)
    with pytest.raises(ValueError, match="be a vision transformer, such as vit-gap-small, got conv4"):
        IBOT(encoders.build("conv4"))
