"""``python -m lens index build | info | verify``: corpus indexes from the shell."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lens.commands.corpora import HELP, named_corpus
from lens.commands.terminal import printable, progress, table

if TYPE_CHECKING:
    from lens.latentlens.index import Index


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("index", help="build, describe and check indexes of a text corpus")
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    build = actions.add_parser("build", help="encode a corpus with a model's language model")
    build.add_argument("corpus", help=HELP)
    build.add_argument("--model", default="demo", help="catalog name, folder or hub id (default: demo)")
    build.add_argument(
        "--out",
        required=True,
        type=Path,
        help="folder for the index: new, empty, or of this build when it was interrupted",
    )
    build.add_argument("--layers", type=_layers, help="such as 1,2,4 (default: the published rule)")
    build.add_argument("--rule", choices=("first", "reservoir"), default="first", help="which contexts are kept")
    build.add_argument("--factory", default="SQ8", help="FAISS factory string (default: SQ8)")
    build.add_argument("--column", help="column that holds the text, where the corpus has columns (default: text)")
    build.add_argument(
        "--resume", action="store_true", help="show an index that is done rather than refuse to build it again"
    )
    build.set_defaults(run=_build, interrupted="Stopped; the same command goes on from here.")

    for name, run, text in (("info", _info, "what an index holds"), ("verify", _verify, "read and check every byte")):
        action = actions.add_parser(name, help=text)
        action.add_argument("index", metavar="DIR", help="folder or name of an index")
        action.set_defaults(run=run)


def _build(args: argparse.Namespace) -> None:
    from lens.backend.catalog import find, prepare
    from lens.backend.loading import load
    from lens.latentlens.build import build_index

    spec = find(args.model)
    with progress() as report:
        corpus = named_corpus(args.corpus, args.column, report)
        prepare(spec, report)
        options = {"layers": args.layers, "rule": args.rule, "factory": args.factory, "resume": args.resume or None}
        index = build_index(load(spec), corpus, args.out, report=report, **options)
    _describe(index)


def _info(args: argparse.Namespace) -> None:
    from lens.latentlens.index import find_index, open_index

    _describe(open_index(find_index(args.index)))


def _verify(args: argparse.Namespace) -> None:
    from lens.latentlens.index import find_index, verify_index

    index = verify_index(find_index(args.index))
    print(f"{printable(index.name)}: all {len(index.manifest.files)} files are as they were built.")


def _describe(index: Index) -> None:
    manifest = index.manifest
    size = f"{index.nbytes / 1e6:,.1f} MB"
    rule = dict(index.info()["rule"])
    print(
        f"{printable(index.name)}: {index.rows:,} contexts of width {index.width} in {len(index.layers)} layers, {size}"
    )
    facts = {
        "model": f"{manifest.model}, {manifest.depth} blocks, {manifest.dtype}",
        "weights": manifest.language_fingerprint,
        "tokenizer": manifest.tokenizer_hash,
        "corpus": f"{manifest.corpus}, licence {manifest.corpus_licence}",
        "sentences": manifest.corpus_digest,
        "rule": f"{rule.pop('name')} ({', '.join(f'{key} {value}' for key, value in rule.items())})",
        "factory": manifest.factory,
        "built": f"{manifest.created}, "
        + ", ".join(f"{name} {version}" for name, version in manifest.software.items()),
        "folder": str(index.path),
    }
    for line in table([(key, printable(value)) for key, value in facts.items()]):
        print(f"  {line}")
    rows = [("layer", "recall@5", "similarity error", "mean norm")]
    for record in manifest.layers:
        recall, error = (
            "-" if value is None else f"{value:.4f}" for value in (record.recall_at_5, record.similarity_error)
        )
        rows.append((str(record.layer), recall, error, f"{record.mean_norm:.1f}"))
    for line in table(rows, right=range(4)):
        print(f"  {line}")


def _layers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of layers; give numbers such as 1,2,4") from None
