"""Assembly of ``demo-seg`` below ``home()/models``: the demo's folder with the trained updates merged in.

Invariants as for the other offline models (:mod:`lens.demo.provision`): the folder appears whole, stamped with what it was
made from. The tower, the connector and the processor are the demo's own files; the language model's q and v are float32,
since rounding a sum to bfloat16 would lose small updates; ``<filename>``, a spare special token, is renamed <SEG> and is
ordinary text to the tokenizer's decoder, so that answers show it. The mask head is a file of its own beside the model.
"""

from __future__ import annotations

import json
from pathlib import Path

from lens.backend.files import sha256
from lens.demo.provision import (
    CONNECTORS,
    LANGUAGE,
    assembling,
    clear_leftovers,
    is_current,
    link_base,
    locked,
    provision,
    told,
    wanted,
    write_connector,
)
from lens.errors import ProvisioningFailed
from lens.home import home
from lens.progress import Report, part, silent

RECIPE = 1
"""Raised whenever the assembly below changes what it writes."""

NAME = "demo-seg"
SHIPPED = Path(__file__).parent / "seg" / "demo-seg.safetensors"
MASK_HEAD = "mask_head.safetensors"
PREFIX = "model.language_model."


def provision_seg(
    name: str = NAME, report: Report = silent, wheels: Path | None = None, shipped: Path = SHIPPED
) -> Path:
    """The folder of ``demo-seg``, assembled from the demo and the shipped updates when it is missing or outdated.

    Raises :class:`ProvisioningFailed`.
    """
    if name != NAME:
        raise ProvisioningFailed(f"There is no offline <SEG> model called {name!r}; it is called {NAME!r}.")
    base = provision("demo", part(report, 0.0, 0.8), wheels)
    target = home() / "models" / NAME
    stamp: dict[str, object] = {"recipe": RECIPE, "base": wanted("demo"), "seg": sha256(shipped)}
    if is_current(target, stamp):
        return target
    with locked(home() / "models" / ".lock", report), told():
        if not is_current(target, stamp):
            clear_leftovers(target.parent)
            assemble(base, target, stamp, shipped, report)
    report(1, 1, "Ready")
    return target


def assemble(base: Path, target: Path, stamp: dict[str, object], shipped: Path, report: Report) -> None:
    """Make ``target``. The lock is held."""
    with assembling(target, stamp) as making:
        link_base(base, making)
        report(0.85, 1, "Merging the updates of <SEG>")
        write_language(base, making, shipped)
        write_tokenizer(base, making)
        write_connector(CONNECTORS / "demo.safetensors", making)


def write_language(base: Path, making: Path, shipped: Path) -> None:
    """The language model with q, v and <SEG>'s vector as trained, and the mask head's file."""
    from safetensors.torch import load_file, save_file  # heavy imports wait until there is something to do

    from lens.demo.seg_head import read_seg
    from lens.demo.seg_language import merged_weights

    head, trained, about = read_seg(shipped)
    tensors = load_file(base / LANGUAGE)
    changed = merged_weights(trained, float(about["alpha"]), lambda name: tensors[PREFIX + name.removeprefix("model.")])
    tensors |= {PREFIX + name.removeprefix("model."): tensor for name, tensor in changed.items()}
    table = tensors[f"{PREFIX}embed_tokens.weight"]
    table[seg_id(base)] = trained["seg"].to(table.dtype)
    (making / LANGUAGE).unlink()  # a link to the demo's own, which must not be written through
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, making / LANGUAGE, {"format": "pt"})
    save_file({name: tensor.contiguous() for name, tensor in head.items()}, making / MASK_HEAD, {"format": "pt"})


def seg_id(base: Path) -> int:
    """The id of the token that becomes <SEG>."""
    from lens.demo.seg_language import RENAMED_TOKEN

    description = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))
    return description["model"]["vocab"][RENAMED_TOKEN]


def write_tokenizer(base: Path, making: Path) -> None:
    """The demo's tokenizer with the spare token renamed and no longer special."""
    description = with_seg(json.loads((base / "tokenizer.json").read_text(encoding="utf-8")))
    (making / "tokenizer.json").unlink()
    (making / "tokenizer.json").write_text(json.dumps(description, ensure_ascii=False), encoding="utf-8")


def with_seg(description: dict) -> dict:
    """A ``tokenizer.json`` in which the spare token is <SEG>, its id kept, and shown when an answer is decoded."""
    from lens.demo.seg_language import RENAMED_TOKEN, SEG

    vocabulary = description["model"]["vocab"]
    description["model"]["vocab"] = {SEG if token == RENAMED_TOKEN else token: i for token, i in vocabulary.items()}
    for token in description["added_tokens"]:
        if token["content"] == RENAMED_TOKEN:
            token |= {"content": SEG, "special": False}
    return description
