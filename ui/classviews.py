"""The figures of the EmbedLens page with the data behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lens.backend.controlled import CausalResult
from lens.backend.encoding import visual_grid
from lens.backend.visible import visible
from lens.embedlens import agreement, causal, layers
from lens.embedlens.anchors import Anchors
from lens.embedlens.causal_folder import FolderEffect
from lens.embedlens.classes import CLASSES, TokenClasses
from lens.embedlens.fractions import ClassFractions
from lens.embedlens.hubness import Hubness
from lens.embedlens.layers import CrossImage
from lens.embedlens.path import Step
from lens.embedlens.persistence import TextControl
from lens.embedlens.plane import TokenPlane
from lens.figures import embedlens as figures
from lens.figures import multiples
from lens.figures.causal import Effect, Rate, effects, matrix, shares
from lens.figures.latentlens import Profile, layer_profile
from lens.figures.theme import label
from ui import causalviews, classes, export
from ui.causalviews import MEASURES
from ui.classes import Rule
from ui.export import Exhibit
from ui.state import Reader

UNITS = {"norm": "L2", "cosine": "cosine", "attention": "share", "stability": "share of tokens"}
NAMES = {"embedlens": "EmbedLens classes", **agreement.MARKS, **agreement.RANKINGS}
ACROSS = 1160


def facts(reader: Reader, anchors: Anchors, rule: Rule, layer: int | str | None = None) -> dict[str, object]:
    """Where a figure of this page comes from."""
    words = ", ".join(f"{anchor.kind} {anchor.token!r}" for anchor in anchors.found) or "none found"
    return {
        **export.provenance(reader, None, rule.layer if layer is None else layer, "EmbedLens"),
        "anchors": f"{words} ({anchors.source}, {anchors.images} images)",
        "rule": f"top {rule.top}, cosine at least {rule.min_cosine:g}",
    }


def unjudged(reader: Reader, layer: int | str) -> dict[str, object]:
    """Where a figure comes from in which no class takes part."""
    return export.provenance(reader, None, layer, "EmbedLens")


def over_pictures(
    reader: Reader, anchors: Anchors, rule: Rule, names: Sequence[str], layer: int | None = None
) -> dict[str, object]:
    """Where a figure of many pictures comes from."""
    own = facts(reader, anchors, rule, layer)
    many = export.provenance(reader, None, rule.layer if layer is None else layer, "EmbedLens", names)
    return {**many, "anchors": own["anchors"], "rule": own["rule"]}


def overlay(
    reader: Reader, anchors: Anchors, rule: Rule, found: TokenClasses, patch: tuple[int, int], width: int = 540
) -> Exhibit:
    """The picture with the classes of its patches."""
    source = facts(reader, anchors, rule)
    details = [[_detail(found, row, col) for col in range(found.cols)] for row in range(found.rows)]
    boxes = visual_grid(reader.encoded.token_map).boxes
    figure = figures.class_overlay(
        reader.picture.image, boxes, found.labels, details=details, selected=[patch], width=width,
        title=export.headline(source, None),
    )  # fmt: skip

    def rows() -> list[dict[str, object]]:
        table = []
        for number, words in enumerate(found.words):
            row, col = divmod(number, found.cols)
            entry = {"row": row, "col": col, "class": str(found.labels[row, col])}
            entry |= {f"in {name}": bool(found.members[name][row, col]) for name in CLASSES}
            entry |= {"anchor cosine": found.anchor_cosine[row, col], "margin": found.margin[row, col]}
            for rank, (word, cosine) in enumerate(words, 1):
                entry |= {f"word {rank}": visible(word), f"token {rank}": word, f"cosine {rank}": cosine}
            table.append(entry)
        return table

    return Exhibit("classes", f"Classes of the visual tokens at layer {rule.layer}", figure, rows, source)


def _detail(found: TokenClasses, row: int, col: int) -> str:
    words = found.words[row * found.cols + col][:3]
    lines = [f"{label(visible(word), 24)} {cosine:.3f}" for word, cosine in words]
    return "<br>".join([*lines, f"margin {found.margin[row, col]:+.3f}"])


def path(reader: Reader, anchors: Anchors, rule: Rule, patch: tuple[int, int], steps: Sequence[Step]) -> Exhibit:
    """One patch at every layer: nearest word, and margin with class."""
    at = tuple(step.layer for step in steps)
    rows_of_figure = [
        Profile(
            "Nearest word",
            at,
            tuple(s.words[0][1] for s in steps),
            tuple(visible(s.words[0][0]) for s in steps),
            "cosine",
        )
    ]
    if anchors.found:
        margins = tuple(step.margin for step in steps)
        rows_of_figure.append(
            Profile("Anchor's margin", at, margins, tuple(s.label for s in steps), "cosine difference")
        )
    rows = [
        {
            "layer": s.layer,
            "class": s.label,
            "word": visible(word),
            "token": word,
            "cosine": cosine,
            "rank": rank,
            "margin": s.margin,
        }
        for s in steps
        for rank, (word, cosine) in enumerate(s.words, 1)
    ]
    source = {**facts(reader, anchors, rule, "all"), "patch (row, column)": f"{patch[0]}, {patch[1]}"}
    figure = layer_profile(rows_of_figure, selected_layer=rule.layer, width=ACROSS)
    title = f"Patch {patch[0]}, {patch[1]}: nearest word and class at every layer"
    return Exhibit("path", title, figure, lambda: rows, source)


def scatter(reader: Reader, anchors: Anchors, rule: Rule, found: TokenClasses, patch: tuple[int, int]) -> Exhibit:
    """Norm against anchor cosine."""
    norms = classes.norms(reader, rule.layer)
    figure = figures.token_scatter(norms, found.anchor_cosine, found.labels, threshold=rule.min_cosine, selected=patch)
    rows = [
        {"row": r, "col": c, "class": str(name), "norm": norms[r, c], "anchor cosine": found.anchor_cosine[r, c]}
        for (r, c), name in np.ndenumerate(found.labels)
    ]
    source = facts(reader, anchors, rule)
    return Exhibit("scatter", "Norm and nearness to an anchor", figure, lambda: rows, source)


def thresholds(reader: Reader, anchors: Anchors, rule: Rule) -> Exhibit:
    """How the fractions answer each threshold."""
    found = classes.answering_threshold(reader, anchors, rule)
    curves = [
        figures.Curve("Class fraction", "share of tokens", one.at, one.fractions, along=one.along, mark=one.mark)
        for one in found
    ]
    figure = figures.class_curves(curves, width=ACROSS, height=260)
    rows: list[dict[str, object]] = [
        {"threshold": one.along, "value": at, **{name: one.fractions[name][i] for name in CLASSES}}
        for one in found
        for i, at in enumerate(one.at)
    ]
    return Exhibit("thresholds", "Class fractions by threshold", figure, lambda: rows, facts(reader, anchors, rule))


def token_map(
    reader: Reader, anchors: Anchors, rule: Rule, found: TokenPlane, method: str, patch: tuple[int, int]
) -> Exhibit:
    """Visual tokens as points of a plane; the first picture is the one in view."""
    cols = visual_grid(reader.encoded.token_map).cols
    cells = [None if picture else divmod(i, cols) for i, picture in enumerate(found.picture)]
    axes = tuple(f"principal axis {i + 1} ({share:.0%} of the variance)" for i, share in enumerate(found.explained))
    figure = figures.class_map(
        found.planes[method], found.labels, cells, axes=axes if method == "PCA" else ("", ""), selected=patch, width=ACROSS
    )  # fmt: skip
    rows = [
        {"picture": "in view" if cell else "gallery", "row": cell and cell[0], "col": cell and cell[1], "class": str(name),
         "x": float(x), "y": float(y)}
        for cell, name, (x, y) in zip(cells, found.labels, found.planes[method], strict=True)
    ]  # fmt: skip
    title = f"Visual tokens at layer {rule.layer} by {method}"
    source = {**facts(reader, anchors, rule), "method": method}
    if others := int(found.picture.max()):
        source["beside it"] = f"the tokens of {others} pictures of the gallery"
    return Exhibit("map", title, figure, lambda: rows, source)


def class_maps(reader: Reader, anchors: Anchors, rule: Rule, found: Mapping[int, TokenClasses]) -> Exhibit:
    """The class map of every layer."""
    figure = multiples.class_multiples(
        {at: c.labels for at, c in found.items()}, selected_layer=rule.layer, width=ACROSS
    )
    rows = [
        {"layer": at, "row": r, "col": c, "class": str(one.labels[r, c])}
        for at, one in found.items()
        for r, c in np.ndindex(one.labels.shape)
    ]
    source = facts(reader, anchors, rule, "all")
    return Exhibit("multiples", "Classes at every layer", figure, lambda: rows, source)


def value_multiples(reader: Reader, anchors: Anchors, rule: Rule, found: classes.ThroughLayers, name: str) -> Exhibit:
    """A quantity of every patch at each layer."""
    first, table = found.quantities[name]
    grid = visual_grid(reader.encoded.token_map)
    shaped = {first + i: values.reshape(grid.rows, grid.cols) for i, values in enumerate(table)}
    title = f"{layers.QUANTITIES[name]} ({UNITS[name]})"
    figure = multiples.value_multiples(
        shaped, name=f"{title}; below: the range of its colours", selected_layer=rule.layer, width=ACROSS
    )
    rows = [
        {"layer": at, "row": r, "col": c, layers.QUANTITIES[name]: float(values[r, c])}
        for at, values in shaped.items()
        for r, c in np.ndindex(values.shape)
    ]
    return Exhibit("multiples", title, figure, lambda: rows, unjudged(reader, "all"))


def curves(reader: Reader, anchors: Anchors, rule: Rule, found: Mapping[str, Mapping[str, layers.Curve]]) -> Exhibit:
    """The measures of each class over the layers, with intervals over tokens."""
    shown = [
        figures.Curve(
            layers.QUANTITIES[quantity], UNITS[quantity], next(iter(by_class.values())).layers,
            {name: curve.mean.tolist() for name, curve in by_class.items()},
            {name: (curve.low.tolist(), curve.high.tolist()) for name, curve in by_class.items()},
            mark=rule.layer,
        )
        for quantity, by_class in found.items()
    ]  # fmt: skip
    rows = [
        {"measure": quantity, "class": name, "layer": at, "mean": curve.mean[i], "low": curve.low[i], "high": curve.high[i]}
        for quantity, by_class in found.items()
        for name, curve in by_class.items()
        for i, at in enumerate(curve.layers)
    ]  # fmt: skip
    figure = figures.class_curves(shown, width=ACROSS)
    source = facts(reader, anchors, rule, "all")
    return Exhibit("curves", f"The classes of layer {rule.layer} over the layers", figure, lambda: rows, source)


def fractions(
    reader: Reader, anchors: Anchors, rule: Rule, found: ClassFractions, names: Sequence[str], here: TokenClasses
) -> Exhibit:
    """Class fractions over pictures of these names, with bootstrap intervals, and of this picture."""
    rates = [Rate(name, "this picture", value, value, value) for name, value in here.fractions.items()]
    group = f"mean of {found.images} pictures"
    rates += [Rate(name, group, found.mean[name], *found.interval[name]) for name in CLASSES]
    rows = [{"picture": one, **{name: found.shares[name][i] for name in CLASSES}} for i, one in enumerate(names)]
    figure = shares(rates, value_name="share of visual tokens", width=560, height=420)
    source = {**facts(reader, anchors, rule), "beside it": f"the mean of {len(names)} pictures: {', '.join(names)}"}
    return Exhibit("fractions", "Class fractions, intervals over pictures", figure, lambda: rows, source)


def cross(reader: Reader, anchors: Anchors, rule: Rule, found: CrossImage, name: str) -> Exhibit:
    """How alike a class's tokens are in different pictures."""
    values = found.matrices[name]
    rows = [
        {"picture": a, "other": b, "mean cosine": values[i, j]}
        for i, a in enumerate(found.names)
        for j, b in enumerate(found.names)
    ]
    figure = matrix(values, found.names, value_name="mean cosine", value_range=(0, 1), width=560)
    source = {**over_pictures(reader, anchors, rule, found.names), "class": name}
    return Exhibit("cross", f"Tokens of class {name} across pictures", figure, lambda: rows, source)


def effect(reader: Reader, anchors: Anchors, rule: Rule, name: str, results: Mapping[str, CausalResult]) -> Exhibit:
    """Treated runs, by the class that was treated, beside the spread of their controls."""
    titled = {f"{kind}: {one.treatment}": one for kind, one in results.items()}
    source = unjudged(reader, "all") if name == "causal-inject" else facts(reader, anchors, rule)
    return causalviews.effect(name, "What the treatment does to the answer", titled, source)


def many(reader: Reader, anchors: Anchors, rule: Rule, found: FolderEffect) -> Exhibit:
    """Pruning in each of many pictures, beside the mean of its controls."""
    told = [one for one in found.pictures if one.tokens]

    def rows_of(measure: str) -> list[Effect]:
        return [Effect(one.name, getattr(one, measure), [getattr(one, f"control_{measure}")]) for one in told]

    figure = effects({title: rows_of(key) for key, title in MEASURES.items()}, width=ACROSS, row_height=30)
    rows: list[dict[str, object]] = [dict(vars(one)) for one in found.pictures]
    title = f"Pruning {found.kind} tokens in {len(told)} pictures"
    source = over_pictures(reader, anchors, rule, [one.name for one in found.pictures], 0)
    return Exhibit("causal-many", title, figure, lambda: rows, {**source, "class": found.kind})


def text_control(reader: Reader, rule: Rule, found: TextControl) -> Exhibit:
    """How often the probe finds a text token's own word, at each layer; no picture takes part."""
    nothing = ("",) * len(found.layers)
    profiles = [
        Profile("Own word is the best", found.layers, tuple(map(float, found.first)), nothing, "share"),
        Profile("… among the best five", found.layers, tuple(map(float, found.among_five)), nothing, "share"),
    ]
    rows = [
        {"layer": at, "first": float(found.first[i]), "among five": float(found.among_five[i])}
        for i, at in enumerate(found.layers)
    ]
    figure = layer_profile(profiles, selected_layer=rule.layer, width=ACROSS)
    model = export.of_model(reader.spec.name, reader.loaded.fingerprint)
    source = {**model, "text": classes.CONTROL_TEXT, "layer": "all", "lens": "EmbedLens", **export.made()}
    return Exhibit("text-control", "Text tokens that the probe finds", figure, lambda: rows, source)


def norm_sweep(reader: Reader, found: causal.NormSweep) -> Exhibit:
    """All visual tokens at other norms."""
    runs = list(zip(found.factors, found.runs, strict=True))
    measures = {
        MEASURES["logprob"]: [Effect(f"norm × {factor:g}", run.logprob - found.base.logprob) for factor, run in runs],
        MEASURES["kl"]: [Effect(f"norm × {factor:g}", run.kl) for factor, run in runs],
    }
    rows = [{"factor": factor, "answer": run.answer, "logprob": run.logprob, "kl": run.kl} for factor, run in runs]
    figure = effects(measures, width=ACROSS, row_height=36)
    return Exhibit("norm-sweep", "All visual tokens at other norms", figure, lambda: rows, unjudged(reader, 0))


def agreement_matrix(
    reader: Reader, anchors: Anchors, rule: Rule, chosen: Mapping[str, np.ndarray], budget: float
) -> Exhibit:
    """How far the rules choose the same patches."""
    names, values = agreement.agreement({name: mask for name, mask in chosen.items() if _parts(mask)})
    titles = [_title(name) for name in names]
    rows = [{"rule": a, **dict(zip(titles, values[i].tolist(), strict=True))} for i, a in enumerate(titles)]
    figure = matrix(
        values, titles, value_name="agreement (Matthews correlation)", value_range=(-1, 1), width=900, printed=16
    )
    source = {**facts(reader, anchors, rule), "share of visual tokens kept": budget}
    return Exhibit("agreement", "Agreement of the rules", figure, lambda: rows, source)


def alignment(reader: Reader, rule: Rule, found: agreement.Rules) -> Exhibit:
    """Cosine between the mean visual and the mean text state at each layer."""
    at = tuple(range(len(found.ima)))
    profile = Profile("IMA", at, tuple(map(float, found.ima)), ("",) * len(at), "cosine")
    figure = layer_profile([profile], selected_layer=rule.layer, width=ACROSS)
    rows = [{"layer": i, "cosine of the means": float(value)} for i, value in enumerate(found.ima)]
    title = "Implicit alignment: mean visual and mean text state"
    return Exhibit("alignment", title, figure, lambda: rows, unjudged(reader, "all"))


def keep_sets(reader: Reader, anchors: Anchors, rule: Rule, chosen: Mapping[str, np.ndarray], budget: float) -> Exhibit:
    """What each ranking keeps at the budget."""
    kept = {_title(name).removeprefix("keeps: "): mask for name, mask in chosen.items() if name.startswith("keep:")}
    boxes = visual_grid(reader.encoded.token_map).boxes
    figure = multiples.keep_sets(reader.picture.image, boxes, kept, width=ACROSS)
    rows = [
        {"rule": name, "row": row, "col": col, "kept": bool(flag)}
        for name, mask in kept.items()
        for (row, col), flag in np.ndenumerate(mask)
    ]
    source = {**facts(reader, anchors, rule), "share of visual tokens kept": budget}
    return Exhibit("keep-sets", "Patches kept at one budget", figure, lambda: rows, source)


def unparted(chosen: Mapping[str, np.ndarray]) -> list[str]:
    """Which of the sets hold no patch, or every one, so that nothing can agree with them."""
    return [f"{_title(name)} ({'all' if mask.any() else 'none'})" for name, mask in chosen.items() if not _parts(mask)]


def _parts(mask: np.ndarray) -> bool:
    return bool(mask.any() and not mask.all())


def _title(name: str) -> str:
    if name.startswith("keep:"):
        return f"keeps: {NAMES[name.removeprefix('keep:')]}"
    return NAMES.get(name, f"EmbedLens {name}")


def hubness(reader: Reader, anchors: Anchors, rule: Rule, found: Hubness, here: TokenClasses) -> Exhibit:
    """How often each anchor is the best word of this picture's tokens, and of states without content."""
    best = [words[0][0] for words in here.words]
    rates = []
    for number, anchor in enumerate(anchors.found):
        name = f"{anchor.kind} {visible(anchor.token)}"
        share = best.count(anchor.token) / len(best)
        rates.append(Rate(name, "this picture", share, share, share))
        for control in found.controls:
            won = float(control.wins[number])
            rates.append(Rate(name, control.name, won, won, won))
    rows = [{"anchor": rate.group, "states": rate.condition, "share won": rate.share} for rate in rates]
    figure = shares(rates, value_name="share of states whose best word it is", width=ACROSS)
    return Exhibit("hubness", "Hubness control", figure, lambda: rows, facts(reader, anchors, rule, 0))
