"""``python -m tests.modeltable docs/models.md``: the compatibility table of the docs, from the tiny models of the tests.

Every row is the outcome of a check that has just been run, so the table can't promise what doesn't hold.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lens.backend.checking import SIZE, Report, check, noise
from lens.backend.encoding import DEFAULT_PROMPT, encode
from lens.backend.loading import LoadedModel
from tests.families import MAKERS, tiny

MARKS = {True: "yes", False: "no", None: "–"}

NOT_COVERED: dict[str, str] = {
    "Llama 4, LFM2-VL, LFM3-VL, Molmo 2, Mistral 3, Pixtral, Perception LM, Kimi, Cohere 2 Vision, Phi-4 multimodal": (
        "their processors need torchvision, which isn't among the requirements, so they can't be tested here"
    ),
    "FastVLM, Gemma 3n": "their vision towers need timm, which isn't among the requirements",
    "Llama 3.2 Vision (mllama)": "pictures come in by cross-attention: there are no visual tokens in the sequence",
    "Florence-2, UDOP, T5Gemma 2, BLIP-2 with T5": "encoder-decoders, whose pictures go into the encoder",
    "Chameleon, Emu3": "pictures become codes of a vocabulary: a painted patch need not change its code",
    "Fuyu": "has no vision tower, and patches go in under a name of their own",
    "Aria, Idefics, Kosmos-2, MiniCPM-V, ERNIE 4.5 VL, DeepSeek-OCR 2, HunyuanVL, Granite 4 Vision, GOT-OCR 2": (
        "no row yet"
    ),
}


def main(path: Path) -> None:
    """Run every check and write the table to ``path``."""
    rows = [_checked(name) for name in MAKERS]
    path.write_text("\n".join(_page(rows)) + "\n", encoding="utf-8")


def _checked(name: str) -> tuple[Report, LoadedModel, str]:
    with tempfile.TemporaryDirectory() as folder:
        loaded = tiny(name, Path(folder))
    report = check(loaded)
    views = "–"
    if loaded.anatomy.sees_images:
        grids = encode(loaded, DEFAULT_PROMPT, noise(SIZE)).token_map.grids
        views = " and ".join(f"{grid.rows} × {grid.cols}" for grid in grids) or "no grid"
    return report, loaded, views


def _page(rows: list[tuple[Report, LoadedModel, str]]) -> Iterator[str]:
    yield "# Models"
    yield ""
    yield "Written by `python -m tests.modeltable docs/models.md`; not by hand. Each row is a tiny randomly initialised"
    yield "model with the family's real processor, checked against itself as `python -m lens check MODEL` does it: its"
    yield "parts are where they are expected (*places*), its tokens have embeddings (*tokens*), the traced layers are its"
    yield "own (*layers*), final norm and unembedding rank words as its logits do (*logits*), a picture changes the visual"
    yield "positions and no others (*positions*), and a painted patch moves its own token most (*patches*; – where there is"
    yield "no grid)."
    yield ""
    yield "## Vision-language models"
    yield ""
    yield f"Grids are those of a picture of {SIZE[0]} × {SIZE[1]} pixels at the tiny model's resolution; of two, the first"
    yield "is the coarse view of the whole picture, the second its tiles put together. Some families can't give what is in"
    yield "the last column."
    yield ""
    checks = ("places", "tokens", "layers", "logits", "positions", "patches")
    yield f"| family | model type | geometry rule | grids | {' | '.join(checks)} | without |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for report, loaded, views in rows:
        if loaded.anatomy.sees_images:
            marks = " | ".join(MARKS[one.passed] for one in report.checks)
            rule = loaded.anatomy.family.geometry
            yield f"| {report.family} | `{report.model_type}` | {rule} | {views} | {marks} | {_without(report)} |"
    yield ""
    yield "## Language models"
    yield ""
    yield "| family | model type | places | tokens | layers | logits | without |"
    yield "|---|---|---|---|---|---|---|"
    for report, loaded, _ in rows:
        if not loaded.anatomy.sees_images:
            marks = " | ".join(MARKS[one.passed] for one in report.checks)
            yield f"| {report.family} | `{report.model_type}` | {marks} | {_without(report)} |"
    yield ""
    yield "## Not covered"
    yield ""
    for families, why in NOT_COVERED.items():
        yield f"- {families}: {why}."


def _without(report: Report) -> str:
    _, found, lacking = report.checks[0].why.rstrip(".").partition(", without ")
    return lacking if found else "–"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
