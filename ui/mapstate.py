"""The state of the SEG maps page that no widget holds: the query in view, and the mask that a map is compared with.

The query stands in the address (:mod:`ui.addresses`): its kind, and which token of the text it is,
counted from where prompt or answer begin, so that another prompt or model keeps the place. The reader's mask stays in the
session: an address can't hold it.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

import streamlit as st

from lens.backend.maskfiles import Mask
from lens.backend.packedmasks import PackedMask, pack
from lens.segmaps.asking import Asked
from lens.segmaps.specificity import WORDS
from ui import addresses
from ui.addressforms import listed
from ui.state import Reader

KINDS = {"seg": "<SEG>", "token": "Token of the text", "word": "Typed word", "patch": "Patch"}
"""What a map may start from, by the kind of its query."""
LONGEST = 60
"""Characters of a typed word that are kept; of control words four times as many."""


def kinds(asked: Asked) -> list[str]:
    """The kinds of queries that there are: <SEG> only for a model that has the token."""
    return [kind for kind in KINDS if kind != "seg" or asked.seg is not None]


def kind(asked: Asked) -> str:
    """The kind of query in view: the one chosen, else <SEG> where the answer has one, else a token of the text."""
    known = [*kinds(asked)]
    usual = "seg" if asked.segs else "token"
    held = addresses.get("query") or usual
    if held not in known:
        addresses.unknown("query", f"one of {listed(known)}", KINDS[usual])
        return usual
    return held


def choose_kind(name: str) -> None:
    """Start from another kind of query."""
    addresses.put(query=name)


def spans(asked: Asked) -> dict[str, range]:
    """Positions of the text: the prompt's behind the picture, and the answer's."""
    visual = asked.token_map.visual_positions
    first = int(visual[-1]) + 1 if len(visual) else 0
    return {"prompt": range(first, asked.start), "answer": range(asked.start, len(asked.token_map))}


def token(asked: Asked, default: int) -> int:
    """The position of the token in view; ``default`` while none was chosen, or when the text in view hasn't that many."""
    held = addresses.get("token")
    found = re.fullmatch(r"(prompt|answer)-([0-9]{1,5})", held)
    if found:
        span = spans(asked)[found[1]]
        if int(found[2]) < len(span):
            return span[int(found[2])]
    if held:
        sizes = " or ".join(f"{name}-0 to {name}-{len(span) - 1}" for name, span in spans(asked).items() if len(span))
        addresses.unknown("token", f"a token of this text ({sizes})", "the usual one")
    return default


def choose_patch(row: int, col: int) -> None:
    """Start from a patch."""
    addresses.put(patch=f"{row},{col}", region=None, query="patch")


def choose_token(asked: Asked, position: int) -> None:
    """Start from a token of the text; from a <SEG> of the answer as what it is."""
    name, span = next((name, span) for name, span in spans(asked).items() if position in span)
    addresses.put(token=f"{name}-{position - span.start}", query="seg" if position in asked.segs else "token")


def seg_number(asked: Asked) -> int:
    """Which <SEG> of the answer is in view, from 0."""
    at = token(asked, -1)
    return asked.segs.index(at) if at in asked.segs else 0


def seg_position(asked: Asked) -> int | None:
    """Where the <SEG> in view stands."""
    return asked.segs[seg_number(asked)] if asked.segs else None


def word() -> str:
    """The typed word."""
    return addresses.get("word")[:LONGEST]


def choose_word(text: str) -> None:
    """Start from a typed word."""
    addresses.put(word=text.strip()[:LONGEST] or None)


def controls() -> str:
    """The control words, with commas between them."""
    return addresses.get("controls").strip() or ", ".join(WORDS)


def choose_controls(text: str) -> None:
    """Take other control words; none: the usual ones."""
    addresses.put(controls=text.strip()[: 4 * LONGEST] or None)


def forced() -> bool:
    """Whether the answer with <SEG> is put into the model's mouth."""
    held = addresses.get("forced")
    if held not in ("", "yes"):
        addresses.unknown("forced", "yes", "the model's own answer")
    return held == "yes"


def force(wanted: bool) -> None:
    """Force the answer with <SEG>, or let the model answer."""
    addresses.put(forced="yes" if wanted else None)


def follow_prompt() -> None:
    """Another question: the answer's <SEG> is in view again, where there is one."""
    addresses.put(query=None, token=None)


@dataclass(frozen=True, eq=False)
class OwnMask:
    """The reader's mask of a picture; ``key`` names it by its content."""

    packed: PackedMask
    key: str

    @property
    def mask(self) -> Mask:
        return self.packed.mask


def mask(reader: Reader) -> OwnMask | None:
    """The reader's mask of the picture in view, if there is one."""
    return st.session_state.get("masks", {}).get(reader.picture.digest)


def keep_mask(reader: Reader, wanted: Mask | None) -> None:
    """Compare maps of this picture with a mask from now on; ``None``: with none."""
    masks = st.session_state.setdefault("masks", {})
    masks.pop(reader.picture.digest, None)
    if wanted is not None:
        packed = pack(wanted)
        masks[reader.picture.digest] = OwnMask(packed, hashlib.sha256(packed.inside + packed.ignored).hexdigest())
