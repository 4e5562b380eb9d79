"""Does the model need the patches that a map points at? They are taken out, and as many random others for comparison.

Dropped tokens are seen by no other (:func:`lens.backend.interventions.drop`); the answer is held fixed, so that what
changes is how likely the model finds it, and in it <SEG>.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lens.backend import interventions
from lens.backend.answers import generate
from lens.backend.encoding import encode, visual_grid
from lens.backend.loading import LoadedModel
from lens.backend.tracing import trace
from lens.errors import ControlsImpossible
from lens.progress import Report, silent
from lens.segmaps.asking import Asked
from lens.statistics import matched_controls, p_value


@dataclass(frozen=True, eq=False)
class PatchAblation:
    """What dropping the most similar patches does, beside dropping as many others.

    Log-probabilities are in nats, of the answer as it was given.

    Attributes:
        cells: (row, column) of the dropped patches, the most similar first.
        said: what the model itself answers without them.
        answer: of the whole answer without them; seg: of each of its <SEG>, given what stands before it.
        answer_before, seg_before: with all patches.
        answer_controls, seg_controls: of each random set; sets hold none of the dropped patches.
        p: how often a random set lowers the answer's log-probability at least as much.
    """

    cells: tuple[tuple[int, int], ...]
    said: str
    answer: float
    answer_before: float
    answer_controls: Float[np.ndarray, " controls"]
    seg: Float[np.ndarray, " segs"]
    seg_before: Float[np.ndarray, " segs"]
    seg_controls: Float[np.ndarray, "controls segs"]
    p: float


def ablate(
    loaded: LoadedModel,
    asked: Asked,
    values: Float[np.ndarray, "rows cols"],
    count: int,
    *,
    controls: int = 20,
    seed: int = 0,
    report: Report = silent,
) -> PatchAblation:
    """Drop the ``count`` patches of the highest ``values``; an answer and a forward without them, a forward for each control
    and one for none.

    Raises:
        ControlsImpossible: no patch or more than half of them, or an answer without a token.
        Cancelled: raised by ``report``.
    """
    positions = visual_grid(asked.token_map).positions
    if not 1 <= count <= positions.size // 2 or not asked.answer_ids:
        raise ControlsImpossible(
            f"{count} of {positions.size} patches can't be compared with as many others for an answer of "
            f"{len(asked.answer_ids)} tokens; choose 1 to {positions.size // 2} patches, and a question that is answered."
        )
    order = np.argsort(-values.reshape(-1), kind="stable")
    chosen, others = order[:count], order[count:]
    sets = [np.array([], dtype=int), chosen, *matched_controls(np.sort(others), count, controls, seed)]
    rows = []
    for done, cells in enumerate(sets):
        report(done, len(sets), "dropping patches")
        rows.append(_likelihoods(loaded, asked, positions.reshape(-1)[cells]))
    answers, segs = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    return PatchAblation(
        cells=tuple(divmod(int(i), positions.shape[1]) for i in chosen),
        said=_said(loaded, asked, positions.reshape(-1)[chosen]),
        answer=float(answers[1]),
        answer_before=float(answers[0]),
        answer_controls=answers[2:],
        seg=segs[1],
        seg_before=segs[0],
        seg_controls=segs[2:],
        p=p_value(answers[0] - answers[1], answers[0] - answers[2:], two_sided=False),
    )


def _said(loaded: LoadedModel, asked: Asked, dropped: Int[np.ndarray, " n"]) -> str:
    prompt = encode(loaded, asked.encoded.prompt, asked.encoded.picture)
    with interventions.drop(loaded, dropped.tolist()):
        return generate(loaded, prompt).text


def _likelihoods(loaded: LoadedModel, asked: Asked, dropped: Int[np.ndarray, " n"]) -> tuple[float, list[float]]:
    """Log-probability of the answer, and of each <SEG> in it, without some positions."""
    with interventions.drop(loaded, dropped.tolist()):
        logits = trace(loaded, asked.encoded, ["logits"]).site("logits")
    logprobs = logits[asked.start - 1 : -1].float().log_softmax(-1)
    each = [float(row[i]) for row, i in zip(logprobs, asked.answer_ids, strict=True)]
    return sum(each), [each[position - asked.start] for position in asked.segs]
