"""Networks of torchvision by name, without their classifier, and the weights that torchvision has for them."""

import re
from typing import Any

from torch import Tensor, nn

from unlabeled import check
from unlabeled.check import UserError

__all__ = ["PREFIX", "FromTorchvision", "encoder_name", "known", "torchvision_weights"]

PREFIX = "torchvision-"
"""How names of encoders begin that are networks of torchvision."""
SAME_IN_TIMM = r"resnet\d+|resnext.*|wide_resnet.*"
"""Networks that timm has under the same name with the same names of weights; there their stages can be read too."""


def known() -> list[str]:
    """Names of torchvision's networks that classify images."""
    import torchvision

    return torchvision.models.list_models(module=torchvision.models)


def encoder_name(name: str) -> str:
    """Name of the encoder that is one of torchvision's networks."""
    return name if re.fullmatch(SAME_IN_TIMM, name) else f"{PREFIX}{name}"


def torchvision_weights(name: str) -> tuple[str, Any]:
    """A network and its weights.

    Args:
        name: Such as resnet50.IMAGENET1K_V2; without a tag torchvision's best.

    Returns:
        Name of the network, and a member of torchvision's enum of weights.

    Raises:
        ValueError: torchvision has no such network or weights.
    """
    import torchvision

    network, _, tag = name.partition(".")
    if network not in known():
        raise UserError(
            f"weights must be of a network that torchvision has, got {name}{check.near(network, known())}"
        )
    choices = torchvision.models.get_model_weights(network)
    tags = [one.name for one in choices]
    if tag not in ("", "DEFAULT", *tags):
        raise UserError(f"weights of {network} must be one of {', '.join(tags)}, got {tag}")
    return network, choices[tag or "DEFAULT"]


class FromTorchvision(nn.Module):
    """A network of torchvision whose features are what its last linear layer takes.

    Args:
        name: Its name there.
        in_channels: Channels of the images, 3 for all of them.
        image_size: Height and width of the images, for networks of patches.
    """

    def __init__(self, name: str, in_channels: int, image_size: int) -> None:
        import torchvision

        super().__init__()
        if in_channels != 3:
            raise UserError(f"in_channels must be 3 for networks of torchvision, got {in_channels}")
        sized = {"image_size": image_size} if name.startswith("vit_") else {}
        self.model: Any = torchvision.models.get_model(name, weights=None, num_classes=1, **sized)
        layers = [(key, part) for key, part in self.model.named_modules() if isinstance(part, nn.Linear)]
        if not layers or not isinstance(layers[-1][1].in_features, int):
            raise UserError(f"encoder must be a network that ends in a linear layer, got {name}")
        head, last = layers[-1]
        self.head = head
        self.model.set_submodule(head, nn.Identity())
        if hasattr(self.model, "aux_logits"):  # further classifiers, which only training with labels needs
            self.model.aux_logits = False
            for key in ("aux1", "aux2", "AuxLogits"):
                if hasattr(self.model, key):
                    setattr(self.model, key, None)
        self.dim: int = last.in_features
        self.map_dims = {"last": self.dim}

    def forward(self, x: Tensor) -> Tensor:
        """Features, float, shape (batch, dim)."""
        output = self.model(x)
        return output if isinstance(output, Tensor) else output[0]

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        """The features as a map of one position, float, shape (batch, dim, 1, 1)."""
        return {"last": self(x)[:, :, None, None]}
