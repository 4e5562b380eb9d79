"""Building an index: plan → encode → pack → manifest, each step resumable.

The working files of :mod:`lens.backend.building` are the token ids, shards of states, and one record per packed layer;
``build.json`` is written when the plan is complete. Every file appears under its name only when complete, is noted in the
ledger, and is made anew where it isn't as it was noted; everything depends on the plan alone. So a build killed at any
moment and resumed ends with the rows that an undisturbed one has, whatever became of its files in between.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.numpy import save

from lens.backend.building import BEGUN, Ledger, building, made_now
from lens.backend.corpus import Corpus
from lens.backend.files import replacing, write_json
from lens.backend.folders import WORK, file_records, origin, write_manifest
from lens.backend.loading import LoadedModel
from lens.backend.vocabulary import readable
from lens.backend.words import Reader
from lens.errors import CapabilityMissing
from lens.latentlens import manifest as form
from lens.latentlens.contexts import RULES, Rule
from lens.latentlens.encode import LayerRows, encode, shard_path
from lens.latentlens.index import Index, open_index
from lens.latentlens.manifest import INDEX, LayerRecord, Manifest, read_manifest
from lens.latentlens.pack import new_index, pack_layer, statistics
from lens.latentlens.plan import IDS, SHARD_TOKENS, Plan, make_plan, read_plan
from lens.progress import Report, part, silent

MAX_TOKENS = 512
"""Tokens read of one sentence, as in the PyPI package 0.1.0."""


def auto_layers(depth: int) -> list[int]:
    """The layers that the paper stores: {1, 2, 4, 8, 16, 24, N-2, N-1} cut to a model of N = ``depth`` blocks."""
    chosen = {layer for layer in (1, 2, 4, 8, 16, 24, depth - 2, depth - 1) if 0 < layer < depth}
    return sorted(chosen) or [depth]


def build_index(
    loaded: LoadedModel,
    corpus: Corpus,
    out: str | Path,
    *,
    layers: Sequence[int] | None = None,
    rule: str | Rule = "first",
    factory: str = "SQ8",
    resume: bool | None = False,
    report: Report = silent,
    shard_tokens: int = SHARD_TOKENS,
) -> Index:
    """Build the index of ``corpus`` for the language model of ``loaded`` in the folder ``out``, and open it.

    Args:
        layers: to store, in the convention of :mod:`lens.backend.anatomy`; by default :func:`auto_layers`.
        rule: how contexts are kept: ``first``, ``reservoir`` or a :class:`~lens.latentlens.contexts.Rule`.
        factory: FAISS factory string; may be another one when a build is resumed.
        resume: go on with a build that was interrupted; with nothing begun it starts, with all done it
            opens the index. ``None``: likewise, but what is done is refused.
        report: called often; cancel by raising :class:`~lens.errors.Cancelled` in it, and resume later.
        shard_tokens: how much encoding a kill may lose.

    Raises:
        LayerMissing, CapabilityMissing: a layer, rule or factory that there isn't.
        CorpusUnreadable, StatesUnusable: see :mod:`lens.backend.corpus` and :mod:`lens.latentlens.encode`.
        IndexUnfinished: ``out`` is in use, is being built by another process, holds another build than the one to be
            resumed, or can't be written to (a full disk); in the last case the build can be resumed.
    """
    folder = Path(out)
    chosen = tuple(sorted({loaded.anatomy.check_layer(layer) for layer in layers})) if layers is not None else ()
    chosen = chosen or tuple(auto_layers(loaded.anatomy.depth))
    new_index(loaded.anatomy.width, factory)
    corpus = readable(corpus, loaded)
    build = _Build(loaded, corpus, folder, chosen, _rule(rule), factory, shard_tokens)
    with building(INDEX, folder, build.identity(), build.finished, resume) as done:
        if not done:
            _go(build, report)
    return open_index(folder, loaded)


@dataclass(frozen=True)
class _Build:
    """What one call builds, and where."""

    loaded: LoadedModel
    corpus: Corpus
    folder: Path
    layers: tuple[int, ...]
    rule: Rule
    factory: str
    shard_tokens: int

    @property
    def work(self) -> Path:
        return self.folder / WORK

    def identity(self) -> dict[str, Any]:
        """All on which the rows depend."""
        return {
            "format version": INDEX.version,
            **origin(self.loaded, self.corpus).identity(),
            "rule": asdict(self.rule),
            "layers": list(self.layers),
            "shard size": self.shard_tokens,
        }

    def finished(self) -> dict[str, Any]:
        """What of it the manifest tells."""
        return read_manifest(self.folder).identity()


def _rule(rule: str | Rule) -> Rule:
    if isinstance(rule, Rule):
        return rule
    if rule not in RULES:
        raise CapabilityMissing(f"There is no rule {rule!r} for keeping contexts; choose one of {', '.join(RULES)}.")
    return RULES[rule]


def _go(build: _Build, report: Report) -> None:
    """Every step that isn't done yet."""
    build.work.mkdir(exist_ok=True)
    ledger = Ledger(build.folder)
    planned = (build.work / IDS, build.folder / form.CONTEXTS, build.folder / form.SENTENCES)
    if not ((build.work / BEGUN).exists() and ledger.has(*planned)):
        reader = Reader(build.loaded.tokenizer, MAX_TOKENS)
        make_plan(build.corpus, reader, build.rule, build.folder, build.work, part(report, 0.0, 0.05))
        ledger.add(*planned)
        write_json(build.work / BEGUN, build.identity())
    plan = read_plan(build.folder, build.work)
    noted = {layer: _noted(build, ledger, layer) for layer in build.layers}
    if not (all(noted.values()) and ledger.has(build.folder / form.STATISTICS)):
        row_bytes = 2 * build.loaded.anatomy.width * len(build.layers)
        shards, folder = plan.shards(row_bytes, shard_tokens=build.shard_tokens), build.work / "shards"
        encode(build.loaded, plan, build.layers, shards, folder, ledger, part(report, 0.05, 0.85))
        paths = [shard_path(folder, number) for number in range(len(shards))]
        noted = _pack(build, paths, ledger, noted, part(report, 0.85, 1.0))
    records = tuple(record for record in noted.values() if record)
    write_manifest(build.folder, asdict(_manifest(build, plan, records)))
    report(1, 1, f"Done: {plan.rows:,} contexts in {len(records)} layers")


Records = Mapping[int, LayerRecord | None]
"""By layer, what is known of its FAISS file; ``None`` for one that is to be made."""


def _noted(build: _Build, ledger: Ledger, layer: int) -> LayerRecord | None:
    """The record of a layer that is packed, by this factory."""
    note = _note(build, layer)
    if not ledger.has(note, _packed(build, layer)):
        return None
    noted = json.loads(note.read_text(encoding="utf-8"))
    return LayerRecord(**noted) if noted.pop("factory") == build.factory else None


def _pack(build: _Build, paths: list[Path], ledger: Ledger, noted: Records, report: Report) -> Records:
    """Statistics of all layers, then a FAISS file for each that has none yet of this factory."""
    target = build.folder / form.STATISTICS
    if not ledger.has(target):
        stored = {}
        for layer in build.layers:
            rows = LayerRows(paths, layer, rotated=False)
            stored[f"mean.{layer}"], stored[f"deviation.{layer}"] = statistics(rows)
        with replacing(target) as unfinished:
            unfinished.write_bytes(save(stored))
        ledger.add(target)
    records = dict(noted)
    for done, layer in enumerate(build.layers):
        report(done, len(build.layers), f"Packing layer {layer} ({done + 1} of {len(build.layers)})")
        if not records[layer]:
            record = pack_layer(LayerRows(paths, layer), build.factory, _packed(build, layer))
            write_json(_note(build, layer), {**asdict(record), "factory": build.factory})
            ledger.add(_packed(build, layer), _note(build, layer))
            records[layer] = record
    return records


def _packed(build: _Build, layer: int) -> Path:
    return build.folder / f"layer-{layer:02d}.faiss"


def _note(build: _Build, layer: int) -> Path:
    return build.work / f"layer-{layer:02d}.json"


def _manifest(build: _Build, plan: Plan, layers: tuple[LayerRecord, ...]) -> Manifest:
    names = [form.CONTEXTS, form.SENTENCES, form.STATISTICS, *(record.file for record in layers)]
    return Manifest(
        **asdict(origin(build.loaded, build.corpus)),
        depth=build.loaded.anatomy.depth,
        width=build.loaded.anatomy.width,
        max_tokens=MAX_TOKENS,
        rule=build.rule,
        rows=plan.rows,
        factory=build.factory,
        layers=layers,
        files=file_records(build.folder, names),
        **made_now("torch", "transformers", "faiss-cpu", "numpy"),
    )
