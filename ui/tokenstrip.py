"""A text of coloured tokens, or a row of chips, of which the reader clicks one.

A component of the page itself (no frame): every text goes in as text, never as markup. A click calls ``on_click`` with the
number of the token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import streamlit as st
from streamlit.components.v2 import component

_CSS = """
.strip { font-family: var(--st-font, sans-serif); font-size: 0.95rem; line-height: 2.05; overflow-wrap: anywhere; }
.strip.chips { line-height: 1.2; display: flex; flex-wrap: wrap; gap: 0.35rem; }
button {
  font: inherit; border: 1px solid transparent; border-radius: 4px; padding: 0.12rem 0.18rem; margin: 0 1px;
  cursor: pointer; white-space: pre-wrap; text-align: left; color: inherit; background: none; max-width: 100%;
}
.chips button { border-color: color-mix(in srgb, currentColor 30%, transparent); border-radius: 999px; margin: 0;
  padding: 0.2rem 0.6rem; font-size: 0.82rem; }
button:hover { border-color: currentColor; }
button:focus-visible { outline: 2px solid #0072B2; outline-offset: 1px; }
button.on { outline: 2.5px solid #D55E00; outline-offset: 1px; }
button.fade { opacity: 0.55; font-size: 0.8em; }
button.mark { border-bottom: 3px solid #D55E00; }
"""
_JS = """
export default function ({ data, parentElement, setTriggerValue }) {
  const old = parentElement.querySelector(".strip");
  const strip = document.createElement("div");
  strip.className = "strip" + (data.chips ? " chips" : "");
  data.pieces.forEach((piece, number) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = piece.text;
    button.title = piece.title;
    button.className = [piece.on ? "on" : "", piece.fade ? "fade" : "", piece.mark ? "mark" : ""].join(" ").trim();
    if (piece.ground) button.style.background = piece.ground;
    if (piece.ink) button.style.color = piece.ink;
    button.setAttribute("aria-pressed", piece.on ? "true" : "false");
    button.onclick = () => setTriggerValue("clicked", number);
    strip.appendChild(button);
    if (piece.ends) strip.appendChild(document.createElement("br"));
  });
  if (old) old.replaceWith(strip); else parentElement.appendChild(strip);
}
"""
_STRIP = component("tokenlens_strip", css=_CSS, js=_JS)


@dataclass(frozen=True)
class Piece:
    """One token or chip.

    Attributes:
        title: shown when pointed at. ground, ink: hex colours; empty for the page's own.
        on: the chosen one. fade: of lesser interest. mark: underlined. ends: a line ends after it.
    """

    text: str
    title: str = ""
    ground: str = ""
    ink: str = ""
    on: bool = False
    fade: bool = False
    mark: bool = False
    ends: bool = False


def strip(
    key: str, pieces: Sequence[Piece], on_click: Callable[[int], None], kind: Literal["text", "chips"] = "text"
) -> None:
    """Draw the pieces; ``on_click`` gets the number of the one that is clicked, before the page is drawn again."""

    def clicked() -> None:
        number = st.session_state[key].get("clicked")
        if number is not None and 0 <= int(number) < len(pieces):
            on_click(int(number))

    data = {"pieces": [asdict(piece) for piece in pieces], "chips": kind == "chips"}
    _STRIP(key=key, data=data, on_clicked_change=clicked)
