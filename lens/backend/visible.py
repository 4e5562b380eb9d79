"""How a token is written wherever a reader sees one. Needs no other package, so that figures may use it."""

from __future__ import annotations

import re


def visible(token: str) -> str:
    """A token as a reader sees it, so that no two look alike: ``␣The`` and ``The`` (the convention of Neuronpedia).

    Outer blanks are ``␣``, line breaks ``↵``, tabs ``⇥``; a part of a character (:func:`lens.backend.words.token_text`) is
    ``byte E4 B8``; whatever else doesn't print is named by its code point, ``U+202E``. Plain text: not escaped for HTML.
    """
    if part := re.fullmatch(r"<([0-9A-F]{2}(?: [0-9A-F]{2})*)>", token):
        return f"byte {part[1]}"
    inner = token.strip(" ")
    before = len(token) - len(token.lstrip(" "))
    after = len(token) - len(inner) - before if inner else 0
    inner = inner.replace("\n", "↵").replace("\t", "⇥")
    shown = "".join(c if c.isprintable() else f"U+{ord(c):04X}" for c in inner)
    return "␣" * before + shown + "␣" * after
