"""Public weights: those named, or those that the run started from, as they are, with their own preprocessing."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unlabeled import encoders
from unlabeled.check import UserError
from unlabeled.data.text.data import Texts
from unlabeled.encoders import OWN_NETWORK, ImageEncoder, Pretrained, TextEncoder
from unlabeled.encoders.readout import bare
from unlabeled.evaluation.control import Control
from unlabeled.evaluation.features import Representation, of_encoder, read
from unlabeled.method import Batch

if TYPE_CHECKING:
    from unlabeled.data import Data
    from unlabeled.encoders import Encoder

__all__ = ["CONTROL", "make", "network_of", "prepared"]


def make(encoder: "Encoder", data: "Data", seed: int = 0, weights: Any = None) -> Representation | None:
    """Frozen features of the network that the weights are of; None where it cannot read these samples.

    Args:
        encoder: The encoder that it is beside; weights in a file that does not name a network are put into its own.
        data: The training samples.
        seed: Without effect, as nothing is random.
        weights: What `encoders.find` takes.

    Raises:
        Unreachable: The weights are neither in the cache nor can they be downloaded.
        ValueError: They do not fit.
    """
    inner = bare(encoder)
    source = encoders.find(weights, {"words": "text"}.get(inner.kind, inner.kind))
    with torch.random.fork_rng():
        network = _built(source, inner)
    if network is None:
        return None
    network = network.eval().requires_grad_(False).to(data.device)
    detail = f"{source.label}, frozen"
    if isinstance(network, ImageEncoder) and source.transform is not None:
        preprocess = source.transform()

        def of_images(batch: Batch, layer: str | None) -> Tensor:
            images = prepared(batch, preprocess).to(batch["image"].device)
            return network.neck(network.trunk(images))

        return Representation("public", of_images, detail=f"{detail}, images of {network.image_size} pixels")
    if not isinstance(network, TextEncoder) or network.config["tokenizer"] == inner.config.get("tokenizer"):
        # Encoders of sounds bring them to their own sample rate.
        return Representation(
            "public",
            of_encoder(network),
            detail=detail,
            whole=lambda data: read(_output(network), network.evaluation_view(data).to(data.device)),
        )
    if getattr(data, "texts", None) is None:
        return None
    return Representation(
        "public", of_encoder(network), detail=detail, whole=lambda data: _of_texts(network, data)
    )


def network_of(encoder: ImageEncoder, weights: Any) -> "tuple[ImageEncoder, str] | None":
    """The network of public weights, to be trained beside an encoder of images, and what the weights are called.

    It reads images as its configuration says, at its own size where the caller sets none.

    Args:
        encoder: The encoder that it is beside.
        weights: What `encoders.find` takes.

    Returns:
        None where the weights are of no network for these images.

    Raises:
        Unreachable: The weights are neither in the cache nor can they be downloaded.
        ValueError: They do not fit.
    """
    source = encoders.find(weights, "image")
    with torch.random.fork_rng():
        network = _built(source, encoder)
    return (network.eval(), source.label) if isinstance(network, ImageEncoder) else None


def prepared(batch: Batch, preprocess: Any) -> Tensor:
    """Images of a batch as another library prepares them, float, shape (batch, channels, height, width).

    Args:
        batch: `image` uint8, shape (batch, 1 or 3, height, width), and `size` where sizes differ.
        preprocess: From one image, uint8, shape (3, height, width).
    """
    images = batch["image"].cpu()
    images = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
    sizes = batch["size"].tolist() if "size" in batch else [images.shape[2:]] * len(images)
    return torch.stack(
        [preprocess(image[:, :height, :width]) for image, (height, width) in zip(images, sizes, strict=True)]
    )


def _built(source: Pretrained, encoder: "Encoder") -> "Encoder | None":
    """The network of the weights, for the channels of an encoder; None where there is none."""
    if source.own is not None:
        return _own(source, encoder)
    if source.encoder is None:  # tensors alone
        if encoder.maker is not None or encoder.config["name"] == OWN_NETWORK:
            return None
        return encoders.build(**_architecture(encoder), weights=source)
    if not isinstance(encoder, ImageEncoder):
        return encoders.pretrained(source, {"words": "text"}.get(encoder.kind, encoder.kind))
    if encoder.in_channels not in (1, 3):
        return None
    return encoders.pretrained(source, in_channels=encoder.in_channels)


def _own(source: Pretrained, encoder: "Encoder") -> "Encoder":
    """The network of a file of `Encoder.save`, for images of the same channels as those of an encoder."""
    assert source.own is not None
    network = bare(encoders.load(source.own))
    if network.kind != encoder.kind:
        raise UserError(f"public_weights must be of {encoder.kind}, got {source.label} of {network.kind}")
    if isinstance(network, ImageEncoder) and isinstance(encoder, ImageEncoder):
        channels = encoder.in_channels
        if network.in_channels != channels:
            return encoders.build(**{**_architecture(network), "in_channels": channels}, weights=source)
    return network


def _architecture(encoder: "Encoder") -> dict[str, Any]:
    """Arguments of `encoders.build`; of what was read from data none."""
    left_out = ("init", "levels", "network_channels", "neck")
    return {name: value for name, value in encoder.config.items() if name not in left_out}


def _output(network: "Encoder") -> Any:
    return lambda batch: of_encoder(network)(batch, None)


def _of_texts(network: TextEncoder, data: Any) -> Tensor:
    """Features of whole texts, of which the network reads what it can at once."""
    if data.texts is None:
        raise UserError(f"data must be texts for the control public, got tokens of {data.name}")
    return read(_output(network), network.evaluation_view(Texts(data.texts)).to(data.device))


CONTROL = Control(make, row=11, needs_weights=True)
