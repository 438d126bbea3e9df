"""Shared by the whole suite: async tests run on asyncio; the golden tables are found or skipped."""

import os
from pathlib import Path

import pytest

GOLDEN = Path(os.environ.get("FIRN_GOLDEN", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """The folder of tables that other engines wrote; skips where it is absent."""
    if not GOLDEN.is_dir():
        pytest.skip(f"no golden tables at {GOLDEN}; set FIRN_GOLDEN")
    return GOLDEN
