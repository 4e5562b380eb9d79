"""Which page is meant by what stands in the address."""

from __future__ import annotations

import pytest

from ui.navigation import ROOT, SHORT, TITLES, page_of


@pytest.mark.parametrize(
    ("path", "page"),
    [
        ("", "latentlens"), ("latentlens", "latentlens"), ("LatentLens", "latentlens"), ("latent-lens", "latentlens"),
        ("EmbedLens", "embedlens"), ("EMBEDLENS", "embedlens"), ("embed_lens", "embedlens"),
        ("function-tokens", "functiontokens"), ("FunctionTokens", "functiontokens"), ("Function tokens", "functiontokens"),
        ("seg", "segmaps"), ("seg-maps", "segmaps"), ("SEG_Maps", "segmaps"),
        ("nothing", None), ("segmaps.py", None), ("app", None), ("lens", None), ("../segmaps", None), ("<script>", None),
        ("a/b", None), ("🜂", None), ("x" * 10_000, None),
    ],
)  # fmt: skip
def test_a_typed_path_leads_to_its_page(path: str, page: str | None):
    assert page_of(path) == page


def test_every_page_has_a_file_and_every_short_name_a_page():
    files = {path.stem for path in (ROOT / "pages").glob("*.py")}
    assert files == set(TITLES) >= set(SHORT.values())
