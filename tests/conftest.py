"""Fixtures for every test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Browser, sync_playwright

if TYPE_CHECKING:
    from lens.backend.loading import LoadedModel

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Headless Chromium of the system, one for all tests. Without one they are skipped with that reason; in CI
    (``CI=true``) its absence is a failure."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("CI needs Chromium for the browser tests, and there is none")
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    with sync_playwright() as play:
        running = play.chromium.launch(executable_path=program, args=FLAGS)
        yield running
        running.close()


@pytest.fixture(scope="session")
def demo_home() -> Path:
    """The cache folder that holds the offline models; they are provisioned when missing, which needs a registry once."""
    from lens.demo.provision import NAMES, provision
    from lens.home import home

    for name in NAMES:
        provision(name)
    return home()


@pytest.fixture(scope="session")
def demo(demo_home: Path) -> LoadedModel:
    """The offline model, loaded once; no test changes it."""
    from lens.backend.catalog import find
    from lens.backend.loading import load

    return load(find("demo"))
