"""Text as the states that an autoencoder is trained on: windows of a corpus, run once and kept on disk in float16.

Invariants: windows and their order depend on corpus, tokenizer and seed alone; the states of positions 0 and 1 are never
kept (:data:`~lens.functiontokens.basis.FIRST`); a cache that was interrupted goes on where it stopped, and one of another
recipe is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from lens.backend.batches import pad
from lens.backend.files import sha256, write_json
from lens.backend.loading import LoadedModel
from lens.backend.templating import templated
from lens.backend.tracing import text_states
from lens.errors import CorpusUnreadable, FeaturesUnreadable
from lens.functiontokens.basis import FIRST
from lens.progress import Report, silent

GROUP = 64
"""Sentences that are joined before they are cut into windows."""
CHAT_EVERY = 16
"""One window in so many is put as a reader's message into the model's chat template, as prompts of the pages are."""
BATCH = 16
"""Windows run at once."""


def windows(loaded: LoadedModel, corpus: Iterable[str], length: int, seed: int) -> list[list[int]]:
    """The corpus as token windows in random order: of ``length`` tokens, or those of a chat about half as many.

    Sentences that follow one another stay together. Raises :class:`CorpusUnreadable` for fewer than two windows, and what
    :mod:`lens.backend.templating` raises.
    """
    tokenizer, room = loaded.tokenizer, length - loaded.adds_bos
    opening = [tokenizer.bos_token_id] if loaded.adds_bos else []
    cut: list[np.ndarray] = []
    sentences = iter(corpus)
    while group := list(islice(sentences, GROUP)):
        ids = np.array(tokenizer(" ".join(group), add_special_tokens=False, verbose=False)["input_ids"], np.int32)
        cut += [ids[start : start + room] for start in range(0, len(ids) - room + 1, room)]
    if len(cut) < 2:
        raise CorpusUnreadable(f"The corpus makes {len(cut)} windows of {length} tokens; give a longer one.")
    order = np.random.default_rng(seed).permutation(len(cut))
    found = []
    for place, which in enumerate(order):
        ids = cut[which].tolist()
        chat = _chat(loaded, ids[: room // 2]) if place % CHAT_EVERY == 0 else None
        found.append(chat or opening + ids)
    return found


def _chat(loaded: LoadedModel, ids: list[int]) -> list[int] | None:
    """A piece of text as a message in the model's chat template; ``None`` for a model without one."""
    text = templated(loaded, loaded.tokenizer.decode(ids, skip_special_tokens=True), seeing=False)
    return None if text is None else loaded.tokenizer(text, add_special_tokens=False)["input_ids"]


def window_states(
    loaded: LoadedModel, texts: Sequence[list[int]], layers: Sequence[int]
) -> Iterator[tuple[int, dict[int, Float[np.ndarray, "n d"]]]]:
    """By batch: how many windows are done, and the states of their kept positions at each layer, in reading order."""
    for start in range(0, len(texts), BATCH):
        ids, mask = pad(texts[start : start + BATCH])
        kept = mask.bool()
        kept[:, :FIRST] = False
        found = text_states(loaded, ids, mask, layers)
        yield (
            min(start + BATCH, len(texts)),
            {layer: states[kept.to(states.device)].float().cpu().numpy() for layer, states in found.items()},
        )


@dataclass(frozen=True)
class Recipe:
    """What the states of a cache are of. ``fingerprint``: of the weights that were run."""

    fingerprint: str
    corpus: str
    seed: int
    length: int
    layers: tuple[int, ...]
    rows: int
    width: int


class StateCache:
    """States of several layers, one memory-mapped file each.

    Attributes:
        rows: how many positions are kept.
    """

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        """Open or begin the cache in ``folder``; begin it anew where its files aren't as they were noted.

        Raises:
            FeaturesUnreadable: it holds states of another recipe.
        """
        self.folder, self.recipe = folder, recipe
        folder.mkdir(parents=True, exist_ok=True)
        wanted = json.loads(json.dumps(asdict(recipe)))
        held, done = self._noted()
        if held not in (None, wanted):
            raise FeaturesUnreadable(
                f"The folder {folder.name!r} holds states of another model, text or layers; give another folder, or "
                "delete it."
            )
        self._progress: dict[str, Any] = done if held and self._sound(done) else {"windows": 0, "rows": 0}

    def _noted(self) -> tuple[Any, dict[str, Any]]:
        """The recipe and the progress that are noted; ``None`` and nothing where none can be read."""
        try:
            note = json.loads((self.folder / "progress.json").read_text(encoding="utf-8"))
            return note["recipe"], dict(note["done"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None, {}

    def _sound(self, done: dict[str, Any]) -> bool:
        """Whether the files can hold what is noted; finished ones are compared by their SHA-256."""
        files = [self._file(layer) for layer in self.recipe.layers]
        size = self.recipe.rows * self.recipe.width * np.dtype(np.float16).itemsize
        counts = [done.get("windows"), done.get("rows")]
        if not all(type(count) is int and count >= 0 for count in counts) or done["rows"] > self.recipe.rows:
            return False
        if any(not file.is_file() or file.stat().st_size != size for file in files):
            return not done["rows"]
        sums = done.get("sha256")
        return sums is None or sums == [sha256(file, afresh=False) for file in files]

    @property
    def rows(self) -> int:
        return int(self._progress["rows"])

    def fill(self, loaded: LoadedModel, texts: Sequence[list[int]], report: Report = silent) -> None:
        """Run the windows until the recipe's rows are there, or the windows end."""
        wanted, done = self.recipe.rows, int(self._progress["windows"])
        maps = {layer: self._map(layer, "r+" if self.rows else "w+") for layer in self.recipe.layers}
        if self.rows >= wanted:
            return
        for place, found in window_states(loaded, texts[done:], self.recipe.layers):
            start = self.rows
            room = wanted - start
            for layer, states in found.items():
                maps[layer][start : start + len(states)] = states[:room]
            count = len(next(iter(found.values())))
            self._progress = {"windows": done + place, "rows": min(start + count, wanted)}
            self._save()
            report(self.rows, wanted, "States of the text")
            if self.rows >= wanted:
                break
        for kept in maps.values():
            kept.flush()
        self._progress["sha256"] = [sha256(self._file(layer)) for layer in self.recipe.layers]
        self._save()

    def states(self, layer: int) -> Float[np.ndarray, "rows d"]:
        """The rows that are there, memory-mapped float16."""
        return self._map(layer, "r")[: self.rows]

    def _map(self, layer: int, mode: Any) -> np.memmap:
        shape = (self.recipe.rows, self.recipe.width)
        return np.memmap(self._file(layer), np.float16, mode, shape=shape)

    def _file(self, layer: int) -> Path:
        return self.folder / f"layer-{layer}.f16"

    def _save(self) -> None:
        write_json(self.folder / "progress.json", {"recipe": asdict(self.recipe), "done": self._progress})


def sample_rows(states: Float[np.ndarray, "rows d"], count: int, seed: int) -> Int[np.ndarray, " count"]:
    """Row numbers for a statistic: at most ``count``, without replacement, in order."""
    rng = np.random.default_rng(seed)
    return np.sort(rng.choice(len(states), min(count, len(states)), replace=False))
