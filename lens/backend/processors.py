"""A checkpoint's processor: what turns picture and prompt into inputs.

Many families' processors also hold a video processor, which needs torchvision. Pictures alone are read here, so that
without torchvision such a processor is put together from its other parts.
"""

from __future__ import annotations

from typing import Any

import transformers
from transformers import (
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedConfig,
    ProcessorMixin,
)
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.utils.import_utils import is_torchvision_available
from transformers.video_processing_utils import VideoProcessorMixin

READERS: dict[str, Any] = {
    "tokenizer": AutoTokenizer,
    "image_processor": AutoImageProcessor,
    "feature_extractor": AutoFeatureExtractor,
}


class NoVideos(VideoProcessorMixin):
    """Stands where a processor wants its video processor; reads nothing."""

    num_frames = None
    fps = None


def without_videos(maker: type) -> type:
    """The processor class ``maker``, taking :class:`NoVideos` in the place of its video processor."""

    class PicturesOnly(maker):
        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            if argument_name == "video_processor":
                return NoVideos
            return super().check_argument_for_proper_class(argument_name, argument)

    PicturesOnly.__name__ = maker.__name__  # what a saved processor is found by
    return PicturesOnly


def read_processor(source: str, config: PreTrainedConfig, **options: Any) -> Any:
    """The processor of ``source`` (a folder or hub id); raises what transformers raises."""
    maker: Any = _named(source, options) or PROCESSOR_MAPPING.get(type(config), None)
    if maker is None or is_torchvision_available() or "video_processor" not in maker.get_attributes():
        return AutoProcessor.from_pretrained(source, **options)
    parts = [
        NoVideos() if name == "video_processor" else READERS[name].from_pretrained(source, **options)
        for name in maker.get_attributes()
    ]
    settings, _ = maker.get_processor_dict(source, **options)
    return without_videos(maker).from_args_and_dict(parts, settings)


def _named(source: str, options: dict[str, Any]) -> Any | None:
    """The class that the checkpoint names itself, which need not be that of its kind of model."""
    settings, _ = ProcessorMixin.get_processor_dict(source, **options)
    return getattr(transformers, str(settings.get("processor_class")), None)
