"""Signed messages: magic, version (uint16), length of the header (uint32), header (JSON), payload, HMAC-SHA256.

All numbers are little-endian. The signature covers all that is before it, the magic too, so a reply is never taken for
a task. Nothing but magic, version and length is looked at before the signature is found right.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from storage.errors import ForbiddenError, InvalidError, TooLargeError

__all__ = ["HEADER_BYTES_MAX", "MESSAGE_BYTES_MAX", "OLDEST", "VERSION", "check_prefix", "open_message", "seal"]

VERSION = 1
OLDEST = 1
MESSAGE_BYTES_MAX = 512 << 20
HEADER_BYTES_MAX = 64 << 20
"""What is longer is refused before it is parsed."""

_PREFIX = struct.Struct("<4sHI")
_MAC_BYTES = hashlib.sha256().digest_size
_NAMES = {b"FNTK": "task", b"FNRS": "reply"}


def seal(magic: bytes, header: Mapping[str, Any], blobs: Sequence[bytes], secret: bytes) -> bytes:
    """Return the signed message. Raises `InvalidError` for what is no JSON or an empty secret, `TooLargeError`."""
    signing = _secrets(secret)[0]
    try:
        text = json.dumps({**header, "parts": [len(blob) for blob in blobs]}, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidError("a task's header takes JSON values only", reason=str(error)[:200]) from None
    encoded = text.encode()
    n_bytes = _PREFIX.size + len(encoded) + sum(map(len, blobs)) + _MAC_BYTES
    if len(encoded) > HEADER_BYTES_MAX or n_bytes > MESSAGE_BYTES_MAX:
        raise TooLargeError("a task is too large; cut the work into more tasks", n_bytes=n_bytes)
    content = b"".join([_PREFIX.pack(magic, VERSION, len(encoded)), encoded, *blobs])
    return content + hmac.digest(signing, content, "sha256")


def open_message(
    magic: bytes, data: bytes, secret: bytes, known: frozenset[str]
) -> tuple[int, dict[str, Any], memoryview]:
    """Return version, header and what follows it, once the signature is found right.

    Parameters
    ----------
    known : fields of the header that the caller understands

    Raises
    ------
    ForbiddenError : it is damaged, or not signed with a secret of ``secret``
    InvalidError : it is another thing, of a version that is not read here, or needs a field that is not known
    TooLargeError : it is longer than any message
    """
    what = _NAMES[magic]
    secrets = _secrets(secret)
    check_prefix(magic, data, whole=True)
    if len(data) > MESSAGE_BYTES_MAX:
        raise TooLargeError(f"the {what} is too large", n_bytes=len(data), limit=MESSAGE_BYTES_MAX)
    _magic, version, header_bytes = _PREFIX.unpack_from(data)
    content = memoryview(data)[:-_MAC_BYTES]
    if not any(hmac.compare_digest(hmac.digest(each, content, "sha256"), data[-_MAC_BYTES:]) for each in secrets):
        raise ForbiddenError(
            f"the {what} is damaged, or not signed with this deployment's secret; give coordinator and workers one "
            "FIRN_TASK_SECRET"
        )
    if header_bytes > min(HEADER_BYTES_MAX, len(content) - _PREFIX.size):
        raise InvalidError(f"the {what}'s header is longer than the {what}", n_bytes=header_bytes)
    try:
        header = json.loads(bytes(content[_PREFIX.size : _PREFIX.size + header_bytes]))
    except (ValueError, RecursionError) as error:
        raise InvalidError(f"the {what}'s header is no JSON", reason=str(error)[:200]) from None
    if not isinstance(header, dict):
        raise InvalidError(f"the {what}'s header is no JSON object")
    _check_must(what, header.get("must", ()), known)
    return version, header, content[_PREFIX.size + header_bytes :]


def check_prefix(magic: bytes, data: bytes | bytearray, *, whole: bool) -> bool:
    """Tell whether what a message's first bytes say has been checked; False: there are too few yet.

    whole : ``data`` is all of the message

    Raises `InvalidError` for what cannot become a message of this kind, or is of a version that is not read here.
    """
    what = _NAMES[magic]
    if not magic.startswith(bytes(data[:4])) or (whole and len(data) < _PREFIX.size + _MAC_BYTES):
        raise InvalidError(f"these bytes are no {what}", n_bytes=len(data))
    if len(data) < _PREFIX.size:
        return False
    _magic, version, _header_bytes = _PREFIX.unpack_from(data)
    if not OLDEST <= version <= VERSION:
        raise InvalidError(
            f"the {what} is of another version; deploy workers before coordinators",
            version=version, reads=f"{OLDEST}..{VERSION}", differs="version",
        )  # fmt: skip
    return True


def _check_must(what: str, must: Any, known: frozenset[str]) -> None:
    named = must if isinstance(must, (list, tuple)) else [must]
    missing = sorted(str(name) for name in named if name not in known)
    if missing:
        raise InvalidError(
            f"the {what} needs what this version does not know; deploy workers before coordinators",
            fields=",".join(missing)[:200], version=VERSION, differs="fields",
        )  # fmt: skip


def _secrets(secret: bytes) -> list[bytes]:
    """Return the secrets of ``new,old``: the first signs, each is accepted. So one is replaced while tasks run."""
    found = [each for each in secret.split(b",") if each]
    if not found:
        raise InvalidError("tasks are signed, and there is no secret; set FIRN_TASK_SECRET")
    return found
