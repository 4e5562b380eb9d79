"""The project's hand-drawn boxes (``lens/demo/seg/boxes.json``) as COCO JSON, for ``python -m lens latentlens-eval``.

``python -m benchmarks.boxes PHOTOS OUT.json``: the boxes are fractions of the square that the offline model's processor cuts
from the middle of a photograph.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from PIL import Image

BOXES = Path(__file__).parent.parent / "lens" / "demo" / "seg" / "boxes.json"


def coco(photos: Path) -> dict[str, list[dict[str, object]]]:
    """Boxes of all photographs that are in ``photos``."""
    boxes = {name: entry for name, entry in json.loads(BOXES.read_text()).items() if (photos / name).is_file()}
    categories = sorted({noun for noun, _ in boxes.values()})
    images, annotations = [], []
    for number, (name, (noun, box)) in enumerate(boxes.items(), 1):
        with Image.open(photos / name) as picture:
            width, height = picture.size
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        x0, y0, x1, y1 = (edge * side for edge in box)
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        annotations.append({
            "id": number, "image_id": number, "category_id": categories.index(noun) + 1,
            "bbox": [left + x0, top + y0, x1 - x0, y1 - y0],
        })  # fmt: skip
    listed: list[dict[str, object]] = [{"id": i, "name": name} for i, name in enumerate(categories, 1)]
    return {"images": images, "annotations": annotations, "categories": listed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    options.out.write_text(json.dumps(coco(options.photos)), encoding="utf-8")


if __name__ == "__main__":
    main()
