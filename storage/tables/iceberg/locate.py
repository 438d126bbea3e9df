"""Which metadata file a location means: the file itself, or the newest one of a table's folder.

A folder is resolved from one listing of its ``metadata/``. The listing, not ``version-hint.text``, decides, since the
hint is written after the commit and may be stale or missing; the hint only breaks ties and reveals a lost file.
A folder of more keys than one listing request returns is listed once; after that, as long as the known file is there
unchanged and no file of the next number is, nothing has happened.
Without a catalog nobody can tell a committed ``00003-…`` from an abandoned one: the highest number wins, then the
latest ``last-updated-ms``.

Sources: Iceberg spec, "Metastore Tables", "File System Tables"; HadoopTableOperations of the Java library.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field

from storage.blobs import BlobMeta
from storage.errors import CorruptError, NotFoundError
from storage.stores import Stores, join
from storage.tables.iceberg.metadata import parse

__all__ = ["Pointer", "is_metadata_file", "resolve"]

_METADATA = re.compile(r"(?:v(?P<hadoop>\d+)|(?P<catalog>\d+)-[^/]*|[^/]+?)(?:\.gz)?\.metadata\.json(?:\.gz)?")
_HINT = "version-hint.text"
LISTING_KEYS_MAX = 1000
"""What one request of S3's lists at most."""


@dataclass(frozen=True, slots=True)
class Pointer:
    """The metadata file that a location means. Equal pointers mean the same table state.

    etag : of the file as listed, "" when the location names the file itself (such a file never changes)
    hint_etag : of the version hint beside it, "" when there is none
    n_listed : keys in the folder when it was listed
    """

    location: str
    etag: str = ""
    hint_etag: str = ""
    n_listed: int = field(default=0, compare=False)


def is_metadata_file(location: str) -> bool:
    """Tell whether a location names a metadata file rather than a table's folder."""
    return _METADATA.fullmatch(location.rpartition("/")[2]) is not None


async def resolve(stores: Stores, location: str, known: Pointer | None) -> Pointer:
    """Return the newest metadata file at ``location``: no request for a metadata file, one listing for a folder.

    A folder that has changed since ``known`` costs a second request if it holds a version hint; one with more than
    `LISTING_KEYS_MAX` keys costs three small requests at once instead of a long listing when it has not changed.

    Raises
    ------
    NotFoundError
        the folder holds no Iceberg metadata
    CorruptError
        the version hint names a file that is not there, and nothing newer is
    """
    if is_metadata_file(location):
        return Pointer(location)
    if known is not None and known.n_listed > LISTING_KEYS_MAX and await _unchanged(stores, location, known):
        return known
    listed, hint, n_listed = await _listing(stores, location)
    newest = _newest(listed)
    if len(newest) == 1 and _pointer(newest[0], hint, n_listed) == known:
        return _pointer(newest[0], hint, n_listed)
    text = await _hint(stores, location) if hint else ""
    if text:
        newest = _confirmed(newest, text, listed, location)
    if not newest:
        raise NotFoundError("no iceberg table here: the folder holds no metadata/*.metadata.json", location=location)
    return _pointer(newest[0] if len(newest) == 1 else await _last_updated(stores, newest), hint, n_listed)


def _pointer(found: tuple[str, BlobMeta], hint: str, n_listed: int) -> Pointer:
    return Pointer(found[0], found[1].etag, hint, n_listed)


async def _unchanged(stores: Stores, location: str, known: Pointer) -> bool:
    """Tell whether the known file is still there and no file of the next number is, under either naming."""
    number = _number(known.location)
    if number < 0:
        return False
    metadata = join(location, "metadata")
    checks = await asyncio.gather(
        _is_there(stores, known),
        _is_empty(stores, f"{metadata}/v{number + 1}."),
        _is_empty(stores, f"{metadata}/{number + 1:05d}-"),
    )
    return all(checks)


async def _is_there(stores: Stores, known: Pointer) -> bool:
    try:
        return (await stores.head(known.location)).etag == known.etag
    except NotFoundError:
        return False


async def _is_empty(stores: Stores, prefix: str) -> bool:
    async for place, _meta in stores.list(prefix):
        if _METADATA.fullmatch(place.rpartition("/")[2]):
            return False
    return True


async def _listing(stores: Stores, location: str) -> tuple[list[tuple[str, BlobMeta]], str, int]:
    found, hint, n_listed = [], "", 0
    async for place, meta in stores.list(join(location, "metadata") + "/"):
        n_listed += 1
        name = place.removeprefix(join(location, "metadata") + "/")
        if name == _HINT:
            hint = meta.etag
        elif _METADATA.fullmatch(name):
            found.append((place, meta))
    return found, hint, n_listed


def _number(place: str) -> int:
    match = _METADATA.fullmatch(place.rpartition("/")[2])
    digits = (match["hadoop"] or match["catalog"]) if match else None
    return int(digits) if digits else -1


def _newest(listed: list[tuple[str, BlobMeta]]) -> list[tuple[str, BlobMeta]]:
    top = max((_number(place) for place, _meta in listed), default=0)
    return [(place, meta) for place, meta in listed if _number(place) == top]


async def _hint(stores: Stores, location: str) -> str:
    try:
        return (await stores.get(join(location, "metadata", _HINT))).decode("utf-8", "replace").strip()
    except NotFoundError:
        return ""


def _confirmed(
    newest: list[tuple[str, BlobMeta]], hint: str, listed: list[tuple[str, BlobMeta]], location: str
) -> list[tuple[str, BlobMeta]]:
    """Return the one of ``newest`` that the hint names, or all of them when it names an older file or none."""
    stem = re.sub(r"(\.gz)?\.metadata\.json(\.gz)?$", "", hint.rpartition("/")[2])
    stem = f"v{stem}" if stem.isdigit() else stem
    named = [found for found in newest if _stem(found[0]) == stem]
    if named:
        return named[:1]
    number = _number(stem + ".metadata.json")
    if number > (_number(newest[0][0]) if newest else -1) and not any(_stem(p) == stem for p, _meta in listed):
        missing = join(location, "metadata", f"{stem}.metadata.json")
        raise CorruptError("the iceberg version hint names a metadata file that does not exist", file=missing)
    return newest


def _stem(place: str) -> str:
    return re.sub(r"(\.gz)?\.metadata\.json(\.gz)?$", "", place.rpartition("/")[2])


async def _last_updated(stores: Stores, candidates: list[tuple[str, BlobMeta]]) -> tuple[str, BlobMeta]:
    ages = [(parse(await stores.get(place), place).last_updated_ms, place) for place, _meta in candidates]
    latest = max(ages)[1]
    return next(found for found in candidates if found[0] == latest)
