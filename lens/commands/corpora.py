"""How a corpus is named on a command line: a file, a data-set folder, or one that is fetched."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lens.backend.corpus import Corpus
    from lens.progress import Report

CONCEPTS = "concepts"
"""Given for a corpus: the sentences in the LatentLens authors' package. (A file of that name is ``./concepts``.)"""
HELP = (
    ".txt (a sentence a line), .jsonl, .csv, .parquet or a data-set folder; or the word concepts, for the 117,121 "
    "sentences of the LatentLens authors, which are fetched"
)


def named_corpus(name: str, column: str | None, report: Report) -> Corpus:
    """The corpus of that name or path; ``column`` holds the text where there are columns."""
    from lens.backend.corpus import open_corpus

    if name == CONCEPTS:
        from lens.demo.provision import concepts

        return open_corpus(concepts(report), licence="MIT")
    return open_corpus(name, column)
