"""Fixtures for every test.

No test writes into the user's cache folder, but for the offline models that are put together there once: every test has a
cache folder of its own, and what fixtures of a module or of the session keep goes into one of the session's.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Browser, sync_playwright

from lens.demo.provision import NAMES, provision
from lens.demo.seg_provision import NAME as SEG_NAME
from lens.demo.seg_provision import provision_seg
from lens.home import home

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


@pytest.fixture(scope="session", autouse=True)
def users_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's cache folder. The session's own is set meanwhile, for whatever runs outside a test."""
    users = home()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOKENLENS_HOME", str(tmp_path_factory.mktemp("session-home")))
        yield users


@pytest.fixture(autouse=True)
def own_main(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same ``__main__`` for each test: AppTest leaves its script there, which a child process would run."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])


@pytest.fixture(autouse=True)
def own_home(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test's own cache folder, ``home`` of its ``tmp_path``: not made yet, or with the offline models where the test
    asks for :func:`demo_home`."""
    folder = tmp_path / "home"
    if "demo_home" in request.fixturenames:
        show_models(request.getfixturevalue("demo_home"), folder)
    monkeypatch.setenv("TOKENLENS_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def demo_home(users_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder with the offline models, which are provisioned in the user's when they are missing there; that needs
    a registry once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOKENLENS_HOME", str(users_home))
        for name in NAMES:
            provision(name)
        provision_seg()
    folder = tmp_path_factory.mktemp("demo-home")
    show_models(users_home, folder)
    return folder


def show_models(of: Path, folder: Path) -> None:
    """Let the cache folder ``folder`` have the offline models that ``of`` has."""
    (folder / "models").mkdir(parents=True)
    for name in (*NAMES, SEG_NAME):
        (folder / "models" / name).symlink_to((of / "models" / name).resolve())


@pytest.fixture(scope="session")
def demo(demo_home: Path) -> LoadedModel:
    """The offline model, loaded once; no test changes it."""
    from lens.backend.catalog import find
    from lens.backend.loading import load

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOKENLENS_HOME", str(demo_home))
        return load(find("demo"))
