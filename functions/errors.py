"""DataFusion's exceptions, translated. The engine raises one Python type for everything, so its words decide."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from storage.errors import (
    STATUS,
    CorruptError,
    FirnlineError,
    ForbiddenError,
    InternalError,
    InvalidError,
    LimitError,
    NotFoundError,
    SqlError,
    UnavailableError,
    UnsupportedError,
    from_wire,
)  # fmt: skip

__all__ = ["UNREADABLE", "PanicError", "ReadError", "is_panic", "translate"]

_LAYER = re.compile(
    r"(?P<name>DataFusion error|SQL error|Schema error|Error during planning|Execution error|Arrow error|Parquet error"
    r"|Parquet argument error|External error|External|Object Store error|Generic S3 error|Cast error|Parser error"
    r"|Invalid argument error|Compute error|Arithmetic overflow|Divide by zero error|Resources exhausted|Internal error"
    r"|This feature is not implemented|Optimizer rule '[^']*' failed|Invalid regex|Arrow|type_coercion|check_[a-z_]+"
    r"|Failed to fetch metadata for file [^:]+|Failed to [a-z ]+)(?:: |\s*caused by\s*|$)"
)
_PLACE = re.compile(r" at Line: (\d+), Column: (\d+)")
_TABLE = re.compile(r"table '(.*)' not found", re.DOTALL)
_FIELD = re.compile(
    r"No field named (.+?)\.(?: Did you mean '([^\n]+?)'\?)?(?:\nColumn names are case sensitive[^\n]*)?"
    r"(?:\s+Valid fields are (.*?)\.?)?$",
    re.DOTALL,
)
_GENERATED = re.compile(r"\b_t\d+\.(?=\S)")
"""The name that a table function has in the engine's plan (`service.parse`), which means nothing to its author."""
_OURS = re.compile(rf"({'|'.join(cls.__name__ for cls in STATUS)}): (.*)", re.DOTALL)
_RAISED = re.compile(rf"PyErr .*?value: ({'|'.join(cls.__name__ for cls in STATUS)})\((['\"])(.*?)\2\)", re.DOTALL)
"""One of ours, raised by a function of ours (`functions.sql_functions`), as the engine shows it."""
_INTERVALS = ((21,), (22,))
"""Arrow's numbers of two intervals (of months; of days and milliseconds) that pyarrow looks up and does not have."""
_DENIED = re.compile(r"\b(403 Forbidden|AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken)\b")


UNREADABLE = "a data file cannot be decoded"


class ReadError(CorruptError):
    """A data file could not be decoded; the engine does not say which (`service.blame` finds it)."""


class PanicError(InternalError):
    """The engine panicked; on a data file or on the statement (`service.blame` finds out)."""


def is_panic(error: BaseException) -> bool:
    """Tell whether a Rust panic came through, which Python sees as a BaseException."""
    return type(error).__name__ == "PanicException"


def translate(error: BaseException, sql: str = "", tables: Sequence[str] = ()) -> FirnlineError:
    """Return the error in our own tree, in words a person can act on.

    Parameters
    ----------
    sql : the statement, for the place of a name
    tables : the names that exist, for suggestions
    """
    if isinstance(error, FirnlineError):
        return error
    if is_panic(error):
        return PanicError("the query engine panicked on this statement or its files", reason=_first_line(str(error)))
    if isinstance(error, KeyError) and error.args in _INTERVALS:
        return UnsupportedError("an interval of a Parquet file cannot be read; leave its column out of the statement")
    layers, leaf = _layers(str(error))
    if found := _OURS.match(leaf):  # raised by the merge-on-read reader, below the engine
        return from_wire({"error": found.group(1), "message": _first_line(found.group(2))})
    if found := _RAISED.match(leaf):
        return from_wire({"error": found.group(1), "message": found.group(3)})
    return _planning(layers, leaf, sql, tables) or _running(layers, leaf)


def _layers(text: str) -> tuple[list[str], str]:
    """Split an error's text into the kinds that it is wrapped in and its own words.

    Only the kinds decide what it is: the words may quote the statement or the data.
    """
    layers, position = [], 0
    while found := _LAYER.match(text, position):
        layers.append(found["name"])
        position = found.end()
    leaf = text[position:].strip()
    return layers, leaf or (layers[-1] if layers else "unknown error")


def _planning(layers: list[str], leaf: str, sql: str, tables: Sequence[str]) -> FirnlineError | None:
    if leaf.startswith(("ParserError(", "TokenizerError(", "RecursionLimitExceeded")):
        return _syntax(leaf, sql)
    if found := _TABLE.fullmatch(leaf):
        return _no_table(found.group(1), sql, tables)
    if "Schema error" in layers and (found := _FIELD.match(leaf)):
        return _no_column(found, sql)
    if found := re.match(r"Invalid function '([^']*)'", leaf):
        return SqlError(_first_line(leaf), **_place_of(sql, found.group(1)))
    if leaf.startswith("Placeholder "):
        return InvalidError(_first_line(leaf))
    if "This feature is not implemented" in layers:
        return UnsupportedError(_lower(leaf))
    if {"SQL error", "Error during planning", "Schema error", "type_coercion"} & set(layers):
        return SqlError(_lower(leaf))
    return None


def _running(layers: list[str], leaf: str) -> FirnlineError:
    if "Resources exhausted" in layers:
        return LimitError(
            "the statement needs more memory than its limit; ask for less, or raise the memory limit",
            reason=_first_line(leaf),
        )
    if "disk space during the spilling" in leaf or "No space left on device" in leaf:
        return LimitError(
            "the statement needs more disk for what does not fit into memory than there is; ask for less, raise the "
            "memory limit, or give it a larger disk",
            limit="spill", reason=_first_line(leaf),
        )  # fmt: skip
    if found := re.match(r"Object at location (\S+) not found", leaf):
        return NotFoundError("a data file is missing", file=found.group(1))
    if {"Object Store error", "Generic S3 error"} & set(layers):
        if _DENIED.search(leaf):
            return ForbiddenError("the object store denied access; check the credentials", reason=_first_line(leaf))
        return UnavailableError("the object store did not answer", reason=_first_line(leaf))
    if {"Parquet error", "Parquet argument error"} & set(layers):
        return ReadError(UNREADABLE, reason=_first_line(leaf))
    if "Internal error" in layers or ("External error" in layers and re.match(r"[A-Z]\w+: ", leaf)):
        return InternalError("the query engine failed internally on this statement", reason=_first_line(leaf))
    return InvalidError(_lower(leaf)) if {"Execution error", "Arrow error"} & set(layers) else _other(leaf)


def _other(leaf: str) -> FirnlineError:
    known = re.match(r"regex parse error|.*\bnot supported\b", leaf)
    return InvalidError(_lower(leaf)) if known else InternalError(_first_line(leaf))


def _syntax(text: str, sql: str) -> FirnlineError:
    if text.startswith("RecursionLimitExceeded") or "recursion limit exceeded" in text:
        return SqlError("the statement is nested too deeply for the parser; use fewer nested expressions")
    inner = re.search(r'(?:ParserError|TokenizerError)\("(.*)"\)', text, re.DOTALL)
    message = inner.group(1).replace('\\"', '"').replace("\\'", "'") if inner else text
    facts = {}
    if found := _PLACE.search(message):
        facts = {"line": int(found.group(1)), "column": int(found.group(2))}
        message = _PLACE.sub("", message)
    elif message.rstrip().endswith("EOF"):
        facts = {"line": sql.count("\n") + 1, "column": len(sql) - sql.rfind("\n")}
        message = message.replace("EOF", "the end of the statement")
    return SqlError(_lower(message), **facts)


def _no_table(qualified: str, sql: str, tables: Sequence[str]) -> FirnlineError:
    name = qualified.removeprefix("firnline.")
    shown = name.removeprefix("default.")
    known = [table.removeprefix("default.") for table in tables]
    close = difflib.get_close_matches(shown.lower(), [table.lower() for table in known], 3, 0.5)
    nearest = [table for table in known if table.lower() in close]
    hint = f"; did you mean {' or '.join(nearest)}?" if nearest else "; SHOW TABLES lists them"
    return NotFoundError(f"no such table: {shown}{hint}", **_place_of(sql, shown.rpartition(".")[2]))


def _no_column(found: re.Match[str], sql: str) -> FirnlineError:
    name, guess, valid = found.groups()
    name, valid = _GENERATED.sub("", name), _GENERATED.sub("", valid or "")
    guess = _GENERATED.sub("", guess or "")
    bare = name.rpartition(".")[2].strip('"')
    names = [field.strip() for field in valid.split(",") if field.strip()]
    if not guess and names:
        close = difflib.get_close_matches(bare, [each.rpartition(".")[2].strip('"') for each in names], 1, 0.5)
        guess = close[0] if close else None
    hint = f"; did you mean {guess}?" if guess else ""
    listed = (
        f"{'' if hint else ';'} the columns are {', '.join(names[:20])}{', …' if len(names) > 20 else ''}"
        if names
        else ""
    )
    return SqlError(f"no such column: {name}{hint}{listed}", **_place_of(sql, bare))


def _place_of(sql: str, name: str) -> dict[str, int]:
    found = re.search(rf"(?<!\w){re.escape(name)}(?!\w)", sql, re.IGNORECASE)
    if found is None:
        return {}
    return {"line": sql.count("\n", 0, found.start()) + 1, "column": found.start() - sql.rfind("\n", 0, found.start())}


def _first_line(text: str) -> str:
    cut = text.split("\n\nbacktrace", 1)[0].split("\nThis issue was likely caused by a bug", 1)[0]
    cut = re.sub(r"\s+", " ", cut).strip()
    return cut if len(cut) <= 500 else cut[:500] + "…"


def _lower(text: str) -> str:
    """Return the text as one line, without the engine's own preambles, in lower case at the start."""
    line = re.sub(r"\b(Error during planning|Internal error|Execution error): ", "", _first_line(text))
    return line[:1].lower() + line[1:] if line[1:2].islower() else line
