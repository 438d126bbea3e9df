"""The shell's backslash commands: what they are, how they are read, and the SQL that some stand for."""

from __future__ import annotations

from dataclasses import dataclass

from storage.errors import InvalidError

__all__ = ["COMMANDS", "HELP", "Meta", "parse_meta", "quoted_name"]

COMMANDS: tuple[tuple[str, str, str], ...] = (
    (r"\d", "", "list the tables"),
    (r"\d", "TABLE", "show a table's columns and indexes"),
    (r"\dn", "", "list the schemas"),
    (r"\di", "[TABLE]", "list the indexes"),
    (r"\timing", "[on|off]", "say what each answer cost"),
    (r"\format", "[FORMAT]", "table, json, ndjson or csv"),
    (r"\x", "[on|off|auto]", "one value a line"),
    (r"\i", "FILE", "run a script"),
    (r"\?", "", "this help"),
    (r"\q", "", "leave; Ctrl-D too"),
)
_NAMES = tuple(dict.fromkeys(name for name, _arguments, _doc in COMMANDS))

HELP = "\n".join(
    [
        "A statement ends with a semicolon and may take several lines. Ctrl-C clears the line, or cancels what runs.",
        "Tab completes tables, columns and keywords. Statements are kept in the history (up, Ctrl-R).",
        "",
        *(f"  {name + ' ' + arguments:<24}{doc}" for name, arguments, doc in COMMANDS),
    ]
)


@dataclass(frozen=True, slots=True)
class Meta:
    """A backslash command and what follows it."""

    name: str
    argument: str


def parse_meta(line: str) -> Meta:
    """Return the command of a line that begins with a backslash. Raises `InvalidError` for an unknown one."""
    name, _, argument = line.strip().rstrip(";").strip().partition(" ")
    name = {r"\dt": r"\d", r"\h": r"\?", r"\help": r"\?", r"\quit": r"\q"}.get(name, name)
    if name not in _NAMES:
        raise InvalidError(r"no such command; \? lists them", command=name)
    return Meta(name, argument.strip())


def quoted_name(name: str) -> str:
    """Return a table's name for SQL: as it is if it is quoted or plain, else each part in double quotes."""
    if '"' in name or all(part.isidentifier() for part in name.split(".")):
        return name
    return ".".join('"' + part + '"' for part in name.split("."))
