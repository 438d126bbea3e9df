"""``docs/benchmarks.md`` in parts, so that each run replaces its own and leaves the others as they are."""

from __future__ import annotations

__all__ = ["with_part"]

_ORDER = ("read", "write", "lookup", "functions", "functions-sf10")


def with_part(page: str, name: str, text: str) -> str:
    """Return the page with the part ``name`` replaced by ``text``. A page without marks is the part ``read``."""
    parts = _parts_of(page)
    parts[name] = text.strip()
    return "\n\n".join(f"{_mark(each)}\n\n{parts[each]}" for each in _ORDER if each in parts) + "\n"


def _parts_of(page: str) -> dict[str, str]:
    parts: dict[str, str] = {}
    current = "read"
    for line in page.splitlines():
        for each in _ORDER:
            if line.strip() == _mark(each):
                current, line = each, ""
        parts[current] = f"{parts.get(current, '')}\n{line}"
    return {name: text.strip() for name, text in parts.items() if text.strip()}


def _mark(name: str) -> str:
    return f"<!-- part: {name} -->"
