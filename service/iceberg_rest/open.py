"""The Iceberg REST catalog of an engine's lake."""

from __future__ import annotations

from catalog.tables import Tables
from service.engine import Engine
from service.iceberg_rest.catalog import IcebergCatalog
from service.settings import EngineSettings
from storage.blobs.s3_options import S3Options
from storage.stores import AccessPolicy, normalize

__all__ = ["iceberg_catalog"]


def iceberg_catalog(engine: Engine, settings: EngineSettings, *, vend_credentials: bool = False) -> IcebergCatalog:
    """Return the catalog over an engine's own connections.

    Clients may name the lake and the allowed prefixes only, also where statements may read everything.

    Parameters
    ----------
    vend_credentials : tell clients the server's own S3 settings, its keys included
    """
    lake = normalize(settings.lake)
    policy = AccessPolicy(tuple(normalize(prefix) for prefix in (lake, *(settings.allow or ()))))
    return IcebergCatalog(
        kv=engine.kv,
        tables=Tables(engine.kv, engine.clock),
        stores=engine.stores.scoped(policy),
        clock=engine.clock,
        lake=lake,
        table_config=_s3_config(settings.s3) if vend_credentials else {},
    )


def _s3_config(options: S3Options) -> dict[str, str]:
    """Return the settings as Iceberg's clients name them."""
    found = {
        "s3.endpoint": options.endpoint,
        "s3.region": options.region,
        "s3.access-key-id": options.access_key_id,
        "s3.secret-access-key": options.secret_access_key,
        "s3.session-token": options.session_token,
        "s3.path-style-access": "false" if options.virtual_hosted else "true",
    }
    return {name: value for name, value in found.items() if value is not None}
