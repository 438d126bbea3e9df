"""What the commands share: their options, the settings they start from, and how a failure ends them."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, NoReturn, TypeVar, get_args

import click

from firnline.settings import Settings, environment
from storage.errors import FirnlineError, InvalidError

__all__ = [
    "FAILED",
    "FORMATS",
    "INTERRUPTED",
    "ROUTES",
    "Duration",
    "guarded",
    "lake_option",
    "parse_params",
    "parse_value",
    "port_for",
    "settings_for",
    "token_option",
]

FAILED, INTERRUPTED = 1, 130
OutputFormat = Literal["table", "json", "ndjson", "csv", "arrow", "parquet"]
ROUTES = ("auto", "lookup", "scan")
FORMATS: tuple[OutputFormat, ...] = get_args(OutputFormat)
F = TypeVar("F", bound=Callable[..., Any])
_UNITS_MS = {"ms": 1.0, "s": 1000.0, "m": 60_000.0, "min": 60_000.0, "h": 3_600_000.0}

lake_option = click.option(
    "--lake",
    "-l",
    metavar="DIR_OR_URL",
    help="A folder, s3://bucket/prefix, or http://host:port. [default: $FIRN_LAKE or ./lake]",
)
token_option = click.option(
    "--token", metavar="TOKEN", help="API token of a server; $FIRN_TOKEN keeps it off the command line."
)


class Duration(click.ParamType[int]):
    """``30s``, ``500ms``, ``2m``, or a number of seconds; as milliseconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return milliseconds."""
        if isinstance(value, int):
            return value
        text = str(value).strip().lower()
        number = text.rstrip("abcdefghijklmnopqrstuvwxyz")
        try:
            milliseconds = float(number) * _UNITS_MS[text[len(number) :] or "s"]
        except (ValueError, KeyError):
            self.fail(f"{value!r} is no duration; write 30s, 500ms or 2m", param, ctx)
        if milliseconds < 1:
            self.fail(f"{value!r} is too short; write at least 1ms", param, ctx)
        return int(milliseconds)


def settings_for(lake: str | None, token: str | None = None) -> Settings:
    """Return the environment's settings under the command's own options. A wrong environment is wrong usage."""
    try:
        settings = environment()
    except InvalidError as error:
        raise click.UsageError(str(error)) from None
    return replace(settings, lake=lake or settings.lake, token=token or settings.token)


def port_for(option: int | None, settings: Settings, default: int) -> int:
    """Return where a server listens: the command's own option, else ``$PORT``, which a wrong text in is wrong usage."""
    try:
        return settings.port_of(option, default)
    except InvalidError as error:
        raise click.UsageError(str(error)) from None


def parse_params(texts: tuple[str, ...]) -> dict[str, Any] | list[Any] | None:
    """Return the parameters of ``--param NAME=VALUE`` and ``--param VALUE``: JSON values, everything else is text.

    Values without names are ``$1``, ``$2``, … in order.
    """
    if not texts:
        return None
    named = [text.partition("=") for text in texts]
    if all(separator and name.isidentifier() for name, separator, _ in named):
        return {name: parse_value(value) for name, _, value in named}
    if any(separator and name.isidentifier() for name, separator, _ in named):
        raise click.UsageError("give parameters all by name (--param name=value) or all by position (--param value)")
    return [parse_value(text) for text in texts]


def parse_value(text: str) -> Any:
    """Return a JSON value as such, everything else as text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def guarded(command: F) -> F:
    """Turn an error of the tree that leaves a command into a message and exit code 1; never a Python trace."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> Any:
        try:
            return command(*arguments, **options)
        except FirnlineError as error:
            _fail(error)
        except KeyboardInterrupt:
            click.echo("cancelled", err=True)
            sys.exit(INTERRUPTED)

    return run  # type: ignore[return-value]


def _fail(error: FirnlineError) -> NoReturn:
    from firnline.cli.report import report

    click.echo(report(error, color=sys.stderr.isatty()), err=True)
    sys.exit(FAILED)
