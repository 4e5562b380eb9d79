"""The models that <SEG> is trained over: feature maps, and the states that the connector reads."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from lens.demo.architecture import EfficientNetLite, EfficientNetLiteConfig, Projector
from lens.demo.photos import pixels
from lens.demo.seg_head import CHANNELS
from lens.demo.seg_models import feature_maps, seg_models, vision_states
from tests.demo.test_seg_training import new_language


def picture() -> torch.Tensor:
    """Noise."""
    return pixels([Image.fromarray(np.random.default_rng(0).integers(0, 255, (384, 384, 3), dtype=np.uint8))])


def test_feature_maps_give_the_towers_own_states() -> None:
    torch.manual_seed(0)
    tower = EfficientNetLite(EfficientNetLiteConfig()).eval()
    maps = feature_maps(tower, picture())
    sides = {"fine": 48, "middle": 24, "deep": 12}
    assert {name: found.shape for name, found in maps.items()} == {
        name: (1, sides[name] ** 2, channels) for name, channels in CHANNELS.items()
    }
    with torch.inference_mode():
        wanted = tower(picture()).last_hidden_state
    torch.testing.assert_close(vision_states(tower, maps["deep"]), wanted, atol=1e-4, rtol=1e-4)


def test_the_quick_tower_is_a_rounded_copy_and_the_other_stays_exact() -> None:
    torch.manual_seed(0)
    tower = EfficientNetLite(EfficientNetLiteConfig())
    weight = tower.head.weight.detach().clone()
    models = seg_models(tower, Projector(1280, 16, 576), new_language(), torch.device("cpu"))
    assert torch.equal(models.tower.head.weight, weight) and models.quick.head.weight.dtype == torch.bfloat16
    exact, quick = (feature_maps(of, picture())["deep"] for of in (models.tower, models.quick))
    assert quick.dtype == torch.float32 and float((exact - quick).norm() / exact.norm()) < 0.05
    assert not any(
        p.requires_grad for part in (models.tower, models.quick, models.connector) for p in part.parameters()
    )
