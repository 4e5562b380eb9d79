"""Building a graph: count → pass → edges, features, null → sentences → manifest, each step resumable.

The working files of :mod:`lens.backend.building` are the shards of the pass and a note for each finished basis. Every file
appears under its name only when complete, is noted in the ledger, and is made anew where it isn't as it was noted;
everything depends on what is being built alone. So a build killed at any moment and resumed ends with the files that an
undisturbed one has, whatever became of its own in between.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lens.backend.building import BEGUN, Ledger, building, made_now
from lens.backend.corpus import Corpus
from lens.backend.files import write_json
from lens.backend.folders import WORK, file_records, origin, write_manifest
from lens.backend.loading import LoadedModel
from lens.backend.vocabulary import readable
from lens.backend.words import Reader
from lens.errors import CorpusUnreadable
from lens.functiontokens import manifest as form
from lens.functiontokens.basis import FIRST, Features
from lens.functiontokens.counts import TokenCounts, count_tokens, write_counts
from lens.functiontokens.firings import MAX_TOKENS, Shards, write_shards
from lens.functiontokens.graph import FeatureGraph, open_graph
from lens.functiontokens.manifest import GRAPH, BasisRecord, Manifest, read_manifest
from lens.functiontokens.nulls import PERMUTATIONS, Null, permuted_coverage
from lens.functiontokens.reduce import gather_features, write_edges, write_sentences, write_table
from lens.functiontokens.tables import OCCURRENCES
from lens.progress import Report, part, silent

SEED = 0


def build_graph(
    loaded: LoadedModel,
    corpus: Corpus,
    features: Sequence[Features],
    out: str | Path,
    *,
    permutations: int = PERMUTATIONS,
    resume: bool | None = False,
    report: Report = silent,
) -> dict[str, FeatureGraph]:
    """Build the graphs of ``corpus`` for every basis of ``features`` in the folder ``out``, by one pass, and open them.

    Args:
        features: bases of ``loaded``, of different names.
        permutations: how many shuffles the null rests on.
        resume: go on with a build that was interrupted; with nothing begun it starts, with all done it
            opens the graphs. ``None``: likewise, but what is done is refused.
        report: called often; cancel by raising :class:`~lens.errors.Cancelled` in it, and resume later.

    Raises:
        CorpusUnreadable: see :mod:`lens.backend.corpus`; or every sentence is too short.
        StatesUnusable: see :mod:`lens.functiontokens.firings`.
        GraphUnfinished: ``out`` is in use, is being built by another process, holds another build than the one to be
            resumed, or can't be written to (a full disk); in the last case the build can be resumed.
    """
    names = [basis.name for basis in features]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"expected at least one basis, each once, got {names}")
    build = _Build(loaded, readable(corpus, loaded), tuple(features), Path(out), permutations)
    with building(GRAPH, build.folder, build.identity(), build.finished, resume) as done:
        if not done:
            _go(build, report)
    return {name: open_graph(build.folder, name, loaded) for name in names}


@dataclass(frozen=True)
class _Build:
    """What one call builds, and where."""

    loaded: LoadedModel
    corpus: Corpus
    features: tuple[Features, ...]
    folder: Path
    permutations: int

    @property
    def work(self) -> Path:
        return self.folder / WORK

    @property
    def shards(self) -> Path:
        return self.work / "shards"

    def identity(self) -> dict[str, Any]:
        """All on which the graph depends."""
        return {
            "format version": GRAPH.version,
            **origin(self.loaded, self.corpus).identity(),
            "features": [basis.fingerprint for basis in self.features],
            "permutations": self.permutations,
        }

    def finished(self) -> dict[str, Any]:
        """What of it the manifest tells."""
        return read_manifest(self.folder).identity()


def _go(build: _Build, report: Report) -> None:
    """Every step that isn't done yet."""
    build.work.mkdir(exist_ok=True)
    if not (build.work / BEGUN).exists():
        write_json(build.work / BEGUN, build.identity())
    counts = count_tokens(build.corpus, build.loaded, report=part(report, 0.0, 0.02))
    ledger = Ledger(build.folder)
    passing = part(report, 0.02, 0.8)
    shards = write_shards(build.loaded, build.corpus, counts, build.features, build.shards, ledger, passing)
    occurrences = np.zeros(len(counts), np.int64)
    for shard in shards:
        occurrences += np.bincount(shard.positions("rank")[0], minlength=len(counts))
    if not occurrences.any():
        raise CorpusUnreadable(
            f"Every sentence of the corpus {build.corpus.name} is at most {FIRST} tokens long, and the first {FIRST} "
            "are left out; give longer texts."
        )
    write_counts(build.folder / form.TOKENS, counts, **{OCCURRENCES: occurrences})
    records = [_basis(build, shards, ledger, number, occurrences, report) for number in range(len(build.features))]
    _contexts(build, shards, part(report, 0.97, 1.0))
    write_manifest(build.folder, asdict(_manifest(build, counts, occurrences, tuple(records))))
    report(1, 1, f"Done: {int(occurrences.sum()):,} positions, {len(records)} bases of features")


def _basis(
    build: _Build, shards: Shards, ledger: Ledger, number: int, occurrences: np.ndarray, report: Report
) -> BasisRecord:
    """Edges and null of one basis, unless a note says that they are done."""
    note = build.work / f"basis-{number}.json"
    place, held = (build.folder / form.part_name(number, name) for name in ("edges", "null"))
    if ledger.has(note, place, held):
        return BasisRecord(**json.loads(note.read_text(encoding="utf-8")))
    basis, each = build.features[number], 0.17 / len(build.features)
    begin = 0.8 + number * each
    inner = part(report, begin, begin + each / 2)
    found = write_edges(shards, number, basis.size, len(occurrences), place, inner)
    inner = part(report, begin + each / 2, begin + each)
    null = permuted_coverage(shards, number, basis.size, occurrences, build.permutations, SEED, inner)
    _write_null(held, null)
    record = BasisRecord(
        name=basis.name,
        kind=basis.kind,
        layer=basis.layer,
        site=basis.site,
        size=basis.size,
        fires=basis.fires,
        fingerprint=basis.fingerprint,
        edges=found["edges"],
        firings=found["firings"],
        active=found["active"],
    )
    write_json(note, asdict(record))
    ledger.add(place, held, note)
    return record


def _write_null(path: Path, null: Null) -> None:
    columns = {"mean": null.mean.astype(np.float32), "low": null.low, "high": null.high}
    write_table(path, pa.table({name: array.reshape(-1) for name, array in columns.items()}))


def _contexts(build: _Build, shards: Shards, report: Report) -> None:
    """Feature and contexts tables of every basis, and the sentences that they share."""
    tables = [gather_features(shards, n, basis.size, part(report, 0, 0.7)) for n, basis in enumerate(build.features)]
    for number, table in enumerate(tables):
        table.write(build.folder / form.part_name(number, "features"))
    paths = [build.folder / form.part_name(number, "contexts") for number in range(len(tables))]
    reader = Reader(build.loaded.tokenizer, MAX_TOKENS)
    write_sentences(build.corpus, reader, tables, paths, build.folder / form.SENTENCES, part(report, 0.7, 1))


def _manifest(
    build: _Build, counts: TokenCounts, occurrences: np.ndarray, records: tuple[BasisRecord, ...]
) -> Manifest:
    parts = [form.part_name(number, name) for number in range(len(records)) for name in form.PARTS]
    return Manifest(
        **asdict(origin(build.loaded, build.corpus)),
        max_tokens=MAX_TOKENS,
        dropped=FIRST,
        positions=int(occurrences.sum()),
        sentences=counts.documents,
        tokens=len(counts),
        permutations=build.permutations,
        seed=SEED,
        bases=records,
        files=file_records(build.folder, (form.TOKENS, form.SENTENCES, *parts)),
        **made_now("torch", "transformers", "numpy", "pyarrow"),
    )
