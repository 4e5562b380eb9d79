"""The app in a real browser: a Streamlit server of its own and headless Chromium.

Without Chromium these tests are skipped with that reason; in CI (``CI=true``) its absence is a failure.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from lens.home import project_root

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Headless Chromium of the system."""
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
def app_url(demo_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the app, started as a reader starts it, with the offline model in its cache folder."""
    with serve(demo_home, tmp_path_factory.mktemp("server") / "log.txt") as url:
        yield url


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A fresh window of its own."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000}, accept_downloads=True)
    context.set_default_timeout(60_000)
    yield context.new_page()
    context.close()


class serve:  # noqa: N801 - reads as a verb: with serve(...) as url
    """Run ``streamlit run app.py`` on a free port; gives its address."""

    def __init__(self, home: Path, log: Path) -> None:
        self.home, self.log = home, log

    def __enter__(self) -> str:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.file = self.log.open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "streamlit", "run", "app.py", "--server.headless", "true", "--server.port", str(port)],
            cwd=project_root(),
            env={**os.environ, "TOKENLENS_HOME": str(self.home)},
            stdout=self.file,
            stderr=subprocess.STDOUT,
        )
        url = f"http://localhost:{port}"
        for _ in range(240):
            if self.process.poll() is not None:
                pytest.fail(f"the app ended at its start: {self.log.read_text()[-2000:]}")
            try:
                urllib.request.urlopen(f"{url}/_stcore/health", timeout=1).close()
                return url
            except OSError:
                time.sleep(0.25)
        pytest.fail(f"the app didn't answer within a minute: {self.log.read_text()[-2000:]}")

    def __exit__(self, *_error: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.file.close()
