"""Building an index: plan → encode → pack → manifest, each step resumable.

While a build runs, its working files lie in ``<out>/building``: ``build.json`` (what is being built; written when the plan
is complete), the token ids, shards of states, and one record per packed layer. Every file appears under its name only
when complete and everything depends on the plan alone, so a build killed at any moment and resumed ends with the rows
that an undisturbed one has. The manifest is written last, then ``building`` is removed.
"""

from __future__ import annotations

import datetime
import json
import platform
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors.numpy import save

from lens.backend.loading import LoadedModel
from lens.errors import CapabilityMissing, IndexUnfinished
from lens.latentlens import manifest as form
from lens.latentlens.contexts import RULES, Rule
from lens.latentlens.corpus import Corpus
from lens.latentlens.encode import LayerRows, encode, shard_path
from lens.latentlens.files import replacing, sha256
from lens.latentlens.index import Index, open_index
from lens.latentlens.manifest import FileRecord, LayerRecord, Manifest
from lens.latentlens.pack import new_index, pack_layer, statistics
from lens.latentlens.plan import SHARD_TOKENS, Plan, make_plan, read_plan
from lens.latentlens.words import Reader
from lens.progress import Report, part, silent

WORK = "building"
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
    resume: bool = False,
    report: Report = silent,
    shard_tokens: int = SHARD_TOKENS,
) -> Index:
    """Build the index of ``corpus`` for the language model of ``loaded`` in the folder ``out``, and open it.

    Args:
        layers: to store, in the convention of :mod:`lens.backend.anatomy`; by default :func:`auto_layers`.
        rule: how contexts are kept: ``first``, ``reservoir`` or a :class:`~lens.latentlens.contexts.Rule`.
        factory: FAISS factory string; may be another one when a build is resumed.
        resume: go on with a build that was interrupted; with nothing begun it starts, with all done it opens the index.
        report: called often; cancel by raising :class:`~lens.errors.Cancelled` in it, and resume later.
        shard_tokens: how much encoding a kill may lose.

    Raises:
        LayerMissing, CapabilityMissing: a layer, rule or factory that there isn't.
        CorpusUnreadable, StatesUnusable: see :mod:`lens.latentlens.corpus` and :mod:`lens.latentlens.encode`.
        IndexUnfinished: ``out`` is in use, is being built by another process, holds another build than the one to be
            resumed, or can't be written to (a full disk); in the last case the build can be resumed.
    """
    folder = Path(out)
    chosen = tuple(sorted({loaded.anatomy.check_layer(layer) for layer in layers})) if layers is not None else ()
    chosen = chosen or tuple(auto_layers(loaded.anatomy.depth))
    new_index(loaded.anatomy.width, factory)
    build = _Build(loaded, corpus, folder, chosen, _rule(rule), factory, shard_tokens)
    try:
        return _locked(build, resume, report)
    except OSError as error:
        raise IndexUnfinished(
            f"The index {folder.name} can't be written ({error.strerror or error}); make room or choose another folder, "
            "then resume the build."
        ) from error


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

    def identity(self) -> dict:
        """All on which the rows depend; a build is only resumed with the same."""
        return {
            "format version": form.FORMAT_VERSION,
            "model": self.loaded.language_fingerprint,
            "tokenizer": self.loaded.tokenizer_hash,
            "dtype": str(self.loaded.dtype)[6:],
            "corpus": self.corpus.digest,
            "rule": asdict(self.rule),
            "layers": list(self.layers),
            "shard size": self.shard_tokens,
        }


def _rule(rule: str | Rule) -> Rule:
    if isinstance(rule, Rule):
        return rule
    if rule not in RULES:
        raise CapabilityMissing(f"There is no rule {rule!r} for keeping contexts; choose one of {', '.join(RULES)}.")
    return RULES[rule]


def _locked(build: _Build, resume: bool, report: Report) -> Index:
    build.folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(build.folder / "building.lock")
    try:
        with lock.acquire(blocking=False):
            done = _begin(build, resume)
            if not done:
                _go(build, report)
            shutil.rmtree(build.work, ignore_errors=True)
    except Timeout as error:
        raise IndexUnfinished(
            f"Another process is building in {build.folder.name}; wait for it or choose another folder."
        ) from error
    Path(lock.lock_file).unlink(missing_ok=True)
    return open_index(build.folder, build.loaded)


def _begin(build: _Build, resume: bool) -> bool:
    """Check the folder's state against what is asked; whether the index is there already."""
    name = build.folder.name
    present = {path.name for path in build.folder.iterdir()} - {"building.lock"}
    if not present:
        return False
    if not resume:
        state = "an index" if form.NAME in present else "an unfinished build" if WORK in present else "other files"
        hint = ", or resume it" if WORK in present else ""
        raise IndexUnfinished(f"The folder {name} already holds {state}; give an empty or new one{hint}.")
    if form.NAME in present:
        _compare(build, _identity_of(form.read_manifest(build.folder)))
        return True
    if WORK not in present:
        raise IndexUnfinished(f"The folder {name} holds other files and no build to resume; give an empty or new one.")
    begun = build.work / "build.json"
    if begun.exists():
        _compare(build, json.loads(begun.read_text(encoding="utf-8")))
    return False


def _identity_of(manifest: Manifest) -> dict:
    return {
        "format version": manifest.format_version,
        "model": manifest.language_fingerprint,
        "tokenizer": manifest.tokenizer_hash,
        "dtype": manifest.dtype,
        "corpus": manifest.corpus_digest,
        "rule": asdict(manifest.rule),
        "layers": [record.layer for record in manifest.layers],
    }


def _compare(build: _Build, begun: dict) -> None:
    wanted = build.identity()
    different = [key for key in begun if begun[key] != wanted[key]]
    if different:
        raise IndexUnfinished(
            f"The build in {build.folder.name} was begun with another {' and '.join(different)}; resume it with the same, "
            "or build in another folder."
        )


def _go(build: _Build, report: Report) -> None:
    """Every step that isn't done yet."""
    begun = build.work / "build.json"
    if not begun.exists():
        reader = Reader(build.loaded.tokenizer, MAX_TOKENS)
        build.work.mkdir(exist_ok=True)
        make_plan(build.corpus, reader, build.rule, build.folder, build.work, part(report, 0.0, 0.05))
        with replacing(begun) as target:
            target.write_text(json.dumps(build.identity()), encoding="utf-8")
    plan = read_plan(build.folder, build.work)
    shards = plan.shards(row_bytes=2 * build.loaded.anatomy.width * len(build.layers), shard_tokens=build.shard_tokens)
    folder = build.work / "shards"
    encode(build.loaded, plan, build.layers, shards, folder, part(report, 0.05, 0.85))
    paths = [shard_path(folder, number) for number in range(len(shards))]
    records = _pack(build, paths, part(report, 0.85, 1.0))
    form.write_manifest(build.folder, _manifest(build, plan, records))
    report(1, 1, f"Done: {plan.rows:,} contexts in {len(records)} layers")


def _pack(build: _Build, paths: list[Path], report: Report) -> tuple[LayerRecord, ...]:
    """Statistics of all layers, then a FAISS file for each that has none yet of this factory."""
    stored = {}
    for layer in build.layers:
        rows = LayerRows(paths, layer, rotated=False)
        stored[f"mean.{layer}"], stored[f"deviation.{layer}"] = statistics(rows)
    with replacing(build.folder / form.STATISTICS) as target:
        target.write_bytes(save(stored))
    records = []
    for done, layer in enumerate(build.layers):
        report(done, len(build.layers), f"Packing layer {layer} ({done + 1} of {len(build.layers)})")
        records.append(_packed(build, layer, lambda layer=layer: LayerRows(paths, layer)))
    return tuple(records)


def _packed(build: _Build, layer: int, rows: Callable[[], LayerRows]) -> LayerRecord:
    note = build.work / f"layer-{layer:02d}.json"
    if note.exists():
        noted = json.loads(note.read_text(encoding="utf-8"))
        if noted.pop("factory") == build.factory:
            return LayerRecord(**noted)
        note.unlink()
    record = pack_layer(rows(), build.factory, build.folder / f"layer-{layer:02d}.faiss")
    with replacing(note) as target:
        target.write_text(json.dumps({**asdict(record), "factory": build.factory}), encoding="utf-8")
    return record


def _manifest(build: _Build, plan: Plan, layers: tuple[LayerRecord, ...]) -> Manifest:
    names = [form.CONTEXTS, form.SENTENCES, form.STATISTICS, *(record.file for record in layers)]
    paths = {name: build.folder / name for name in names}
    loaded = build.loaded
    return Manifest(
        model=loaded.name,
        language_fingerprint=loaded.language_fingerprint,
        tokenizer_hash=loaded.tokenizer_hash,
        dtype=str(loaded.dtype)[6:],
        depth=loaded.anatomy.depth,
        width=loaded.anatomy.width,
        corpus=build.corpus.name,
        corpus_digest=build.corpus.digest,
        corpus_licence=build.corpus.licence,
        max_tokens=MAX_TOKENS,
        rule=build.rule,
        rows=plan.rows,
        factory=build.factory,
        layers=layers,
        files={name: FileRecord(sha256(path), path.stat().st_size) for name, path in paths.items()},
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        software={
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers", "faiss-cpu", "numpy")},
        },
    )
