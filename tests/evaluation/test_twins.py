"""Random twins are what they say: all weights are drawn anew, statistics of the input stay, norms have seen data."""

import copy
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unlabeled import encoders, methods
from unlabeled.data import Data, open_data
from unlabeled.encoders import Encoder
from unlabeled.evaluation import twins
from unlabeled.method import Batch, Method
from unlabeled.parts.teacher import Follower
from unlabeled.selftest import example, smallest

pytestmark = pytest.mark.usefixtures("small_networks", "small_worlds")


def samples(name: str) -> Data:
    kind = methods.describe(name).kind
    if kind != "image":
        return open_data(example(name)).subset(torch.arange(24))
    generator = torch.Generator().manual_seed(7)
    coarse = torch.rand(24, 3, 4, 4, generator=generator)
    data = open_data((nn.functional.interpolate(coarse, size=32, mode="bilinear") * 255).to(torch.uint8))
    data.groups = torch.arange(24) // 3  # for methods that need several images of one place
    return data


def trained(name: str, data: Data) -> Method:
    """A method whose every weight, norm and statistic of the input is a number that nothing else gives."""
    torch.manual_seed(0)
    kind, options = methods.load(name), smallest(name)
    network = options.pop("encoder", None) or kind.defaults["encoder"]
    options.pop("image_size", None)  # that of the data is small
    reads = {"input": kind.encoder_input} if kind.kind == "image" else {}
    encoder = encoders.fitted(network, data, kind=kind.encoder_kind or kind.kind, **reads)
    method = kind(encoder, **options)
    read = method.training_view(data)
    method.prepare(read)
    method.begin_epoch(read)
    perturb(method)
    return method.eval()


@torch.no_grad()
def perturb(module: nn.Module) -> None:
    for value in [*module.parameters(), *module.buffers()]:
        if value.is_floating_point():
            value.add_(0.01 + 0.1 * torch.rand(value.shape))


def parts(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Statistics of the input, and all other floating numbers of the state."""
    state = {name: value for name, value in module.state_dict().items() if value.is_floating_point()}
    inputs = {name: value for name, value in state.items() if "adapt" in name.split(".")}
    return inputs, {name: value for name, value in state.items() if name not in inputs}


def assert_drawn_anew(module: nn.Module, twin: nn.Module) -> None:
    ours, theirs = parts(module), parts(twin)
    if not isinstance(
        getattr(module, "teacher", None), Follower
    ):  # one that stands still comes from another run
        ours, theirs = (
            tuple({k: v for k, v in some.items() if not k.startswith("teacher.")} for some in both)
            for both in (ours, theirs)
        )
    assert ours[0].keys() == theirs[0].keys() and ours[1].keys() == theirs[1].keys()
    for name in ours[0]:  # a teacher takes those of its student
        student = re.sub(r"^(\w+\.)?teacher\.networks\.0", "encoder", name)
        assert torch.equal(ours[0][student], theirs[0][name]), name
    for name, value in ours[1].items():
        if value.shape == theirs[1][name].shape and value.numel():
            assert not ((value == theirs[1][name]) & value.isfinite()).any(), name
    pointers = {value.data_ptr() for value in module.state_dict().values() if value.numel()}
    assert not [k for k, v in twin.state_dict().items() if v.numel() and v.data_ptr() in pointers]


def norms(module: nn.Module) -> list[Any]:
    return [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]


@pytest.mark.parametrize("name", methods.names())
def test_a_method_with_random_weights_shares_no_number_with_the_trained_one(name: str) -> None:
    data = samples(name)
    method = trained(name, data)
    before = copy.deepcopy(method.state_dict())
    twin = twins.untrained_method(method, data, seed=3)
    assert type(twin) is type(method) and not twin.training
    assert_drawn_anew(method, twin)
    for norm in norms(twin):
        if norm.track_running_stats:
            assert norm.num_batches_tracked > 0 and norm.running_mean.abs().sum() > 0
    again = twins.untrained_method(method, data, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(twin.parameters(), again.parameters(), strict=True))
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())


NETWORKS = [
    *(("image", name) for name in (*encoders.names(), "test_convnext", "test_vit")),
    *(("video", name) for name in ("frames-conv4", "lstm-16", "conv3d", "mc3_18")),
    *(
        ("audio", name)
        for name in (
            "gru2-16",
            "audio-conv",
            "mel-transformer-tiny",
            "cpc-tiny",
            "pase-tiny",
            "wav2vec2-tiny",
        )
    ),
    *(("text", name) for name in ("bert-tiny", "bert-rotary-tiny", "gpt-tiny")),
    *(("words", "words-20"), ("audio-visual", "av-conv4")),
]
SOURCES = {
    "video": "balls",
    "audio": "tones",
    "text": "topics",
    "words": "topics",
    "audio-visual": "chiming_shapes",
}


@pytest.mark.parametrize(("kind", "name"), NETWORKS)
def test_an_encoder_with_random_weights_shares_only_the_statistics_of_its_input(kind: str, name: str) -> None:
    data = samples("simclr") if kind == "image" else open_data(SOURCES[kind]).subset(torch.arange(16))
    torch.manual_seed(0)
    encoder = encoders.fitted(name, data, kind=kind)
    fixed = {key for key, weight in encoder.named_parameters() if not weight.requires_grad}
    perturb(encoder)
    twin = twins.untrained(encoder, seed=1)
    assert {key for key, weight in twin.named_parameters() if not weight.requires_grad} == fixed
    assert_drawn_anew(encoder, twin)


def test_norms_of_the_control_give_its_data_mean_0_and_variance_1() -> None:
    for name, kind in (("resnet10", "image"), ("av-conv4", "audio-visual")):
        data = samples("simclr") if kind == "image" else open_data("chiming_shapes").subset(torch.arange(32))
        encoder = encoders.fitted(name, data, kind=kind)
        data = encoder.evaluation_view(data)
        twin = twins.untrained(encoder)
        twins.calibrate_(twin, data)
        outputs: dict[nn.Module, Tensor] = {}

        def keep(norm: nn.Module, _: Any, output: Tensor, outputs: dict[nn.Module, Tensor] = outputs) -> None:
            outputs[norm] = output.detach().clone()

        for norm in norms(twin):
            norm.register_forward_hook(keep)
        twin.run_all(twin.inputs(data.sample(512)))
        assert {*outputs} == {*norms(twin)}
        for output in outputs.values():
            axes = [0, *range(2, output.ndim)]
            assert output.mean(axes).abs().max() < 0.1
            spread = output.std(axes, correction=0)
            assert (
                ((spread - 1).abs() < 0.06).logical_or(spread < 0.9).all()
            )  # unbiased, and eps where little varies
            assert (spread > 0.9).float().mean() > 0.8


class Drawn(nn.Module):
    """A layer as transformers are often written by hand: bare weights and no function that draws them again."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(3, 5))

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) @ self.weights


def test_ones_own_network_is_drawn_again_where_its_layers_can() -> None:
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(2), nn.TransformerEncoderLayer(900, 2, 16)]
    encoder = encoders.wrap(nn.Sequential(*layers, nn.Flatten(), nn.Linear(7200, 4)), image_size=32)
    perturb(encoder)
    assert_drawn_anew(encoder, twins.untrained(encoder))


def test_ones_own_network_that_keeps_a_weight_is_refused_by_the_name_of_the_weight() -> None:
    encoder = encoders.wrap(nn.Sequential(nn.Conv2d(3, 3, 3), Drawn()), image_size=8)
    with pytest.raises(
        ValueError, match=r"controls must be raw or none .* got trunk.model.1.weights of Drawn"
    ):
        twins.untrained(encoder)
    weighted = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 3))  # its layer draws what is never used
    with pytest.raises(ValueError, match="controls must be raw or none"):
        twins.untrained(encoders.wrap(weighted, image_size=8))


class Kept(Method):
    def __init__(self, encoder: Encoder, head: nn.Module) -> None:
        super().__init__(encoder)
        self.head = head

    def forward(self, batch: Batch) -> Tensor:
        return self.head(self.encoder(self.encoder.inputs(batch))).mean()


def test_a_method_that_was_given_trained_weights_is_refused() -> None:
    data = samples("simclr")
    encoder = encoders.fitted("conv4", data)
    method = Kept(encoder, nn.Linear(encoder.dim, 2))
    with pytest.raises(ValueError, match=r"Kept, built from trained weights \(head.weight\)"):
        twins.untrained_method(method, data)
