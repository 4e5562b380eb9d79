"""No test writes into the user's cache folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lens.backend.catalog import find, on_disk
from lens.home import home


def test_every_test_has_a_cache_folder_of_its_own(own_home: Path, users_home: Path, tmp_path: Path) -> None:
    assert home() == own_home == tmp_path / "home" != users_home
    assert not own_home.exists()  # none that a page or a command would find something in


def test_its_programs_have_the_same_one(own_home: Path) -> None:
    code = "from lens.home import home; print(home())"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == str(own_home)


@pytest.mark.model
def test_the_offline_models_are_seen_there_and_nothing_else(own_home: Path, demo_home: Path, users_home: Path) -> None:
    assert demo_home not in (own_home, users_home)
    assert on_disk(find("demo")) and on_disk(find("demo-scratch"))
    assert [path.name for path in own_home.iterdir()] == [path.name for path in demo_home.iterdir()] == ["models"]
