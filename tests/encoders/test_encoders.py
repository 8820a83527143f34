"""Every encoder of ours, and timm's: shapes, gradients, files."""

import subprocess
import sys
from pathlib import Path
from typing import Any, get_args, get_overloads, get_type_hints

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from unlabeled.encoders import KINDS, Encoder, build, image, load, names, wrap
from unlabeled.parts.color import lab_to_rgb, rgb_to_lab

MAPS = {
    "conv4": (256, {"s1": (32, 32), "s2": (64, 16), "s3": (128, 8), "s4": (256, 4)}),
    "resnet10": (
        256,
        {"stem": (32, 16), "layer1": (32, 16), "layer2": (64, 8), "layer3": (128, 4), "layer4": (256, 2)},
    ),
    "resnet18": (
        512,
        {"stem": (64, 32), "layer1": (64, 32), "layer2": (128, 16), "layer3": (256, 8), "layer4": (512, 4)},
    ),
    "alexnet": (
        256,
        {"conv1": (64, 32), "conv2": (192, 15), "conv3": (384, 7), "conv4": (256, 7), "conv5": (256, 7)},
    ),
    "dense": (500, {"hidden": (500, 1)}),
    "nin": (192, {"block1": (96, 16), "block2": (192, 8), "block3": (192, 8), "block4": (192, 8)}),
    "vit-small": (192, {f"block{number}": (192, 8) for number in range(1, 5)}),
    "vit-registers-small": (192, {f"block{number}": (192, 8) for number in range(1, 5)}),
    "vit-gap-tiny": (96, {f"block{number}": (96, 8) for number in range(1, 5)}),
    "vit-gap-small": (192, {f"block{number}": (192, 8) for number in range(1, 5)}),
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def images(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", MAPS)
def test_maps_and_vector_have_the_published_shapes(name: str) -> None:
    encoder = build(name).eval()
    dim, expected = MAPS[name]
    maps = encoder.maps(images(2, 3, 32, 32))
    assert [(key, value.shape[1:]) for key, value in maps.items()] == [
        (key, (width, side, side)) for key, (width, side) in expected.items()
    ]
    assert encoder.map_dims == {key: width for key, (width, _) in expected.items()}
    assert encoder(images(2, 3, 32, 32)).shape == (2, dim) == (2, encoder.dim)


@pytest.mark.parametrize("name", [name for name in MAPS if name not in ("vit-small", "vit-registers-small")])
def test_last_map_is_what_is_pooled(name: str) -> None:
    encoder = build(name).eval()
    x = images(2, 3, 32, 32)
    *_, last = encoder.maps(x).values()
    torch.testing.assert_close(encoder(x), last.mean((2, 3)))


@pytest.mark.parametrize(("in_channels", "image_size"), [(1, 8), (13, 28)])
@pytest.mark.parametrize("name", MAPS)
def test_gradient_reaches_every_parameter_at_any_size_and_channels(
    name: str, in_channels: int, image_size: int
) -> None:
    encoder = build(name, in_channels=in_channels, image_size=image_size)
    features = encoder(images(4, in_channels, image_size, image_size))
    (features * torch.randn_like(features)).sum().backward()
    trained = {key: value.grad for key, value in encoder.named_parameters() if value.requires_grad}
    assert not [key for key, gradient in trained.items() if gradient is None or not gradient.any()]


@pytest.mark.parametrize(("name", "size"), [("conv4", 17), ("resnet10", 50), ("nin", 9), ("vit-small", 48)])
def test_other_image_sizes_are_taken(name: str, size: int) -> None:
    encoder = build(name, image_size=32).eval()
    assert encoder(images(2, 3, size, size)).shape == (2, encoder.dim)


@pytest.mark.parametrize("name", ["resnet18", "alexnet"])
def test_large_images_get_the_first_layer_of_imagenet(name: str) -> None:
    small, large = (next(build(name, image_size=size).trunk.parameters()) for size in (64, 96))
    assert small.shape[2] < large.shape[2] in (7, 11)


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "convnext_atto", "mobilenetv3_small_050", "resnest14d"]
)
def test_any_timm_model_has_a_vector_and_maps(name: str) -> None:
    encoder = build(name, in_channels=2, image_size=64).eval()
    x = images(2, 2, 64, 64)
    assert encoder(x).shape == (2, encoder.dim)
    assert {key: value.shape[1] for key, value in encoder.maps(x).items()} == encoder.map_dims


def test_names_are_the_ones_tested_here() -> None:
    pixel_gpts = ["pixel-gpt-8", "pixel-gpt-16", "pixel-gpt-32"]
    assert names() == [*MAPS, "resnet50", "dictionary-400", "split-conv4", "split-alexnet", *pixel_gpts]


def test_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"encoder must be .* got resnet81; similar names: .*resnet18"):
        build("resnet81")
    with pytest.raises(ValueError, match=r"or a timm model, got qqqqqqqq$"):
        build("qqqqqqqq")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_channels": 0}, "in_channels must be at least 1, got 0"),
        ({"image_size": 0}, "image_size must be at least 1, got 0"),
        ({"input": "hsv"}, "input must be one of color, lightness, sobel, lab, got hsv"),
        ({"init": "zero"}, "init must be one of default, rescaled, kmeans, dictionary, got zero"),
        ({"in_channels": 2, "input": "lab"}, "in_channels must be 3 or more with input lab, got 2"),
        ({"name": "vit-small", "image_size": 37}, "image_size must be a multiple .* got 37"),
    ],
)
def test_bad_values_name_the_parameter(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**{"name": "conv4", **arguments})


@pytest.mark.parametrize("name", sorted(image.ANY_SIZE))
def test_networks_that_are_not_tried_take_every_size(name: str) -> None:
    with torch.device("meta"), torch.no_grad():
        for size in (1, 2, 3, 4, 5, 8, 65):
            assert len(image.NAMES[name](3, size).eval()(torch.zeros(1, 3, size, size))) == 1


@pytest.mark.parametrize(("name", "tries"), [("conv4", 0), ("alexnet", 1)])
def test_a_network_is_tried_on_a_size_once_at_most(
    name: str, tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, sizes = image.NAMES[name], []

    def counted(channels: int, size: int) -> nn.Module:
        sizes.append(size)
        return make(channels, size)

    monkeypatch.setitem(image.NAMES, name, counted)
    image.refusal.cache_clear()
    for _ in range(3):
        build(name, image_size=31)
    assert len(sizes) == 3 + tries


def test_features_pool_a_map_to_at_most_4096_numbers() -> None:
    encoder = build("conv4").eval()
    x = images(2, 3, 32, 32)
    maps = encoder.maps(x)
    assert torch.equal(encoder.features(x), encoder(x))
    assert torch.equal(encoder.features(x, "s3"), nn.functional.adaptive_avg_pool2d(maps["s3"], 5).flatten(1))
    assert torch.equal(encoder.features(x, "s4"), maps["s4"].flatten(1))
    with pytest.raises(ValueError, match="layer must be one of s1, s2, s3, s4, got s5"):
        encoder.features(x, "s5")


def test_inputs_are_floats_of_the_training_size() -> None:
    batch = {"image": torch.randint(256, (2, 3, 40, 60), dtype=torch.uint8)}
    x = build("conv4").inputs(batch)
    assert x.shape == (2, 3, 32, 32) and x.min() >= 0 and x.max() <= 1


def test_tokens_of_all_patches_are_those_of_the_forward_pass() -> None:
    encoder = build("vit-small").eval()
    x = images(3, 3, 32, 32)
    tokens = encoder.tokens(x)
    assert tokens.shape == (3, encoder.prefix_tokens + (32 // encoder.patch_size) ** 2, encoder.dim)
    torch.testing.assert_close(tokens[:, 0], encoder(x))
    torch.testing.assert_close(tokens[:, 1:].mT, encoder.maps(x)["block4"].flatten(2))
    order = torch.rand(3, 64).argsort(1)
    shuffled = encoder.tokens(x, order)[:, 1:]
    expected = tokens[:, 1:].gather(1, order[:, :, None].expand_as(shuffled))
    torch.testing.assert_close(shuffled, expected, atol=1e-5, rtol=1e-5)


def test_tokens_do_not_see_the_patches_that_were_left_out() -> None:
    encoder = build("vit-small").eval()
    x = images(2, 3, 32, 32)
    keep = torch.tensor([[0, 9, 63], [5, 1, 2]])
    hidden = torch.ones(2, 64).scatter(1, keep, 0).view(2, 1, 8, 8)
    hidden = hidden.repeat_interleave(4, 2).repeat_interleave(4, 3)
    changed = torch.where(hidden == 1, 1 - x, x)
    tokens = encoder.tokens(x, keep)
    assert tokens.shape == (2, 4, 192)
    assert torch.equal(encoder.tokens(changed, keep), tokens)
    assert not torch.allclose(encoder(changed), encoder(x))


def test_vectors_of_vits_without_class_token_are_means_of_normed_tokens_with_fixed_positions() -> None:
    from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed

    for name, size in [("vit-gap-tiny", 32), ("vit-gap-small", 64), ("vit-gap-tiny", 224)]:
        encoder = build(name, image_size=size).eval()
        x = images(2, 3, size, size)
        tokens = encoder.tokens(x)
        assert encoder.prefix_tokens == 0 and encoder.patch_size == size // 8 and tokens.shape[1] == 64
        torch.testing.assert_close(encoder(x), tokens.mean(1))
        torch.testing.assert_close(tokens.mean(2), torch.zeros(2, 64), atol=1e-5, rtol=0)
        positions = encoder.trunk.model.pos_embed
        assert torch.equal(positions[0], build_sincos2d_pos_embed([8, 8], encoder.dim))
        assert not positions.requires_grad


@pytest.mark.parametrize("name", ["vit-small", "vit-gap-tiny"])
def test_masked_patches_become_the_token_before_their_positions_are_added(name: str) -> None:
    encoder = build(name).eval()
    x, token = images(2, 3, 32, 32), torch.randn(encoder.dim)
    masked = torch.zeros(2, 64, dtype=torch.bool)
    masked[0, 9] = masked[1, 60] = masked[1, 5] = True
    model, prefix = encoder.trunk.model, encoder.prefix_tokens
    embedded = model.patch_embed(encoder.adapt(x)).flatten(1, 2)
    embedded[masked] = token
    if prefix:
        embedded = torch.cat([model.cls_token.expand(2, -1, -1), embedded], 1)
    expected = model.norm(model.blocks(embedded + model.pos_embed))
    torch.testing.assert_close(encoder.tokens(x, masked=(masked, token)), expected)
    pixels = masked.view(2, 1, 8, 8).repeat_interleave(4, 2).repeat_interleave(4, 3)
    hidden = encoder.tokens(torch.where(pixels, 1 - x, x), masked=(masked, token))
    assert torch.equal(hidden, encoder.tokens(x, masked=(masked, token)))
    keep = torch.tensor([[9, 0], [3, 60]])
    both = encoder.tokens(x, keep, (masked, token))
    embedded = (embedded + model.pos_embed)[:, prefix:].gather(
        1, keep[:, :, None].expand(-1, -1, encoder.dim)
    )
    if prefix:
        embedded = torch.cat([(model.cls_token + model.pos_embed[:, :1]).expand(2, -1, -1), embedded], 1)
    torch.testing.assert_close(both, model.norm(model.blocks(embedded)))
    torch.testing.assert_close(encoder.tokens(x), build_again(encoder).tokens(x))  # nothing is left behind


def build_again(encoder: image.ImageEncoder) -> image.ImageEncoder:
    """An equal encoder that was not used yet."""
    other = build(encoder.config["name"]).eval()
    other.load_state_dict(encoder.state_dict())
    return other


def test_networks_without_tokens_say_so() -> None:
    with pytest.raises(ValueError, match="encoder must be a ViT such as vit-small, got conv4"):
        build("conv4").tokens(images(2, 3, 32, 32))


def test_lightness_does_not_see_colour() -> None:
    lab = torch.cat([torch.full((1, 1, 32, 32), 55.0), torch.zeros(1, 2, 32, 32)], 1)
    lab[:, 0] += 5 * images(1, 32, 32)
    tinted = lab + torch.tensor([0.0, 10.0, -10.0]).view(1, 3, 1, 1)
    grey, colour = lab_to_rgb(lab), lab_to_rgb(tinted)
    torch.testing.assert_close(rgb_to_lab(colour), tinted, atol=1e-3, rtol=0)
    encoder = build("conv4", input="lightness").eval()
    torch.testing.assert_close(encoder(grey), encoder(colour), atol=1e-4, rtol=0)
    assert not torch.allclose(build("conv4").eval()(grey), build("conv4").eval()(colour), atol=1e-2)


@pytest.mark.parametrize("name", ["conv4", "vit-small"])
def test_saved_encoder_loads_equal(name: str, tmp_path: Path) -> None:
    encoder = build(name, input="sobel", image_size=16).eval()
    encoder.adapt.set_statistics([0.1, 0.2], [0.3, 0.4])
    encoder(images(8, 3, 16, 16))
    encoder.save(tmp_path / "encoder.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["encoder.safetensors"]
    x = images(2, 3, 16, 16)
    for other in (
        load(tmp_path / "encoder.safetensors"),
        build(**encoder.config, weights=tmp_path / "encoder.safetensors"),
    ):
        assert other.config == encoder.config
        assert torch.equal(other.eval()(x), encoder(x))


def test_plain_weights_of_timm_and_torchvision_agree_with_ours(tmp_path: Path) -> None:
    import timm
    from torchvision.models import resnet18
    from torchvision.transforms.functional import normalize

    theirs: Any = timm.create_model("resnet18", num_classes=7).eval()
    save_file(theirs.state_dict(), tmp_path / "plain.safetensors")
    ours = build("resnet18", image_size=96, weights=tmp_path / "plain.safetensors").eval()
    x = images(2, 3, 96, 96)
    seen = normalize(x, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(ours(x), theirs.forward_head(theirs.forward_features(seen), pre_logits=True))
    other: Any = resnet18().eval()
    other.fc = nn.Identity()
    other.load_state_dict(ours.trunk.model.state_dict())
    torch.testing.assert_close(ours(x), other(seen))


def test_weights_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "encoder.safetensors"
    build("conv4").save(path)
    with pytest.raises(ValueError, match=r"weights must fit conv4, got encoder.safetensors: .* misshapen"):
        build("conv4", in_channels=5, weights=path)
    state = load_file(path)
    state["trunk.s9.weight"] = state.pop("trunk.s4.0.weight")
    save_file(state, path)
    with pytest.raises(
        ValueError, match=r"1 missing \(trunk.s4.0.weight\); 1 unexpected \(trunk.s9.weight\)"
    ):
        build("conv4", weights=path)
    with pytest.raises(ValueError, match="path must be an encoder that was saved here"):
        load(path)


def test_encoder_is_a_module_that_trains() -> None:
    encoder = build("conv4", image_size=8)
    assert isinstance(encoder, Encoder) and encoder.training and encoder.kind == "image"
    assert encoder(images(2, 3, 8, 8)).isfinite().all()


def test_import_leaves_timm_and_torchvision_alone() -> None:
    program = "import sys, unlabeled.encoders; assert not {'timm', 'torchvision'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("flat", [True, False])
def test_network_of_ones_own_is_wrapped_saved_and_loaded(flat: bool, tmp_path: Path) -> None:
    def network() -> nn.Module:
        layers = [nn.Conv2d(3, 7, 3), nn.BatchNorm2d(7)]
        return nn.Sequential(*layers, *([nn.AdaptiveAvgPool2d(1), nn.Flatten()] if flat else []))

    encoder = wrap(network(), image_size=9).eval()
    x = images(2, 3, 9, 9)
    assert encoder.dim == 7 and encoder(x).shape == (2, 7)
    expected = encoder.trunk.model(encoder.adapt(x))
    torch.testing.assert_close(encoder(x), expected if flat else expected.mean((2, 3)))
    encoder.save(tmp_path / "own.safetensors")
    torch.testing.assert_close(load(tmp_path / "own.safetensors", network()).eval()(x), encoder(x))
    with pytest.raises(ValueError, match="module must be given"):
        load(tmp_path / "own.safetensors")
    with pytest.raises(ValueError, match=r"encoder must give .* got \(2, 7, 81\)"):
        wrap(nn.Sequential(nn.Conv2d(3, 7, 1), nn.Flatten(2)), image_size=9)


def test_build_promises_type_checkers_the_class_of_each_kind() -> None:
    promised = {}
    for overload in get_overloads(build):
        types = get_type_hints(overload)
        promised |= dict.fromkeys(get_args(types["kind"]), types["return"])
    assert promised == {kind: module.build.__annotations__["return"] for kind, module in KINDS.items()}
    assert all(one.kind == kind for kind, one in promised.items())
