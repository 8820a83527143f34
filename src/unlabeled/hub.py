"""Run folders on the Hugging Face Hub; its cache, its login and its offline mode are those of huggingface_hub."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unlabeled import check
from unlabeled.check import UserError

__all__ = ["FILES", "check_name", "download", "is_address", "upload"]

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


def download(address: str) -> Path:
    """The folder of a published run, in the cache of huggingface_hub; read from there where the Hub is not reached.

    Args:
        address: hub:OWNER/NAME, or hub:OWNER/NAME@REVISION for a branch, tag or commit.

    Raises:
        ValueError: There is no such model, or it is neither reached nor in the cache.
    """
    name, _, revision = address.removeprefix(PREFIX).partition("@")
    check_name(name)
    from huggingface_hub import snapshot_download

    with _one_line_errors(f"run must be one that the Hub has or the cache holds, got {address}"):
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
        ValueError: The Hub is not reached or refuses it, as without a login.
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
def _one_line_errors(rule: str) -> Iterator[None]:
    """Say in one line what failed; the errors of huggingface_hub and of its transport have no common class."""
    from huggingface_hub import errors

    try:
        yield
    except errors.RepositoryNotFoundError as error:
        raise UserError(f"{rule} (not found, or private and you are not logged in: hf auth login)") from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{rule} (it has no such revision)") from error
    except errors.LocalEntryNotFoundError as error:
        raise UserError(f"{rule} (the Hub is not reached, and the cache does not hold it)") from error
    except errors.LocalTokenNotFoundError as error:
        raise UserError(f"{rule} (you are not logged in: hf auth login)") from error
    except Exception as error:
        raise UserError(f"{rule} ({check.reason(error)})") from error
