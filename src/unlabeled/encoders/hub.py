"""Files of other libraries' hubs, from their own caches or downloaded by these libraries, with errors in one line.

Caches, mirrors, tokens and offline mode are those of the libraries: HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, TORCH_HOME.
"""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pickle import UnpicklingError

from unlabeled import check, hub
from unlabeled.check import UserError

__all__ = ["Unreachable", "fetching"]

LOGGERS = ("huggingface_hub.utils._http", "timm.models._builder", "timm.models._hub")
"""Whose warnings say what our own line says too: each retry, and each tensor of a head."""


class Unreachable(UserError):
    """Weights are neither in the cache nor can they be downloaded."""


@contextmanager
def fetching(weights: str) -> Iterator[None]:
    """Turn whatever a library raises while it fetches weights into one line.

    Args:
        weights: What the user named.

    Raises:
        Unreachable: They are neither in the cache nor can they be downloaded.
        ValueError: Their name or their files are bad.
    """
    from safetensors import SafetensorError

    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    why = ""
    try:
        with _quiet_transformers(), _asked_once(weights) as why:
            yield
    except UserError:
        raise
    except OSError as error:  # of urllib, httpx, huggingface_hub and transformers alike
        mend = "check the name and the network, or take a file"
        if why == hub.OFFLINE:
            mend = "unset HF_HUB_OFFLINE, or download them where there is a network"
        reason = why or check.reason(error).rstrip(".")
        raise Unreachable(
            f"weights must be in the cache or downloadable, got {weights} ({reason}); {mend}"
        ) from error
    except (
        ValueError,
        RuntimeError,
        SafetensorError,
        UnpicklingError,
    ) as error:  # a bad name or a damaged file
        raise UserError(f"weights must be readable, got {weights} ({check.reason(error)})") from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _asked_once(weights: str) -> AbstractContextManager[str]:
    """As `hub.asked_once`; paths and torchvision need no Hub."""
    return hub.asked_once() if weights.startswith(("timm:", "hf:")) else nullcontext("")


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Without the progress bars and load reports of transformers, which our own line replaces."""
    from transformers.utils import logging as log

    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()
