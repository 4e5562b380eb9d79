"""The shipped nulls belong to the shipped index, and its statistics to it."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors import safe_open

from lens.home import project_root
from lens.latentlens.index import open_index
from lens.latentlens.nullfile import SHIPPED
from lens.latentlens.spaces import FILE


@pytest.mark.parametrize("name", ["demo", "demo-scratch"])
def test_the_shipped_nulls_are_of_the_shipped_index(name: str) -> None:
    index = open_index(project_root() / "indexes" / "demo")
    with safe_open(index.path / FILE, "np") as file:
        assert file.metadata()["index"] == index.digest, (
            "the index changed: search it centred once, to measure it again"
        )
    with safe_open(SHIPPED / f"{name}.safetensors", "np") as file:
        assert file.metadata()["index"] == index.digest, "the index changed: run `python -m lens latentlens-null` again"
        best = file.get_tensor("best/latent/raw/pictures")
        assert best.shape[0] == index.manifest.depth + 1 and np.isfinite(best).all()
