"""The app as a reader starts it: ``streamlit run app.py`` on a free port of this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from lens.home import project_root


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
            [
                sys.executable,
                "-m",
                "streamlit",
                "run",
                "app.py",
                "--server.headless",
                "true",
                "--server.port",
                str(port),
            ],
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
