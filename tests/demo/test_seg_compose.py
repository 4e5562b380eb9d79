"""Scenes composed on the device: pictures and masks are those that Pillow makes by cutting, turning and pasting."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from lens.demo.convert import IMAGE_SIZE
from lens.demo.scenes import FINE, GRID, MOST, VISIBLE, Pool, Sources, coverage
from lens.demo.seg_compose import Composed, Composer, read_bank
from lens.demo.seg_draw import BANK, ELLIPSE, ICON, OUTLINE, ROUNDED, STRIPES, Draw, Drawer
from lens.demo.seg_outlines import SIDE, Outlines
from lens.demo.seg_vocabulary import vocabulary

COLOURS = {"cat": (250, 20, 30), "bus": (10, 200, 60), "pizza": (40, 60, 240), "crown": (180, 120, 60)}
PHOTOS = (("goldfish", (90, 160, 200)), ("rocket", (200, 90, 160)))


class Corners:
    """An icon set of shapes without any symmetry: an L, one colour an object."""

    def __contains__(self, icon: str) -> bool:
        return icon in COLOURS

    def cutout(self, icon: str) -> Image.Image:
        """An L of two bars, its edges hard."""
        image = Image.new("RGBA", (120, 160))
        draw = ImageDraw.Draw(image)
        draw.rectangle((0, 0, 39, 159), (*COLOURS[icon], 255))
        draw.rectangle((0, 110, 119, 159), (*COLOURS[icon], 255))
        return image


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """Ls, and photographs of one colour each."""
    folder = tmp_path_factory.mktemp("photos")
    files = []
    for label, (name, colour) in enumerate(PHOTOS):
        files.append(folder / f"n{label:08d}_{name}.png")
        Image.new("RGB", (300, 256), colour).save(files[-1])
    return Sources({"corners": Corners()}, files, [name for name, _ in PHOTOS])  # type: ignore[dict-item]


@pytest.fixture(scope="module")
def outlines() -> Outlines:
    """A photograph's outline is its lower right quarter, and a bar."""
    masks = np.zeros((2, SIDE, SIDE), bool)
    masks[:, 64:, 64:], masks[:, 100:120, 20:64] = True, True
    boxes = np.array([[20 / SIDE, 0.5, 1.0, 1.0]] * 2, np.float32)
    return Outlines(masks, np.ones(2, bool), boxes)


@pytest.fixture(scope="module")
def drawn(sources: Sources, outlines: Outlines) -> tuple[Draw[np.ndarray], Composed, torch.Tensor]:
    """Sixteen scenes, drawn and composed, and the bank."""
    words = vocabulary(Pool(tuple(COLOURS), ("corners",), (0, 1)), sources, ("zebra",), lambda name: True)
    bank, sizes = read_bank(words.icons, sources, outlines)
    draw = Drawer(words, sizes, outlines).draw((2,), 16)
    draw.whole[:3] = False
    return draw, Composer(bank)(Draw(*map(torch.as_tensor, draw))), bank


def pasted(draw: Draw[np.ndarray], bank: torch.Tensor, i: int, slot: int) -> tuple[np.ndarray, np.ndarray]:
    """A slot's cut-out laid into the picture by Pillow: its opacity [384, 384] in 0..1 and its colour [3]."""
    scale = 4  # drawn larger, then shrunk: its edges are finer than a pixel
    x, y, wide, high, angle, flip = draw.place[i, slot]
    size = round(scale * wide), round(scale * high)
    source = bank[draw.picture[i, slot]].numpy()
    mask = Image.new("L", size)
    pen, box = ImageDraw.Draw(mask), (0, 0, size[0] - 1, size[1] - 1)
    if draw.shape[i, slot] == ELLIPSE:
        pen.ellipse(box, fill=255)
    elif draw.shape[i, slot] == ROUNDED:
        pen.rounded_rectangle(box, scale * draw.radius[i, slot], fill=255)
    else:
        cx, cy, half_wide, half_high = (draw.source[i, slot] * (BANK / 2)) + np.array([BANK / 2, BANK / 2, 0, 0])
        crop = (cx - half_wide, cy - half_high, cx + half_wide, cy + half_high)
        mask = Image.fromarray(source[3]).resize(size, Image.Resampling.BILINEAR, tuple(map(float, crop)))
    mask = ImageOps.mirror(mask) if flip < 0 else mask
    turned = mask.rotate(-np.degrees(angle), Image.Resampling.BILINEAR, expand=True)
    layer = Image.new("L", (scale * IMAGE_SIZE, scale * IMAGE_SIZE))
    layer.paste(turned, (round(scale * x - turned.width / 2), round(scale * y - turned.height / 2)))
    layer = layer.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX)
    inside = source[3] == 255 if draw.shape[i, slot] == ICON else np.ones((BANK, BANK), bool)
    colour = source[:3, inside].mean(1)
    colour = colour.mean() * np.ones(3) if draw.gray[i, slot] else colour
    return np.asarray(layer) / 255, np.minimum(colour * draw.gain[i, slot], 255)


def reference(draw: Draw[np.ndarray], bank: torch.Tensor, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is seen of each slot [4, 384, 384], all of it, and the slots' colours [4, 3]."""
    whole = np.zeros((MOST, IMAGE_SIZE, IMAGE_SIZE), bool)
    colours = np.zeros((MOST, 3))
    for slot in np.flatnonzero(draw.exists[i]):
        opacity, colours[slot] = pasted(draw, bank, i, slot)
        whole[slot] = opacity >= 0.5
    seen, covered = whole.copy(), np.zeros_like(whole[0])
    for slot in reversed(range(MOST)):
        seen[slot] &= ~covered
        covered |= whole[slot]
    return seen, whole, colours


def test_masks_are_those_of_what_pillow_pastes(drawn: tuple[Draw[np.ndarray], Composed, torch.Tensor]) -> None:
    draw, composed, bank = drawn
    shapes: set[int] = set()
    for i in range(len(draw.exists)):
        seen, whole, _ = reference(draw, bank, i)
        wanted = coverage(seen, FINE)
        for slot in np.flatnonzero(draw.exists[i]):
            found = composed.masks[i, slot].numpy()
            assert np.abs(found - wanted[slot]).sum() < 0.04 * wanted[slot].sum() + 2
            clear = (
                seen[slot].sum() / max(1, whole[slot].sum()) - VISIBLE,
                (coverage(seen, GRID)[slot] >= 0.5).sum() - 1.5,
            )
            if abs(clear[0]) > 0.05 and abs(clear[1]) > 1:
                assert bool(composed.real[i, slot]) == (clear[0] > 0 and clear[1] > 0)
            shapes.add(int(draw.shape[i, slot]))
        assert composed.masks[i].sum(0).max() <= 1 + 1e-6
    assert shapes == {ICON, ELLIPSE, ROUNDED, OUTLINE}


def test_pictures_show_the_colours_where_the_masks_are(drawn: tuple[Draw[np.ndarray], Composed, torch.Tensor]) -> None:
    draw, composed, bank = drawn
    checked = 0
    for i in range(len(draw.exists)):
        seen, whole, colours = reference(draw, bank, i)
        pixels = composed.pictures[i].permute(1, 2, 0).numpy()
        for slot in np.flatnonzero(draw.exists[i]):
            inner = eroded(seen[slot])
            assert np.abs(pixels[inner] - colours[slot]).max(initial=0) < 3
            checked += int(inner.sum())
        outside = eroded(~whole.any(0))
        if draw.ground[i] <= 2:
            behind = np.array(PHOTOS[draw.behind[i] - len(COLOURS)][1])
            assert np.abs(pixels[outside] - behind).max(initial=0) < 3
        elif draw.ground[i] == STRIPES:
            both = np.abs(pixels[outside][:, None] - draw.colours[i]).max(-1).min(-1)
            assert both.max(initial=0) < 1e-3
    assert checked > 50_000


def eroded(mask: np.ndarray) -> np.ndarray:
    """Pixels more than eight away from any that is not in the mask: a cut-out's edge is as soft as it is enlarged."""
    return np.asarray(Image.fromarray(mask).convert("L").filter(ImageFilter.MinFilter(17))) > 0


def test_a_whole_photograph_is_asked_for_by_its_outline_below_all_cutouts(
    drawn: tuple[Draw[np.ndarray], Composed, torch.Tensor], sources: Sources, outlines: Outlines
) -> None:
    draw, _, bank = drawn
    one = Draw(*(part[:1].copy() for part in draw))
    one.exists[:], one.whole[:] = [[True, False, False, False]], [[False, True, False, False]]
    one.ground[:], one.behind[:] = 0, len(COLOURS)
    one.window[:] = [(0.0, 0.0, 1.0, -1.0)]
    composed = Composer(bank)(Draw(*map(torch.as_tensor, one)))
    (cut,), _, _ = (part[:1] for part in reference(one, bank, 0))
    mirrored = np.asarray(Image.fromarray(outlines.masks[0]).resize((IMAGE_SIZE, IMAGE_SIZE)))[:, ::-1]
    wanted = coverage((mirrored & ~cut)[None], FINE)[0]
    assert np.abs(composed.masks[0, 1].numpy() - wanted).sum() < 0.05 * wanted.sum()
    assert bool(composed.real[0, 1]) and not composed.real[0, 2:].any()


def test_the_bank_holds_icons_in_the_middle_and_the_squares_of_photographs(
    drawn: tuple[Draw[np.ndarray], Composed, torch.Tensor], sources: Sources
) -> None:
    _, _, bank = drawn
    assert bank.shape == (len(COLOURS) + len(PHOTOS), 4, BANK, BANK) and bank.dtype == torch.uint8
    rows, columns = np.nonzero(bank[0, 3].numpy())
    assert (rows.min(), rows.max() + 1) == (48, 208) and (columns.min(), columns.max() + 1) == (68, 188)
    assert (bank[0, :3, bank[0, 3] == 0] == 0).all(), "colours are multiplied by the opacity"
    assert bank[-1, :3, 0, 0].tolist() == list(PHOTOS[1][1]) and Path(sources.photos[1]).is_file()
