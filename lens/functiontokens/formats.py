"""Files of sparse autoencoders, read directly: what each format holds, and where in the model it belongs.

===================  ==========================================================================================
SAELens              ``cfg.json``, ``sae_weights.safetensors``: W_enc [d, m], b_enc, W_dec [m, d], b_dec, threshold
EleutherAI sparsify  ``cfg.json``, ``sae.safetensors``: encoder.weight [m, d], encoder.bias, W_dec [m, d], b_dec
Gemma Scope          ``params.npz``: W_enc [d, m], b_enc, W_dec [m, d], b_dec, threshold; b_dec isn't taken off the input
===================  ==========================================================================================

Field names are those of SAELens 3 to 6 and sparsify 1 (their sources, November 2026). What can't be computed exactly is
refused with one sentence: gated autoencoders and transcoders, activations that are normalised token by token (a latent then
has no fixed direction) or by a factor that isn't in the file, and places other than the residual stream and the outputs
of attention and MLP. Nothing is unpickled. :func:`write` writes the SAELens format.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lens.errors import FeaturesUnreadable
from lens.functiontokens.sae import Autoencoder, Rule

CONFIG, SAELENS, SPARSIFY, GEMMA_SCOPE = "cfg.json", "sae_weights.safetensors", "sae.safetensors", "params.npz"
FILES = (CONFIG, SAELENS, SPARSIFY, GEMMA_SCOPE)
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
    """The autoencoder in the folder ``path`` (or whose file ``path`` is). ``layer``, if given, overrides what is found.

    Raises:
        FeaturesUnreadable: not of a known format, damaged, or a variant that can't be computed exactly.
    """
    folder = path if path.is_dir() else path.parent
    readers = {SAELENS: _saelens, SPARSIFY: _sparsify, GEMMA_SCOPE: _gemma_scope}
    for name, reader in readers.items():
        if (folder / name).is_file():
            stored = reader(folder)
            return stored if layer is None else replace(stored, layer=layer, site=residual(layer))
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


def _saelens(folder: Path) -> Stored:
    cfg = _config(folder)
    about = {**cfg, **_dict(cfg.get("meta")), **_dict(cfg.get("metadata"))}
    architecture = cfg.get("architecture", "standard")
    if architecture not in ACTIVATIONS:
        _refuse(folder, f"is a {str(architecture)[:40]!r} autoencoder")
    activation = cfg.get("activation_fn_str", cfg.get("activation_fn", "relu"))
    rule: Any = "topk" if activation == "topk" else ACTIVATIONS[architecture]
    if activation not in ("relu", "topk"):
        _refuse(folder, f"uses the activation {str(activation)[:40]!r}")
    normalised = cfg.get("normalize_activations") or "none"
    if normalised != "none":
        _refuse(folder, f"normalises states before encoding them ({str(normalised)[:40]})")
    if about.get("hook_head_index") is not None or cfg.get("reshape_activations", "none") != "none":
        _refuse(folder, "reads single attention heads")
    k = cfg.get("k", _dict(cfg.get("activation_fn_kwargs")).get("k", 0))
    tensors = _safetensors(folder / SAELENS)
    for name in ("scaling_factor", "finetuning_scaling_factor"):
        if name in tensors and not torch.all(tensors[name] == 1):
            _refuse(folder, "rescales its latents after training")
    autoencoder = _assemble(folder, tensors, rule, k, bool(cfg.get("apply_b_dec_to_input", True)))
    if cfg.get("rescale_acts_by_decoder_norm"):
        autoencoder = _unit_rows(autoencoder)
    hook = str(about.get("hook_name") or about.get("hook_point") or "")
    layer, site = _transformer_lens_place(folder, hook)
    fingerprint = about.get("language_fingerprint")
    return Stored(autoencoder, layer, site, fingerprint if isinstance(fingerprint, str) else None)


def _unit_rows(autoencoder: Autoencoder) -> Autoencoder:
    """``rescale_acts_by_decoder_norm`` folded in: values are those of unit-norm decoder rows."""
    norms = autoencoder.w_dec.norm(dim=-1)
    w_enc, b_enc, w_dec = autoencoder.w_enc * norms, autoencoder.b_enc * norms, autoencoder.w_dec / norms[:, None]
    return replace(autoencoder, w_enc=w_enc, b_enc=b_enc, w_dec=w_dec)


def _transformer_lens_place(folder: Path, hook: str) -> tuple[int, str]:
    """Layer and site of a TransformerLens hook; its blocks count from 0."""
    if hook == "hook_embed":
        return 0, "hidden.0"
    match = re.fullmatch(r"blocks\.(\d{1,4})\.hook_(resid_pre|resid_post|attn_out|mlp_out)", hook)
    if not match:
        _refuse(folder, f"reads the place {hook[:60]!r}")
    block = int(match[1]) + 1
    if match[2].startswith("resid"):
        layer = block if match[2] == "resid_post" else block - 1
        return layer, residual(layer)
    return block, f"{'attention' if match[2] == 'attn_out' else 'mlp'}.{block}"


def _sparsify(folder: Path) -> Stored:
    cfg = _config(folder)
    if cfg.get("transcode") or cfg.get("skip_connection"):
        _refuse(folder, "is a transcoder, which predicts one place from another")
    if cfg.get("embed_skip") or cfg.get("gram_lookup"):
        _refuse(folder, "adds parts that are not in its file")
    rule = cfg.get("activation", "topk")
    if rule not in ("topk", "groupmax"):
        _refuse(folder, f"uses the activation {str(rule)[:40]!r}")
    tensors = _safetensors(folder / SPARSIFY)
    renamed = {"W_dec": tensors.get("W_dec"), "b_dec": tensors.get("b_dec"), "b_enc": tensors.get("encoder.bias")}
    weight = tensors.get("encoder.weight")
    renamed["W_enc"] = None if weight is None else weight.mT
    present = {name: tensor for name, tensor in renamed.items() if tensor is not None}
    autoencoder = _assemble(folder, present, rule, cfg.get("k", 0), True)
    if rule == "groupmax" and autoencoder.size % autoencoder.k:
        _refuse(folder, f"has {autoencoder.size} latents in {autoencoder.k} groups of unequal size")
    return Stored(autoencoder, *_module_place(folder))


def _module_place(folder: Path) -> tuple[int, str]:
    """Layer and site of a sparsify hookpoint, which is the folder's name: ``layers.12``, ``h.5.mlp``; blocks from 0."""
    if folder.name == "embed_tokens":
        return 0, "hidden.0"
    match = re.fullmatch(r"(?:\w+\.)*(?:layers|h)\.(\d{1,4})(?:\.(mlp|attn|self_attn|attention))?", folder.name)
    if not match:
        raise FeaturesUnreadable(
            f"The folder {folder.name[:60]!r} doesn't say which layer its autoencoder belongs to (expected was a name such "
            "as layers.12); name the layer, or rename the folder."
        )
    block = int(match[1]) + 1
    part = {None: "block", "mlp": "mlp"}.get(match[2], "attention")
    return block, f"{part}.{block}"


def _gemma_scope(folder: Path) -> Stored:
    path = folder.resolve().as_posix()
    kind = re.search(r"gemma-scope-[\w.]+-\w+-(res|att|mlp|transcoders)", path)
    if (kind and kind[1] != "res") or "/embedding/" in path:
        _refuse(folder, "is of a kind of Gemma Scope other than the residual stream's")
    try:
        with np.load(folder / GEMMA_SCOPE, allow_pickle=False) as file:
            arrays = {("W" + name[1:] if name.startswith("w_") else name): file[name] for name in file.files}
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items() if array.dtype.kind == "f"}
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        _damaged(folder / GEMMA_SCOPE, error)
    layer = re.search(r"layer_(\d{1,4})(?:/|$)", path)
    if not layer:
        raise FeaturesUnreadable(
            f"The path of {GEMMA_SCOPE} in {folder.name[:60]!r} doesn't say which layer it belongs to (expected was "
            "layer_<number> in it); name the layer, or keep the folders of the hub."
        )
    autoencoder = _assemble(folder, tensors, "jumprelu", 0, False)
    return Stored(autoencoder, int(layer[1]) + 1, residual(int(layer[1]) + 1))


def _assemble(folder: Path, tensors: Mapping[str, Tensor], rule: Rule, k: Any, centred: bool) -> Autoencoder:
    """Check names, shapes and values; all in float32."""
    names = ["W_enc", "b_enc", "W_dec", "b_dec", *(["threshold"] if rule == "jumprelu" else [])]
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
    grouped = rule in ("topk", "groupmax")
    if grouped and not (isinstance(k, int) and 1 <= k <= m):
        _refuse(folder, f"lets k = {str(k)[:20]} of its {m} latents fire")
    return Autoencoder(
        w_enc, b_enc, w_dec, b_dec, rule, threshold[0] if threshold else None, k if grouped else 0, centred
    )


def _config(folder: Path) -> dict[str, Any]:
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
    except (OSError, SafetensorError, ValueError) as error:
        _damaged(path, error)


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _damaged(path: Path, error: Exception) -> NoReturn:
    raise FeaturesUnreadable(
        f"{path.name} in {path.parent.name!r} can't be read ({' '.join(str(error).split())[:120]}); fetch it again."
    ) from error


def _refuse(folder: Path, what: str) -> NoReturn:
    raise FeaturesUnreadable(
        f"The autoencoder in {folder.name[:60]!r} {what}, which TokenLens can't use; choose another, or MLP neurons."
    )
