"""Networks of the timm library with random weights, read as a vector, as named maps and as tokens."""

from contextlib import ExitStack
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from unlabeled.check import UserError
from unlabeled.encoders.saved import TooLarge
from unlabeled.parts.token_masks import pick

__all__ = ["FromTimm", "any_timm", "resnet", "vit_small"]


class FromTimm(nn.Module):
    """A timm model without its classifier.

    Args:
        architecture: Name of the model for `timm.create_model`.
        standard: Whether nothing will be replaced in it, so that its state fits into timm's own model.
        **arguments: Further arguments of `timm.create_model`.
    """

    def __init__(self, architecture: str, standard: bool = True, **arguments: Any) -> None:
        import timm
        from timm.models.vision_transformer import VisionTransformer

        super().__init__()
        self.architecture, self.standard = architecture, standard
        self.arguments = {"num_classes": 0, **arguments}
        self.model: Any = timm.create_model(architecture, **self.arguments)
        self.is_vit = isinstance(self.model, VisionTransformer)
        self.dim: int = getattr(self.model, "head_hidden_size", None) or self.model.num_features
        stages = [
            (stage["module"].replace("act1", "stem"), stage["num_chs"]) for stage in self.model.feature_info
        ]
        if self.is_vit:
            stages = [(f"block{number}", width) for number, (_, width) in enumerate(stages, 1)]
        if not hasattr(self.model, "forward_intermediates"):
            stages = [("last", self.model.num_features)]
        self.map_dims: dict[str, int] = dict(stages)

    def forward(self, x: Tensor) -> Tensor:
        """Pooled features, float, shape (batch, dim)."""
        return self.model(x)

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        """Outputs of the stages, or of a ViT's blocks, each float, shape (batch, channels, height, width)."""
        if "last" in self.map_dims:
            return {"last": self.model.forward_features(x)}
        maps = self.model.forward_intermediates(x, norm=self.is_vit, intermediates_only=True)
        return dict(zip(self.map_dims, maps, strict=True))

    def tokens(self, x: Tensor, keep: Tensor | None, masked: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Tokens of a ViT that sees only some patches; arguments as in `ImageEncoder.tokens`."""
        with ExitStack() as hooks:
            if masked is not None:  # before the positions are added
                hooks.callback(self.model.patch_embed.register_forward_hook(partial(_mask, *masked)).remove)
            if keep is not None:  # after that and before the blocks, where timm itself drops patches
                drop = partial(_drop, keep, self.model.num_prefix_tokens)
                hooks.callback(self.model.patch_drop.register_forward_hook(drop).remove)
            return self.model.forward_features(x)

    def pool(self, tokens: Tensor) -> Tensor:
        """Pooled features, float, shape (batch, dim), of all tokens of a ViT as `tokens` gives them."""
        return self.model.forward_head(tokens)


def _mask(hidden: Tensor, token: Tensor, module: nn.Module, inputs: Any, patches: Tensor) -> Tensor:
    """Embedded patches, some of which are replaced."""
    return torch.where(hidden.view(*patches.shape[:-1], 1), token.to(patches), patches)


def _drop(keep: Tensor, prefix: int, module: nn.Module, inputs: Any, tokens: Tensor) -> Tensor:
    """Those before the patches, and some of the patches."""
    return torch.cat([tokens[:, :prefix], pick(tokens[:, prefix:], keep)], 1)


def resnet(name: str, in_channels: int, image_size: int, *, share: int = 1) -> FromTimm:
    """ResNet of timm; for images up to 64 pixels with a 3x3 first layer, no stride and no pooling.

    `resnet10` is small and fast at any size: width 32, one block per stage, a 3x3 first layer of stride 2.
    `share` divides its widths.
    """
    if name == "resnet10":
        widths = tuple(width // share for width in (32, 64, 128, 256))
        narrow: dict[str, Any] = {"layers": (1, 1, 1, 1), "channels": widths}
        # Only timm's deep stem lets the first width be chosen; it is then replaced by a single layer.
        narrow |= {
            "stem_type": "deep",
            "stem_width": 16 // share,
            "zero_init_last": False,
            "in_chans": in_channels,
        }
        trunk = FromTimm("resnet18", standard=False, **narrow)
        _replace_stem(trunk.model, in_channels, stride=2)
        return trunk
    small = image_size <= 64
    trunk = FromTimm(name, standard=not small, in_chans=in_channels, zero_init_last=False)
    if small:
        _replace_stem(trunk.model, in_channels, stride=1)
    return trunk


def vit_small(
    in_channels: int,
    image_size: int,
    *,
    blocks: int = 4,
    width: int = 192,
    gap: bool = False,
    registers: int = 0,
) -> FromTimm:
    """ViT of some blocks on about 8 x 8 patches, with fixed sine and cosine positions.

    Its vector is the class token, or with `gap`, global average pooling, the mean of the normed tokens of the patches.
    `registers` are further learned tokens, which are never read: Darcet, Oquab, Mairal, Bojanowski, "Vision
    Transformers Need Registers", 2023, https://arxiv.org/abs/2309.16588
    """
    from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed

    sizes = [image_size // patches for patches in range(4, 17) if image_size % patches == 0]
    if not sizes:
        raise UserError(f"image_size must be a multiple of 4 to 16 patches, got {image_size}. Take one of 8")
    patch = min(sizes, key=lambda size: abs(size - image_size / 8))
    trunk = FromTimm(
        "vit_tiny_patch16_224",
        img_size=image_size,
        patch_size=patch,
        depth=blocks,
        embed_dim=width,
        in_chans=in_channels,
        dynamic_img_size=True,
        **({"reg_tokens": registers} if registers else {}),
        **({"class_token": False, "global_pool": "avg", "fc_norm": False} if gap else {}),
    )
    positions = trunk.model.pos_embed.requires_grad_(False)
    positions.zero_()
    positions[0, trunk.model.num_prefix_tokens :] = build_sincos2d_pos_embed(
        list(trunk.model.patch_embed.grid_size), trunk.dim
    )
    return trunk


def any_timm(name: str, in_channels: int, image_size: int) -> FromTimm:
    """Any model of timm by its name, for images of one size where it can be built for that size.

    Raises:
        ValueError: Its patches do not fill images of that size.
    """
    import timm

    configuration = timm.get_pretrained_cfg(name)
    if configuration is None or not configuration.fixed_input_size:
        return FromTimm(name, in_chans=in_channels)
    trunk = FromTimm(name, **_fitting_arguments(name, in_channels, image_size))
    patch = patch_side(trunk.model)
    if image_size % patch:
        raise UserError(f"image_size must be a multiple of the {patch} pixels of a patch, got {image_size}")
    return trunk


@cache
def _fitting_arguments(name: str, in_channels: int, image_size: int) -> dict[str, Any]:
    """Arguments by which a model for images of one size takes those of another, and where possible of any."""
    channels: dict[str, Any] = {"in_chans": in_channels}
    sized = channels | {"img_size": image_size}
    # timm's dynamic_img_size is not an argument of all models.
    choices = [sized | {"dynamic_img_size": True}, sized, channels]
    return next((choice for choice in choices if _runs(name, choice, image_size)), sized)


def patch_side(model: Any) -> int:
    """Height and width in pixels of the patches of a model of timm, 1 where it has none."""
    size = getattr(getattr(model, "patch_embed", None), "patch_size", 1)
    return size[0] if isinstance(size, tuple) else size


def _runs(name: str, arguments: dict[str, Any], image_size: int) -> bool:
    """Whether a model can be built with these arguments and run; on the meta device, which computes shapes only."""
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"), torch.no_grad():
            model = FromTimm(name, **arguments).eval()
            model(torch.zeros(1, arguments["in_chans"], image_size, image_size))
    except TooLarge:
        raise
    except Exception:  # timm asserts, or lets torch fail, where a size does not fit
        return False
    return True


def _replace_stem(model: Any, in_channels: int, stride: int) -> None:
    """Put a single 3x3 layer without pooling before the first stage of a ResNet."""
    model.conv1 = nn.Conv2d(in_channels, model.bn1.num_features, 3, stride, 1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
