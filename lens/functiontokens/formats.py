"""Files of sparse autoencoders, read directly: what each format holds, and where in the model it belongs.

===================  ==========================================================================================
SAELens              ``cfg.json``, ``sae_weights.safetensors``: W_enc [d, m], b_enc, W_dec [m, d], b_dec, threshold
EleutherAI sparsify  ``cfg.json``, ``sae.safetensors``: encoder.weight [m, d], encoder.bias, W_dec [m, d], b_dec
Gemma Scope          ``params.npz``: W_enc [d, m], b_enc, W_dec [m, d], b_dec, threshold; b_dec isn't taken off the input
===================  ==========================================================================================

Field names are those of SAELens and sparsify, see :mod:`lens.functiontokens.fields`. What can't be computed exactly is
refused with one sentence: gated autoencoders and transcoders, activations that are normalised token by token (a latent then
has no fixed direction) or by a factor that isn't in the file, places other than the residual stream and the outputs of
attention and MLP, and every field or tensor that isn't known to be harmless. A place that isn't stated is asked for. Nothing
is unpickled. :func:`write` writes the SAELens format.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lens.errors import FeaturesUnreadable
from lens.functiontokens import fields
from lens.functiontokens.sae import Autoencoder, Rule

CONFIG, SAELENS, SPARSIFY, GEMMA_SCOPE = "cfg.json", "sae_weights.safetensors", "sae.safetensors", "params.npz"
FILES = (CONFIG, SAELENS, SPARSIFY, GEMMA_SCOPE)
TENSORS = ("W_enc", "b_enc", "W_dec", "b_dec")
ACTIVATIONS = {"standard": "relu", "jumprelu": "jumprelu", "topk": "topk"}


@dataclass(frozen=True, eq=False)
class Stored:
    """An autoencoder as it was found.

    Attributes:
        layer: in the convention of :mod:`lens.backend.anatomy`; where the autoencoder's output is part of the stream.
        site: what it reads: ``block.i`` (for i < N the same as ``hidden.i``), ``hidden.0``, ``attention.i`` or ``mlp.i``.
        language_fingerprint: of the model that it was trained on, where the file says so.
    """

    autoencoder: Autoencoder
    layer: int
    site: str
    language_fingerprint: str | None = None


def read(path: Path, layer: int | None = None) -> Stored:
    """The autoencoder in the folder ``path`` (or whose file ``path`` is).

    ``layer``: where it belongs, for one of the residual stream whose files and path don't say so, or to override them.

    Raises:
        FeaturesUnreadable: not of a known format, damaged, or a variant that can't be computed exactly.
    """
    folder = path if path.is_dir() else path.parent
    readers = {SAELENS: _saelens, SPARSIFY: _sparsify, GEMMA_SCOPE: _gemma_scope}
    for name, reader in readers.items():
        if (folder / name).is_file():
            return reader(folder, layer)
    held = sorted({f"{file.parent.relative_to(folder)}" for name in readers for file in folder.glob(f"*/{name}")})
    several = f" (it holds {', '.join(held[:5])}: give one of these)" if held else ""
    raise FeaturesUnreadable(
        f"{folder.name!r} holds no autoencoder{several}; expected is a folder with {SAELENS} or {SPARSIFY} and its "
        f"{CONFIG}, or with {GEMMA_SCOPE}."
    )


def residual(layer: int) -> str:
    """The site of the residual stream at a layer: the output of block ``layer``, or the input embeddings."""
    return f"block.{layer}" if layer else "hidden.0"


def write(folder: Path, autoencoder: Autoencoder, layer: int, metadata: Mapping[str, Any], dtype: torch.dtype) -> None:
    """Write a residual-stream autoencoder as SAELens does; matrices in ``dtype``, all else in float32.

    ``cfg.json`` comes last, so that a folder with one is complete.
    """
    if autoencoder.rule not in ACTIVATIONS.values():
        raise ValueError(f"SAELens has no {autoencoder.rule} autoencoders.")
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"W_enc": autoencoder.w_enc.to(dtype), "W_dec": autoencoder.w_dec.to(dtype)}
    tensors |= {"b_enc": autoencoder.b_enc, "b_dec": autoencoder.b_dec}
    cfg: dict[str, Any] = {
        "architecture": next(name for name, rule in ACTIVATIONS.items() if rule == autoencoder.rule),
        "d_in": autoencoder.width,
        "d_sae": autoencoder.size,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": autoencoder.centred,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"hook_name": f"blocks.{layer - 1}.hook_resid_post" if layer else "hook_embed", **metadata},
    }
    if autoencoder.threshold is not None:
        tensors["threshold"] = autoencoder.threshold
    if autoencoder.k:
        cfg["k"] = autoencoder.k
    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, folder / SAELENS)
    unfinished = folder / f".{CONFIG}"
    unfinished.write_text(json.dumps(cfg, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(folder / CONFIG)


def _saelens(folder: Path, layer: int | None) -> Stored:
    cfg = read_config(folder)
    about = {**_dict(cfg.get("meta")), **_dict(cfg.get("metadata"))}
    for part in (cfg, about):
        unknown = fields.changing(part, fields.SAELENS_HARMLESS | fields.SAELENS_COMPUTED, fields.SAELENS_ONLY)
        _refuse_fields(folder, unknown)
        for name in ("model_from_pretrained_kwargs", "model_kwargs"):
            _refuse_fields(folder, fields.loading(part.get(name)))
    about = {**cfg, **about}
    rule, k = _saelens_rule(folder, cfg)
    heads = (about.get("hook_head_index"), about.get("hook_point_head_index"))
    if any(head is not None for head in heads) or cfg.get("reshape_activations", "none") not in ("none", None):
        _refuse(folder, "reads single attention heads")
    place = _given(folder, layer, _transformer_lens_place(folder, about))
    tensors = _safetensors(folder / SAELENS)
    autoencoder = _assemble(folder, tensors, rule, k, _flag(folder, cfg, "apply_b_dec_to_input", True))
    if _flag(folder, cfg, "rescale_acts_by_decoder_norm", False):
        autoencoder = _unit_rows(autoencoder)
    fingerprint = about.get("language_fingerprint")
    if fingerprint is not None and about.get("layer", place[0]) != place[0] and layer is None:
        _refuse(folder, f"belongs to layer {place[0]} by its hook, but sets layer to {_shown(about['layer'])}")
    return Stored(autoencoder, *place, fingerprint if isinstance(fingerprint, str) else None)


def _saelens_rule(folder: Path, cfg: Mapping[str, Any]) -> tuple[Rule, Any]:
    """The rule by which a latent fires, and its k."""
    architecture = _first(cfg, "architecture", default="standard")
    activation = _first(cfg, "activation_fn_str", "activation_fn", default="relu")
    if not isinstance(architecture, str) or architecture not in ACTIVATIONS:
        _refuse(folder, f"is a {_shown(architecture)} autoencoder")
    if activation not in ("relu", "topk") or (activation == "topk" and architecture == "jumprelu"):
        _refuse(folder, f"is a {architecture} autoencoder with the activation {_shown(activation)}")
    normalised = _first(cfg, "normalize_activations", default="none")
    if normalised not in ("none", False):
        _refuse(folder, f"normalises states before encoding them ({_shown(normalised)})")
    rule: Any = "topk" if activation == "topk" else ACTIVATIONS[architecture]
    settings = _dict(cfg.get("activation_fn_kwargs"))
    _refuse_fields(folder, fields.changing(settings, frozenset({"k"}), {}))
    if rule != "topk":
        _refuse_fields(folder, fields.changing({"k": cfg.get("k")}, frozenset(), {}))
    return rule, cfg.get("k", settings.get("k", 0))


def _unit_rows(autoencoder: Autoencoder) -> Autoencoder:
    """``rescale_acts_by_decoder_norm`` folded in: values are those of unit-norm decoder rows."""
    norms = autoencoder.w_dec.norm(dim=-1)
    w_enc, b_enc, w_dec = autoencoder.w_enc * norms, autoencoder.b_enc * norms, autoencoder.w_dec / norms[:, None]
    return replace(autoencoder, w_enc=w_enc, b_enc=b_enc, w_dec=w_dec)


def _transformer_lens_place(folder: Path, about: Mapping[str, Any]) -> tuple[int, str] | None:
    """Layer and site of a TransformerLens hook, ``None`` where none is named; its blocks count from 0."""
    hook = about.get("hook_name") or about.get("hook_point") or ""
    if hook in ("", "hook_embed"):
        return (0, "hidden.0") if hook else None
    match = re.fullmatch(r"blocks\.(\d{1,4})\.hook_(resid_pre|resid_post|attn_out|mlp_out)", str(hook))
    if not match:
        _refuse(folder, f"reads the place {_shown(hook)}")
    for name in ("hook_layer", "hook_point_layer"):
        if about.get(name) not in (None, int(match[1])):
            _refuse(folder, f"reads the place {_shown(hook)} by one field, but sets {name} to {_shown(about[name])}")
    block = int(match[1]) + 1
    if match[2].startswith("resid"):
        layer = block if match[2] == "resid_post" else block - 1
        return layer, residual(layer)
    return block, f"{'attention' if match[2] == 'attn_out' else 'mlp'}.{block}"


def _sparsify(folder: Path, layer: int | None) -> Stored:
    cfg = read_config(folder)
    if cfg.get("transcode") or cfg.get("skip_connection"):
        _refuse(folder, "is a transcoder, which predicts one place from another")
    unknown = fields.changing(cfg, fields.SPARSIFY_HARMLESS | fields.SPARSIFY_COMPUTED, fields.SPARSIFY_ONLY)
    _refuse_fields(folder, unknown)
    rule = _first(cfg, "activation", default="topk")
    if rule not in ("topk", "groupmax"):
        _refuse(folder, f"uses the activation {_shown(rule)}")
    place = _given(folder, layer, _module_place(folder))
    names = {"encoder.weight": "W_enc", "encoder.bias": "b_enc"}
    tensors = {names.get(name, name): tensor for name, tensor in _safetensors(folder / SPARSIFY).items()}
    if "W_enc" in tensors and tensors["W_enc"].ndim == 2:
        tensors["W_enc"] = tensors["W_enc"].mT
    autoencoder = _assemble(folder, tensors, rule, cfg.get("k", 0), True)
    if rule == "groupmax" and autoencoder.size % autoencoder.k:
        _refuse(folder, f"has {autoencoder.size} latents in {autoencoder.k} groups of unequal size")
    return Stored(autoencoder, *place)


def _module_place(folder: Path) -> tuple[int, str] | None:
    """Layer and site of a sparsify hookpoint, which is the folder's name: ``layers.12``, ``h.5.mlp``; blocks from 0."""
    name = folder.resolve().name
    if name == "embed_tokens":
        return 0, "hidden.0"
    match = re.fullmatch(r"(?:\w+\.)*(?:layers|h)\.(\d{1,4})(?:\.(mlp|attn|self_attn|attention))?", name)
    if not match:
        return None
    block = int(match[1]) + 1
    part = {None: "block", "mlp": "mlp"}.get(match[2], "attention")
    return block, f"{part}.{block}"


def _gemma_scope(folder: Path, layer: int | None) -> Stored:
    place = _given(folder, layer, _gemma_scope_place(folder))
    try:
        with np.load(folder / GEMMA_SCOPE, allow_pickle=False) as file:
            arrays = {
                ("W" + name[1:] if name.startswith("w_") else name): np.asarray(file[name]) for name in file.files
            }
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items() if array.dtype.kind in "fiu"}
    except Exception as error:  # of zipfile, zlib and NumPy's header parser, each with its own
        _damaged(folder / GEMMA_SCOPE, error)
    _refuse_tensors(folder, arrays.keys() - tensors.keys())
    return Stored(_assemble(folder, tensors, "jumprelu", 0, False), *place)


def _gemma_scope_place(folder: Path) -> tuple[int, str] | None:
    """Layer and site by the path on the hub, ``gemma-scope-2b-pt-res/layer_20/...``; ``None`` unless it says both: the
    files of the other kinds look the same."""
    path = folder.resolve().as_posix().lower()
    kinds = set(re.findall(r"gemma-scope-[\w.]+(?:-[a-z0-9]+)*?-(res|att|mlp|transcoders?)(?![a-z])", path))
    if kinds - {"res"} or "/embedding/" in path:
        _refuse(folder, "is of a kind of Gemma Scope other than the residual stream's")
    blocks = set(re.findall(r"(?<![a-z])layer_(\d{1,4})(?=/|$)", path))
    if not kinds or len(blocks) != 1:
        return None
    layer = int(blocks.pop()) + 1
    return layer, residual(layer)


def _given(folder: Path, layer: int | None, stated: tuple[int, str] | None) -> tuple[int, str]:
    """The layer and site that are stated, or the residual stream at the layer that was asked for."""
    if layer is None and stated is None:
        raise FeaturesUnreadable(
            f"The autoencoder in {folder.name[:60]!r} doesn't say which layer it reads (its hook is '', and no folder is "
            "named as on the hub, such as layers.12 or gemma-scope-2b-pt-res/layer_20); name the layer (--layer) if it is "
            "of the residual stream, or keep the names of the hub."
        )
    if layer is None or stated == (layer, residual(layer)):
        assert stated is not None
        return stated
    if stated is not None and stated[1] != residual(stated[0]):
        _refuse(folder, f"reads {stated[1]} and not the residual stream at layer {layer}")
    return layer, residual(layer)


def _assemble(folder: Path, tensors: Mapping[str, Tensor], rule: Rule, k: Any, centred: bool) -> Autoencoder:
    """Check names, shapes and values; all in float32."""
    names = [*TENSORS, *(["threshold"] if rule == "jumprelu" else [])]
    missing = [name for name in names if name not in tensors]
    if missing:
        _refuse(folder, f"has no {', '.join(missing)}")
    w_enc, b_enc, w_dec, b_dec, *threshold = (tensors[name].float().contiguous() for name in names)
    shapes = {name: tuple(tensors[name].shape) for name in names}
    d, m = shapes["W_enc"] if w_enc.ndim == 2 else (0, 0)
    wanted = {"W_enc": (d, m), "b_enc": (m,), "W_dec": (m, d), "b_dec": (d,), "threshold": (m,)}
    wrong = next((name for name in names if shapes[name] != wanted[name] or 0 in shapes[name]), None)
    if wrong:
        _refuse(folder, f"has {wrong} of shape {shapes[wrong]}, which doesn't go with W_enc of shape {shapes['W_enc']}")
    if not all(torch.isfinite(tensor).all() for tensor in (w_enc, b_enc, w_dec, b_dec)) or any(
        torch.isnan(t).any() for t in threshold
    ):
        _refuse(folder, "has weights that are NaN or infinite")
    grouped, one = rule in ("topk", "groupmax"), torch.ones(1)
    if grouped and not (type(k) is int and 1 <= k <= m):
        _refuse(folder, f"lets k = {_shown(k)} of its {m} latents fire")
    scaled = {
        name for name in ("scaling_factor", "finetuning_scaling_factor") if torch.all(tensors.get(name, one) == 1)
    }
    _refuse_tensors(folder, tensors.keys() - {*names, *scaled})
    return Autoencoder(
        w_enc, b_enc, w_dec, b_dec, rule, threshold[0] if threshold else None, k if grouped else 0, centred
    )


def read_config(folder: Path) -> dict[str, Any]:
    """What stands in ``cfg.json``, an object; :class:`FeaturesUnreadable` if it can't be read as one."""
    try:
        cfg = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        _damaged(folder / CONFIG, error)
    if not isinstance(cfg, dict):
        _refuse(folder, f"has a {CONFIG} that is no object")
    return cfg


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError, ValueError, RuntimeError, TypeError, KeyError, AttributeError) as error:
        _damaged(path, error)


def _flag(folder: Path, cfg: Mapping[str, Any], name: str, default: bool) -> bool:
    value = cfg.get(name)
    if value is not None and not isinstance(value, bool):
        _refuse_fields(folder, [(name, value)])
    return default if value is None else value


def _first(cfg: Mapping[str, Any], *names: str, default: str) -> Any:
    """The first of these fields that has a value."""
    return next((cfg[name] for name in names if cfg.get(name) is not None), default)


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _shown(value: Any) -> str:
    """A value as a message has it: short, on one line."""
    text = repr(value) if isinstance(value, str) else " ".join(str(value).split())
    return text if len(text) <= 60 else text[:57] + "..."


def _refuse_fields(folder: Path, unknown: Iterable[tuple[str, Any]]) -> None:
    """Refuse an autoencoder for fields of its configuration, by name."""
    found = [f"{str(name)[:40]} to {_shown(value)}" for name, value in unknown]
    if found:
        more = f" and {len(found) - 3} more fields" if len(found) > 3 else ""
        _refuse(folder, f"sets {', '.join(found[:3])}{more}, which may change what or where it computes")


def _refuse_tensors(folder: Path, unknown: Iterable[str]) -> None:
    """Refuse an autoencoder for tensors that its variant has no use for, by name."""
    found = sorted(str(name)[:40] for name in unknown)
    if found:
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        _refuse(folder, f"holds {', '.join(found[:5])}{more}, which its variant has no use for")


def _damaged(path: Path, error: Exception) -> NoReturn:
    raise FeaturesUnreadable(
        f"{path.name} in {path.parent.name!r} can't be read ({' '.join(str(error).split())[:120]}); fetch it again."
    ) from error


def _refuse(folder: Path, what: str) -> NoReturn:
    raise FeaturesUnreadable(
        f"The autoencoder in {folder.name[:60]!r} {what}, which TokenLens can't use; choose another, or MLP neurons."
    )
