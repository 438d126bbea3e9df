"""The settings of an AWS Lambda function: those of its environment, which must name a lake that a function can have."""

from __future__ import annotations

import importlib
from typing import Any

from storage.errors import InvalidError

__all__ = ["function_settings"]

_UNSET = "./lake"


def function_settings() -> Any:
    """Return ``firnline.settings.Settings`` of the environment. Raises `InvalidError` when they name no such lake."""
    # By name: Lambda starts modules of lower layers, and the environment is read in one place, which is above them.
    settings = importlib.import_module("firnline.settings").environment()
    if settings.lake == _UNSET or settings.lake.startswith(("http://", "https://")):
        raise InvalidError("a function needs the location of its lake: set FIRN_LAKE to s3://bucket/prefix")
    return settings
