"""Outlines of photographs: read as they were written, and refused where they are another's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lens.demo.seg_outlines import SIDE, no_outlines, read_outlines
from lens.errors import LabelsUnusable


def write(path: Path, photographs: int) -> np.ndarray:
    """Random masks in the file's format."""
    masks = np.random.default_rng(0).random((photographs, SIDE, SIDE)) < 0.3
    good, boxes = np.array([True] * photographs), np.zeros((photographs, 4), np.float32)
    np.savez(path, bits=np.packbits(masks, axis=-1), good=good, boxes=boxes)
    return masks


def test_what_was_written_is_read(tmp_path: Path) -> None:
    masks = write(tmp_path / "masks.npz", 3)
    found = read_outlines(tmp_path / "masks.npz", 3)
    assert np.array_equal(found.masks, masks) and found.good.all()
    np.testing.assert_allclose(found.area, masks.mean((1, 2)))


def test_outlines_of_other_photographs_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "masks.npz", 3)
    with pytest.raises(LabelsUnusable, match=r"\(3,\).* needed for 4 photographs"):
        read_outlines(tmp_path / "masks.npz", 4)


def test_what_is_no_file_of_outlines_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no arrays")
    np.savez(tmp_path / "other.npz", bits=np.zeros(1))
    for name in ("text.npz", "other.npz", "missing.npz"):
        with pytest.raises(LabelsUnusable, match=r"give an \.npz"):
            read_outlines(tmp_path / name, 3)


def test_without_a_file_no_photograph_has_one() -> None:
    assert not no_outlines(5).good.any() and len(no_outlines(5).masks) == 5
