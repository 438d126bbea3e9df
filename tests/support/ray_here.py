"""Ray for tests, where it is installed."""

from __future__ import annotations

from typing import Any

import pytest

from functions.invoke.ray_ import load_ray

__all__ = ["ray_or_skip"]


def ray_or_skip() -> Any:
    """Return Ray, loaded as the product loads it."""
    try:
        return load_ray()
    except ImportError:
        pytest.skip("ray is not installed")
