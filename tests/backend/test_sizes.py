"""What results are said to hold, against what lies in them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from lens.backend.sizes import held_bytes
from tests.backend.conftest import noise_picture


@dataclass
class Result:
    name: str
    maps: dict[str, np.ndarray]
    parts: list[Any] = field(default_factory=list)


SHARED = np.zeros((10, 10), np.float32)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.zeros((5, 7)), 5 * 7 * 8),
        (torch.zeros(3, 4, dtype=torch.bfloat16), 24),
        ("word", 4),
        (3, 0),
        (None, 0),
        ([b"abc", {"k": np.zeros(4, bool)}], 3 + 1 + 4),
        (Result("ab", {"x": SHARED}, [SHARED, (SHARED, np.ones(2, np.int8))]), 2 + 1 + 400 + 2),
        (np.array(["four", "five5"], dtype=object), 16 + 9),
        (Result, 0),
    ],
)
def test_every_array_and_text_is_counted_once(value: Any, expected: int):
    assert held_bytes(value) == expected


def test_a_picture_counts_as_it_says_and_a_loop_ends():
    picture = noise_picture(30, 20)
    loop: list[Any] = [picture]
    loop.append(loop)
    assert held_bytes(loop) == picture.nbytes > 0
