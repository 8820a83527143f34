"""Video colorization: one pointer over all references, copied probabilities, and no trace of colour in the input."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from unlabeled import encoders
from unlabeled.methods.video_colorization import VideoColorization, copy, likeness, loss
from unlabeled.parts.color import lab_to_rgb
from unlabeled.worlds import blobs


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def method(size=32, input="lightness", **options):
    options = {"crop": 1.0, "flip": 0.0, "stride": 1, "colors": 8, **options}
    return VideoColorization(encoders.build("conv4", image_size=size, input=input), **options)


def clips(count=4, **options):
    return {"video": blobs.make(count, 0, frames=4, size=32, **options)["video"]}


def data(batch):
    return SimpleNamespace(sample=lambda count: {"video": batch["video"][:count]})


def test_pointers_sum_to_one_over_all_references_together():
    places = F.normalize(torch.randn(2, 4, 6, 3, 5), dim=2)
    logits = likeness(places[:, 3], places[:, :3])
    assert logits.shape == (2, 15, 45)
    shares = copy(logits, torch.ones(2, 45, 1))
    torch.testing.assert_close(shares, torch.ones(2, 15, 1))
    by_reference = copy(logits, F.one_hot(torch.arange(3).repeat_interleave(15), 3).float().expand(2, 45, 3))
    assert (by_reference < 0.9).all()  # no reference has a softmax of its own


def test_likeness_matches_a_slow_loop():
    target, references = torch.randn(2, 4, 2, 3), torch.randn(2, 3, 4, 2, 3)
    logits = likeness(target, references)
    for b, y, x, t, v, u in [(0, 0, 0, 0, 0, 0), (1, 1, 2, 2, 0, 1), (0, 1, 0, 1, 1, 2)]:
        expected = sum(float(target[b, c, y, x] * references[b, t, c, v, u]) for c in range(4))
        assert float(logits[b, 3 * y + x, 6 * t + 3 * v + u]) == pytest.approx(expected, rel=1e-5)


def test_loss_is_the_likelihood_of_the_copied_colour_and_no_second_softmax():
    logits, references = torch.randn(2, 5, 9), torch.randint(3, (2, 9))
    colors = torch.stack([references[b][torch.randint(9, (5,))] for b in range(2)])
    total = 0.0
    for b in range(2):
        for j in range(5):
            weights = [math.exp(float(logit)) for logit in logits[b, j]]
            right = sum(w for w, c in zip(weights, references[b]) if c == colors[b, j])
            total -= math.log(right / sum(weights)) / 10
    assert float(loss(logits, colors, references)) == pytest.approx(total, rel=1e-5)
    shares = copy(logits, F.one_hot(references, 3).float()).gather(2, colors[:, :, None])
    torch.testing.assert_close(loss(logits, colors, references), -shares.log().mean())


def test_colours_are_symbols():
    logits, references, colors = torch.randn(2, 5, 9), torch.randint(4, (2, 9)), torch.randint(4, (2, 5))
    renamed = torch.randperm(4)
    torch.testing.assert_close(
        loss(logits, colors, references), loss(logits, renamed[colors], renamed[references])
    )


def test_colours_that_no_reference_has_do_not_count():
    logits = torch.randn(1, 4, 6, requires_grad=True)
    references, colors = torch.tensor([[0, 1, 0, 1, 1, 0]]), torch.tensor([[0, 5, 1, 5]])
    error = loss(logits, colors, references)
    torch.testing.assert_close(error, loss(logits[:, [0, 2]], colors[:, [0, 2]], references))
    error.backward()
    assert logits.grad is not None and logits.grad.isfinite().all() and not logits.grad[:, [1, 3]].any()
    assert loss(logits, torch.full((1, 4), 7), references) == 0


def test_a_target_that_is_a_reference_is_copied_with_certainty():
    places = F.normalize(torch.randn(1, 3, 32, 4, 4), dim=2)
    target = places[:, 1]
    codes = torch.randint(16, (1, 48))
    shares = copy(likeness(target, places) / 0.07, F.one_hot(codes, 16).float())
    assert (shares.gather(2, codes[:, 16:32, None]) > 0.99).all()


@pytest.mark.parametrize("input", ["lightness", "color"])
def test_only_lightness_reaches_the_encoder(input):
    """Other a and b at the same lightness: the network's input, and with it the pointers, stay the same."""
    network = method(input=input).eval()
    colored = torch.full((2, 4, 3, 32, 32), 0.0)
    colored[:, :, 0] = 40 + 20 * torch.rand(2, 4, 32, 32)
    other = colored.clone()
    for lab in (colored, other):
        lab[:, :, 1:] = 24 * torch.rand(2, 4, 2, 32, 32) - 12
    pictures = [lab_to_rgb(lab.flatten(0, 1)).unflatten(0, (2, 4)) for lab in (colored, other)]
    seen: list[torch.Tensor] = []
    hook = next(m for m in network.modules() if isinstance(m, nn.Conv2d)).register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0])
    )
    logits = [network.point(images) for images in pictures]
    hook.remove()
    assert seen[0].shape[1] == (1 if input == "lightness" else 3)
    torch.testing.assert_close(seen[0], seen[1], atol=1e-4, rtol=0)
    torch.testing.assert_close(logits[0], logits[1], atol=2e-3, rtol=0)
    assert (network.cells(pictures[0]) - network.cells(pictures[1])).abs().max() > 1


def test_the_palette_is_that_of_the_data_and_follows_the_seed():
    made = []
    for _ in range(2):
        network = method()
        torch.manual_seed(1)
        network.prepare(data(clips(16)))
        made.append(network.palette.clone())
    assert torch.equal(made[0], made[1]) and made[0].shape == (8, 2)
    assert len(made[0].unique(dim=0)) == 8
    # The hues of the world have one chroma; means of cells and of clusters lie inside that circle.
    assert made[0].norm(dim=1).max() < blobs.CHROMA + 1 and made[0].norm(dim=1).max() > 15
    assert "palette" in network.state_dict() and "baseline" in network.state_dict()


def test_chance_is_the_loss_of_a_pointer_that_is_everywhere():
    network = method(temperature=1e6)
    batch = clips(8)
    assert network.chance(8) is None
    network.prepare(data(batch))
    chance = network.chance(8)
    assert chance is not None and 0 < chance < math.log(8)
    assert float(network(batch).detach()) == pytest.approx(chance, abs=0.02)


def train(network, batches, steps=20):
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for step in range(steps):
        error = network(batches[step % len(batches)])
        optimizer.zero_grad()
        error.backward()
        optimizer.step()


def test_learns_to_copy_better_than_the_histogram_but_not_where_hues_tell_nothing():
    """Where every frame has hues of its own, no pointer can do better than the colours' frequencies."""
    losses = {}
    for hues in ("video", "frame"):
        video = clips(48, hues=hues)["video"]
        network = method(temperature=0.1, colors=4)
        network.prepare(data({"video": video}))
        train(network, [{"video": part} for part in video[:16].split(4)])
        chance = network.chance(4)
        assert chance is not None
        with torch.no_grad():
            losses[hues] = float(network({"video": video[16:]})) - chance
    assert losses["video"] < -0.12
    assert losses["frame"] > -0.07


def test_a_still_world_is_copied_from_the_same_place():
    network = method().eval()
    batch = clips(2, motion=0.0)
    pointers = network.point(network.clips(batch, random=False)).softmax(2).unflatten(2, (3, 64)).sum(2)
    assert (pointers.argmax(2) == torch.arange(64)).float().mean() > 0.95


def test_every_weight_of_the_encoder_gets_a_gradient():
    network = method()
    network.prepare(data(clips()))
    network(clips()).backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in network.parameters())


def test_one_crop_and_one_mirroring_for_all_frames_of_a_clip():
    still = clips(4, motion=0.0)
    shown = method(crop=0.3, flip=0.5).clips(still, random=True)
    assert torch.equal(shown, shown[:, :1].expand_as(shown))
    assert shown.shape == (4, 4, 3, 32, 32)


def test_pictures_paint_the_target():
    network = method().eval()
    batch = clips()
    network.prepare(data(batch))
    pictures = network.pictures(batch)
    assert list(pictures) == [
        "first reference",
        "target in grey",
        "colours copied",
        "true colours",
        "copies of references",
        "marked in the first reference",
        "where the mark is found",
    ]
    for images in pictures.values():
        assert images.shape == (4, 3, 32, 32)
        assert images.min() >= 0 and images.max() <= 1
    assert torch.equal(pictures["true colours"], batch["video"][:, 3] / 255)


def test_other_maps_and_plain_dot_products():
    assert method().layer == "s3"
    assert method(layer="s2").rows == 16 and method(size=16, layer="s4").rows == 2
    plain = method(normalize=False, temperature=20.0)
    plain.prepare(data(clips()))
    assert plain(clips()).isfinite()


def test_reads_clips_of_the_references_and_the_target():
    asked = {}
    videos = SimpleNamespace(clips=lambda **options: asked.update(options))
    method(references=2, stride=3).training_view(videos)
    assert asked == {"frames": 3, "stride": 3}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"references": 0}, "references must be at least 1"),
        ({"references": 1.5}, "references must be a whole number"),
        ({"stride": 0}, "stride must be at least 1"),
        ({"colors": 1}, "colors must be at least 2"),
        ({"temperature": float("nan")}, "temperature must be above 0"),
        ({"layer": "s9"}, "layer must be one of s1, s2, s3, s4"),
        ({"crop": 0.0}, "crop must be above 0"),
        ({"flip": 2.0}, "flip must be between 0 and 1"),
    ],
)
def test_refuses_nonsense(options, message):
    with pytest.raises(ValueError, match=message):
        method(**options)


def test_trains_the_frame_encoder_of_a_video_encoder():
    encoder = encoders.build("frames-conv4", kind="video", image_size=32, input="lightness")
    network = VideoColorization(encoder, colors=4)
    names = {name.split(".")[0] for name, _ in network.named_parameters()}
    assert names == {"encoder"}
    network.prepare(data(clips()))
    network(clips()).backward()
    assert all(weight.grad is not None for weight in encoder.parameters())
    assert network.eval().features(clips()).shape == (4, encoder.dim)
    with pytest.raises(ValueError, match="encoder must read single frames"):
        VideoColorization(encoders.build("conv3d", kind="video"))


def test_refuses_what_has_no_colour_and_clips_that_are_too_short():
    with pytest.raises(ValueError, match=r"channels must be 3 for video colorization, got 1"):
        VideoColorization(encoders.build("conv4", in_channels=1))
    faded = clips()["video"].float().mean(2, keepdim=True).to(torch.uint8).expand(-1, -1, 3, -1, -1)
    with pytest.raises(ValueError, match="videos must have colours"):
        method().prepare(data({"video": faded}))
    with pytest.raises(ValueError, match=r"frames of a clip must be above references, 3, got 3"):
        method()({"video": clips()["video"][:, :3]})


def redness(images):
    return images[:, 0] - images[:, 1]


def test_pictures_carry_the_mark_of_the_first_reference_by_the_pointer():
    """A network that points at the place two columns to the left carries the mark two columns to the right."""
    network, batch = method().eval(), clips()
    network.prepare(data(batch))
    rows, columns = network.rows, network.columns
    source = torch.arange(rows * columns).view(rows, columns).roll(2, 1).flatten()
    logits = torch.full((4, rows * columns, 3 * rows * columns), -100.0)
    logits[:, torch.arange(rows * columns), source] = 0.0
    logits[:, :, rows * columns :] = 100.0  # other references do not know the mark
    network.point = lambda clips: logits
    pictures = network.pictures(batch)
    step = 2 * 32 // columns
    first, found = (
        redness(pictures[name]) for name in ("marked in the first reference", "where the mark is found")
    )
    assert found.amax() > 0.9
    inner = slice(step + 4, -4)
    torch.testing.assert_close(found[:, :, inner], first.roll(step, 2)[:, :, inner], atol=0.01, rtol=0)


def test_a_mark_stays_where_it_is_in_a_still_world():
    network, batch = method(temperature=0.001).eval(), clips(4, motion=0.0)
    network.prepare(data(batch))
    pictures = network.pictures(batch)
    first, found = (
        redness(pictures[name]) for name in ("marked in the first reference", "where the mark is found")
    )
    assert (first - found).abs().mean() < 0.1 * first.mean()


def test_chance_is_unknown_where_no_target_has_a_colour_of_its_references():
    video = torch.zeros(1, 4, 3, 32, 32, dtype=torch.uint8)
    video[:, :3, 0], video[:, 3, 2] = 200, 200
    network = method(colors=2)
    network.prepare(data({"video": video}))
    assert network.chance(1) is None and float(network({"video": video}).detach()) == 0
