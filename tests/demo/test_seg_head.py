"""The mask head: what ships is read back, its start, the masks' loss."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lens.demo.seg_head import CHANNELS, MaskHead, dice_loss, head_of, mask_loss, read_seg, write_seg

SIDES = {"fine": 48, "middle": 24, "deep": 12}


def test_what_ships_is_read_back(tmp_path: Path) -> None:
    head = MaskHead()
    write_seg(head, {"seg": torch.arange(4.0)}, tmp_path / "file.safetensors", alpha="4.0")
    tensors, language, about = read_seg(tmp_path / "file.safetensors")
    assert about["alpha"] == "4.0" and torch.equal(language["seg"], torch.arange(4.0))
    torch.testing.assert_close(head_of(tensors).query.weight, head.query.weight, atol=1e-2, rtol=1e-2)


def test_the_start_of_the_head_ignores_the_language_models_last_layer() -> None:
    torch.manual_seed(0)
    head = MaskHead()
    queries, first, last = torch.randn(1, 2, 128), torch.randn(1, 144, 576), torch.randn(1, 144, 576)
    levels = {name: torch.randn(1, side**2, CHANNELS[name]) for name, side in SIDES.items()}
    with torch.no_grad():
        coarse, fine = head(queries, first, None, levels)
        torch.testing.assert_close(head(queries, first, last, levels)[1], fine)
    assert coarse.shape == (1, 2, 12, 12) and fine.shape == (1, 2, 48, 48)
    # The enlargement keeps cell centres: its mean over each 4 x 4 block is close to the coarse value of a smooth map.
    assert abs(float(fine.mean() - coarse.mean())) < 0.05


def test_the_losses_have_the_known_values() -> None:
    """Measured on LISA's own functions: zero logits on a mask that is half full."""
    target = torch.zeros(2, 4, 4)
    target[:, :2] = 1
    zero = torch.zeros(2, 4, 4)
    assert dice_loss(zero, target).tolist() == pytest.approx([0.499969] * 2, abs=1e-6)
    assert (mask_loss(zero, target) - dice_loss(zero, target)).tolist() == pytest.approx([2 * 0.693147] * 2, abs=1e-5)
    assert mask_loss(40 * (target - 0.5), target).tolist() == pytest.approx([0.0] * 2, abs=1e-4)
    nothing = torch.zeros(1, 4, 4)
    assert float(dice_loss(nothing - 40, nothing)) == pytest.approx(0.0, abs=1e-4), "an empty mask that is found empty"
