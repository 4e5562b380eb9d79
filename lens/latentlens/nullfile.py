"""A null on disk: one small safetensors file for a model and an index.

It is looked for in ``nulls/`` of the cache folder, then among those shipped with the project
(``lens/latentlens/shipped``). A file counts for a model and an index when it names the fingerprint of the one and the digest
of the other.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lens.backend.files import replacing
from lens.backend.loading import LoadedModel
from lens.home import home
from lens.latentlens.index import Index
from lens.latentlens.nulls import Hubs, Null
from lens.latentlens.spaces import checksum

VERSION = "1"
SHIPPED = Path(__file__).parent / "shipped"


def folder() -> Path:
    """Where nulls are kept on this machine."""
    return home() / "nulls"


def save_null(null: Null, path: Path | None = None) -> Path:
    """Write a null, by default to :func:`folder`; scores as float16."""
    path = path or folder() / f"{null.model[:16]}-{null.index[:16] or 'none'}.safetensors"
    tensors: dict[str, np.ndarray] = {}
    tensors |= {f"best/{lens}/{kind}": v.astype(np.float16) for lens, by in null.best.items() for kind, v in by.items()}
    for name, hubs in null.hubs.items():
        tensors |= {f"rows/{name}": hubs.rows.astype(np.int32), f"layers/{name}": hubs.layers.astype(np.int16)}
    tensors["picture"] = null.picture.astype(np.int16)
    facts = {"version": VERSION, "model": null.model, "index": null.index}
    lists = {"measured": json.dumps(null.measured), "digests": json.dumps(null.digests)}
    with replacing(path) as part:
        part.write_bytes(save(tensors, facts | lists | {"sha256": checksum(tensors)}))
    return path


def find_null(loaded: LoadedModel, index: Index | None) -> Null | None:
    """The null kept for this model and index; ``None`` where there is none."""
    wanted = {"version": VERSION, "model": loaded.fingerprint, "index": index.digest if index is not None else ""}
    for place in (folder(), SHIPPED):
        for path in sorted(place.glob("*.safetensors")) if place.is_dir() else ():
            found = _open(path, wanted)
            if found is not None:
                return found
    return None


def _open(path: Path, wanted: dict[str, str]) -> Null | None:
    try:
        with safe_open(path, "np") as file:
            facts = file.metadata() or {}
            if any(facts.get(name) != value for name, value in wanted.items()):
                return None
            parts = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        return _null(facts, parts) if facts.get("sha256") == checksum(parts) else None
    except (OSError, SafetensorError, KeyError, ValueError):  # a damaged file is none; it is measured again
        return None


def _null(facts: dict[str, str], parts: dict[str, np.ndarray]) -> Null:
    best: dict[str, dict[str, np.ndarray]] = {}
    for name, values in parts.items():
        kind, _, rest = name.partition("/")
        if kind == "best":
            lens, _, of = rest.rpartition("/")
            best.setdefault(lens, {})[of] = values
    hubs = {
        name.partition("/")[2]: Hubs(parts[name], parts[name.replace("rows/", "layers/", 1)])
        for name in parts
        if name.startswith("rows/")
    }
    measured, digests = (tuple(json.loads(facts[name])) for name in ("measured", "digests"))
    return Null(facts["model"], facts["index"], measured, best, parts["picture"], digests, hubs)
