"""The catalog as an Apache Iceberg REST catalog, under ``/iceberg/v1/``: for pyiceberg, Spark, Trino and DuckDB.

Only tables in Iceberg format are shown. A table made here is one of ours: it is written through the log too, and what
others commit to it is respected (docs/iceberg-rest.md).
"""
