"""How much memory a result holds: its arrays and texts, wherever they lie in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch

from lens.backend.images import Picture


def held_bytes(value: Any) -> int:
    """Bytes of the arrays, tensors, pictures and texts that ``value`` leads to through dataclasses and containers, each
    counted once; what else there is, numbers and code, is small or not its own."""
    return _count(value, set())


def _count(value: Any, seen: set[int]) -> int:
    if id(value) in seen:
        return 0
    seen.add(id(value))
    if isinstance(value, Picture):
        return value.nbytes
    if isinstance(value, np.ndarray):
        return value.nbytes + (sum(_count(one, seen) for one in value.flat) if value.dtype == object else 0)
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, Mapping):
        return sum(_count(key, seen) + _count(one, seen) for key, one in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return sum(_count(one, seen) for one in value)
    if is_dataclass(value) and not isinstance(value, type):
        return sum(_count(getattr(value, field.name), seen) for field in fields(value))
    return 0
