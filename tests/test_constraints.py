"""constraints.txt, which `.ci/run` installs by: what requirements.txt and requirements-dev.txt say, with hashes."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def pins(name: str) -> dict[str, str]:
    """Package → version, as pinned in a file of requirements."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    found = [re.match(r"([\w.-]+)==([^\s\\;#]+)", line) for line in lines]
    return {match[1].lower(): match[2] for match in found if match}


def test_every_requirement_is_held_at_its_version():
    held = {name: version.split("+")[0] for name, version in pins("constraints.txt").items()}
    asked = {**pins("requirements.txt"), **pins("requirements-dev.txt")}
    assert asked == {name: held.get(name) for name in asked}


def test_every_package_has_hashes_and_no_server_is_named():
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    blocks = re.split(r"\n(?=\S)", text.strip())
    assert len(blocks) == len(pins("constraints.txt")) > 80
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", block) for block in blocks)
    assert "://" not in text and "find-links" not in text
