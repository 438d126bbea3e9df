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

__all__ = ["ReadError", "is_panic", "translate"]

_NOISE = re.compile(
    r"^(DataFusion error: |Error during planning: |SQL error: |Schema error: |Execution error: |Arrow error: "
    r"|External error: |Optimizer rule '[^']*' failed\s*caused by\s*|External\s*caused by\s*|Arrow\s*caused by\s*"
    r"|check_[a-z_]+\s*caused by\s*|type_coercion\s*caused by\s*|Failed to [a-z ]+\s*caused by\s*)+"
)
_PLACE = re.compile(r" at Line: (\d+), Column: (\d+)")
_TABLE = re.compile(r"table '([^']*)' not found")
_FIELD = re.compile(r"No field named (.+?)\.(?: Did you mean '(.+?)'\?)?(?:\s+Valid fields are (.*?)\.?)?$", re.DOTALL)


_OURS = re.compile(rf"\b({'|'.join(cls.__name__ for cls in STATUS)}): (.*)", re.DOTALL)


class ReadError(CorruptError):
    """A data file could not be decoded; the engine does not say which (`service.blame` finds it)."""


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
        return InternalError("the query engine panicked on this statement or its files", reason=_first_line(str(error)))
    text = str(error)
    if found := _OURS.search(text):  # raised by the merge-on-read reader, below the engine
        return from_wire({"error": found.group(1), "message": _first_line(found.group(2))})
    plain = _NOISE.sub("", text).strip()
    return _planning(text, plain, sql, tables) or _running(text, plain)


def _planning(text: str, plain: str, sql: str, tables: Sequence[str]) -> FirnlineError | None:
    if "ParserError(" in text or "TokenizerError(" in text or "RecursionLimitExceeded" in text:
        return _syntax(text, sql)
    if found := _TABLE.search(text):
        return _no_table(found.group(1), sql, tables)
    if found := _FIELD.search(plain):
        return _no_column(found, sql)
    if "Invalid function" in text:
        name = re.search(r"Invalid function '([^']*)'", text)
        return SqlError(_first_line(plain), **(_place_of(sql, name.group(1)) if name else {}))
    if "Placeholder" in text and "was not provided" in text:
        return InvalidError(_first_line(plain))
    if text.removeprefix("DataFusion error: ").startswith(("Error during planning", "Schema error", "type_coercion")):
        return SqlError(_lower(plain))
    if "type_coercion" in text or "Error during planning" in text:
        return SqlError(_lower(plain))
    return None


def _running(text: str, plain: str) -> FirnlineError:
    if "Resources exhausted" in text:
        return LimitError(
            "the statement needs more memory than its limit; ask for less, or raise the memory limit",
            reason=_first_line(plain),
        )
    if "not implemented" in text or "NotImplemented" in text or "not supported" in text.lower():
        return UnsupportedError(_lower(_first_line(plain)))
    if "Object at location" in text and "not found" in text:
        found = re.search(r"Object at location (\S+) not found", text)
        return NotFoundError("a data file is missing", file=found.group(1) if found else None)
    if re.search(r"\b(403 Forbidden|AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch)\b", text):
        return ForbiddenError("the object store denied access; check the credentials", reason=_first_line(plain))
    if "Generic S3 error" in text or "error sending request" in text:
        return UnavailableError("the object store did not answer", reason=_first_line(plain))
    if "Parquet error" in text or "ParquetError" in text or "Parquet argument error" in text or "EOF" in text:
        return ReadError("a data file cannot be decoded", reason=_first_line(plain))
    if re.search(r"Divide by zero|Cast error|Overflow|Invalid argument|cast|out of range|parse", text, re.IGNORECASE):
        return InvalidError(_lower(_first_line(plain)))
    return InvalidError(_lower(_first_line(plain))) if isinstance_execution(text) else InternalError(_first_line(plain))


def isinstance_execution(text: str) -> bool:
    """Tell whether the engine calls it an error of execution, which data or arguments cause."""
    return "Execution error" in text or "Arrow error" in text


def _syntax(text: str, sql: str) -> FirnlineError:
    if "RecursionLimitExceeded" in text or "recursion limit exceeded" in text:
        return SqlError("the statement is nested too deeply for the parser; use fewer nested expressions")
    inner = re.search(r'(?:ParserError|TokenizerError)\("(.*?)"\)', text, re.DOTALL)
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
    bare = name.rpartition(".")[2].strip('"')
    names = [field.strip() for field in (valid or "").split(",") if field.strip()]
    if not guess and names:
        close = difflib.get_close_matches(bare, [each.rpartition(".")[2].strip('"') for each in names], 1, 0.5)
        guess = close[0] if close else None
    hint = f"; did you mean {guess}?" if guess else ""
    listed = f" the columns are {', '.join(names[:20])}{', …' if len(names) > 20 else ''}" if names else ""
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
    line = _first_line(text)
    return line[:1].lower() + line[1:] if line[1:2].islower() else line
