"""Using ``demo-seg``: an answer, and where there is a <SEG> in it, the mask of what it means."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file

from lens.backend.answered import with_answer
from lens.backend.answers import generate
from lens.backend.encoding import encode
from lens.backend.images import Picture
from lens.backend.loading import LoadedModel
from lens.backend.tracing import Trace, trace
from lens.demo.seg_head import LEVELS, MaskHead, head_of
from lens.demo.seg_language import SEG
from lens.demo.seg_provision import MASK_HEAD
from lens.errors import CapabilityMissing


@dataclass(frozen=True, eq=False)
class Segmentation:
    """An answer with one mask per <SEG> in it.

    Attributes:
        coarse, fine: logits on the grid of visual tokens and at four times its resolution; positive is inside.
        position: where the <SEG> stands in the sequence of prompt and answer.
    """

    answer: str
    trace: Trace | None
    positions: tuple[int, ...] = ()
    coarse: Float[np.ndarray, "masks rows cols"] | None = None
    fine: Float[np.ndarray, "masks 4*rows 4*cols"] | None = None


@dataclass(frozen=True, eq=False)
class TraceHead:
    """The mask head of a loaded model, reading traces; ``catalog.toml`` names :func:`open_mask_head` as its opener."""

    head: MaskHead
    depth: int

    def sites(self) -> tuple[str, ...]:
        """What a mask needs of a trace."""
        return ("hidden.0", f"hidden.{self.depth}", *(f"vision.{number}" for number in LEVELS.values()))

    def logits(self, trace: Trace, positions: tuple[int, ...]) -> Float[np.ndarray, "masks rows cols"]:
        """Fine masks, see :meth:`masks`."""
        return self.masks(trace, positions)[1]

    @torch.inference_mode()
    def masks(self, trace: Trace, positions: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Coarse and fine logits of the states at some positions after the final norm; any position may be asked."""
        visual = torch.from_numpy(trace.token_map.visual_positions)
        last = trace.hidden(self.depth).float()
        levels = {name: trace.site(f"vision.{number}").float()[None] for name, number in LEVELS.items()}
        queries = self.head.project(last[list(positions)])[None]
        coarse, fine = self.head(queries, trace.hidden(0).float()[visual][None], last[visual][None], levels)
        return coarse[0].numpy(), fine[0].numpy()


def open_mask_head(loaded: LoadedModel) -> TraceHead:
    """The mask head that lies beside a model's weights; :class:`CapabilityMissing` for a model without one."""
    path = Path(loaded.spec.source) / MASK_HEAD
    if not path.is_file():
        raise CapabilityMissing(f"The model {loaded.name!r} has no mask head; choose one that has, such as demo-seg.")
    return TraceHead(head_of(load_file(path)), loaded.anatomy.depth)


def segment(loaded: LoadedModel, head: TraceHead, prompt: str, picture: Picture) -> Segmentation:
    """Ask about a picture; every <SEG> of the greedy answer becomes a mask."""
    encoded = encode(loaded, prompt, picture)
    answer = generate(loaded, encoded)
    whole = with_answer(loaded, encoded, answer.ids)
    seg = loaded.tokenizer.convert_tokens_to_ids(SEG)
    positions = tuple(i for i, token in enumerate(whole.token_map.ids) if token == seg and i >= len(encoded.token_map))
    if not positions:
        return Segmentation(answer.text, None)
    found = trace(loaded, whole, head.sites())
    coarse, fine = head.masks(found, positions)
    return Segmentation(answer.text, found, positions, coarse, fine)
