"""Shared by the whole suite: async tests run on asyncio; the golden tables are found or skipped."""

import os
import signal
from pathlib import Path

import hypothesis
import pytest

# The suite tries the same examples each time, so that it passes or fails by the code alone; `make fuzz` tries others.
hypothesis.settings.register_profile("suite", derandomize=True)
hypothesis.settings.register_profile("fuzz", print_blob=True)
hypothesis.settings.load_profile("suite")

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell has what it starts in the background ignore Ctrl-C, and all that this starts; tests send it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

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
