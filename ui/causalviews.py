"""What every page shows of a causal test: the treated runs beside their controls, and the data behind."""

from __future__ import annotations

from collections.abc import Mapping

from lens.backend.controlled import CausalResult
from lens.figures.causal import Effect, effects
from ui.export import Exhibit

MEASURES = {
    "logprob": "change of the unchanged answer's log-probability (nats)",
    "kl": "KL divergence of the next token (nats)",
}
ACROSS = 1160


def effect(name: str, title: str, results: Mapping[str, CausalResult], facts: dict[str, object]) -> Exhibit:
    """Treated runs by their title, each beside the spread of its controls."""

    def of(row: str, result: CausalResult, measure: str) -> Effect:
        base = getattr(result.base, measure)
        controls = [] if result.controls is None else getattr(result.controls, measure) - base
        return Effect(row, getattr(result.treated, measure) - base, list(controls))

    rows = [
        {"run": one.treatment, "kind": kind, "answer": answer, "logprob": logprob, "kl": kl}
        for one in results.values()
        for kind, answer, logprob, kl in _runs(one)
    ]
    measures = {text: [of(row, one, key) for row, one in results.items()] for key, text in MEASURES.items()}
    return Exhibit(name, title, effects(measures, width=ACROSS), lambda: rows, facts | _controls(results))


def _controls(results: Mapping[str, CausalResult]) -> dict[str, object]:
    """What the treated runs are compared with."""
    drawn = next((one.controls for one in results.values() if one.controls is not None), None)
    if drawn is None:
        return {}
    where = "near the treated ones" if drawn.spatial else "anywhere"
    return {"controls": f"{len(drawn.kl)} random sets of as many tokens, drawn {where}, seed {drawn.seed}"}


def _runs(one: CausalResult) -> list[tuple[str, str, float, float]]:
    runs = [("unchanged", one.base), ("treated", one.treated)]
    table = [(kind, run.answer, run.logprob, run.kl) for kind, run in runs]
    if one.controls is not None:
        pairs = zip(one.controls.logprob, one.controls.kl, strict=True)
        table += [("control", "", float(logprob), float(kl)) for logprob, kl in pairs]
    return table
