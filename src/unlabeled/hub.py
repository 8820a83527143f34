"""Run folders on the Hugging Face Hub; its cache, its login and its offline mode are those of huggingface_hub."""

import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unlabeled import check
from unlabeled.check import UserError

__all__ = ["FILES", "asked_once", "check_name", "download", "is_address", "upload"]

PREFIX = "hub:"
FILES = (
    "README.md",
    "config.json",
    "run.toml",
    "encoder.safetensors",
    "features.safetensors",
    "scores.json",
    "log.jsonl",
    "samples.npy",
)
"""Files of a published run; nothing else is downloaded, and nothing in them is executed."""
OFFLINE, UNREACHABLE = "offline mode is on", "the Hub cannot be reached"
SECONDS, REMEMBERED = 10.0, 60.0
"""How long the Hub may take to answer, and how long is remembered that it did not."""
_silent: dict[str, float] = {}
"""When an address of the Hub was last found to be silent."""
PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"


def is_address(source: object) -> bool:
    """Whether this names a published run, as hub:OWNER/NAME does."""
    return str(source).startswith(PREFIX)


def check_name(name: str) -> None:
    """Refuse what cannot be the name of a model on the Hub."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    if not re.fullmatch(f"{PART}/{PART}", name):
        raise UserError(f"name must be OWNER/NAME of letters, digits, -, _ and ., got {name}")
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"name must be OWNER/NAME as the Hub allows it, got {name} ({error})") from error


@contextmanager
def asked_once() -> Iterator[str]:
    """Let libraries read their caches at once where the Hub is silent; they ask for each file for half a minute.

    Yields:
        Why the Hub is not asked; empty where it answers.
    """
    from huggingface_hub import constants

    if constants.is_offline_mode():
        yield OFFLINE
    elif _answers(constants.ENDPOINT):
        yield ""
    else:
        settings: list[Any] = [constants, *filter(None, [sys.modules.get("datasets.config")])]
        before = [module.HF_HUB_OFFLINE for module in settings]
        try:
            for module in settings:
                module.HF_HUB_OFFLINE = True
            yield UNREACHABLE
        finally:
            for module, value in zip(settings, before, strict=True):
                module.HF_HUB_OFFLINE = value


def _answers(address: str) -> bool:
    """Whether there is any answer; the errors of transports have no common class."""
    from huggingface_hub.utils import get_session

    if time.monotonic() - _silent.get(address, -REMEMBERED) < REMEMBERED:
        return False
    try:
        get_session().head(address, timeout=SECONDS)
    except Exception:
        _silent[address] = time.monotonic()
        return False
    return True


def download(address: str) -> Path:
    """The folder of a published run, in the cache of huggingface_hub; read from there where the Hub cannot be reached.

    Args:
        address: hub:OWNER/NAME, or hub:OWNER/NAME@REVISION for a branch, tag or commit.

    Raises:
        ValueError: There is no such model, or it is neither within reach nor in the cache.
    """
    name, _, revision = address.removeprefix(PREFIX).partition("@")
    check_name(name)
    from huggingface_hub import snapshot_download

    with asked_once() as why, _one_line_errors(f"run must be on the Hub or in the cache, got {address}", why):
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=list(FILES)))


def upload(folder: Path, name: str, *, private: bool) -> str:
    """Upload the folder of a published run as one commit, and remove files of an earlier one that it lacks.

    Args:
        folder: The folder; of its files only `FILES` are uploaded.
        name: OWNER/NAME; the model is created if it is missing.
        private: Whether a model that is created is seen by its owners only.

    Returns:
        The address of the model.

    Raises:
        ValueError: The Hub cannot be reached or refuses it, as without a login.
    """
    from huggingface_hub import HfApi

    api = HfApi(library_name="unlabeled")
    with _one_line_errors(f"name must be a model that you may write to, got {name}"):
        address = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=name,
            folder_path=folder,
            allow_patterns=list(FILES),
            delete_patterns=list(FILES),
            commit_message="Published by unlabeled",
        )
    return str(address)


@contextmanager
def _one_line_errors(rule: str, why: str = UNREACHABLE) -> Iterator[None]:
    """Say in one line what failed; the errors of huggingface_hub and of its transport have no common class.

    Args:
        rule: What is said before the reason.
        why: Why the Hub is not asked.
    """
    from huggingface_hub import errors

    try:
        yield
    except errors.RepositoryNotFoundError as error:
        raise UserError(f"{rule} (not found, or private and you are not logged in: hf auth login)") from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{rule} (it has no such revision)") from error
    except errors.LocalEntryNotFoundError as error:
        raise UserError(f"{rule} ({why or UNREACHABLE}, and it is not in the cache)") from error
    except errors.LocalTokenNotFoundError as error:
        raise UserError(f"{rule} (you are not logged in: hf auth login)") from error
    except Exception as error:
        raise UserError(f"{rule} ({check.reason(error)})") from error
