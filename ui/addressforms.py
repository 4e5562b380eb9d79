"""What a value looks like in the address: short, stable and lower-case, whatever its widget is labelled.

A form reads a text of the address and writes a value. What it can't read is a :class:`ValueError`, and :attr:`wanted` says
what would do. Labels may be reworded at any time: the address holds keys, and reads labels only so that old links work.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

Value = TypeVar("Value")

LISTED = 8
"""Options that a sentence names."""

ALIASES: dict[str, dict[str, str]] = {
    "part": {
        "through-the-layers": "layers", "text-layers": "alignment", "map": "plane", "does-it-matter?": "without",
        "your-text": "text", "token-statistics": "statistics", "on-the-image": "image",
        "how-good-are-these-features": "quality",
    },
    "section": {
        "through-the-layers": "layers", "across-pictures": "pictures", "causal-tests": "causal", "other-rules": "rules",
        "one-object-in-one-patch": "bench",
    },
    "more": {
        "every-layer": "layers", "controls-and-baselines": "controls", "dropped-patches": "ablation",
        "points-to-sam": "sam",
    },
    "lens": {"latentlens": "latent", "logit-lens": "logit", "embedding-lens": "embedding"},
    "overlay": {"heat-map": "similarity", "picture": "none"},
    "top": {"best-word": "1", "best-three": "3"},
    "causal": {
        "prune-a-class": "prune", "prune-in-many-pictures": "many", "skip-sublayers": "skip", "enter-late": "inject",
        "change-the-norm": "norm",
    },
    "steer": {"push-features": "push", "layer-scan": "scan", "smallest-number-of-features": "smallest"},
    "order": {"times-chance": "lift"},
    "ablated-beside": {"20-random-sets": "anywhere", "20-sets-nearby": "near", "nothing": "none"},
    "plane-of": {"the-layer-in-view": "layer", "the-stored-layers-together": "all"},
    "plane-colour": {"best-word": "word", "place-in-the-picture": "position"},
    "aligned": {"this-picture": "one", "the-gallery": "gallery", "a-folder": "folder"},
    "mask_rule": {"mask-head": "head", "highest-share": "quantile", "above": "value"},
}  # fmt: skip
"""Labels that stood in the address before keys did, as :func:`folded` has them: by parameter, the key of each."""


def slug(text: str) -> str:
    """Lower-case letters and digits of a text, joined by hyphens."""
    return re.sub(r"[^\w.+]+", "-", text.strip().lower().replace("_", "-")).strip("-")


def folded(text: str) -> str:
    """A text as it is compared with keys and labels: whatever its case, with hyphens for spaces and underscores."""
    return re.sub(r"[\s_]+", "-", text.strip().lower())


@dataclass(frozen=True)
class Choice(Generic[Value]):
    """One of ``options``. ``named``: they are names that others gave, which stand in the address as they are."""

    name: str
    options: tuple[Value, ...]
    label: Callable[[Value], str] = field(default=str, compare=False)
    named: bool = False

    @property
    def wanted(self) -> str:
        return "one of " + listed(map(self.write, self.options))

    def write(self, value: Value) -> str:
        return str(value) if self.named else slug(str(value))

    def read(self, text: str) -> Value:
        """By key, else by a label of today or of an earlier version."""
        exact = {self.write(option): option for option in self.options}
        if text in exact:
            return exact[text]
        by_key = {folded(key): option for key, option in exact.items()}
        key = folded(text)
        key = key if key in by_key else ALIASES.get(self.name, {}).get(key, key)
        by_label = {folded(self.label(option)): option for option in self.options}
        if key in by_key or key in by_label:
            return by_key.get(key, by_label.get(key))  # pyright: ignore[reportReturnType]
        raise ValueError(text)

    def show(self, value: Value) -> str:
        return self.label(value)


@dataclass(frozen=True)
class Several(Generic[Value]):
    """Some of the options, or none of them."""

    one: Choice[Value]

    @property
    def wanted(self) -> str:
        return f"a list of {listed(map(self.one.write, self.one.options))}, or none"

    def write(self, value: Iterable[Value]) -> str:
        return ",".join(map(self.one.write, value)) or "none"

    def read(self, text: str) -> list[Value]:
        return [] if slug(text) == "none" else [self.one.read(part) for part in dict.fromkeys(text.split(","))]

    def show(self, value: Iterable[Value]) -> str:
        return ", ".join(map(self.one.show, value)) or "nothing"


@dataclass(frozen=True)
class Number:
    """A number from ``low`` to ``high``, whole where these are."""

    low: float
    high: float

    @property
    def wanted(self) -> str:
        return f"a {'whole ' if self._whole else ''}number from {self.low:g} to {self.high:g}"

    @property
    def _whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    def write(self, value: float) -> str:
        return f"{value:.10g}"

    def read(self, text: str) -> float:
        if not re.fullmatch(r"\s*[-+]?[0-9]{1,12}(\.[0-9]{0,12})?\s*", text):
            raise ValueError(text)
        value = float(text)
        if not math.isfinite(value) or not self.low <= value <= self.high or (self._whole and value != int(value)):
            raise ValueError(text)
        return int(value) if self._whole else value

    def show(self, value: float) -> str:
        return self.write(value)


@dataclass(frozen=True)
class Span:
    """Two numbers of ``ends``, the lower first."""

    ends: Number

    @property
    def wanted(self) -> str:
        return f"two numbers from {self.ends.low:g} to {self.ends.high:g}, the lower first"

    def write(self, value: tuple[float, float]) -> str:
        return ",".join(map(self.ends.write, value))

    def read(self, text: str) -> tuple[float, float]:
        low, high = map(self.ends.read, text.split(","))
        if low > high:
            raise ValueError(text)
        return low, high

    def show(self, value: tuple[float, float]) -> str:
        return " to ".join(map(self.ends.write, value))


@dataclass(frozen=True)
class Switch:
    """On or off."""

    wanted: str = "true or false"

    def write(self, value: bool) -> str:
        return "true" if value else "false"

    def read(self, text: str) -> bool:
        if (known := text.strip().lower()) in ("true", "yes", "on", "1", "false", "no", "off", "0"):
            return known in ("true", "yes", "on", "1")
        raise ValueError(text)

    def show(self, value: bool) -> str:
        return "on" if value else "off"


class Form(Protocol):
    """What all of them can do."""

    @property
    def wanted(self) -> str:
        """What would be known, as it stands in a sentence behind "isn't"."""
        ...

    def write(self, value: Any, /) -> str:
        """A value's text in the address."""
        ...

    def read(self, text: str, /) -> Any:
        """The value of a text; :class:`ValueError` where it has none."""
        ...

    def show(self, value: Any, /) -> str:
        """What the page calls a value."""
        ...


def listed(names: Iterable[str]) -> str:
    """Names in a sentence, the first of many."""
    known = list(names)
    rest = len(known) - LISTED
    return ", ".join(known[:LISTED]) + (f" and {rest} more" if rest > 0 else "")


def asked(name: str, text: str, wanted: str, shown: str) -> str:
    """The sentence of a value that isn't known, as Markdown in which it is nothing but text."""
    cut = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text.replace("`", "'"))
    cut = cut if len(cut) <= 60 else cut[:59] + "…"
    return f"The address asks for ` {name}={cut} `, which isn't {plain(wanted)}; {plain(shown)} is shown."


def plain(text: str) -> str:
    """A text in which Markdown finds nothing to draw."""
    return re.sub(r"([\\`*_{}\[\]()<>#+!|~$:^])", r"\\\1", text)


def labels(of: Mapping[Value, str] | Callable[[Value], str] | None) -> Callable[[Value], str]:
    """How options are labelled, as a function."""
    if isinstance(of, Mapping):
        return lambda value: of[value]
    return of or str
