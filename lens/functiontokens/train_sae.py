"""``python -m lens.functiontokens.train_sae``: train autoencoders for a model, measure them, write their cards.

    python -m lens.functiontokens.train_sae --model demo --text sentences.txt --held-out other.txt

States of the layers (by default those at 1/6, 1/2 and 5/6 of the depth) are cached in the work folder, then one
autoencoder a layer and seed is trained on them; those of the first seed are measured and written as SAELens folders with
``quality.json`` and ``card.md``, where the pages find them. Every stage goes on where it stopped when called again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from transformers import AutoModel, set_seed

from lens.backend.catalog import find, prepare
from lens.backend.corpus import Corpus, open_corpus
from lens.backend.loading import LoadedModel, load
from lens.backend.vocabulary import readable
from lens.errors import LayerMissing, LensError
from lens.functiontokens.card import Made, card, measured, publish
from lens.functiontokens.quality import (
    DEAD_ROWS,
    Quality,
    Texts,
    chance_stability,
    dead_share,
    measure,
    stability,
    window_fvu,
)
from lens.functiontokens.sae import Autoencoder
from lens.functiontokens.states import Recipe, StateCache, windows
from lens.functiontokens.training import Settings, Trainer
from lens.home import home
from lens.progress import Estimate, Report, duration

HELD_OUT_WINDOWS = 64
"""Windows of each text that are measured on: 8,000 tokens at 128 each."""
UNTRAINED_TOKENS = 200_000
"""States, at most, that the autoencoders of an untrained model are trained on: they say less, and so ask for fewer."""


@dataclass(frozen=True, eq=False)
class Workshop:
    """What the stages share.

    Attributes:
        others: texts to measure on, beside windows of the own one that are never trained on.
        clean: the model's own loss on a text, by its digest, once it has been measured.
    """

    loaded: LoadedModel
    folder: Path
    corpus: Corpus
    others: tuple[Corpus, ...]
    tokens: int
    length: int
    clean: dict[str, float] = field(default_factory=dict)

    @cached_property
    def texts(self) -> list[list[int]]:
        """The windows of the training text; the first :data:`HELD_OUT_WINDOWS`, or half, are held out."""
        return windows(self.loaded, self.corpus, self.length, 0)

    @property
    def split(self) -> int:
        """How many windows are held out."""
        return min(HELD_OUT_WINDOWS, len(self.texts) // 2)

    @cached_property
    def held_out(self) -> tuple[Texts, ...]:
        """What is measured on, the own text first."""
        others = [
            Texts(other.name, tuple(windows(self.loaded, other, self.length, 0)[:HELD_OUT_WINDOWS]))
            for other in self.others
        ]
        return (Texts(f"{self.corpus.name}, held out", tuple(self.texts[: self.split])), *others)

    def cache(self, layers: Sequence[int], report: Report) -> StateCache:
        """The states of ``layers``, run if they aren't there."""
        recipe = Recipe(
            fingerprint=self.loaded.language_fingerprint,
            corpus=self.corpus.digest,
            seed=0,
            length=self.length,
            layers=tuple(layers),
            rows=self.tokens,
            width=self.loaded.anatomy.width,
        )
        kept = StateCache(self.folder / f"states-{self.loaded.language_fingerprint[:12]}", recipe)
        if kept.rows < self.tokens:
            kept.fill(self.loaded, self.texts[self.split :], report)
        return kept

    def train(self, cache: StateCache, layer: int, settings: Settings, report: Report) -> Autoencoder:
        """The autoencoder of a layer and a seed."""
        trainer = Trainer(cache.states(layer), settings, cache.folder / f"layer-{layer}-seed-{settings.seed}")
        where = f"Layer {layer}, seed {settings.seed}"
        trainer.run(lambda done, total, message: report(done, total, f"{where}: {message}"))
        return trainer.result()

    def examine(
        self, autoencoder: Autoencoder, layer: int, known: Mapping[str, Quality], report: Report
    ) -> tuple[Quality, ...]:
        """An autoencoder's quality on each text, measured where it isn't ``known`` (by the text's digest)."""
        found = []
        for texts in self.held_out:
            quality = known.get(texts.digest)
            if quality is None:
                clean = self.clean.get(texts.digest)
                quality = measure(self.loaded, autoencoder, layer, texts, report, clean)
            self.clean[texts.digest] = quality.clean
            found.append(quality)
        return tuple(found)


def thirds(depth: int) -> tuple[int, ...]:
    """The layers at about 1/6, 1/2 and 5/6 of the depth."""
    return tuple(sorted({max(1, min(depth - 1, round(depth * share / 6))) for share in (1, 3, 5)}))


def chosen_layers(layers: Sequence[int] | None, depth: int) -> tuple[int, ...]:
    """The layers asked for, or the default ones; the last is refused, since its states have the final norm applied."""
    chosen = tuple(layers or thirds(depth))
    wrong = [layer for layer in chosen if not 0 <= layer < depth]
    if wrong:
        raise LayerMissing(
            f"An autoencoder for layer {wrong[0]} was asked for, but this model can have them at 0 to {depth - 1}; choose "
            "one of these."
        )
    return chosen


def open_workshop(given: argparse.Namespace, loaded: LoadedModel) -> Workshop:
    """Model and texts; nothing is run yet."""
    corpus = readable(open_corpus(given.text, given.column, given.licence), loaded)
    others = tuple(readable(open_corpus(path), loaded) for path in given.held_out)
    return Workshop(loaded, given.work, corpus, others, given.tokens, given.length)


def untrained(loaded: LoadedModel, seed: int) -> LoadedModel:
    """``loaded`` itself with its language model's weights drawn anew, as they are before any training."""
    set_seed(seed)
    text_model = loaded.anatomy.text_model
    text_model.load_state_dict(AutoModel.from_config(text_model.config, dtype=loaded.dtype).state_dict())
    return replace(loaded, language_fingerprint=f"untrained-{seed}")


def baselines(given: argparse.Namespace, settings: Settings, report: Report) -> dict[int, float]:
    """By layer, FVU on the held-out text when states and autoencoder are those of the untrained model."""
    if not given.untrained:
        return {}
    workshop = open_workshop(given, untrained(model(given), settings.seed))
    workshop = replace(workshop, tokens=min(given.tokens, UNTRAINED_TOKENS))
    cache = workshop.cache(given.untrained, report)
    made = {layer: workshop.train(cache, layer, settings, report) for layer in given.untrained}
    return {
        layer: window_fvu(workshop.loaded, autoencoder, layer, workshop.held_out[0])
        for layer, autoencoder in made.items()
    }


def model(given: argparse.Namespace) -> LoadedModel:
    """The model that was asked for, in the dtype that was asked for."""
    spec = replace(find(given.model), dtype=given.dtype)
    prepare(spec, Terminal())
    return load(spec)


class Terminal:
    """Reports to stderr, at most once a second."""

    def __init__(self) -> None:
        self._estimate, self._last, self._total = Estimate(), 0.0, 0.0

    def __call__(self, done: float, total: float, message: str) -> None:
        if total != self._total:
            self._estimate, self._total = Estimate(), total
        left = self._estimate.left(done, total)
        if time.monotonic() - self._last > 1 or done >= total:
            self._last = time.monotonic()
            ahead = f", {duration(left)} left" if left is not None else ""
            print(f"\r{message}: {done:,.0f} of {total:,.0f}{ahead}    ", end="", file=sys.stderr, flush=True)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    defaults = Settings()
    parse = argparse.ArgumentParser(
        "python -m lens.functiontokens.train_sae",
        description="Train autoencoders for a model, measure them, write their cards.",
    )
    parse.add_argument("--model", default="demo", help="catalog name, folder or hub id (default: demo)")
    parse.add_argument(
        "--text", type=Path, required=True, help="corpus: .txt, .jsonl, .csv, .parquet or a data-set folder"
    )
    parse.add_argument("--column", help="the column with the text, where the corpus has columns")
    parse.add_argument("--licence", default="unknown", help="the text's licence, for the card")
    parse.add_argument("--held-out", type=Path, nargs="*", default=[], help="other texts to measure on")
    parse.add_argument("--layers", type=int, nargs="+", help="default: those at 1/6, 1/2 and 5/6 of the depth")
    parse.add_argument(
        "--seeds", type=int, nargs="+", default=[0], help="the first is kept; a second tells how stable it is"
    )
    parse.add_argument("--untrained", type=int, nargs="*", default=[], help="layers with an untrained-weights baseline")
    parse.add_argument("--tokens", type=int, default=300_000, help="states to train on")
    parse.add_argument("--length", type=int, default=128, help="tokens a window")
    parse.add_argument("--visits", type=int, default=defaults.visits, help="states shown, with repetition")
    parse.add_argument("--latents", type=int, default=defaults.latents)
    parse.add_argument("--active", type=int, default=defaults.active, help="latents that fire on average")
    parse.add_argument("--batch", type=int, default=defaults.batch)
    parse.add_argument("--dtype", default="bfloat16", help="in which the model is run")
    parse.add_argument("--work", type=Path, default=home() / "features-work", help="folder for states and checkpoints")
    parse.add_argument("--out", type=Path, default=home() / "features", help="folder for the autoencoders")
    parse.add_argument(
        "--train-only", action="store_true", help="stop before measuring (to train in several processes)"
    )
    return parse


def main(arguments: list[str] | None = None) -> int:
    """Train, measure, publish."""
    given = parser().parse_args(arguments)
    report = Terminal()
    first = Settings(given.latents, given.active, given.visits, given.batch, seed=given.seeds[0])
    loaded = model(given)
    layers = chosen_layers(given.layers, loaded.anatomy.depth)
    workshop = open_workshop(given, loaded)
    cache = workshop.cache(layers, report)
    made = {
        (layer, seed): workshop.train(cache, layer, replace(first, seed=seed), report)
        for seed in given.seeds
        for layer in layers
    }
    floors = baselines(given, first, report)
    if given.train_only:
        return 0
    for layer in layers:
        seeds = [made[layer, seed] for seed in given.seeds]
        finish(given, workshop, cache, layer, seeds, floors.get(layer), report)
    return 0


def finish(
    given: argparse.Namespace,
    workshop: Workshop,
    cache: StateCache,
    layer: int,
    seeds: Sequence[Autoencoder],
    floor: float | None,
    report: Report,
) -> None:
    """Measure one layer's autoencoder, as it will be read back, and write its folder."""
    autoencoder = seeds[0].rounded()
    loaded = workshop.loaded
    folder = given.out / f"{loaded.name.replace('/', '--')}-sae-block{layer}"
    rows = min(DEAD_ROWS, cache.rows)
    made = Made(
        model=loaded.name,
        layer=layer,
        depth=loaded.anatomy.depth,
        text=workshop.corpus.name,
        licence=workshop.corpus.licence,
        tokens=cache.rows,
        visits=given.visits,
        active=given.active,
        seed=given.seeds[0],
        dtype=given.dtype,
        dead_share=dead_share(autoencoder, cache.states(layer), rows),
        dead_rows=rows,
        stability=stability(seeds[0], seeds[1]) if len(seeds) > 1 else None,
        stability_chance=chance_stability(autoencoder.size, autoencoder.width),
        untrained_fvu=floor,
        untrained_tokens=min(cache.rows, UNTRAINED_TOKENS),
        qualities=workshop.examine(autoencoder, layer, measured(folder, autoencoder), report),
    )
    publish(folder, autoencoder, made, loaded.language_fingerprint)
    print(f"\n{card(made, autoencoder)}")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LensError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
