"""The gallery ships what its list says, and only pictures whose licence allows it."""

from __future__ import annotations

import re

import pytest

from lens.backend.images import open_picture
from lens.gallery import gallery
from lens.home import project_root

FREE = {"CC0 1.0", "CC BY 2.0", "Public domain"}


def test_at_least_six_photos_with_url_safe_keys():
    keys = [photo.key for photo in gallery()]
    assert len(keys) >= 6
    assert all(re.fullmatch(r"[a-z][a-z0-9-]*", key) for key in keys)


def test_every_file_is_listed_and_every_listed_file_is_there():
    on_disk = {path.name for path in (project_root() / "assets" / "gallery").glob("*.jpg")}
    assert {photo.path.name for photo in gallery()} == on_disk


@pytest.mark.parametrize("photo", gallery(), ids=lambda photo: photo.key)
def test_photo_opens_is_small_and_has_a_free_licence(photo):
    picture = open_picture(photo.path)
    assert 200 <= max(picture.width, picture.height) <= 640
    assert photo.path.stat().st_size < 120_000
    assert photo.licence in FREE
    assert re.fullmatch("[a-z]+", photo.thing)
    assert photo.author in photo.credit and photo.licence in photo.credit and photo.source
