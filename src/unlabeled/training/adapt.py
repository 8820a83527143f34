"""Adapting pretrained weights to other data without forgetting what they know: `pretrain` with other defaults."""

from pathlib import Path
from typing import Any

from torch import nn

from unlabeled.check import UserError
from unlabeled.method import Method
from unlabeled.run import Run
from unlabeled.training.settings import ADAPT
from unlabeled.training.train import train

__all__ = ["adapt"]


def adapt(
    method: str | type[Method] | Method,
    data: Any,
    *,
    weights: Any = None,
    resume: bool = False,
    config: str | Path | None = None,
    **settings: Any,
) -> Run:
    """Continue training from pretrained weights, on data without labels.

    The heads, which begin at random, are trained alone first; then the encoder moves at a tenth of their learning rate,
    and layers near its input less than that.

    Args:
        method: As in `pretrain`.
        data: As in `pretrain`.
        weights: What to go on from: timm:NAME, torchvision:NAME, hf:OWNER/NAME, hub:OWNER/NAME, a folder of
            transformers or timm, a run, or a file. None where a run is resumed or repeated, and where the method or
            `encoder` is a network that has its weights.
        resume: As in `pretrain`; the settings of the run replace these defaults.
        config: As in `pretrain`; its settings replace these defaults.
        **settings: As in `pretrain`. Defaults: `encoder_rate` 0.1, `layer_decay` 0.75, `head_warmup` 0.1; and with
            `distill_weight` above 0 the features are held near those of the weights.

    Returns:
        The run, as of `pretrain`.

    Raises:
        ValueError: There are no weights, or as in `pretrain`.
    """
    inside = isinstance(method, Method) or isinstance(settings.get("encoder"), nn.Module)
    if weights is None and not (inside or resume or config):
        raise UserError(
            "weights must be named to adapt them, as timm:NAME, hf:OWNER/NAME, a run or a file, got none"
        )
    named = {} if weights is None else {"weights": weights}
    defaults = ADAPT if config is None else {}
    return train(method, data, defaults, resume=resume, config=config, **named, **settings)
