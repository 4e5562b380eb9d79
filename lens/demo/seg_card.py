"""The model card of ``demo-seg``, in Markdown: what it is, data, training, figures, and what not to conclude."""

from __future__ import annotations

import json
from pathlib import Path

from lens.demo.seg_cache import HELD_OUT_STYLE, PHOTO_SHARE
from lens.demo.seg_evaluate import PhotoQuality, SegQuality
from lens.demo.seg_icons import SETS
from lens.demo.seg_language import ABSENT, FOUND, PROMPTS
from lens.demo.seg_training import PHASES, SegSettings

ASKED, SAID, REFUSED = PROMPTS[0].format("cat"), FOUND, ABSENT.format("cat")
WHAT = f"""The offline demo model with a <SEG> token, so that one can look at how such a token works without a large
checkpoint. Added to the frozen `demo`: rank-{{rank}} updates of the language model's q and v, one vector for <SEG>, and a
mask head of {{head}} parameters over the visual tokens (layer 0, after the final norm) and the encoder's own feature maps.
Asked `{ASKED}`, it says `{SAID}`, and the state **at <SEG> itself** (position p) asks for the mask; asked for what isn't
there, it should say `{REFUSED}`. A toy for learning how <SEG> works, not a segmenter."""

COLUMNS = (
    "split", "scenes, objects", "IoU", "of several", "everything", "deaf", "swapped", "pointing", "similarity",
    "present: <SEG>", "absent: none",
)  # fmt: skip
LIMITS = """## What not to conclude

The scenes are cut-outs of emoji and of photographs pasted on other pictures: their outlines are far crisper, and their
objects far more apart, than in photographs. <SEG> starts as the word "the", after which the frozen model expects the
prompt's noun, and the plain similarity of its state with the patches is trained: that it holds the object, and that its
map shows where that is, are made, not found. "Held out" means: neither shown nor named while <SEG> was trained; the
language model knows the words, and the encoder and the connector were trained on ImageNet's classes, some of which are
such objects."""


def card(
    settings: SegSettings,
    qualities: list[SegQuality],
    photos: PhotoQuality,
    log: Path,
    parameters: int,
    held_out: list[str],
) -> str:
    """Write the card from what was set, measured and logged."""
    parts = (
        "# `demo-seg`",
        WHAT.format(rank=settings.rank, head=f"{parameters:,}"),
        training(settings, log),
        table(qualities),
        on_photographs(photos),
        LIMITS,
        licences(held_out),
    )
    return "\n\n".join(parts) + "\n"


def training(settings: SegSettings, log: Path) -> str:
    """How it was trained, with the losses at the beginning and the end of each phase."""
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    lines = [
        "## Training",
        "",
        f"{settings.scenes:,} composed scenes of one to four objects, later ones over earlier ones, on photographs, blurred "
        f"and magnified ones, noise and stripes; {PHOTO_SHARE:.0%} of the objects are cut from photographs, the others are "
        f"emoji. AdamW, seed {settings.seed}. Loss of a mask: 2 x BCE + Dice, at 12 x 12 and at 48 x 48.",
        "",
        "| phase | what learns from what | steps x batch | losses, first and last tenth |",
        "|---|---|---|---|",
    ]
    what = {
        "names": "mask head, from the frozen model's state at <SEG> after the name, without a picture",
        "scenes": f"everything, from packs of {settings.queries} prompts on a scene, at least one for what isn't there",
    }
    for i, phase in enumerate(PHASES):
        last = {row["step"]: row for row in rows if row["phase"] == phase}
        ordered = [last[step] for step in sorted(last)]
        lines.append(f"| `{phase}` | {what[phase]} | {settings.steps[i]:,} x {settings.batch[i]} | {ends(ordered)} |")
    return "\n".join([*lines, "", reproduce(settings)])


def ends(rows: list[dict]) -> str:
    """Means of each loss over the first and the last tenth of a phase."""
    tenth = max(1, len(rows) // 10)
    names = [name for name in rows[0] if name not in ("phase", "step", "seconds", "cpu")] if rows else []

    def mean(part: list[dict], name: str) -> float:
        return sum(row[name] for row in part) / len(part)

    return ", ".join(f"{name} {mean(rows[:tenth], name):.2f} → {mean(rows[-tenth:], name):.2f}" for name in names)


def reproduce(settings: SegSettings) -> str:
    """The command."""
    steps = " ".join(map(str, settings.steps))
    given = f"--scenes {settings.scenes} --steps {steps} --photos FOLDER --out FOLDER"
    return f"Reproduce: `python -m lens.demo.train_seg {given}`."


def table(qualities: list[SegQuality]) -> str:
    """Measured quality, one row a split."""
    lines = [
        "## Measured on composed scenes",
        "",
        "IoU of the mask at 48 x 48 / at 12 x 12 cells. The next four are of scenes with two objects and more, at 48 x 48: "
        "*of several*, the same IoU; *everything*, the exact mask of all objects together; *deaf*, the head with the mean "
        "query; *swapped*, the mask asked for by another object of the scene. Pointing: the highest of the 12 x 12 cells "
        "is at least half the object's. Similarity: area under the ROC curve of the plain dot product of <SEG>'s state with "
        "the visual tokens' after the final norm (chance .5). Answers are greedy.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|---" * len(COLUMNS) + "|",
    ]
    for q in qualities:
        rivals = " | ".join(f"{score:.2f}" for score in (q.everything, q.deaf, q.swapped))
        scores = f"**{q.fine:.2f}** / {q.coarse:.2f} | **{q.several:.2f}** | {rivals}"
        answers = f"{q.answered:.0%} | {q.refused:.0%}"
        lines.append(
            f"| {q.split} | {q.scenes}, {q.queries} | {scores} | {q.pointing:.0%} | {q.similarity:.2f} | {answers} |"
        )
    return "\n".join(lines)


def on_photographs(photos: PhotoQuality) -> str:
    """What can be said where there are no masks."""
    text = (
        "## Measured on photographs\n\n"
        f"There are no masks for them. {photos.pairs} pairs of photographs of held-out classes side by side, asked for "
        f"each: most of the mask is on the right half in **{photos.right_half:.0%}** (chance 50 %)."
    )
    if photos.in_box is not None:
        text += (
            f" On {photos.boxes} photographs with a box drawn by hand, the highest cell is in the box in "
            f"**{photos.in_box:.0%}** (a random point {photos.box_area:.0%}, the picture's centre {photos.box_centre:.0%})."
        )
    return text


def licences(held_out: list[str]) -> str:
    """Where the pictures come from, and what was held out."""
    sets = "; ".join(f"`{s.package}` {s.version}, {s.licence}" for s in SETS.values())
    return (
        "## Data and licences\n\n"
        f"Emoji: {sets} (fetched by npm, not part of this project). Photographs: one per ImageNet class, not part of this "
        "project. The weights are this project's, under its licence; the models below them are the demo's.\n\n"
        f"Held-out style: `{HELD_OUT_STYLE}` (drawn after the same outlines as `fluent-emoji`, which was trained on). "
        f"Held-out objects ({len(held_out)}, whole families of names): {', '.join(held_out)}. Held-out photographs: the 100 "
        "classes that the connector never saw either."
    )
