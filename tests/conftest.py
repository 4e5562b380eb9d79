"""Fixtures for every test."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def demo_home() -> Path:
    """The cache folder that holds the offline models; they are provisioned when missing, which needs a registry once."""
    from lens.demo.provision import NAMES, provision
    from lens.home import home

    for name in NAMES:
        provision(name)
    return home()
