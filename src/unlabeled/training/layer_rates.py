"""Learning rates of an encoder layer by layer: layers near the input, which are the most general, move least."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unlabeled.encoders import Encoder

__all__ = ["factors", "layer_numbers"]


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
