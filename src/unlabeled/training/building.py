"""From a plan and the data to a method that is ready for its first step, with all settings chosen."""

import copy
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from unlabeled import encoders
from unlabeled.check import UserError
from unlabeled.data import Data
from unlabeled.data.notes import note
from unlabeled.data.streaming.data import Streamed
from unlabeled.encoders import lora
from unlabeled.method import Method
from unlabeled.parts import gather
from unlabeled.training import norm, sharding
from unlabeled.training.plan import Plan
from unlabeled.training.settings import Settings

__all__ = ["Built", "build"]

LOOKED_AT = {"audio": 1_000, "text": 10_000}
"""Streamed samples that encoder and method look at before training, by kind."""


class Built(NamedTuple):
    """A method on its device, the samples as it reads them there, and settings that leave nothing open.

    Attributes:
        minutes: Time that the training may take, for which its epochs may be too many; None where they were named.
    """

    method: Method
    samples: Data
    settings: Settings
    minutes: float | None


def build(plan: Plan, train: Data, device: torch.device, stored: Path | None = None) -> Built:
    """Build the method with its encoder, which is fitted to the data, and prepare it for training.

    Args:
        plan: What the run will do.
        train: The data that is trained on, as it was opened.
        device: Where it is trained.
        stored: Encoder of the run that is resumed: its architecture, vocabulary and statistics are taken.

    Raises:
        ValueError: The encoder or the settings do not fit the method or the data.
    """
    if sharding.shards(plan.settings):
        sharding.refuse(plan)
    if plan.settings.lora:
        _refuse_lora(plan)
    cuda, kind = device.type == "cuda", plan.method.encoder_kind or plan.method.kind
    image_size = train.shape["image_size"] if kind == "image" else None
    some = _at_hand(train)
    weights = None if stored is not None else plan.settings.weights
    source = None if weights is None else encoders.find(weights, kind)
    suited = {} if source is None else {"encoder": source.encoder, "image_size": source.image_size}
    suited = {name: value for name, value in suited.items() if value is not None}
    settings = plan.settings.with_network(image_size, cuda, {**plan.method.defaults, **suited})
    torch.manual_seed(settings.seed)
    if isinstance(plan.method, Method):
        method = plan.method
    else:
        encoder = _encoder(plan, settings, kind, some, stored or source)
        if settings.lora:
            lora.add(encoder, settings.lora, some)
        method = plan.method(encoder, **plan.options)
    encoders.refuse_fixed(method.encoder)
    config = getattr(method.encoder, "config", {})
    if levels := getattr(train, "levels", None):  # what is read for this encoder later is mapped alike
        config["levels"] = levels
    seen = method.training_view(some).to(device)
    samples = seen if some is train else method.training_view(train).to(device)
    minutes = settings.time_limit(cuda)
    settings = replace(
        settings,
        encoder=settings.encoder or config.get("name"),
        image_size=config.get("image_size") or settings.image_size,
    ).resolve(len(samples), cuda, gather.processes(), method.most_epochs)
    if isinstance(samples, Streamed):
        settings = _with_pieces(settings, samples)
    if settings.batch_size == 1:
        _refuse_single(plan.name, method, samples, seen)
    _prepare(method, seen, settings.seed)
    return Built(method, samples, settings, minutes)


def _encoder(
    plan: Plan, settings: Settings, kind: str, data: Data, start: Path | encoders.Pretrained | None
) -> Any:
    """The encoder: the user's network, that of the run that is resumed, or one fitted to data, with weights if any."""
    network, color = plan.network, plan.method.encoder_input
    if isinstance(network, encoders.Encoder):
        if network.kind != kind:
            raise UserError(f"encoder of {plan.name} must be of kind {kind}, got one of {network.kind}")
        return network
    if network is not None:
        if kind != "image":
            raise UserError(
                f"encoder of {plan.name} must be a subclass of Encoder or one of "
                f"{', '.join(encoders.names(kind))}, got {type(network).__name__}"
            )
        size = settings.image_size or data.shape["image_size"]
        encoder = encoders.wrap(network, in_channels=data.shape["channels"], image_size=size, input=color)
        encoders.fit(encoder, data)
        return encoder
    if isinstance(start, Path):
        name = plan.request.get("encoder")  # only what is named now is imported
        return encoders.load(start, name if encoders.is_named(name) else None)
    return encoders.fitted(
        settings.encoder or encoders.names(kind)[0],
        data,
        kind=kind,
        weights=start,
        init=settings.init,
        image_size=settings.image_size,
        exact=("image_size" in plan.request) if kind == "image" else None,
        input=None if color == "color" else color,
    )


def _refuse_lora(plan: Plan) -> None:
    """Refuse low-rank adaptation of what is not trained before, or was built beforehand."""
    rank = plan.settings.lora
    if isinstance(plan.method, Method):
        raise UserError(f"lora must be left out for a method that is brought with its encoder, got {rank}")
    if plan.settings.weights is None and plan.network is None:
        raise UserError(f"lora must be left out without weights, as random ones would stay, got {rank}")
    if sharding.shards(plan.settings):
        raise UserError(f"strategy must be ddp with lora {rank}, got fsdp")


def _prepare(method: Method, samples: Data, seed: int) -> None:
    if gather.processes() > 1:
        norm.synchronize(method)
    torch.manual_seed(seed)
    method.to(samples.device)
    method.prepare(samples)
    method.to(samples.device)  # what was made from the data too
    if all(weight.ndim < 5 for weight in method.parameters()):  # kernels of 3D convolutions refuse it
        method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _at_hand(train: Data) -> Data:
    """What encoder and method look at before training: of streamed sounds and texts some in memory.

    They may want to know more of these than a batch, such as the frequency of words. Methods of images ask only for the
    number of images and for some of them.
    """
    if not isinstance(train, Streamed) or train.kind == "image":
        return train
    some = train.in_memory(LOOKED_AT[train.kind])
    if len(some) < len(train):
        note(
            f"{train.name}: statistics before training are those of {len(some):,} of {len(train):,} {train.unit}"
        )
    return some


def _with_pieces(settings: Settings, data: Streamed) -> Settings:
    """The settings with the pieces of the order of streamed data, chosen or checked."""
    assert settings.batch_size
    processes, pieces = gather.processes(), settings.pieces
    most = data.pieces(settings.batch_size, processes, settings.nodes)
    if pieces is not None and (pieces % processes or settings.batch_size % pieces):
        raise UserError(
            f"pieces must be a multiple of the {processes} processes that divides the batch of "
            f"{settings.batch_size}, got {pieces}"
        )
    return replace(settings, pieces=pieces or most)


def _refuse_single(name: str, method: Method, data: Data, seen: Data) -> None:
    """Refuse batches of one sample where the loss, or a norm, needs others to compare it with."""
    what = f"batch_size must be at least 2 for {name}, got 1"
    if len(data) == 1:
        what = f"data must have at least 2 {data.unit} for {name}, got 1"
    if method.compares_samples:
        raise UserError(f"{what}: its loss compares samples")
    if gather.processes() > 1:
        return
    trial = copy.deepcopy(method).to(data.device)
    with torch.random.fork_rng(), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they come once more
        trial.prepare(seen)
        trial.to(data.device).train().begin_epoch(data)
        try:
            trial(data.batch(torch.zeros(1, dtype=torch.int64, device=data.device)))
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise UserError(f"{what}: it has norms over the samples of a batch") from error
