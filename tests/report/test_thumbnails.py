"""Pictures that are kept beside completions."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from dps_pyro.trainers.run.completions import THUMBNAIL, thumbnail


@pytest.mark.parametrize(("size", "small"), [((400, 200), (THUMBNAIL, THUMBNAIL // 2)), ((96, 96), (96, 96))])
def test_thumbnails_are_small_and_keep_their_shape(size: tuple[int, int], small: tuple[int, int]) -> None:
    with Image.open(io.BytesIO(thumbnail(Image.new("L", size, 128)))) as opened:
        assert opened.size == small and opened.format == "PNG"
