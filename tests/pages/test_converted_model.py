"""The SEG maps page on a converted READ checkpoint: its own mask, which SAM makes of the whole picture."""

from __future__ import annotations

from pathlib import Path

from lens.backend.catalog import find
from lens.backend.images import open_picture
from lens.backend.store import STORE
from lens.gallery import gallery
from lens.segmaps.asking import ask
from lens.segmaps.checkpoints import convert
from lens.segmaps.masks import open_head
from tests.pages.conftest import Open, texts, title
from tests.segmaps.originals import ANSWER, QUESTION, tiny_parts, write_original


def test_the_page_shows_a_converted_models_own_mask(opened: Open, tmp_path: Path):
    source = write_original(tmp_path / "original", tiny_parts(False), "READForCausalLM")
    out = convert(str(source), tmp_path / "out", str(tmp_path / "original" / "clip"))
    (tmp_path / "catalog.toml").write_text(f'[converted]\nsource = "{out}"\n', encoding="utf-8")
    page = opened(model="converted", prompt=QUESTION, forced="yes")
    assert title(page).startswith("[SEG] at p-1, dot · layer 2 · converted")
    loaded = STORE.model(find("converted"))
    asked = ask(loaded, QUESTION, open_picture(gallery()[0].path), answer=ANSWER)
    head = open_head(loaded)
    assert head is not None
    share = (head.logits(asked.trace, asked.segs)[0] > 0).mean()
    assert 0 < share < 1
    assert f"takes {share:.1%} of the picture (the model's mask head)" in texts(page)
