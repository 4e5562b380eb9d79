"""Which bases of features there are for a model, and opening one.

:func:`features_for` says cheaply what is offered: autoencoders shipped with TokenLens or trained on this machine, and the
MLP neurons of every block. :func:`open_features` opens one of these, or an autoencoder from anywhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from lens.backend.loading import LoadedModel
from lens.errors import FeaturesMismatch, FeaturesUnreadable
from lens.functiontokens.basis import Features, Kind
from lens.functiontokens.formats import CONFIG, Stored, read, read_config
from lens.functiontokens.hub import fetch, is_hub_address
from lens.functiontokens.neurons import open_neurons
from lens.functiontokens.sae import Autoencoder
from lens.home import home

SHIPPED = Path(__file__).with_name("shipped")

__all__ = ["Features", "FeaturesSpec", "SaeFeatures", "bind", "features_for", "left_out", "open_features"]


@dataclass(frozen=True)
class FeaturesSpec:
    """What can be opened for a model, without opening it.

    Attributes:
        name: what :func:`open_features` takes, and what is typed on the command line.
        title: for a menu. note: one line on what this basis is, and how good.
        folder: where an autoencoder lies; ``None`` for neurons.
    """

    name: str
    kind: Kind
    layer: int
    size: int
    title: str
    note: str
    folder: Path | None = None


@dataclass(frozen=True, eq=False)
class SaeFeatures(Features):
    """The latents of a sparse autoencoder."""

    autoencoder: Autoencoder

    def encode(self, states: Float[Tensor, "n d"]) -> Float[Tensor, "n m"]:
        """Values of the latents, never negative."""
        with torch.inference_mode():
            return self.autoencoder.encode(states)

    def decode(self, values: Float[Tensor, "n m"]) -> Float[Tensor, "n d"]:
        """The states that these values stand for."""
        with torch.inference_mode():
            return self.autoencoder.decode(values)

    def direction(self, feature: int) -> Float[Tensor, " d"]:
        """The latent's row of the decoder."""
        return self.autoencoder.w_dec[self.check(feature)]


def features_for(loaded: LoadedModel) -> tuple[FeaturesSpec, ...]:
    """What can be offered for a model: the autoencoders that fit its language model, by layer, then its neurons."""
    return (*_autoencoders(loaded), *(_neurons(loaded, block) for block in range(1, loaded.anatomy.depth + 1)))


def open_features(loaded: LoadedModel, name_or_path: str, layer: int | None = None) -> Features:
    """Open a basis by its name, by the path of an autoencoder's folder or file, or from the hub (``owner/name/folder``).

    ``layer`` says where an autoencoder of the residual stream belongs whose files and path don't.

    Raises:
        FeaturesUnreadable: nothing there, damaged, or a variant whose forward isn't known exactly.
        FeaturesMismatch: of another width or model, or of a layer that this model doesn't have.
        LayerMissing: neurons of a block that this model doesn't have.
    """
    if match := re.fullmatch(r"neurons-(\d{1,9})", name_or_path):
        if layer not in (None, int(match[1])):
            raise FeaturesMismatch(
                f"{name_or_path} are neurons of block {int(match[1])}, not {layer}; leave the layer out."
            )
        return open_neurons(loaded, int(match[1]))
    known = {spec.name: spec.folder for spec in _autoencoders(loaded)}
    damaged = _own(loaded).get(name_or_path)
    if isinstance(damaged, FeaturesUnreadable):
        raise damaged
    if (folder := known.get(name_or_path)) is not None:
        return bind(loaded, read(folder, layer), name_or_path)
    path = Path(name_or_path)
    if not _exists(path):
        if not is_hub_address(name_or_path):
            names = ", ".join([*known, f"neurons-1 to neurons-{loaded.anatomy.depth}"])
            raise FeaturesUnreadable(
                f"There are no features {name_or_path[:120]!r}: give one of {names}, a folder that exists, or a hub "
                "address such as owner/name/folder."
            )
        path = fetch(name_or_path)
    return bind(loaded, read(path, layer), path.name or name_or_path)


def bind(loaded: LoadedModel, stored: Stored, name: str) -> SaeFeatures:
    """A stored autoencoder as features of ``loaded``; :class:`FeaturesMismatch` if it doesn't fit."""
    anatomy, autoencoder = loaded.anatomy, stored.autoencoder
    problem = None
    if stored.language_fingerprint not in (None, loaded.language_fingerprint):
        problem = f"was trained on the states of another language model than that of {loaded.name}"
    elif autoencoder.width != anatomy.width:
        problem = f"reads states of width {autoencoder.width}, but those of {loaded.name} are {anatomy.width} wide"
    elif not 0 <= stored.layer <= anatomy.depth:
        problem = f"belongs to layer {stored.layer}, but {loaded.name} has layers 0 to {anatomy.depth}"
    if problem:
        raise FeaturesMismatch(
            f"The autoencoder {name[:120]!r} {problem}; choose one of this model, or its MLP neurons."
        )
    inside = stored.layer < anatomy.depth
    site = f"hidden.{stored.layer}" if inside and stored.site == f"block.{stored.layer}" else stored.site
    return SaeFeatures(
        name=name,
        kind="sae",
        layer=stored.layer,
        site=site,
        size=autoencoder.size,
        fires=_fires(autoencoder),
        steerable=inside or site.startswith("hidden."),
        fingerprint=autoencoder.digest(site),
        autoencoder=autoencoder.to(loaded.device),
    )


def _fires(autoencoder: Autoencoder) -> str:
    """When a latent counts as active, for the page."""
    return {
        "relu": "A latent is active where its value is above 0.",
        "jumprelu": "A latent is active where its value is above the threshold learned for it.",
        "topk": f"A latent is active where its value is above 0 and among the {autoencoder.k} largest of the token.",
        "groupmax": "A latent is active where its value is above 0 and the largest of its group.",
    }[autoencoder.rule]


def left_out(loaded: LoadedModel) -> tuple[str, ...]:
    """One sentence for each of the user's own folders that can't be offered because it is damaged."""
    return tuple(str(found) for found in _own(loaded).values() if isinstance(found, FeaturesUnreadable))


def _autoencoders(loaded: LoadedModel) -> list[FeaturesSpec]:
    """Specs of the folders, the user's own and shipped ones, that are bound to this language model."""
    shipped = (_described(file, loaded) for file in sorted(SHIPPED.glob(f"*/{CONFIG}")))
    found: dict[str, FeaturesSpec] = {}
    for spec in (*_own(loaded).values(), *shipped):
        if isinstance(spec, FeaturesSpec):
            found.setdefault(spec.name, spec)
    return sorted(found.values(), key=lambda spec: (spec.layer, spec.name))


def _own(loaded: LoadedModel) -> dict[str, FeaturesSpec | FeaturesUnreadable | None]:
    """The user's own folders by name, see :func:`_described`."""
    files = sorted((home() / "features").glob(f"*/{CONFIG}"))
    return {file.parent.name: _described(file, loaded) for file in files}


def _described(file: Path, loaded: LoadedModel) -> FeaturesSpec | FeaturesUnreadable | None:
    """What the configuration of a folder says of its autoencoder; ``None`` for one that isn't bound to this model, or by
    nobody, and the error for a damaged one."""
    try:
        cfg = read_config(file.parent)
    except FeaturesUnreadable as error:
        return error
    about = cfg.get("metadata")
    if not isinstance(about, dict) or about.get("language_fingerprint") != loaded.language_fingerprint:
        return None
    kinds = {"layer": (about, int), "title": (about, str), "note": (about, str), "d_sae": (cfg, int)}
    wrong = [name for name, (held, kind) in kinds.items() if type(held.get(name)) is not kind]
    if wrong or not 0 <= about["layer"] <= loaded.anatomy.depth or cfg["d_sae"] < 1:
        what = " and ".join(wrong) or "layer or d_sae"
        return FeaturesUnreadable(
            f"The autoencoder in {file.parent.name[:60]!r} is left out, since its {CONFIG} has no usable {what}; mend or "
            "remove it."
        )
    return FeaturesSpec(
        file.parent.name, "sae", about["layer"], cfg["d_sae"], about["title"], about["note"], file.parent
    )


def _neurons(loaded: LoadedModel, block: int) -> FeaturesSpec:
    size = loaded.anatomy.neurons(block)
    note = f"The {size:,} neurons of block {block}'s MLP: nothing to train or fetch, but each answers to many things."
    return FeaturesSpec(f"neurons-{block}", "neurons", block, size, f"MLP neurons of block {block}", note)


def _exists(path: Path) -> bool:
    """Whether something is at ``path``; no for what can't be a path."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
