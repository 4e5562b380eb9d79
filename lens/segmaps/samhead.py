"""The mask head of converted LISA, SESAME and READ checkpoints: <SEG>'s state as a prompt for SAM.

h at <SEG> (the state that leads to it, after the final norm) → ``text_hidden_fcs`` (linear, ReLU, linear) → one more token
behind SAM's sparse prompt → mask decoder, one mask → logits on the picture's pixels. ``SamModel.forward`` takes no
text embedding, so its parts are called, as LISA's ``evaluate`` does. READ adds the points of its similarity map to the
prompt. The picture goes to SAM whole, so that the mask covers what the language model's encoder crops away.

Computed in float32 whatever the language model's type.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from lens.backend.cache import BoundedCache
from lens.backend.encoding import visual_grid
from lens.backend.images import Picture
from lens.backend.loading import LoadedModel
from lens.backend.running import quoting
from lens.backend.tracing import Trace
from lens.errors import CapabilityMissing, SegmenterMissing
from lens.segmaps.asking import seg_token
from lens.segmaps.maps import similarities
from lens.segmaps.points import PointRule, continuous, read_points, sam_coordinates
from lens.segmaps.sam import Sam, Seen, look, open_sam

HEAD = "mask_head"
"""The folder beside a model's weights: SAM as transformers has it, the projection, and :data:`SETTINGS`."""
SETTINGS = "settings.json"
PROJECTION_FILE = "text_hidden_fcs-{}.safetensors"


@dataclass(frozen=True, eq=False)
class _Parts:
    """What lies in the folder, in memory."""

    sam: Sam
    projection: nn.Sequential

    @property
    def nbytes(self) -> int:
        return sum(p.numel() * p.element_size() for m in (self.sam.model, self.projection) for p in m.parameters())


_PARTS: BoundedCache[_Parts] = BoundedCache(4 << 30, lambda parts: parts.nbytes)
_SEEN: BoundedCache[Seen] = BoundedCache(
    64 << 20, lambda seen: seen.embeddings.numel() * seen.embeddings.element_size()
)
"""SAM's view of a picture, 4 MB each: the costly half of a mask, and the same for every prompt."""


@dataclass(frozen=True, eq=False)
class SamHead:
    """A :class:`lens.segmaps.masks.MaskHead` in a folder; nothing is loaded before the first mask.

    Attributes:
        depth: of the language model. rule: which state speaks for <SEG>, see :data:`lens.segmaps.asking.SEG_TOKENS`.
        points: of the similarity map, as further prompts; ``None`` for <SEG> alone.
    """

    folder: Path
    depth: int
    rule: str
    points: PointRule | None
    device: torch.device

    def sites(self) -> tuple[str, ...]:
        """What a mask needs of a trace."""
        return (f"hidden.{self.depth}",)

    @torch.inference_mode()
    def logits(self, trace: Trace, positions: tuple[int, ...]) -> Float[np.ndarray, "masks h w"]:
        """Logits of one mask for each <SEG>, on the picture's pixels; :class:`CapabilityMissing` without a picture, or with
        one too thin to be anything in SAM's input."""
        picture = trace.picture
        if picture is None:
            raise CapabilityMissing("There is no picture here to find masks in; give one along with the prompt.")
        parts = _PARTS.get((self.folder, self.device), lambda: _open(self.folder, self.device))
        seen = _SEEN.get((self.folder, self.device, picture.digest), lambda: look(parts.sam, picture))
        rows = [position - (self.rule == "p-1") for position in positions]
        return np.concatenate([self._mask(parts, seen, trace, row, picture) for row in rows])

    def _mask(self, parts: _Parts, seen: Seen, trace: Trace, row: int, picture: Picture) -> np.ndarray:
        """[1, h, w]; ``row``: the position whose state is read."""
        model: Any = parts.sam.model
        processor: Any = parts.sam.processor
        state = trace.hidden(self.depth)[row].float()
        prompt = parts.projection(state.to(self.device))[None, None, None]  # picture, mask, token, channel
        coordinates, labels = self._points(trace, state, picture, model.config.vision_config.image_size)
        with quoting(f"The mask head in {self.folder.name!r}"):
            sparse, dense = model.prompt_encoder(coordinates, labels, None, None)
            logits, _ = model.mask_decoder(
                image_embeddings=seen.embeddings,
                image_positional_embeddings=model.get_image_wide_positional_embeddings(),
                sparse_prompt_embeddings=prompt if sparse is None else torch.cat([sparse, prompt], dim=2),
                dense_prompt_embeddings=dense,
                multimask_output=False,
            )
        size, inner = seen.size[::-1], seen.inner[::-1]
        return processor.post_process_masks(logits.cpu(), [size], [inner], binarize=False)[0][0].numpy()

    def _points(
        self, trace: Trace, state: Tensor, picture: Picture, side: int
    ) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """READ's points in SAM's input, [1, 1, n, 2], and their labels."""
        if self.points is None:
            return None, None
        grid = visual_grid(trace.token_map)
        size = (picture.width, picture.height)
        patches = trace.hidden(self.depth)[grid.positions.reshape(-1)]
        values = similarities(state, patches, "dot").reshape(grid.rows, grid.cols)
        points = continuous(read_points(values, size, self.points), values, grid.boxes, size)
        places = torch.tensor([[sam_coordinates(points, size, side)]], dtype=torch.float32, device=self.device)
        return places, torch.tensor([[[point.label for point in points]]], device=self.device)


def open_sam_head(loaded: LoadedModel) -> SamHead:
    """The mask head beside a converted model; :class:`CapabilityMissing` for a model without one."""
    folder = Path(loaded.spec.source) / HEAD
    token = seg_token(loaded)
    try:
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        points = PointRule(**settings["points"]) if settings["points"] else None
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise CapabilityMissing(
            f"The mask head of {loaded.name!r} can't be read ({' '.join(str(error).split())[:160]}); convert the checkpoint "
            "again."
        ) from error
    return SamHead(folder, loaded.anatomy.depth, token.rule if token else "p", points, loaded.device)


def write_settings(folder: Path, original: str, points: dict[str, Any] | None) -> None:
    """What :func:`open_sam_head` reads beside the weights."""
    text = json.dumps({"original": original, "points": points}, indent=1) + "\n"
    (folder / SETTINGS).write_text(text, encoding="utf-8")


def _open(folder: Path, device: torch.device) -> _Parts:
    sam = open_sam(folder)
    sam.model.float().to(device)
    try:
        tensors = {
            k: v.float() for path in folder.glob(PROJECTION_FILE.format("*")) for k, v in load_file(path).items()
        }
        wide, narrow = tensors["0.weight"], tensors["2.weight"]
        projection = nn.Sequential(
            nn.Linear(wide.shape[1], wide.shape[0]), nn.ReLU(), nn.Linear(narrow.shape[1], narrow.shape[0])
        )
        projection.load_state_dict(tensors)
    except Exception as error:  # safetensors, missing names and shapes each raise their own kinds
        raise SegmenterMissing(
            f"The projection of <SEG> in {folder} can't be read ({' '.join(str(error).split())[:160]}); convert the "
            "checkpoint again."
        ) from error
    return _Parts(sam, projection.eval().requires_grad_(False).to(device))
