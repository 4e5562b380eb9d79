"""Autoencoders from the Hugging Face hub: the files of one folder of a repository, through the hub's own cache."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, HFValidationError
from huggingface_hub.utils import validate_repo_id

from lens.errors import FeaturesUnreadable
from lens.functiontokens.formats import FILES


def is_hub_address(text: str) -> bool:
    """Whether ``text`` can be ``owner/name`` or ``owner/name/folder/in/it``."""
    parts = text.split("/")
    try:
        validate_repo_id("/".join(parts[:2]))
    except HFValidationError:
        return False
    return len(parts) >= 2 and all(part not in ("", ".", "..") and "\\" not in part for part in parts)


def fetch(address: str) -> Path:
    """The local folder of ``owner/name/folder``, fetched if it isn't cached: only the files that are read here.

    Raises:
        FeaturesUnreadable: neither cached nor to be had.
    """
    owner, name, *below = address.split("/")
    wanted = ["/".join([*below, file]) for file in FILES]
    try:
        root = Path(snapshot_download(f"{owner}/{name}", allow_patterns=wanted))
    except GatedRepoError as error:
        raise FeaturesUnreadable(
            f"The autoencoder {address!r} is gated: accept its terms on the hub and log in there, or choose another."
        ) from error
    except Exception as error:  # offline, no such repository, and the errors of whichever HTTP client is installed
        raise FeaturesUnreadable(
            f"The autoencoder {address!r} is neither in the local cache nor to be had from the hub "
            f"({type(error).__name__}); check the name and the network, or give a folder."
        ) from error
    return root.joinpath(*below)
