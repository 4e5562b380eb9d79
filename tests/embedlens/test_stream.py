"""Pictures as a stream: traced one by one, with progress that only grows, and cancelled between two of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from lens.backend.encoding import encode
from lens.backend.images import Picture
from lens.backend.loading import LoadedModel
from lens.backend.tracing import trace
from lens.embedlens.folder import traced
from lens.errors import Cancelled, ImagesMissing
from tests.embedlens.planted import PROMPT, picture_of_noise, pictures


def test_each_picture_is_traced_when_it_is_asked_for(llava: LoadedModel):
    opened: list[int] = []

    def given() -> Iterator[Picture]:
        for seed in range(3):
            opened.append(seed)
            yield picture_of_noise(seed)

    stream = traced(llava, given(), PROMPT, ["hidden.0", "hidden.2"])
    assert opened == []
    first = next(stream)
    assert opened == [0] and first.picture.name == "noise-0.png"
    alone = trace(llava, encode(llava, PROMPT, first.picture), ["hidden.2"])
    assert torch.equal(first.held.hidden(2), alone.hidden(2)) and first.encoded.key == alone.key
    assert [each.picture.name for each in stream] == ["noise-1.png", "noise-2.png"]


def test_progress_grows_and_names_the_picture(llava: LoadedModel):
    seen: list[tuple[float, float, str]] = []
    for each in traced(llava, pictures(2), PROMPT, ["hidden.0"], lambda *told: seen.append(told)):
        each.report(1, 4, "control 1")
        each.report(0, 0, "done")
    assert [(done, total) for done, total, _ in seen] == [(0, 2), (0.25, 2), (1, 2), (1, 2), (1.25, 2), (2, 2)]
    assert seen[4][2] == "Image 2: noise-1.png: control 1"


def test_cancelling_stops_before_the_next_picture(llava: LoadedModel):
    def report(done: float, total: float, message: str) -> None:
        if done >= 1:
            raise Cancelled("Stopped.")

    stream = traced(llava, pictures(3), PROMPT, ["hidden.0"], report)
    next(stream)
    with pytest.raises(Cancelled):
        next(stream)


def test_no_picture_is_an_error_at_the_end(llava: LoadedModel):
    with pytest.raises(ImagesMissing, match="None of the images"):
        list(traced(llava, [], PROMPT, ["hidden.0"]))
