"""The controls of the page of function tokens: features, corpus, which tokens are function tokens, least firings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import streamlit as st

from lens.backend.catalog import ModelSpec
from lens.backend.loading import LoadedModel
from lens.errors import LensError
from lens.functiontokens import manifest as form
from lens.functiontokens.counts import CUT
from lens.functiontokens.features import FeaturesSpec, features_for, left_out
from lens.functiontokens.graph import FeatureGraph, graphs_for
from lens.functiontokens.nulls import MIN_FIRINGS
from ui import addresses, state, tokens, tokenstate
from ui.tokens import LISTED, Setting

FREQUENT = "most frequent"
DEFINITIONS = (FREQUENT, LISTED)


@addresses.attended
def choose(spec: ModelSpec, loaded: LoadedModel) -> Setting | None:
    """Draw the controls; ``None`` (and a message) where nothing can be opened."""
    folders = graphs_for(loaded)
    first, second, third, fourth = st.columns([5, 3, 3, 3], vertical_alignment="bottom", gap="medium")
    with first:
        folder = _folder(folders)
        basis = _basis(loaded, folder)
    try:
        features = tokens.features(loaded, loaded.fingerprint, basis.name)
    except LensError as error:
        state.show_error(error)
        return None
    graph = _graph(loaded, folder, basis)
    if graph is not None:
        try:
            graph.check(features)
        except LensError as error:
            state.show_error(error)
            graph = None
    with second:
        how = FREQUENT
        if graph is not None:
            how = addresses.segmented(
                "Function tokens are the", DEFINITIONS, "defined", FREQUENT,
                help="The most frequent tokens that together make up a share of the corpus (the paper's way, at 40 %), or "
                "the closed-class words of English and punctuation.",
            )  # fmt: skip
    with third:
        cut = CUT
        if graph is not None:
            cut = addresses.slider(
                "… up to this share of the corpus", 0.30, 0.50, CUT, 0.05, key="cut", format="percent",
                disabled=how == LISTED,
            )  # fmt: skip
    with fourth:
        n = 1
        if graph is not None:
            n = addresses.select_slider(
                "Firings that make an edge", MIN_FIRINGS, 1, key="firings_n",
                help="A token and a feature are joined if the feature fired on the token at least so often.",
            )  # fmt: skip
    if graph is None:
        _say_what_is_missing(spec, folder, basis)
    definition, ids = _function_ids(loaded, graph, how, cut)
    return Setting(spec, loaded, basis, features, graph, definition, ids, n)


def _folder(folders: dict[str, Path]) -> Path | None:
    """The graph's folder, chosen where there are several."""
    names = list(folders)
    if not names:
        return None
    return folders[addresses.select_if_any("Corpus", names, "graph")]


def _basis(loaded: LoadedModel, folder: Path | None) -> FeaturesSpec:
    """The features in view: those with a graph first, then other autoencoders, then neurons."""
    known = {spec.name: spec for spec in features_for(loaded)}
    for sentence in left_out(loaded):
        st.text(sentence)
    joined = [name for name in _bases(folder) if name in known]
    others = [name for name, spec in known.items() if name not in joined]
    names = [*joined, *others]
    usual = joined or [name for name in others if known[name].kind == "sae"] or others
    return known[
        addresses.select(
            "Features", names, "basis", usual[len(usual) // 2],
            lambda name: known[name].title + ("" if name in joined or not joined else " (no graph)"),
            on_change=tokenstate.leave_feature,
            help="The latents of sparse autoencoders, or the neurons of a block's MLP.",
        )
    ]  # fmt: skip


def _bases(folder: Path | None) -> list[str]:
    if folder is None:
        return []
    try:
        return [record.name for record in form.read_manifest(folder).bases]
    except LensError:
        return []


def _graph(loaded: LoadedModel, folder: Path | None, basis: FeaturesSpec) -> FeatureGraph | None:
    if folder is None or basis.name not in _bases(folder):
        return None
    try:
        return tokens.graph(loaded, folder, basis.name)
    except LensError as error:
        state.show_error(error)
        return None


def _say_what_is_missing(spec: ModelSpec, folder: Path | None, basis: FeaturesSpec) -> None:
    wanted = basis.name if folder is not None or basis.kind == "neurons" else ""
    option = f" --features {wanted}" if wanted else ""
    st.info(
        "There is no graph of these features over a corpus yet, so coverage, walk, matrix and token statistics are missing; "
        f"build one with `python -m lens functiontokens graph {spec.name} --corpus CORPUS{option}`, then reload. Your text, "
        "steering, ablation and the image work without; function tokens are then the closed-class words of English."
    )


def _function_ids(loaded: LoadedModel, graph: FeatureGraph | None, how: str, cut: float) -> tuple[str, np.ndarray]:
    if graph is None or how == LISTED:
        return "closed-class words and punctuation", tokens.listed_ids(loaded, loaded.tokenizer_hash)
    ids = graph.counts.function_ids(cut)
    return f"the most frequent, {cut:.0%} of the corpus", ids
