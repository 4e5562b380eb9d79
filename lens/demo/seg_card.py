"""The model card of ``demo-seg``, in Markdown: what it is, data, training, figures, and what not to conclude."""

from __future__ import annotations

from typing import Any

from lens.demo.scenes import HELD_OUT_STYLE
from lens.demo.seg_draw import TURNS
from lens.demo.seg_evaluate import PhotoQuality, SegQuality
from lens.demo.seg_icons import SETS
from lens.demo.seg_language import ABSENT, FOUND, PROMPTS
from lens.demo.seg_training import PHASES, SegSettings
from lens.demo.seg_vocabulary import PHOTO

Facts = dict[str, Any]
"""What a run was and did, as its ``facts.json`` has it; :func:`lens.demo.train_seg.facts` makes it. A ``note`` on how these
weights came about may be added to it."""

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
language model knows the words, and the encoder and the connector were trained on all of ImageNet's classes, some of which
are such objects."""


def card(facts: Facts, qualities: list[SegQuality], photos: PhotoQuality) -> str:
    """Write the card from what was set, done and measured."""
    parts = (
        "# `demo-seg`",
        WHAT.format(rank=facts["rank"], head=f"{facts['head parameters']:,}"),
        training(facts),
        table(qualities),
        answering(qualities),
        on_photographs(photos),
        LIMITS,
        licences(facts["held-out objects"]),
    )
    return "\n\n".join(parts) + "\n"


def training(facts: Facts) -> str:
    """How, on what and for how long it was trained, with the losses at the beginning and the end of each phase."""
    head = "| phase | what learns from what | steps x scenes | seconds | losses, first and last tenth |"
    what = {
        "names": "mask head, from the frozen model's state at <SEG> after the name, without a picture",
        "scenes": f"everything, from packs of {TURNS} prompts on a scene, at least two for what isn't there",
    }
    rows = []
    for phase, steps, seconds in zip(PHASES, facts["steps"], facts["seconds of each phase"], strict=True):
        losses = facts["losses, first and last tenth"][phase].items()
        ends = ", ".join(f"{name} {first:.2f} → {last:.2f}" for name, (first, last) in losses)
        rows.append(f"| `{phase}` | {what[phase]} | {steps:,} x {facts['packs a step']} | {seconds:.0f} | {ends} |")
    weights = (
        "A mask's loss is 2 x BCE + Dice, at 12 x 12 and at 48 x 48 (`coarse`, `fine`); `similar` is that of the plain "
        "similarity. Of the answers, turns for what is there weigh as much as those for what isn't, and the first token, "
        f"which decides, counts as part of the answer and by itself with weight {facts['decision weight']:g} (`decide`; "
        "`right`: how often it was). "
        f"Updates of rank {facts['rank']}, alpha {facts['alpha']:g}; AdamW, seed {facts['seed']}."
    )
    table = "\n".join([head, "|---|---|---|---|---|", *rows])
    return "\n\n".join(("## Training", scenes(facts), weights, table, made(facts)))


def scenes(facts: Facts) -> str:
    """What the training scenes show, and what they are asked for."""
    words, outlined = facts["vocabulary"], facts["photographs with a trusted outline"]
    edges = f"along an outline ({outlined} of them have one), or " if outlined else ""
    return (
        f"{facts['scenes composed']:,} scenes composed on the device, each seen once, of one to four objects, later ones "
        "over earlier ones, on photographs, blurred and magnified ones, noise and stripes. "
        f"{PHOTO:.0%} of the objects are cut from photographs, {edges}as ellipses and rounded rectangles; the others are "
        f"{facts['icons']:,} emoji. {words['names']:,} names: of {words['objects']} objects, {words['extra']} further emoji "
        f"and {words['classes']} classes, and {words['broader']} broader words. The names of what isn't there are drawn "
        "like those of what is, about a third of them near one that is (of its kind), so that a name alone doesn't tell; "
        f"{words['never named as absent']} share a word with something held out and are never named as absent."
    )


def made(facts: Facts) -> str:
    """The command, and where and how fast it ran."""
    given = f"--minutes {facts['minutes']:g}"
    if facts["packs a step"] != SegSettings().scenes:
        given += f" --scenes {facts['packs a step']}"
    if facts["photographs with a trusted outline"]:
        given += " --photo-masks FILE"
    text = (
        f"`python -m lens.demo.train_seg {given} --photos FOLDER --out FOLDER` makes such weights. These took "
        f"{sum(facts['seconds of each phase']):.0f} s of training on {facts['device']}; a run that is laid out over time is "
        "not repeated bit for bit."
    )
    return f"{text} {facts['note']}" if "note" in facts else text


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


def answering(qualities: list[SegQuality]) -> str:
    """How far the answer itself can be relied on."""
    means = sorted((q.answered + q.refused) / 2 for q in qualities)
    return (
        "Whether it says <SEG> at all: the mean of the last two columns, for which answering at random reaches 50%, is "
        f"{means[0]:.0%} to {means[-1]:.0%}."
    )


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
        f"Held-out objects ({len(held_out)}, whole families of names): {', '.join(held_out)}. Held-out photographs: "
        "those of 100 classes; the connector was trained on them, <SEG> was not."
    )
