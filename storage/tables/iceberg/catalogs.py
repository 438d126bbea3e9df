"""The metadata file of a table in an Iceberg catalog: SQL and REST, through pyiceberg's clients.

Only the catalog is asked. A SQL catalog's row is read as it is, since pyiceberg's ``load_table`` would read the
metadata file past `storage.stores.Stores`; a REST catalog sends the metadata along, which is not used. Settings come
from the given properties alone: pyiceberg's own configuration files and environment are left out.

Source: Iceberg spec, "Metastore Tables"; Iceberg REST catalog OpenAPI, ``loadTable``.
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager

from storage.errors import (
    CorruptError,
    FirnlineError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
)

__all__ = ["resolve_metadata_location"]

DEFAULT_NAME = "default"


async def resolve_metadata_location(catalog_properties: Mapping[str, str], identifier: str) -> str:
    """Return the location of the table's current metadata file, for `storage.tables.iceberg.load`.

    Parameters
    ----------
    catalog_properties : pyiceberg's properties of a catalog: ``uri``, ``type`` (``sql`` or ``rest``; by default told
        from the uri), ``name`` (of the catalog within a SQL database, by default ``default``), ``token``, …
    identifier : ``namespace.table``, the namespace of any depth

    Raises
    ------
    NotFoundError
        no such table
    InvalidError
        the properties or the identifier are wrong
    UnsupportedError
        another type of catalog, or a table whose metadata the REST client refuses
    UnauthenticatedError, ForbiddenError
        the catalog refuses the credentials
    UnavailableError
        the catalog does not answer
    """
    if not all(identifier.split(".")) or "." not in identifier:
        raise InvalidError("a catalog table is named namespace.table", table=identifier)
    properties = dict(catalog_properties)
    name = properties.pop("name", DEFAULT_NAME)
    kind = _kind(properties)
    if importlib.util.find_spec("pyiceberg") is None:
        raise UnsupportedError("iceberg catalogs need an extra: install firnline[iceberg-catalogs]")
    resolve = {"sql": _from_sql, "rest": _from_rest}.get(kind)
    if resolve is None:
        raise UnsupportedError("this type of iceberg catalog cannot be read; use sql or rest", type=kind)
    return await asyncio.to_thread(resolve, name, properties, identifier)


def _kind(properties: dict[str, str]) -> str:
    kind = properties.pop("type", "")
    uri = properties.get("uri", "")
    if not uri:
        raise InvalidError("an iceberg catalog needs the property uri")
    return kind.lower() or ("rest" if uri.startswith(("http://", "https://")) else "sql")


def _from_sql(name: str, properties: dict[str, str], identifier: str) -> str:
    from pyiceberg.catalog.sql import IcebergTables, SqlCatalog
    from sqlalchemy import select

    namespace, _, table = identifier.rpartition(".")
    wanted = select(IcebergTables.metadata_location).where(
        IcebergTables.catalog_name == name,
        IcebergTables.table_namespace == namespace,
        IcebergTables.table_name == table,
    )
    with _translated(identifier):
        catalog = SqlCatalog(name, **{**properties, "init_catalog_tables": "false"})
        try:
            with catalog.engine.connect() as connection:
                found = connection.execute(wanted).one_or_none()
        finally:
            catalog.engine.dispose()
    if found is None or found[0] is None:
        raise NotFoundError("no such table in the iceberg catalog", table=identifier, catalog=name)
    return str(found[0])


def _from_rest(name: str, properties: dict[str, str], identifier: str) -> str:
    from pyiceberg.catalog.rest import RestCatalog

    with _translated(identifier), closing(RestCatalog(name, **properties)) as catalog:
        location = catalog.load_table(identifier).metadata_location
    if not location:
        raise CorruptError("the iceberg catalog gives no metadata location", table=identifier)
    return str(location)


@contextmanager
def _translated(identifier: str) -> Iterator[None]:
    """Raise the error tree's errors for pyiceberg's, requests' and sqlalchemy's."""
    import pyiceberg.exceptions as iceberg
    import requests
    from pydantic import ValidationError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (iceberg.NoSuchTableError, iceberg.NoSuchNamespaceError, iceberg.NoSuchIdentifierError) as error:
        raise NotFoundError("no such table in the iceberg catalog", table=identifier) from error
    except (iceberg.UnauthorizedError, iceberg.AuthorizationExpiredError, iceberg.OAuthError) as error:
        raise UnauthenticatedError("the iceberg catalog refuses the credentials", reason=str(error)) from error
    except iceberg.ForbiddenError as error:
        raise ForbiddenError("the iceberg catalog forbids it", table=identifier, reason=str(error)) from error
    except ValidationError as error:
        raise UnsupportedError(
            "the iceberg catalog's answer cannot be read; open the table by its metadata file",
            table=identifier,
            reason=str(error),
        ) from error
    except (iceberg.BadRequestError, iceberg.NoSuchPropertyException, iceberg.NotInstalledError) as error:
        raise InvalidError("the iceberg catalog cannot be used so", reason=str(error)) from error
    except (requests.RequestException, SQLAlchemyError) as error:
        raise _client_error(error) from error
    except FirnlineError:
        raise
    except Exception as error:  # a read: whatever else happened, asking again is safe
        raise UnavailableError("the iceberg catalog failed", table=identifier, reason=repr(error)) from error


def _client_error(error: Exception) -> FirnlineError:
    import requests
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    wrong = (ArgumentError, NoSuchModuleError, requests.exceptions.InvalidSchema, requests.exceptions.InvalidURL)
    if isinstance(error, (*wrong, requests.exceptions.MissingSchema)):
        return InvalidError("not a usable catalog uri", reason=str(error))
    return UnavailableError("the iceberg catalog does not answer", reason=str(error))
