"""Random twins: the same network or method with fresh weights, the same input statistics and calibrated norms."""

import copy
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from unlabeled.check import UserError
from unlabeled.encoders.first_layer import fill_first_layer_
from unlabeled.encoders.image import ImageEncoder
from unlabeled.encoders.readout import bare
from unlabeled.kernels.compat import BATCH_NORMS, RESETS
from unlabeled.method import Method

if TYPE_CHECKING:
    from unlabeled.data import Data
    from unlabeled.encoders import Encoder

__all__ = ["CALIBRATION_SAMPLES", "calibrate_", "calibrate_on_", "untrained", "untrained_method"]

CALIBRATION_SAMPLES = 512


def untrained(encoder: "Encoder", seed: int = 0, data: "Data | None" = None) -> "Encoder":
    """Build the same architecture with fresh random weights and the same input statistics.

    Args:
        encoder: Where the architecture, the statistics and the device come from.
        seed: Seed of the weights.
        data: Samples as the encoder reads them, of whose atoms the first layer is made if that of the encoder was; None
            leaves it random.

    Returns:
        A new encoder in evaluation mode.

    Raises:
        ValueError: The network has no weights, or is the user's own and some of its weights cannot be drawn again.
    """
    if not any(True for _ in encoder.parameters()):
        raise UserError("controls must be raw or none for a network without weights")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fresh = _rebuild(encoder)
    # Statistics of the input stand in front ends, also in those of encoders within encoders.
    statistics = {key: value for key, value in encoder.state_dict().items() if "adapt" in key.split(".")}
    fresh.load_state_dict(statistics, strict=False)
    fresh = fresh.to(next(encoder.parameters()).device).eval()
    network, init = bare(fresh), bare(encoder).config.get("init")
    if data is not None and init == "dictionary" and isinstance(network, ImageEncoder):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            fill_first_layer_(network, fresh.inputs(data.sample(CALIBRATION_SAMPLES, seed)))
    return fresh


def untrained_method(method: Method, data: "Data", seed: int = 0) -> Method:
    """Build the same method with fresh random weights, its norms calibrated and its priors taken from data.

    Args:
        method: Where the architecture, the options and the input statistics come from.
        data: Samples as they were opened; best those of training.
        seed: Seed of the weights.

    Returns:
        A new method in evaluation mode.

    Raises:
        ValueError: Weights cannot be drawn again.
    """
    samples = method.encoder.evaluation_view(data)
    encoder = untrained(method.encoder, seed, samples)
    calibrate_(encoder, samples)
    device = next(encoder.parameters()).device
    arguments, options = method.built_with
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        twin = type(method)(encoder, *arguments, **options).to(device)
        trained = set(map(id, method.parameters()))
        if shared := [name for name, weight in twin.named_parameters() if id(weight) in trained]:
            raise UserError(
                f"controls must be raw or none for {type(method).__name__}, built from trained weights ({shared[0]})"
            )
        if inspect.unwrap(type(twin).prepare) is not Method.prepare:
            twin.prepare(method.training_view(data))
        _calibrate_heads_(twin.to(device).eval(), samples, lambda: method.training_view(data))
    return twin.eval()


def _calibrate_heads_(method: Method, samples: "Data", clips: "Callable[[], Data]") -> None:
    """Set the statistics of norms outside the encoder: by the embedding where it uses them, else by the loss."""
    within = set(method.encoder.modules())
    heads = [norm for norm in _norms(method) if norm not in within and norm.track_running_stats]
    if type(method).embedding is not Method.embedding:
        _average(heads, lambda: method.embedding(samples.sample(CALIBRATION_SAMPLES)))
        heads = [norm for norm in heads if not norm.num_batches_tracked]
    _average(heads, lambda: method(clips().sample(CALIBRATION_SAMPLES)))


def _rebuild(encoder: "Encoder") -> "Encoder":
    """The same architecture with fresh weights."""
    from unlabeled import encoders

    fresh = encoders.rebuilt(encoder)
    return _redraw(encoder) if fresh is None else fresh


def _redraw(encoder: "Encoder") -> "Encoder":
    """A copy of an encoder that only its user can build, each layer's weights drawn as the layer itself does.

    Weights are NaN beforehand, so that those that nothing draws again show.
    """
    fresh = copy.deepcopy(encoder)
    with torch.no_grad():
        for weight in fresh.parameters():
            weight.fill_(torch.nan)
    # Parts before wholes, which may draw the weights of their parts in another way.
    for module in reversed(list(fresh.modules())):
        reset = next(filter(callable, (getattr(module, name, None) for name in RESETS)), None)
        if reset is not None:
            reset()
    left = [name for name, weight in fresh.named_parameters() if weight.isnan().any()]
    if left:
        owner = type(fresh.get_submodule(left[0].rpartition(".")[0])).__name__
        raise UserError(
            f"controls must be raw or none for a network whose weights nothing draws again, got {left[0]} of {owner} "
            "without reset_parameters; or name what builds the network: encoder=module:function"
        )
    return fresh


def calibrate_(encoder: "Encoder", data: "Data", samples: int = CALIBRATION_SAMPLES) -> None:
    """Set the statistics of batch norms to those of data; at their defaults random weights look worse.

    Args:
        encoder: Changed in place; its weights stay.
        data: Where images are taken from.
        samples: Most images looked at.
    """
    calibrate_on_(encoder, lambda: encoder.run_all(encoder.inputs(data.sample(samples))))


def calibrate_on_(network: nn.Module, run: Callable[[], Any]) -> None:
    """Set the statistics of batch norms in place to the mean of those of all batches that pass them in a run."""
    _average(_norms(network), run)


def _norms(module: nn.Module) -> list[Any]:
    return [part for part in module.modules() if isinstance(part, BATCH_NORMS)]


@torch.no_grad()
def _average(norms: list[Any], run: Callable[[], Any]) -> None:
    """Set the statistics of norms to the mean of those of the batches that they see in a run."""
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    run()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
