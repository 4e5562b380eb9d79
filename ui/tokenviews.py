"""The figures of the page of function tokens with the data behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from lens.backend.encoding import visual_grid
from lens.figures import functiontokens as figures
from lens.figures import reactivation, steering
from lens.functiontokens.ablation import Ablation
from lens.functiontokens.coverage import as_json
from lens.functiontokens.losses import GroupLosses
from lens.functiontokens.prompt import PromptReading
from lens.functiontokens.search import LayerScan, MinimalK
from lens.functiontokens.steering import Steering
from lens.functiontokens.visual import VisualFeatures
from ui import export, tokens
from ui.export import Exhibit
from ui.state import Reader
from ui.tokencards import visible
from ui.tokens import Setting

ACROSS, HALF = 1160, 560
ROWS = 24
"""Features of a text that are drawn."""
SHORT = 18
"""Letters of a feature's words that the walk has room for."""
Row = dict[str, object]


def facts(setting: Setting, text: str | None = None) -> Row:
    """Where a figure of features comes from: a text's, or the corpus's. None of it looks at the picture."""
    graph = setting.graph
    edges: Row = {}
    if graph is not None and text is None:
        null = f"{graph.manifest.permutations} label permutations, seed {graph.manifest.seed}"
        edges = {"graph": graph.folder.name, "least firings of an edge": setting.n, "null": null}
    plain = plain_facts(setting, text)
    made = export.made()
    return {
        **{key: value for key, value in plain.items() if key not in made},
        "layer": setting.features.layer,
        "features": f"{setting.features.name} ({setting.features.fingerprint[:16]})",
        **edges,
        **made,
    }


def plain_facts(setting: Setting, text: str | None = None) -> Row:
    """Where a figure comes from in which no feature takes part."""
    read: Row = {"prompt": text} if text is not None else {}
    if setting.graph is not None and text is None:
        made = setting.graph.manifest
        read = {
            "corpus": f"{made.corpus} ({made.sentences:,} sentences, licence {made.corpus_licence})",
            "corpus sha256": made.corpus_digest,
            "positions": made.positions,
        }
    return {
        **export.of_model(setting.spec.name, setting.loaded.fingerprint),
        **read,
        "lens": "function tokens",
        "function tokens": f"{setting.definition} ({len(setting.function_ids)})",
        **export.made(),
    }


def name(setting: Setting, feature: int) -> str:
    """A feature for a figure's label: its number and what speaks for it."""
    return f"{feature} · {spoken(setting, feature)}"


def spoken(setting: Setting, feature: int) -> str:
    """What speaks for a feature, with room between the tokens, since some are commas."""
    return "  ".join(map(visible, tokens.gloss(setting, feature)))


def coverage(setting: Setting) -> Exhibit:
    """The paper's curve with the null band."""
    found = tokens.coverage(setting)

    def rows() -> list[Row]:
        listed = as_json(setting.has_graph, found)
        band = listed["null"] or [[None, None]] * len(listed["coverage"])
        table = zip(listed["tokens"], listed["coverage"], band, strict=True)
        return [{**token, "coverage": share, "null low": low, "null high": high} for token, share, (low, high) in table]

    return Exhibit("coverage", "Coverage of the features", figures.coverage(found, width=HALF), rows, facts(setting))


def rarefaction(setting: Setting) -> Exhibit:
    """The groups at equal occurrence."""
    found, _types = tokens.rarefaction(setting)
    columns = {name: getattr(found, name) for name in ("sample", "function", "content", "shuffled")}
    rows: list[Row] = [{name: column[i].item() for name, column in columns.items()} for i in range(len(found.sample))]
    return Exhibit(
        "rarefaction",
        "Rarefaction at equal occurrence",
        figures.rarefaction(found, width=HALF),
        lambda: rows,
        facts(setting),
    )


def walk(setting: Setting, node: tuple[str, int], order: Literal["lift", "firings"]) -> Exhibit:
    """The graph about a node."""
    found = tokens.around(setting, node, order)
    rows: list[Row] = [
        {"token": found.texts[t], "token id": int(found.ids[t]), "feature": int(found.features[f]),
         "firings": int(found.firings[i]), "rate": float(found.rate[i]), "lift": float(found.lift[i])}
        for i, (t, f) in enumerate(zip(found.edge_token, found.edge_feature, strict=True))
    ]  # fmt: skip
    member = np.isin(found.ids, setting.function_ids)
    names = {feature: spoken(setting, feature)[:SHORT] for feature in found.features.tolist()}
    drawn = figures.neighbourhood(found, member, names=names, width=640)
    return Exhibit(
        "walk", f"The graph around {node[0]} {node[1]}", drawn, lambda: rows, {**facts(setting), "strongest by": order}
    )


def histogram(setting: Setting, feature: int) -> Exhibit:
    """How large a feature's values are."""
    card = tokens.card(setting, feature)
    rows: list[Row] = [
        {"from": float(low), "to": float(high), "firings": int(count)}
        for low, high, count in zip(card.bins[:-1], card.bins[1:], card.histogram, strict=True)
    ]
    drawn = figures.histogram(card, width=HALF)
    return Exhibit("histogram", f"Activations of feature {feature}", drawn, lambda: rows, facts(setting))


def matrix(setting: Setting, value: Literal["rate", "lift"]) -> Exhibit:
    """Function tokens by features."""
    found = tokens.token_matrix(setting, value)

    def rows() -> list[Row]:
        return [
            {"token": found.texts[r], "feature": int(found.features[c]), value: float(found.values[r, c]),
             "firings": int(found.firings[r, c])}
            for r, c in np.ndindex(found.values.shape)
        ]  # fmt: skip

    return Exhibit("matrix", "Function tokens by features", figures.matrix(found, width=ACROSS), rows, facts(setting))


def degrees(setting: Setting) -> Exhibit:
    """Degree against frequency."""
    found = tokens.degrees(setting)

    def rows() -> list[Row]:
        return [
            {"token": found.texts[i], "id": int(found.ids[i]), "group": "function" if found.function[i] else "content",
             "occurrences": int(found.occurrences[i]), "degree": int(found.degree[i]), "weight": int(found.weight[i])}
            for i in range(len(found.ids))
        ]  # fmt: skip

    return Exhibit("degrees", "Degree by frequency", figures.degrees(found, width=HALF), rows, facts(setting))


def counts(setting: Setting) -> Exhibit:
    """Zipf's law, cumulative share with the cut, and document coverage."""
    found = setting.has_graph.counts
    member = found.is_function(setting.function_ids)

    def rows() -> list[Row]:
        columns = zip(
            found.texts, found.ids, found.counts, found.cumulative(), found.document_share(), member, strict=True
        )
        return [
            {"rank": rank, "token": text, "id": int(i), "count": int(count), "cumulative share": float(share),
             "document share": float(documents), "group": "function" if inside else "content"}
            for rank, (text, i, count, share, documents, inside) in enumerate(columns, 1)
        ]  # fmt: skip

    drawn = figures.counts(found, member, width=ACROSS)
    return Exhibit("counts", "Token statistics", drawn, rows, plain_facts(setting))


def firings(setting: Setting, text: str, reading: PromptReading, spot: int) -> Exhibit:
    """The features that function tokens re-activate, at every token."""
    chosen = [one.feature for one in reading.reactivated[:ROWS]]
    if not chosen:
        strongest = np.argsort(-np.abs(reading.values), kind="stable")
        chosen = list(dict.fromkeys(reading.ids[strongest].tolist()))[:ROWS]
    groups = [token.group for token in reading.tokens]
    first: dict[int, int] = {}
    found = []
    for row, feature, value in zip(reading.rows.tolist(), reading.ids.tolist(), reading.values.tolist(), strict=True):
        before = first.setdefault(feature, row)
        if feature in chosen:
            kind = "first" if before == row else "function" if groups[row] == "function" else "content"
            found.append(reactivation.Firing(row, feature, value, kind))
    chosen.sort(key=first.__getitem__)
    texts = [token.text for token in reading.tokens]
    drawn = reactivation.firings(
        texts, groups, {f: name(setting, f) for f in chosen}, found, selected=spot, width=ACROSS
    )
    rows: list[Row] = [
        {"position": row, "token": texts[row], "group": groups[row], "feature": feature, "value": value,
         "first at": first[feature]}
        for row, feature, value in zip(reading.rows.tolist(), reading.ids.tolist(), reading.values.tolist(), strict=True)
    ]  # fmt: skip
    return Exhibit(
        "firings", "Features of your text, and where they fire again", drawn, lambda: rows, facts(setting, text)
    )


def losses(setting: Setting, text: str, found: Sequence[GroupLosses]) -> Exhibit:
    """The four-group loss of the text, and of the corpus where it was measured."""
    rows: list[Row] = [
        {"text": one.name, "current": pair.current, "next": pair.next, "count": pair.count, "share": pair.share,
         "loss": pair.loss, "low": pair.low, "high": pair.high}
        for one in found for pair in one.pairs
    ]  # fmt: skip
    return Exhibit("losses", "Loss by group", steering.group_losses(found), lambda: rows, plain_facts(setting, text))


def next_tokens(setting: Setting, text: str, found: Steering) -> Exhibit:
    """Next tokens before and after."""
    rows: list[Row] = [
        {"token": one.token, "id": one.id, "before": one.before, "after": one.after}
        for one in (*found.gains, *found.losses)
    ]
    drawn = steering.next_tokens(found.gains, found.losses, width=HALF)
    return Exhibit(
        "next-tokens", "Next tokens before and after steering", drawn, lambda: rows, pushed(setting, text, found)
    )


def effect(setting: Setting, text: str, found: Steering) -> Exhibit:
    """The push beside its controls."""
    rows: list[Row] = [{"run": "steered", "kl": found.treated.kl, "logprob": found.treated.logprob,
                        "watched": found.watched_after}]  # fmt: skip
    rows += [
        {"run": one.kind, "kl": float(kl), "logprob": float(logprob), "watched": float(watched)}
        for one in found.controls
        for kl, logprob, watched in zip(one.kl, one.logprob, one.watched, strict=True)
    ]
    drawn = steering.steering_effect(found, width=ACROSS)
    return Exhibit("steering", "The push beside its controls", drawn, lambda: rows, pushed(setting, text, found))


def pushed(setting: Setting, text: str, found: Steering) -> Row:
    """Provenance with what was pushed."""
    pushes = ", ".join(f"{push.alpha:+g} x {push.feature}" for push in found.pushes)
    return {**facts(setting, text), "pushes": pushes, "at positions": list(found.positions)}


def scan(setting: Setting, text: str, found: LayerScan) -> Exhibit:
    """Success and gain by layer."""
    rows: list[Row] = [
        {"layer": layer, "success": one.success, "gain": one.gain, "control gains": gains.tolist()}
        for layer, one, gains in zip(found.layers, found.effects, found.control_gain, strict=True)
    ]
    source = {**facts(setting, text), **_searched(found)}
    return Exhibit("layer-scan", "Layer scan", steering.layer_scan(found, width=ACROSS), lambda: rows, source)


def _searched(found: LayerScan | MinimalK) -> Row:
    """Provenance of a search."""
    return {"words": ", ".join(found.words), "added": found.added, "alpha": found.alpha, "seed": found.seed}


def smallest(setting: Setting, text: str, found: MinimalK) -> Exhibit:
    """Success and gain by the number of features."""
    rows: list[Row] = [{"k": one.k, "success": one.effect.success, "gain": one.effect.gain} for one in found.tried]
    source = {**facts(setting, text), **_searched(found)}
    return Exhibit(
        "minimal-k", "Smallest number of features", steering.minimal_k(found, width=ACROSS), lambda: rows, source
    )


def ablation(setting: Setting, text: str, found: Sequence[Ablation]) -> Exhibit:
    """Change of loss when either group is ablated."""
    rows: list[Row] = [
        {"text": one.name, "number": number, "draw": draw, "function": function, "content": content}
        for one in found
        for number, part in enumerate(one.texts)
        for draw, (function, content) in enumerate(zip(part.function, part.content, strict=True))
    ]
    source = {**facts(setting, text), "ablated share": found[0].share, "means": found[0].means, "seed": found[0].seed}
    return Exhibit(
        "ablation", "Loss without function or content tokens", steering.ablation(found), lambda: rows, source
    )


def overlay(reader: Reader, setting: Setting, found: VisualFeatures, feature: int, patch: tuple[int, int]) -> Exhibit:
    """One feature over the picture."""
    values = found.over_patches(feature)
    source = {**export.provenance(reader, None, setting.features.layer, "function tokens"),
              "features": f"{setting.features.name} ({setting.features.fingerprint[:16]})", "feature": feature}  # fmt: skip
    drawn = steering.feature_overlay(
        reader.picture.image, visual_grid(reader.encoded.token_map).boxes, values, selected=[patch], width=540,
        title=export.headline(source, None),
    )  # fmt: skip
    rows: list[Row] = [{"row": r, "col": c, "value": float(value)} for (r, c), value in np.ndenumerate(values)]
    return Exhibit("feature-patches", f"Feature {feature} on the patches", drawn, lambda: rows, source)
