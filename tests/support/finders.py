"""Tests that name the finder `coco` in words need the entry points of this very checkout."""

import pytest

from vlm_heads.asking.objects import known_finders

needs_coco = pytest.mark.skipif(
    "coco" not in known_finders(), reason="the entry points of this checkout are not installed: pip install -e ."
)
