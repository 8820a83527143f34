"""V-JEPA: the loss as a slow loop computes it, masks that reach everything, what stays hidden, and no collapse."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled import encoders
from unlabeled.data.video.data import from_videos
from unlabeled.encoders.adapt import Adapt
from unlabeled.encoders.video import Clips
from unlabeled.encoders.video_vit import VideoViT
from unlabeled.methods.vjepa import VJEPA, loss
from unlabeled.parts.token_masks import pick


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def small(size: int = 8, frames: int = 2, **options) -> VJEPA:
    """The method with one block on cubes of 2 x 2 pixels and one frame."""
    config = {"name": "own", "in_channels": 1, "image_size": size, "frames": frames}
    encoder = Clips(Adapt("color", 1), VideoViT(1, 2, 1, (1, 32, 1)), config)
    plain = {"crop": 1.0, "flip": 0.0, "predictor_dim": 32, "predictor_blocks": 1, "momentum": 0.97}
    return VJEPA(encoder, **plain | options)


def shades(samples: int) -> Tensor:
    """Clips of one brightness each."""
    return torch.rand(samples, 1, 1, 1, 1).expand(-1, 2, -1, 8, 8)


def noise(samples: int) -> Tensor:
    return torch.rand(samples, 2, 1, 8, 8)


def trained(method: VJEPA, world, steps: int = 50) -> VJEPA:
    optimizer = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=3e-3)
    for step in range(steps):
        optimizer.zero_grad()
        method({"video": world(64)}).backward()
        optimizer.step()
        method.after_step((step + 1) / steps)
    return method


@torch.no_grad()
def explained(method: VJEPA, clips: Tensor) -> float:
    """Fraction of how targets at a place differ between clips that the predictions explain, at most 1."""
    visible, hidden = (part.expand(len(clips), -1) for part in method.mask(clips[:1], 0))
    targets, predicted = pick(method.targets(clips), hidden), method.predict(clips, visible, hidden, 0)
    errors = (predicted - targets).square().sum() / (targets - targets.mean(0)).square().sum()
    return 1 - errors.item()


def test_loss_and_its_gradient_are_those_of_a_slow_loop() -> None:
    method = small().double()
    with torch.no_grad():
        for parameter in method.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    clips = torch.rand(3, 2, 1, 8, 8).double()
    torch.manual_seed(1)
    fast = method({"video": clips})
    torch.manual_seed(1)
    assert torch.equal(method.draw({"video": clips}), clips)
    masks = [method.mask(clips, kind) for kind in (0, 1)]
    slow = torch.zeros((), dtype=torch.double)
    for kind, (visible, hidden) in enumerate(masks):
        tokens = method.encoder.tokens(clips, visible)
        answers = method.predictor(tokens, visible, hidden, (2, 4, 4), kind)
        for sample in range(3):
            whole = method.teacher.networks[0].tokens(clips[sample : sample + 1])[0].detach()  # type: ignore[operator]
            for answer, number in zip(answers[sample], hidden[sample]):
                mean = whole[number].sum() / 32
                deviation = ((whole[number] - mean).square().sum() / 32 + 1e-5).sqrt()
                slow = (
                    slow + (answer - (whole[number] - mean) / deviation).abs().sum() / hidden.numel() / 32 / 2
                )
    torch.testing.assert_close(fast, slow)
    parameters = [parameter for parameter in method.parameters() if parameter.requires_grad]
    for one, other in zip(*(torch.autograd.grad(value, parameters) for value in (fast, slow))):
        torch.testing.assert_close(one, other)
    assert not any(parameter.requires_grad for parameter in method.teacher.parameters())


def test_targets_are_normalised_and_receive_no_gradient() -> None:
    method = small()
    targets = method.targets(torch.rand(4, 2, 1, 8, 8))
    torch.testing.assert_close(targets.mean(2), torch.zeros(4, 32), atol=1e-5, rtol=0)
    torch.testing.assert_close(targets.var(2, unbiased=False), torch.ones(4, 32), atol=1e-2, rtol=0)
    assert targets.shape == (4, 32, 32) and not targets.requires_grad
    predicted, given = (
        torch.zeros(500, 20, 32, requires_grad=True),
        torch.randn(500, 20, 32, requires_grad=True),
    )
    value = loss(predicted, given)
    value.backward()
    assert value.item() == pytest.approx(method.chance(4), abs=0.01) == pytest.approx(0.798, abs=0.01)
    assert predicted.grad is not None and given.grad is None


@pytest.mark.parametrize("kind", [0, 1])
def test_masks_are_the_same_at_all_times_apart_from_each_other_and_equally_large(kind: int) -> None:
    method = small(size=16, frames=3)
    fewest = math.ceil(0.05 * 64)
    for _ in range(20):
        visible, hidden = method.mask(torch.zeros(16), kind)
        for numbers in (visible, hidden):
            by_time = numbers.view(16, 3, -1)
            assert torch.equal(by_time - 64 * torch.arange(3).view(3, 1), by_time[:, :1].expand_as(by_time))
        assert visible.shape[1] >= 3 * fewest and hidden.shape[1] > 0
        assert not (visible[:, :, None] == hidden[:, None]).any()


@pytest.mark.parametrize("kind", [0, 1])
def test_every_place_is_seen_and_predicted_as_often_as_its_mirror_images(kind: int) -> None:
    """The authors' code leaves out the last places of all clips but the one with the fewest."""
    method = small(size=10, frames=1)
    often = torch.zeros(2, 25)
    for _ in range(60):
        for count, numbers in zip(often, method.mask(torch.zeros(64), kind)):
            count += numbers.flatten().bincount(minlength=25) / (60 * 64)
    seen, predicted = often.view(2, 5, 5)
    assert predicted.min() > 0.03 and (seen[[0, -1]].min() > 0.03 and seen[:, [0, -1]].min() > 0.03)
    for count in (seen, predicted):
        for mirrored in (count.flip(0), count.flip(1)):
            assert (count - mirrored).abs().max() < 0.05


def test_two_masks_cover_what_the_paper_says() -> None:
    """Of 14 x 14 places, eight rectangles of .15 leave .37 visible and two of .7 leave .19, before any is left out."""
    method = small(size=28, frames=1)
    for kind, share in ((0, 0.37), (1, 0.19)):
        visible = [method.mask(torch.zeros(1), kind)[0].shape[1] / 196 for _ in range(300)]
        assert sum(visible) / 300 == pytest.approx(share, abs=0.02)
    assert [len(small(long=long).masks) for long in (True, False)] == [2, 1]


def test_nothing_hidden_reaches_the_predictions_but_it_sets_the_targets() -> None:
    method, clips = small(), torch.rand(3, 2, 1, 8, 8)
    visible, hidden = method.mask(clips, 0)
    seen = torch.zeros(3, 32, dtype=torch.bool).scatter(1, visible, True).view(3, 2, 1, 4, 4)
    seen = seen.repeat_interleave(2, 3).repeat_interleave(2, 4)
    others = torch.where(seen, clips, torch.rand_like(clips))
    assert torch.equal(*(method.predict(x, visible, hidden, 0) for x in (clips, others)))
    first, second = (pick(method.targets(x), hidden) for x in (clips, others))
    assert (first - second).abs().max() > 0.1
    assert not torch.equal(*(method.predict(x, visible, hidden, 0) for x in (clips, 1 - clips)))


def test_masks_of_both_kinds_have_tokens_of_their_own() -> None:
    method = trained(small(), noise, 2)
    first, second = method.predictor.hidden_tokens
    assert method.predictor.hidden_tokens.shape == (2, 32) and (first - second).abs().max() > 1e-4


def test_of_noise_nothing_is_predicted_but_the_place() -> None:
    method = trained(small(long=False), noise)
    assert explained(method, noise(200)) < 0.05


def test_hidden_features_are_predicted_and_do_not_collapse_as_they_would_with_a_gradient() -> None:
    """The loss is low either way."""
    cured, collapsing = small(long=False), small(long=False)

    def own_targets(clips: Tensor) -> Tensor:
        tokens = collapsing.encoder.tokens(clips)
        collapsing.metrics = {"target std": tokens.flatten(0, 1).std(0).mean()}
        return F.layer_norm(tokens, tokens.shape[2:])

    collapsing.targets = own_targets  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "unlabeled.methods.vjepa.loss", lambda predicted, targets: (predicted - targets).abs().mean()
        )
        trained(collapsing, shades)
    trained(cured, shades)
    spread = [method.encoder(shades(200)).std(0).mean().item() for method in (cured, collapsing)]
    assert explained(cured, shades(200)) > 0.7
    assert spread[0] > 0.2 and spread[1] < 0.05
    assert cured.metrics["target std"] > 0.2 > 0.1 > collapsing.metrics["target std"]


def test_the_teacher_follows_and_stands_still_at_the_end() -> None:
    method = small(momentum=0.5)
    with torch.no_grad():
        method.encoder.trunk.embed.bias.add_(1.0)
    copy = method.teacher.networks[0].trunk.embed.bias  # type: ignore[union-attr]
    before = copy.detach().clone()  # type: ignore[union-attr]
    for progress, moved in ((0.0, 0.5), (1.0, 0.5)):
        method.after_step(progress)
        torch.testing.assert_close(copy.detach(), before + moved)  # type: ignore[union-attr]


def test_pictures_of_perfect_predictions_show_the_clip() -> None:
    method = small().eval()
    batch = {"video": torch.randint(256, (3, 2, 1, 8, 8), dtype=torch.uint8)}
    visible, hidden = torch.tensor([[0, 16]] * 3), torch.tensor([[5, 6, 21, 22]] * 3)
    method.mask = lambda clips, kind: (visible, hidden)  # type: ignore[method-assign]
    true = pick(method.targets(batch["video"] / 255), hidden)
    method.predict = lambda *given: true  # type: ignore[method-assign]
    shown = method.pictures(batch)
    assert torch.equal(shown["best fit"], shown["clip"])  # type: ignore[arg-type]
    known = torch.zeros(8, 16, dtype=torch.bool)
    known[:2, :2] = known[:2, 8:10] = True
    assert torch.equal(shown["visible"], torch.where(known, shown["clip"], 0.5))  # type: ignore[arg-type]


def test_every_weight_learns_and_nonsense_is_refused() -> None:
    encoder = encoders.build("vit3d-tiny", kind="video", image_size=16, frames=4)
    method = VJEPA(encoder, predictor_blocks=1)
    clips = method.training_view(from_videos(torch.randint(256, (4, 8, 3, 16, 16), dtype=torch.uint8)))
    method(clips.batch(torch.arange(8))).backward()
    assert all(parameter.grad is not None for parameter in method.parameters() if parameter.requires_grad)
    with pytest.raises(ValueError, match="frames=2 frames, got 3"):
        small()({"video": torch.rand(2, 3, 1, 8, 8)})
    with pytest.raises(ValueError, match="at least 4 cubes on a side, got 3"):
        small(size=6)
    with pytest.raises(ValueError, match="be a vision transformer of clips"):
        VJEPA(encoders.build("conv3d", kind="video"))
