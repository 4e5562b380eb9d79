"""One forward → :class:`Trace`: the states at named sites, captured by hooks that only observe.

Sites (block numbers count from 1, see the layer convention in :mod:`lens.backend.anatomy`):

=================  =====================================================================
``hidden.l``       layer l of 0..N, as in HF's ``output_hidden_states``
``block.i``        output of block i, for i = N *before* the final norm
``attention.i``    output of block i's attention (what it adds to the residual stream)
``mlp.i``          output of block i's MLP
``attention_in.i`` input of block i's attention (the residual stream after the norm before it)
``mlp_in.i``       input of block i's MLP
``neurons.i``      activations of block i's MLP neurons: the input of its down projection, [seq, d_mlp]
``vision.j``       output of block j of the vision tower; a feature map is flattened to cells
``connector``      output of the connector, one row per patch: view by view where there are several
``logits``         next-token logits at every position
=================  =====================================================================

The run stops after the last module that is needed (:class:`_Enough` is raised inside the forward and caught here).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from lens.backend.anatomy import Anatomy
from lens.backend.encoding import Encoded, TokenMap
from lens.backend.hooks import Hook, attached, block_input, first_tensor
from lens.backend.images import Picture
from lens.backend.loading import LoadedModel
from lens.backend.running import forward
from lens.errors import SiteMissing


@dataclass(frozen=True, eq=False)
class Trace:
    """States of one run, on the CPU, in the model's dtype.

    Attributes:
        key: the content key of the :class:`~lens.backend.encoding.Encoded` that was run.
        states: by site name, [seq, d] (``logits``: [seq, vocab]; ``vision.j``: [cells, d_vision]).
        depth: N, the number of text blocks.
        picture: what was looked at; ``None`` for text alone.
        seconds: wall time of the forward, from which the time of more of them can be told; NaN if it wasn't measured.
    """

    key: str
    states: dict[str, Float[Tensor, "seq d"]]
    token_map: TokenMap
    depth: int
    picture: Picture | None = None
    seconds: float = math.nan

    def hidden(self, layer: int) -> Float[Tensor, "seq d"]:
        """The states of one layer, 0..N."""
        return self.site(f"hidden.{layer}")

    def site(self, name: str) -> Float[Tensor, "seq d"]:
        """The states at a site; :class:`SiteMissing` when it wasn't captured."""
        if name not in self.states:
            raise SiteMissing(
                f"This trace holds no {name!r}, only {', '.join(sorted(self.states))}; trace it again with it."
            )
        return self.states[name]

    @property
    def nbytes(self) -> int:
        """Of the states and the picture."""
        held = sum(t.numel() * t.element_size() for t in self.states.values())
        return held + (self.picture.nbytes if self.picture else 0)


@dataclass(frozen=True)
class _Capture:
    """Where a site is read: a module, before or after it, and the order in which a forward reaches it."""

    site: str
    module: nn.Module
    when: str
    order: float


class _Enough(BaseException):
    """Raised inside a forward once every site has been captured; no error, so that nothing on its way takes it for one."""


def hidden_sites(depth: int) -> tuple[str, ...]:
    """The sites of every layer of a model of that depth: ``hidden.0`` ... ``hidden.N``."""
    return tuple(f"hidden.{layer}" for layer in range(depth + 1))


def trace(loaded: LoadedModel, encoded: Encoded, sites: Iterable[str]) -> Trace:
    """Run the model once and keep the states at ``sites``.

    Raises:
        LayerMissing: a layer or block that the model doesn't have.
        CapabilityMissing: a vision site of a text-only model.
        SiteMissing: an unknown site name, or a vision site of an input without a picture.
        ModelFailed, MemoryExhausted: see :mod:`lens.backend.running`, as for everything that runs the model.
    """
    captures = [_locate(loaded.anatomy, site) for site in dict.fromkeys(sites)]
    started = time.perf_counter()
    states = _run(loaded, captures, loaded.model, {**encoded.inputs, "use_cache": False})
    kept = {site: _rows(tensor).to("cpu") for site, tensor in states.items()}
    seconds = time.perf_counter() - started
    return Trace(encoded.key, kept, encoded.token_map, loaded.anatomy.depth, encoded.picture, seconds)


def text_states(
    loaded: LoadedModel,
    ids: Int[Tensor, "batch seq"],
    mask: Int[Tensor, "batch seq"],
    layers: Sequence[int],
) -> dict[int, Float[Tensor, "batch seq d"]]:
    """States of a batch of texts at ``layers``, through the language model alone: no unembedding, no deeper than needed.

    ``mask`` is 1 at real tokens. Pad on the right: then real tokens have the positions, and the states, that they have
    alone. Rows at masked positions are meaningless.
    """
    anatomy = loaded.anatomy
    found = text_sites(loaded, ids, mask, [f"hidden.{anatomy.check_layer(layer)}" for layer in layers])
    return {int(site.split(".")[1]): tensor for site, tensor in found.items()}


def text_sites(
    loaded: LoadedModel,
    ids: Int[Tensor, "batch seq"],
    mask: Int[Tensor, "batch seq"],
    sites: Iterable[str],
) -> dict[str, Float[Tensor, "batch seq d"]]:
    """As :func:`text_states`, for any sites inside the language model but ``logits``."""
    captures = [_locate(loaded.anatomy, site) for site in dict.fromkeys(sites)]
    inputs = {"input_ids": ids.to(loaded.device), "attention_mask": mask.to(loaded.device), "use_cache": False}
    return _run(loaded, captures, loaded.anatomy.text_model, inputs)


def _run(loaded: LoadedModel, captures: list[_Capture], model: Any, inputs: dict) -> dict[str, Tensor]:
    """One forward of ``model``; the raw tensor at each site, in the order in which the forward reached them."""
    found: dict[str, Tensor] = {}
    if not captures:
        return found
    last = max(capture.order for capture in captures)

    def observer(capture: _Capture) -> Hook:
        def keep(tensor: Tensor) -> None:
            found[capture.site] = tensor.detach()
            if capture.order == last and len(found) == len(captures):
                raise _Enough

        if capture.when == "before":
            return Hook(capture.module, "before", lambda _m, args, kwargs: keep(block_input(args, kwargs)))
        return Hook(capture.module, "after", lambda _m, _args, _kwargs, output: keep(first_tensor(output)))

    hooks = [observer(capture) for capture in sorted(captures, key=lambda c: c.order)]
    with loaded.lock, attached(hooks):
        try:
            forward(loaded, model, **inputs)
        except _Enough:
            pass
    missed = [capture.site for capture in captures if capture.site not in found]
    if missed:
        raise SiteMissing(
            f"The run didn't reach {', '.join(missed)}, since this input has no picture; give one, or choose other sites."
        )
    return found


_PARTS = {
    "attention_in": ("attentions", "before", -0.75),
    "attention": ("attentions", "after", -0.5),
    "mlp_in": ("mlps", "before", -0.375),
    "neurons": ("down_projections", "before", -0.3125),
    "mlp": ("mlps", "after", -0.25),
    "block": ("blocks", "after", 0.0),
}
"""Sites inside a block: the part of the anatomy, before or after it, and its place among a block's sites."""


def _locate(anatomy: Anatomy, site: str) -> _Capture:
    """The module at which ``site`` is read. Orders: vision j, connector 1000, then block i at 2000 + i."""
    name, _, number = site.partition(".")
    index = int(number) if number.isdecimal() else None
    if name == "logits" and not number:
        return _Capture(site, anatomy.unembedding, "after", 9000)
    if name == "connector" and not number:
        return _Capture(site, anatomy.require("connector"), "after", 1000)
    if name == "hidden" and index is not None:
        anatomy.check_layer(index)
        if index == 0:
            return _Capture(site, anatomy.blocks[0], "before", 2000)
        if index == anatomy.depth:
            return _Capture(site, anatomy.final_norm, "after", 8000)
        return _Capture(site, anatomy.blocks[index - 1], "after", 2000 + index)
    if name in _PARTS and index is not None:
        part, when, offset = _PARTS[name]
        return _Capture(site, anatomy.numbered(part, index), when, 2000 + index + offset)
    if name == "vision" and index is not None:
        return _Capture(site, anatomy.numbered("vision_blocks", index), "after", index)
    raise SiteMissing(
        f"There is no site {site!r}: known are hidden.l, block.i, attention.i, mlp.i, attention_in.i, mlp_in.i, neurons.i, "
        "vision.j, connector and logits."
    )


def _rows(tensor: Tensor) -> Tensor:
    """One row per token or cell: views or tiles [n, cells, d] one after the other, feature maps [n, d, h, w] as cells."""
    if tensor.ndim == 4:
        return tensor.flatten(2).transpose(1, 2).flatten(0, 1).contiguous()
    return tensor.flatten(0, -2)
