"""Learning rates of an encoder layer by layer: layers near the input, which are the most general, move least."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unlabeled.encoders import Encoder
    from unlabeled.method import Method
    from unlabeled.training.settings import Settings

__all__ = ["adaptation", "factors", "layer_numbers"]


def factors(encoder: "Encoder", rate: float, decay: float) -> dict[str, float]:
    """Factor on the learning rate of each weight: rate * decay ** (layers above its own).

    As of Bao, Dong, Wei, "BEiT: BERT Pre-Training of Image Transformers", 2021, https://arxiv.org/abs/2106.08254, where
    weights are fine-tuned.

    Args:
        encoder: The network.
        rate: Factor of its last layer, above 0.
        decay: Factor of each layer in relation to the one above, above 0 and at most 1.

    Returns:
        By name of the weight.
    """
    numbers = layer_numbers(encoder)
    last = max(numbers.values(), default=0)
    return {name: rate * decay ** (last - number) for name, number in numbers.items()}


def adaptation(method: "Method", settings: "Settings") -> str:
    """How training goes easy on an encoder that begins with pretrained weights, in one line; empty where it does not.

    Args:
        method: The method.
        settings: Settings of the run, complete.
    """
    parts = []
    if not settings.encoder_rate == settings.layer_decay == 1:
        peak = (settings.lr or 0.0) * method.learning_rates.get("encoder", 1.0)
        rates = [
            peak * one
            for one in factors(method.encoder, settings.encoder_rate, settings.layer_decay).values()
        ]
        lowest = f", down to {min(rates):.2g} at its first layer (--layer-decay {settings.layer_decay:g})"
        parts.append(
            f"the encoder learns at {max(rates):.2g} (--encoder-rate {settings.encoder_rate:g})"
            f"{lowest if settings.layer_decay < 1 else ''}"
        )
    if settings.head_warmup:
        parts.append(
            f"the heads are trained alone for the first {100 * settings.head_warmup:g} % of the steps "
            f"(--head-warmup {settings.head_warmup:g})"
        )
    if settings.distill_weight:
        parts.append(
            f"features are held near the initial ones (--distill-weight {settings.distill_weight:g})"
        )
    return f"adapting: {'; '.join(parts)}" if parts else ""


def layer_numbers(encoder: "Encoder") -> dict[str, int]:
    """Number of the layer of each weight, from 0 at the input.

    Models of timm say it themselves. Elsewhere a layer is what the encoder names as one of its maps, or an entry of a
    list of layers; what comes before the first belongs to the input, what comes later to the layer before it.
    """
    trunk: Any = getattr(encoder, "trunk", encoder)
    model = getattr(trunk, "model", trunk)
    matcher = getattr(model, "group_matcher", None)
    names = [name for name, _ in encoder.named_parameters()]
    own: dict[str, int] = {}
    if matcher is not None:
        from timm.models import group_parameters

        known: Any = group_parameters(model, matcher(coarse=False), reverse=True)
        own = {f"trunk.model.{name}": number for name, number in known.items()}
    keys: list[Any] = []
    for name in names:
        key = ("timm", own[name]) if name in own else _layer(name, encoder.map_dims)
        keys.append(key if key is not None else keys[-1] if keys else "input")
    order = sorted(dict.fromkeys(key for key in keys if key[0] == "timm"), key=lambda key: key[1])
    others = [key for key in dict.fromkeys(keys) if key[0] != "timm"]
    numbers = {key: number for number, key in enumerate([*order, *others])}
    return {name: numbers[key] for name, key in zip(names, keys, strict=True)}


def _layer(name: str, maps: dict[str, int]) -> tuple[str, str] | None:
    """What distinguishes the layer of a weight, by its name; None where that says nothing."""
    parts = name.split(".")
    for number, part in enumerate(parts[:-1]):
        if part in maps:
            return ".".join(parts[:number]), part
        if part.isdigit():  # lists side by side, as of convolutions and their norms, are the same layers
            return ".".join(parts[: max(0, number - 1)]), part
    return None
