"""The quality card of an autoencoder: the numbers of ``quality.json`` as text for a reader, and as one line for a menu."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from lens.backend.files import replacing, write_json
from lens.functiontokens.formats import write
from lens.functiontokens.quality import Quality
from lens.functiontokens.sae import Autoencoder


@dataclass(frozen=True)
class Made:
    """How an autoencoder came about, and how good it is.

    Attributes:
        model: name of the model whose states it was trained on. layer: which states.
        text, licence: the training text's name and licence.
        tokens: states that it was trained on. visits: how often one was shown, all in all.
        dead_share: share of the latents that fired on none of ``dead_rows`` training states.
        stability: mean largest cosine of its decoder rows with those of a second seed; ``None`` without one.
        stability_chance: the same for random directions.
        untrained_fvu: FVU of the same recipe on the states of the same architecture with random weights (training text);
            ``None`` if that wasn't run.
        untrained_tokens: states that those of the untrained model were trained on.
        dtype: in which the model was run.
    """

    model: str
    layer: int
    depth: int
    text: str
    licence: str
    tokens: int
    visits: int
    active: int
    seed: int
    dtype: str
    dead_share: float
    dead_rows: int
    stability: float | None
    stability_chance: float
    untrained_fvu: float | None
    untrained_tokens: int
    qualities: tuple[Quality, ...]


def publish(folder: Path, autoencoder: Autoencoder, made: Made, language_fingerprint: str) -> None:
    """Write the autoencoder with its card as a folder that the pages find and SAELens opens."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "quality.json", figures(made, autoencoder), indent=1)
    with replacing(folder / "card.md") as part:
        part.write_text(card(made, autoencoder), encoding="utf-8")
    metadata = {
        "model_name": made.model,
        "language_fingerprint": language_fingerprint,
        "layer": made.layer,
        "title": f"SAE, {autoencoder.size:,} latents, layer {made.layer}",
        "note": note(made),
    }
    write(folder, autoencoder, made.layer, metadata, torch.float16)


def figures(made: Made, autoencoder: Autoencoder) -> dict[str, Any]:
    """Everything that is on the card, as plain values."""
    scores = [{"score_zero": quality.score_zero, "score_mean": quality.score_mean} for quality in made.qualities]
    qualities = [asdict(quality) | score for quality, score in zip(made.qualities, scores, strict=True)]
    about = {"latents": autoencoder.size, "width": autoencoder.width, "weights": autoencoder.digest()}
    return asdict(made) | about | {"qualities": qualities}


def measured(folder: Path, autoencoder: Autoencoder) -> dict[str, Quality]:
    """What the card in ``folder`` says of these very weights, by the digest of the text; empty if it is of others."""
    try:
        held = json.loads((folder / "quality.json").read_text(encoding="utf-8"))
        names = [field.name for field in fields(Quality)]
        rows = [Quality(**{name: row[name] for name in names}) for row in held["qualities"]]
        return {row.digest: row for row in rows} if held["weights"] == autoencoder.digest() else {}
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return {}


def note(made: Made) -> str:
    """One line for the page."""
    first = made.qualities[0]
    return (
        f"Trained on {made.tokens:,} tokens of {made.text}: {first.l0:.0f} latents fire on average, {first.fvu:.0%} of the "
        f"variance is lost, {first.score_mean:.1%} of the loss by mean ablation is avoided, {made.dead_share:.1%} dead."
    )


def card(made: Made, autoencoder: Autoencoder) -> str:
    """The card in Markdown."""
    paragraphs = [
        f"# Sparse autoencoder of {made.model}, layer {made.layer} of {made.depth}",
        f"{autoencoder.size:,} latents on the residual stream after block {made.layer} (width {autoencoder.width}); "
        f"BatchTopK, k = {made.active}, saved as JumpReLU in the SAELens format, float16. Trained on {made.tokens:,} "
        f"states of the model in {made.dtype} ({made.visits:,} visits, seed {made.seed}; positions 0 and 1 left out) of "
        f"{made.text} (licence: {made.licence}).",
        table(made.qualities),
        f"Cross-entropy is in nats a token, of the model in {made.dtype}: as it is; with the reconstructions in the place "
        "of the layer's states; with the mean state; with zeros. Score: the share of the damage by an ablation that the "
        "reconstructions avoid.",
        *facts(made),
    ]
    return "\n\n".join(paragraphs) + "\n"


def table(qualities: Sequence[Quality]) -> str:
    """One row a text."""
    head = ["text", "states", "FVU", "L0", "CE", "spliced", "mean", "zero", "score (mean)", "score (zero)"]
    rows = [
        [
            q.text,
            f"{q.positions:,}",
            f"{q.fvu:.3f}",
            f"{q.l0:.1f}",
            *(f"{value:.3f}" for value in (q.clean, q.spliced, q.mean, q.zero)),
            f"{q.score_mean:.3f}",
            f"{q.score_zero:.3f}",
        ]
        for q in qualities
    ]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def facts(made: Made) -> list[str]:
    """What is measured once, not per text."""
    first = made.qualities[0]
    found = [f"Dead: {made.dead_share:.2%} of the latents fire on none of {made.dead_rows:,} training states."]
    if made.stability is not None:
        found.append(
            f"Two seeds: a decoder row's largest cosine with those of a second run is {made.stability:.3f} on average "
            f"(random directions: {made.stability_chance:.3f})."
        )
    if made.untrained_fvu is not None:
        found.append(
            f"Untrained weights: the same recipe on {made.untrained_tokens:,} states of the same architecture with random "
            f"weights leaves FVU {made.untrained_fvu:.3f} on the first text, against {first.fvu:.3f} here."
        )
    return found
