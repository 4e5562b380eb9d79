"""What the page of function tokens computes, kept by content: a click or a slider set back computes nothing anew.

Everything here reads the graph on disk or one forward over the reader's text, except the jobs (``*_work``), which run many
forwards and are started by a button.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import streamlit as st

from lens.backend.catalog import ModelSpec
from lens.backend.encoding import Encoded, encode
from lens.backend.folders import MANIFEST
from lens.backend.loading import LoadedModel
from lens.backend.store import STORE
from lens.functiontokens import coverage as reach
from lens.functiontokens import featurecards, matrix, neighbourhood
from lens.functiontokens import manifest as form
from lens.functiontokens.ablation import Ablation, Means, ablate_corpus, ablate_prompt
from lens.functiontokens.counts import vocabulary_ids
from lens.functiontokens.coverage import Coverage, Degrees, Rarefaction, TypeReach
from lens.functiontokens.featurecards import FeatureCard, FeatureWords
from lens.functiontokens.features import Features, FeaturesSpec, open_features
from lens.functiontokens.graph import FeatureGraph, open_graph, sound
from lens.functiontokens.losses import GroupLosses, corpus_losses
from lens.functiontokens.matrix import TokenMatrix
from lens.functiontokens.neighbourhood import Neighbourhood, Order
from lens.functiontokens.prompt import PromptReading, prompt_sites, read_prompt
from lens.functiontokens.search import Added, LayerScan, MinimalK, Trait, layer_scan, minimal_k
from lens.functiontokens.steering import Steering, steer
from lens.functiontokens.visual import VisualFeatures, visual_features
from lens.progress import Report
from ui.state import Reader

DEFAULT_TEXT = "Answer the question in Chinese: What is the capital of Russia?"
"""The paper's own example."""
LISTED = "word list"
"""The definition of function tokens that needs no corpus."""
GLOSS = 3
"""Words that stand for a feature beside its number."""
LOSS_TOKENS = 5000
"""Tokens of the corpus whose loss is measured on the page."""
ABLATED_TEXTS = 20


@dataclass(frozen=True, eq=False)
class Setting:
    """What everything on the page depends on.

    Attributes:
        basis: the features in view, unopened; features: the same, opened.
        graph: of these features over a corpus; ``None`` where none was built.
        definition: how function tokens are told, for a reader; function_ids: which they are.
        n: least firings of an edge.
    """

    spec: ModelSpec
    loaded: LoadedModel
    basis: FeaturesSpec
    features: Features
    graph: FeatureGraph | None
    definition: str
    function_ids: np.ndarray
    n: int

    @property
    def key(self) -> Hashable:
        """Names all of it by content."""
        graph = (str(self.graph.folder), self.graph.manifest.created) if self.graph else None
        return self.loaded.fingerprint, self.features.fingerprint, graph, self.definition, self.n

    @property
    def has_graph(self) -> FeatureGraph:
        """The graph, where the caller knows that there is one."""
        assert self.graph is not None
        return self.graph


@st.cache_resource(max_entries=6, show_spinner="Opening the features")
def features(_loaded: LoadedModel, fingerprint: str, name: str) -> Features:
    """A basis, opened once."""
    return open_features(_loaded, name)


def graph(loaded: LoadedModel, folder: Path, basis: str) -> FeatureGraph:
    """A basis's graph, opened once while it lies still on disk."""
    return _graph(loaded, folder, basis, (folder / MANIFEST).stat().st_mtime_ns, loaded.language_fingerprint)


@st.cache_resource(max_entries=4, show_spinner="Opening the graph")
def _graph(_loaded: LoadedModel, folder: Path, basis: str, changed: int, fingerprint: str) -> FeatureGraph:
    return open_graph(folder, basis, _loaded)


@st.cache_resource(max_entries=8, show_spinner="Reading the vocabulary")
def listed_ids(_loaded: LoadedModel, tokenizer_hash: str) -> np.ndarray:
    """The closed-class tokens of the whole vocabulary."""
    return vocabulary_ids(_loaded)


@st.cache_resource(max_entries=64, show_spinner=False)
def _coverage(_setting: Setting, key: Hashable) -> Coverage:
    return reach.coverage(_setting.has_graph, _setting.function_ids, _setting.n)


@st.cache_resource(max_entries=64, show_spinner=False)
def _rarefaction(_setting: Setting, key: Hashable) -> tuple[Rarefaction, TypeReach]:
    found, ids = _setting.has_graph, _setting.function_ids
    return reach.rarefaction(found, ids), reach.reach_by_type(found, ids)


@st.cache_resource(max_entries=64, show_spinner=False)
def _degrees(_setting: Setting, key: Hashable) -> Degrees:
    return reach.degree_plot(_setting.has_graph, _setting.function_ids, _setting.n)


@st.cache_resource(max_entries=32, show_spinner=False)
def _matrix(_setting: Setting, value: matrix.Value, key: Hashable) -> TokenMatrix:
    found = _setting.has_graph
    ids = found.counts.ids[found.is_function(_setting.function_ids)]
    return matrix.token_matrix(found, ids, _setting.n, value)


@st.cache_resource(max_entries=256, show_spinner=False)
def _neighbourhood(_setting: Setting, node: tuple[str, int], order: Order, key: Hashable) -> Neighbourhood:
    around = {"token": neighbourhood.around_token, "feature": neighbourhood.around_feature}[node[0]]
    return around(_setting.has_graph, node[1], _setting.n, order)


@st.cache_resource(max_entries=256, show_spinner=False)
def _card(_setting: Setting, feature: int, key: Hashable) -> FeatureCard:
    return featurecards.feature_card(_setting.has_graph, feature, _setting.function_ids)


@st.cache_resource(max_entries=512, show_spinner=False)
def _words(_setting: Setting, feature: int, fingerprints: Hashable) -> FeatureWords:
    return featurecards.feature_words(_setting.loaded, _setting.features, feature)


@st.cache_resource(max_entries=3, show_spinner="Comparing the features' directions")
def _directions(_features: Features, fingerprint: str) -> Any:
    return featurecards.directions(_features)


@st.cache_resource(max_entries=256, show_spinner=False)
def _similar(_setting: Setting, feature: int, fingerprint: str) -> tuple[tuple[int, float], ...]:
    rows = _directions(_setting.features, fingerprint)
    return featurecards.similar_features(_setting.features, feature, rows=rows)


def coverage(setting: Setting) -> Coverage:
    """The paper's curve with its null."""
    return _coverage(setting, setting.key)


def rarefaction(setting: Setting) -> tuple[Rarefaction, TypeReach]:
    """What either group reaches at equal occurrence, all together and token by token."""
    return _rarefaction(setting, setting.key)


def degrees(setting: Setting) -> Degrees:
    """Degree against frequency."""
    return _degrees(setting, setting.key)


def token_matrix(setting: Setting, value: matrix.Value) -> TokenMatrix:
    """Function tokens by features, clustered."""
    return _matrix(setting, value, setting.key)


def around(setting: Setting, node: tuple[str, int], order: Order) -> Neighbourhood:
    """The part of the graph about a node."""
    return _neighbourhood(setting, node, order, setting.key)


def card(setting: Setting, feature: int) -> FeatureCard:
    """What the graph knows of a feature."""
    return _card(setting, feature, setting.key)


def words(setting: Setting, feature: int) -> FeatureWords:
    """What a feature says."""
    return _words(setting, feature, (setting.loaded.fingerprint, setting.features.fingerprint))


def similar(setting: Setting, feature: int) -> tuple[tuple[int, float], ...]:
    """Features that point the same way, with their cosines."""
    return _similar(setting, feature, setting.features.fingerprint)


def gloss(setting: Setting, feature: int) -> tuple[str, ...]:
    """A few words that stand for a feature: the tokens that speak most for it, else the words that it promotes.

    A token speaks for a feature by firings x log2 of its lift: often, and more often than its frequency explains.
    """
    if setting.graph is not None:
        found = setting.graph.feature_tokens(feature)
        speaks = found.firings * np.log2(np.maximum(found.lift, 1.0))
        best = found.nodes[np.lexsort((found.nodes, -speaks))[:GLOSS]]
        if len(best):
            return tuple(setting.graph.counts.texts[rank] for rank in best)
    return tuple(word for word, _logit in words(setting, feature).promoted[:GLOSS])


@st.cache_resource(max_entries=32, show_spinner=False)
def encoded(_loaded: LoadedModel, text: str, fingerprint: str) -> Encoded:
    """The reader's text as the model gets it, without a picture."""
    return encode(_loaded, text, None)


def reading(setting: Setting, text: str) -> tuple[Encoded, PromptReading]:
    """What the tokens of the reader's text fire; one forward for a new text."""
    return _reading(setting, text, setting.key)


@st.cache_resource(max_entries=32, show_spinner="Reading your text")
def _reading(_setting: Setting, text: str, key: Hashable) -> tuple[Encoded, PromptReading]:
    loaded = _setting.loaded
    found = encoded(loaded, text, loaded.fingerprint)
    held = STORE.trace(loaded, found, prompt_sites(loaded, _setting.features))
    return found, read_prompt(loaded, found, _setting.features, _setting.function_ids, held=held)


def sentences(setting: Setting) -> list[str]:
    """The sentences that the graph keeps of its corpus, as contexts of the features."""
    return _sentences(setting.has_graph.folder, setting.has_graph.manifest.created)


@st.cache_resource(max_entries=2, show_spinner=False)
def _sentences(folder: Path, created: str) -> list[str]:
    return sound(folder, lambda: pq.read_table(folder / form.SENTENCES).column("text").to_pylist())


def losses_work(setting: Setting) -> Callable[[Report], GroupLosses]:
    """The four-group loss of the corpus."""

    def work(report: Report) -> GroupLosses:
        named = f"{setting.has_graph.manifest.corpus}"
        options = {"name": named, "limit": LOSS_TOKENS, "report": report}
        return corpus_losses(setting.loaded, sentences(setting), setting.function_ids.tolist(), **options)

    return work


def steer_work(
    setting: Setting, found: Encoded, pushes: Sequence[tuple[int, float]], position: int
) -> Callable[[Report], Steering]:
    """A push with its controls; the features that controls are drawn from are those that fire in the corpus."""
    pool = None if setting.graph is None else setting.graph.active.tolist()

    def work(report: Report) -> Steering:
        return steer(setting.loaded, found, setting.features, pushes, [position], pool=pool, report=report)

    return work


@dataclass(frozen=True)
class Sought:
    """A search for a trait: prompts without it, words that show it, what is added to the prompts and how much of it."""

    plain: tuple[str, ...]
    words: tuple[str, ...]
    added: Added
    alpha: float


def _trait(setting: Setting, found: Encoded, sought: Sought, report: Report) -> Trait:
    """The reader's text as the trait prompt."""
    report(0, 1, "the unchanged answers")
    loaded = setting.loaded
    prompts = [encoded(loaded, one, loaded.fingerprint) for one in sought.plain]
    return Trait(loaded, found, prompts, sought.words, setting.function_ids.tolist(), sought.added)


def scan_work(setting: Setting, found: Encoded, sought: Sought) -> Callable[[Report], LayerScan]:
    """What the text's last function token holds, added to other prompts layer by layer."""

    def work(report: Report) -> LayerScan:
        return layer_scan(_trait(setting, found, sought, report), alpha=sought.alpha, report=report)

    return work


def smallest_work(setting: Setting, found: Encoded, sought: Sought) -> Callable[[Report], MinimalK]:
    """The least number of features that does the same."""

    def work(report: Report) -> MinimalK:
        return minimal_k(_trait(setting, found, sought, report), setting.features, alpha=sought.alpha, report=report)

    return work


def ablation_work(setting: Setting, found: Encoded, layer: int, means: Means) -> Callable[[Report], Ablation]:
    """Function against content positions of the reader's text."""

    def work(report: Report) -> Ablation:
        ids = setting.function_ids.tolist()
        return ablate_prompt(setting.loaded, found, ids, layer, means=means, report=report)

    return work


def corpus_ablation_work(setting: Setting, layer: int, means: Means) -> Callable[[Report], Ablation]:
    """The same on sentences of the corpus."""

    def work(report: Report) -> Ablation:
        named = setting.has_graph.manifest.corpus
        options = {"name": named, "texts": ABLATED_TEXTS, "means": means, "report": report}
        return ablate_corpus(setting.loaded, sentences(setting), setting.function_ids.tolist(), layer, **options)

    return work


def visual_work(setting: Setting, reader: Reader, text: str | None) -> Callable[[Report], VisualFeatures]:
    """What the picture's patches fire, beside the words of ``text``; ``None``: of the model's own answer."""

    def work(report: Report) -> VisualFeatures:
        report(0, 2, "The picture")
        said = STORE.answer(reader.loaded, reader.encoded).text if text is None else text
        held = STORE.trace(reader.loaded, reader.encoded, [setting.features.site])
        report(1, 2, "Its controls")
        return visual_features(reader.loaded, reader.encoded, setting.features, said, held=held)

    return work


def quality(spec: FeaturesSpec) -> dict[str, Any] | None:
    """The figures of an autoencoder's card; ``None`` where it has none."""
    try:
        return json.loads((spec.folder / "quality.json").read_text(encoding="utf-8")) if spec.folder else None
    except (OSError, ValueError, RecursionError):
        return None
