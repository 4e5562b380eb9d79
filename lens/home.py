"""Where TokenLens keeps what it downloads, converts and builds on a user's machine."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """The cache folder: ``$TOKENLENS_HOME``, else ``$XDG_CACHE_HOME/tokenlens``, else ``~/.cache/tokenlens``."""
    override = os.environ.get("TOKENLENS_HOME")
    if override:
        return Path(override).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache).expanduser() if cache else Path.home() / ".cache") / "tokenlens"


def project_root() -> Path:
    """The checkout's top folder, where ``indexes/`` and ``assets/`` stand."""
    return Path(__file__).resolve().parent.parent
