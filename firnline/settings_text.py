"""How texts of the environment are read, each by a function that raises `ValueError` with what to write instead."""

from __future__ import annotations

import re

__all__ = [
    "parse_ack",
    "parse_bytes",
    "parse_count",
    "parse_flag",
    "parse_place",
    "parse_port",
    "parse_prefixes",
    "parse_secret",
    "parse_usd",
]

_UNITS = {"": 1, "b": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_UNITS |= {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS |= {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_PLACE = re.compile(r"inline|processes(:[1-9]\d*)?|https?://\S+|lambda:\S+|ray(:\S+)?")
_SECRET_MIN, _PORT_MAX = 32, 65535
_TRUE, _FALSE = frozenset({"1", "true", "yes", "on"}), frozenset({"", "0", "false", "no", "off"})


def parse_bytes(text: str) -> int:
    """Read ``4GiB``, ``500M`` or a plain number of bytes. Raises `ValueError`."""
    number = text.strip().lower().rstrip("abcdefghijklmnopqrstuvwxyz ")
    unit = text.strip().lower()[len(number) :].strip()
    if unit not in _UNITS:
        raise ValueError("write a number of bytes such as 4GiB, 500M or 1073741824")
    return int(float(number) * _UNITS[unit])


def parse_flag(text: str) -> bool:
    """Read ``1``, ``true``, ``yes``, ``on`` and their opposites. Raises `ValueError`."""
    word = text.strip().lower()
    if word not in _TRUE | _FALSE:
        raise ValueError("write 1 or 0")
    return word in _TRUE


def parse_count(text: str) -> int:
    """Read a whole number that is not negative. Raises `ValueError`."""
    if not text.strip().isdecimal():
        raise ValueError("write a whole number")
    return int(text)


def parse_port(text: str) -> int:
    """Read a port; 0 stands for a free one. Raises `ValueError`."""
    if not text.strip().isdecimal() or int(text) > _PORT_MAX:
        raise ValueError(f"write a port from 0 to {_PORT_MAX}")
    return int(text)


def parse_usd(text: str) -> float:
    """Read a sum that is not negative. Raises `ValueError`."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise ValueError("write a sum in USD, such as 0.05")
    return value


def parse_place(text: str) -> str:
    """Read where tasks run, a form that `functions.invoke.open.open_invoker` knows. Raises `ValueError`.

    Read here, so that a server with a misspelt place does not start, rather than fail when a statement has tasks.
    """
    if not _PLACE.fullmatch(text.strip()):
        raise ValueError("write inline, processes, processes:N, https://…, lambda:NAME, ray or ray://HOST:PORT")
    return text.strip()


def parse_secret(text: str) -> str:
    """Read a secret, or several with commas between them, each long enough not to be guessed. Raises `ValueError`."""
    for each in text.split(","):
        if len(each) < _SECRET_MIN:
            raise ValueError(
                f"a secret has at least {_SECRET_MIN} characters, and this one has {len(each)}; make one with "
                "openssl rand -hex 32"
            )
    return text


def parse_ack(text: str) -> str:
    """Read an ack mode. Raises `ValueError`."""
    if text.strip().lower() not in ("object", "fsync"):
        raise ValueError("write fsync or object")
    return text.strip().lower()


def parse_prefixes(text: str) -> tuple[str, ...]:
    """Read names with commas between them."""
    return tuple(part.strip() for part in text.split(",") if part.strip())
