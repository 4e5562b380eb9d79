"""The shipped index is what the issue asks for, and was built from the sentences that the project generates today."""

from __future__ import annotations

from lens.backend.corpus import Corpus
from lens.demo.corpus import sentences
from lens.home import project_root
from lens.latentlens.build import auto_layers
from lens.latentlens.index import verify_index


def test_the_demo_index_is_whole_small_and_from_our_own_corpus() -> None:
    index = verify_index(project_root() / "indexes" / "demo")
    manifest = index.manifest
    assert index.rows >= 20_000
    assert sum(path.stat().st_size for path in index.path.iterdir()) <= 50_000_000
    assert list(index.layers) == auto_layers(manifest.depth) == [1, 2, 4, 8, 16, 24, 28, 29]
    assert manifest.corpus_digest == Corpus("now", sentences).digest, "the corpus changed: build the index again"
    assert manifest.dtype == "float32"
    assert all(record.recall_at_5 is not None and record.recall_at_5 > 0.8 for record in manifest.layers)
