"""What training may show and ask for: things, every name that one can be called by, and which names could mean each other.

A thing is an object of :mod:`lens.demo.seg_objects` that icons show, or a class that a photograph shows. A photograph's
thing has up to three names: its own, that of its file where the own one is plainer, and a broader word. Invariants: nothing
held out is a thing or a name; a name that shares a word with what is held out may be asked for where it is shown, but is
never named as absent (:attr:`Vocabulary.namable`), since a picture of what is held out would belie it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from lens.demo.names import POLISHED, broader
from lens.demo.scenes import Pool, Sources
from lens.demo.seg_objects import FURTHER, KINDS, OBJECTS, words

PHOTO, ICON = 0.42, 0.2
"""Share of the things drawn that are photographs, and share of the others that are of :data:`FURTHER`."""


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Arrays over things [t] and names [n].

    Attributes:
        names: every name.
        conflict: [n, n] bool, whether two names could mean the same thing; true on the diagonal.
        namable: [n] bool, whether a name may be named as absent.
        icons: (style, icon) of every icon that shows a thing; ``shown`` counts along this list.
        own, plain, broad: [t], a thing's names; ``plain`` and ``broad`` are -1 where there is none.
        label: [t], the photograph that shows it, -1 for icons.
        shown: [t, styles, variants], the icons that show it, filled from the front, -1 where there is none.
        kind: [t], what kind of thing it is.
        chance: [t], how often each is drawn; sums to 1.
    """

    names: list[str]
    conflict: np.ndarray
    namable: np.ndarray
    icons: list[tuple[str, str]]
    own: np.ndarray
    plain: np.ndarray
    broad: np.ndarray
    label: np.ndarray
    shown: np.ndarray
    kind: np.ndarray
    chance: np.ndarray

    def facts(self) -> dict[str, int]:
        """Counts for the card."""
        things = [self.names[name] for name in self.own[self.label < 0]]
        return {
            "names": len(self.names),
            "objects": sum(name in OBJECTS for name in things),
            "extra": sum(name in FURTHER for name in things),
            "classes": int((self.label >= 0).sum()),
            "broader": len(set(self.broad[self.broad >= 0].tolist())),
            "never named as absent": int((~self.namable).sum()),
        }


@dataclass(frozen=True)
class Thing:
    """A thing by its words; ``share`` is the group that it is drawn with."""

    name: str
    kind: str
    share: str
    icons: tuple[tuple[tuple[str, str], ...], ...] = ()
    label: int = -1
    plain: str | None = None
    broad: str | None = None


def vocabulary(pool: Pool, sources: Sources, unnamed: Collection[str], fits: Callable[[str], bool]) -> Vocabulary:
    """The vocabulary of a training pool.

    ``unnamed`` are the names of what is held out; ``fits(name)`` says whether a turn with that name is short enough.
    """
    held = [words(name) for name in unnamed]

    def clear(name: str) -> bool:
        return all(words(name).isdisjoint(other) for other in held)

    things = [thing for thing in icon_things(pool, sources, clear) if fits(thing.name)]
    things += photo_things(pool, sources, lambda name: fits(name) and clear(name), fits)
    rows: dict[str, int] = {}
    for thing in things:
        for name in (thing.name, thing.plain, thing.broad):
            if name is not None:
                rows.setdefault(name, len(rows))
    icons = {icon: i for i, icon in enumerate(dict.fromkeys(i for t in things for style in t.icons for i in style))}
    kinds = {kind: i for i, kind in enumerate(dict.fromkeys(thing.kind for thing in things))}
    return Vocabulary(
        names=list(rows),
        conflict=conflicts(list(rows), things, rows),
        namable=np.array([clear(name) for name in rows]),
        icons=list(icons),
        own=np.array([rows[thing.name] for thing in things]),
        plain=np.array([-1 if thing.plain is None else rows[thing.plain] for thing in things]),
        broad=np.array([-1 if thing.broad is None else rows[thing.broad] for thing in things]),
        label=np.array([thing.label for thing in things]),
        shown=padded([[[icons[icon] for icon in style] for style in thing.icons] for thing in things]),
        kind=np.array([kinds[thing.kind] for thing in things]),
        chance=chances([thing.share for thing in things]),
    )


def icon_things(pool: Pool, sources: Sources, clear: Callable[[str], bool]) -> list[Thing]:
    """The pool's objects and those of :data:`FURTHER` that could mean nothing held out, with the icons that show them."""
    kinds = {name: kind for kind, table in KINDS.items() for name in table}
    further = [name for name in FURTHER if clear(name)]
    named = [(name, OBJECTS[name], kinds[name], "objects") for name in pool.objects]
    found = []
    for name, icons, kind, share in (*named, *((name, FURTHER[name], "further", "further") for name in further)):
        styles = (tuple((style, i) for i in icons if i in sources.icons[style]) for style in pool.styles)
        shown = tuple(style for style in styles if style)
        if shown:
            found.append(Thing(name, kind, share, shown))
    return found


def photo_things(pool: Pool, sources: Sources, fit: Callable[[str], bool], fits: Callable[[str], bool]) -> list[Thing]:
    """The pool's classes; further names only where they ``fit``, which says more than ``fits``."""
    wide = broader()
    found = []
    for label in pool.classes:
        name, broad = sources.names[label], wide.get(label)
        if not fits(name):
            continue
        plain = sources.photos[label].stem.partition("_")[2].replace("_", " ")
        plain = plain if plain in POLISHED and len(words(plain)) > 1 and fit(plain) else None
        kind = f"a kind of {broad}" if broad else "photographs without a broader word"
        found.append(Thing(name, kind, "photographs", (), label, plain, broad if broad and fit(broad) else None))
    return found


def conflicts(names: Sequence[str], things: Sequence[Thing], rows: dict[str, int]) -> np.ndarray:
    """Names that share a word, and the names of one thing, [n, n]; a broader word means its classes whether or not it is
    asked for: "dog" and "beagle"."""
    bags = [words(name) for name in names]
    columns = {word: i for i, word in enumerate(sorted(set().union(*bags)))}
    has = np.zeros((len(names), len(columns)), np.float32)
    for i, bag in enumerate(bags):
        has[i, [columns[word] for word in bag]] = 1
    found = (has @ has.T) > 0
    wide = broader()
    for thing in things:
        called = (thing.name, thing.plain, wide.get(thing.label))
        own = [rows[name] for name in called if name is not None and name in rows]
        found[np.ix_(own, own)] = True
    return found


def chances(shares: Sequence[str]) -> np.ndarray:
    """How often each thing is drawn, by its group's share; groups that are missing leave theirs to the others."""
    wanted = {"photographs": PHOTO, "further": (1 - PHOTO) * ICON, "objects": (1 - PHOTO) * (1 - ICON)}
    sizes = {share: shares.count(share) for share in set(shares)}
    found = np.array([wanted[share] / sizes[share] for share in shares])
    return found / found.sum()


def padded(lists: Sequence[Sequence[Sequence[int]]]) -> np.ndarray:
    """Lists of lists of rows as one array, filled up with -1."""
    styles = max((len(styles) for styles in lists), default=0)
    variants = max((len(icons) for found in lists for icons in found), default=0)
    made = np.full((len(lists), max(1, styles), max(1, variants)), -1)
    for i, found in enumerate(lists):
        for j, icons in enumerate(found):
            made[i, j, : len(icons)] = icons
    return made
