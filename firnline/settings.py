"""The environment, read here and nowhere else: ``FIRN_*`` and the standard AWS variables.

`read` turns a mapping into `Settings`, plain frozen values; `engine_settings` and `serve_settings` lay them out for the
parts that they steer. A misspelt ``FIRN_`` name raises, since one that is silently ignored costs hours.
Every variable stands in docs/settings.md; a test holds the page to this module.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from firnline.settings_text import (
    parse_ack,
    parse_bytes,
    parse_count,
    parse_flag,
    parse_place,
    parse_port,
    parse_prefixes,
    parse_secret,
    parse_usd,
)
from storage.errors import InvalidError

if TYPE_CHECKING:
    from storage.blobs.s3_options import S3Options

__all__ = [
    "AWS_VARIABLES",
    "IGNORED",
    "OTEL_VARIABLES",
    "Settings",
    "Variable",
    "environment",
    "is_loopback",
    "is_url",
    "read",
    "variables",
]

AWS_VARIABLES: dict[str, str] = {
    "AWS_ENDPOINT_URL_S3": "The S3 endpoint, when it is not AWS's own.",
    "AWS_ENDPOINT_URL": "The same for every AWS service; `AWS_ENDPOINT_URL_S3` wins.",
    "AWS_REGION": "The region of the buckets.",
    "AWS_DEFAULT_REGION": "The same; `AWS_REGION` wins.",
    "AWS_ACCESS_KEY_ID": "Static credentials; else the standard chain (profile, web identity, instance).",
    "AWS_SECRET_ACCESS_KEY": "The secret of `AWS_ACCESS_KEY_ID`.",
    "AWS_SESSION_TOKEN": "The session token of temporary credentials.",
}
OTEL_VARIABLES: dict[str, str] = {
    "OTEL_EXPORTER_OTLP_ENDPOINT": "Where spans go: the base URL of a collector, over OTLP/HTTP; unset: no traces.",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "The same, as the whole URL for spans; it wins.",
    "OTEL_EXPORTER_OTLP_HEADERS": "Headers for the collector, such as its token.",
    "OTEL_TRACES_SAMPLER": "Which traces are recorded, such as `parentbased_traceidratio`.",
    "OTEL_TRACES_SAMPLER_ARG": "The sampler's argument, such as `0.01`.",
    "OTEL_SERVICE_NAME": "The service that spans name; default: `firnline`.",
    "OTEL_RESOURCE_ATTRIBUTES": "What else spans say of where they come from.",
    "OTEL_TRACES_EXPORTER": "`none` sends nothing, `otlp` is the default.",
    "OTEL_SDK_DISABLED": "`true` sends nothing.",
}
"""OpenTelemetry's SDK reads these and its others by itself; `Settings.traces` tells whether to start it."""
IGNORED = frozenset({"FIRN_GOLDEN"})
"""Names that belong to the test suite and the build."""


@dataclass(frozen=True, slots=True)
class Variable:
    """One ``FIRN_`` variable: its name, how its text is read, and what the documentation says of it."""

    name: str
    parse: Callable[[str], Any]
    doc: str


def _from(name: str, parse: Callable[[str], Any], default: Any, doc: str, **options: Any) -> Any:
    return field(default=default, metadata={"variable": Variable(name, parse, doc)}, **options)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the environment says; a command line option or an argument wins over each."""

    lake: str = _from("FIRN_LAKE", str, "./lake", "The lake: a folder, `s3://bucket/prefix`, or the URL of a server.")
    catalog: str | None = _from(
        "FIRN_CATALOG", str, None, "Where the catalog is: `sqlite:///path`, `etcd://host:port`; default: in the lake."
    )
    etcd_ca_file: str | None = _from(
        "FIRN_ETCD_CA_FILE", str, None, "PEM file of the CA that signed etcd's certificate."
    )
    etcd_cert_file: str | None = _from("FIRN_ETCD_CERT_FILE", str, None, "PEM file of our certificate for etcd.")
    etcd_key_file: str | None = _from("FIRN_ETCD_KEY_FILE", str, None, "PEM file of its key.")
    etcd_user: str | None = _from("FIRN_ETCD_USER", str, None, "A user of etcd's own, instead of a certificate.")
    etcd_password: str | None = _from("FIRN_ETCD_PASSWORD", str, None, "Its password.", repr=False)
    token: str | None = _from("FIRN_TOKEN", str, None, "The API token that clients send to a server.", repr=False)
    host: str = _from("FIRN_HOST", str, "127.0.0.1", "The address that `firn serve` binds to.")
    port: int = _from("FIRN_PORT", parse_port, 8080, "Its port; 0 takes a free one.")
    allow: tuple[str, ...] = _from(
        "FIRN_ALLOW",
        parse_prefixes,
        (),
        "Comma-separated path or URL prefixes that SQL may reach when serving, beside the lake.",
    )
    require_tokens: bool = _from(
        "FIRN_REQUIRE_TOKENS", parse_flag, False, "Ask every request for an API token, on loopback too."
    )
    memory_bytes: int = _from(
        "FIRN_MEMORY_LIMIT",
        parse_bytes,
        0,
        "Memory of one statement, such as `4GiB`, past which it spills or fails; 0: half the machine's when serving.",
    )
    index_memory_bytes: int = _from(
        "FIRN_INDEX_MEMORY",
        parse_bytes,
        512 << 20,
        "Memory for the models of indexes, in bytes and for each process; those used longest ago are loaded again.",
    )
    spill_dir: str | None = _from(
        "FIRN_SPILL_DIR",
        str,
        None,
        "Where sorts and aggregations spill, and tasks keep the rows of files that they merge; default: the system's "
        "temporary folder.",
    )
    target_partitions: int = _from(
        "FIRN_TARGET_PARTITIONS", parse_count, 0, "Threads of one statement; 0: one for each core."
    )
    statement_timeout_ms: int | None = _from(
        "FIRN_STATEMENT_TIMEOUT_MS",
        parse_count,
        None,
        "Time limit of a statement in milliseconds; 0: none; default: 300000 when serving, none in process.",
    )
    result_rows_max: int = _from("FIRN_RESULT_ROWS_MAX", parse_count, 0, "Most rows of a result; 0: no limit.")
    result_bytes_max: int = _from("FIRN_RESULT_BYTES_MAX", parse_bytes, 0, "Most bytes of a result; 0: no limit.")
    scan_bytes_max: int = _from(
        "FIRN_SCAN_BYTES_MAX", parse_bytes, 0, "Most bytes that a statement may scan; 0: no limit."
    )
    statements_max: int = _from("FIRN_STATEMENTS_MAX", parse_count, 0, "Statements that a server runs at once; 0: 4.")
    log_ack: str | None = _from(
        "FIRN_LOG_ACK",
        parse_ack,
        None,
        "Where a row is when it is acknowledged: `fsync` (this machine's disk; the default for a local lake) or "
        "`object` (the object store; the default for S3).",
    )
    log_journal: str | None = _from(
        "FIRN_LOG_JOURNAL",
        str,
        None,
        "Local folder of the logs' journals, which `fsync` needs; default: in a local lake; an S3 lake then has none.",
    )
    log_shards: int = _from("FIRN_LOG_SHARDS", parse_count, 1, "How many logs a lake gets when it is first written to.")
    log_own: bool = _from(
        "FIRN_LOG_OWN", parse_flag, True, "Whether this process may own a log; 0: it writes through `firn wal` only."
    )
    log_url: str | None = _from(
        "FIRN_LOG_URL", str, None, "The URL under which other machines reach the log of `firn wal` or `firn serve`."
    )
    log_flush_interval_ms: int = _from(
        "FIRN_LOG_FLUSH_INTERVAL_MS", parse_count, 100, "Longest time that appended rows are gathered for one upload."
    )
    log_unfolded_max: int = _from(
        "FIRN_LOG_UNFOLDED_MAX",
        parse_bytes,
        4 << 30,
        "Bytes of a log that are not in a table yet, past which writers are told to wait (429).",
    )
    log_lease_ms: int = _from(
        "FIRN_LOG_LEASE_MS", parse_count, 6000, "A log's owner is replaced so long after its last sign of life."
    )
    log_wait_ms: int = _from(
        "FIRN_LOG_WAIT_MS", parse_count, 10_000, "How long a write waits for a log's owner before it fails."
    )
    iceberg_credentials: bool = _from(
        "FIRN_ICEBERG_CREDENTIALS",
        parse_flag,
        False,
        "Tell clients of the Iceberg REST catalog the server's own S3 settings, its keys included.",
    )
    compact: bool = _from(
        "FIRN_COMPACT",
        parse_flag,
        True,
        "Whether a server or an embedded lake folds the log into the tables in the background; 0: `firn compact` does.",
    )
    compact_interval_ms: int = _from(
        "FIRN_COMPACT_INTERVAL_MS", parse_count, 10_000, "How often a server folds the log into the tables."
    )
    allow_http: bool = _from(
        "FIRN_ALLOW_HTTP", parse_flag, False, "Allow plain http to S3 endpoints, and tokens over it, beyond loopback."
    )
    task_secret: str | None = _from(
        "FIRN_TASK_SECRET", parse_secret, None,
        "What tasks for workers are signed with, the same for all of a deployment: at least 32 characters, such as "
        "those of `openssl rand -hex 32`; `new,old` while it is replaced.",
        repr=False,
    )  # fmt: skip
    platform_port: str | None = _from(
        "PORT",
        str,
        None,
        "The port that a platform such as Knative tells `firn serve` and `firn worker` to listen on.",
    )
    functions: str = _from(
        "FIRN_FUNCTIONS",
        parse_place,
        "inline",
        "Where tasks of large statements run: `inline` (this process), `processes`, `processes:N`, `http://…`, "
        "`https://…`, `lambda:NAME`, `ray` (on this machine) or `ray://HOST:PORT`.",
    )
    functions_concurrency: int = _from(
        "FIRN_FUNCTIONS_CONCURRENCY", parse_count, 0,
        "Tasks that the workers run at once, for all statements; 0: what the platform says (cores, a function's or "
        "cluster's own limit; 64 behind a URL).",
    )  # fmt: skip
    functions_memory_bytes: int = _from(
        "FIRN_FUNCTIONS_MEMORY", parse_bytes, 0,
        "Memory of a worker process of `processes`, past which it is killed and its task fails; 0: no limit.",
    )  # fmt: skip
    functions_timeout_ms: int = _from(
        "FIRN_FUNCTIONS_TIMEOUT_MS", parse_count, 900_000, "Longest time of one task in milliseconds.",
    )  # fmt: skip
    functions_ca_file: str | None = _from(
        "FIRN_FUNCTIONS_CA_FILE",
        str,
        None,
        "PEM file of the CA that signed the certificate of workers behind `https://…`.",
    )
    broadcast_bytes: int = _from(
        "FIRN_BROADCAST_MAX", parse_bytes, 128 << 20,
        "Bytes that all copies of a join's smaller side may have together; larger ones are hashed. 0: none is copied.",
    )  # fmt: skip
    tasks_max: int = _from(
        "FIRN_TASKS_MAX", parse_count, 0, "Tasks of a statement that run at once; 0: as many as the workers take."
    )
    max_cost: float = _from(
        "FIRN_MAX_COST", parse_usd, 0.0, "Most that a statement may be estimated to cost, in USD; 0: no limit."
    )
    log_sql: bool = _from(
        "FIRN_LOG_SQL", parse_flag, False,
        "Put the text of statements into a server's log, with whatever data stands in it; never their parameters.",
    )  # fmt: skip
    prices: str = _from(
        "FIRN_PRICES", str, "",
        "Prices in USD in place of the list's: any of `gb_second=…,invocation=…,get=…,put=…`.",
    )  # fmt: skip
    history: str | None = _from(
        "FIRN_HISTORY", str, None, "The shell's history file; default: `~/.local/state/firnline/history`; empty: none."
    )
    debug: bool = _from("FIRN_DEBUG", parse_flag, False, "Show the Python trace of an error on the command line.")
    no_color: bool = _from("NO_COLOR", bool, False, "Any value: no colours in the terminal (no-color.org).")
    aws: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The AWS variables that are set, by name."""
    otel: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Those of `OTEL_VARIABLES` that are set, by name."""

    def port_of(self, option: int | None, default: int) -> int:
        """Return where a server listens: the command line's port, else the platform's, else ``default``.

        Raises `InvalidError` for a platform's port that is none, and is needed: other programs have a ``PORT`` too.
        """
        if option is not None:
            return option
        if self.platform_port is None:
            return default
        port: int = _parse(variables()["platform_port"][0], self.platform_port, parse_port)
        return port

    @property
    def traces(self) -> bool:
        """Whether spans have somewhere to go."""
        told = self.otel
        if told.get("OTEL_SDK_DISABLED", "").lower() == "true" or told.get("OTEL_TRACES_EXPORTER", "") == "none":
            return False
        return "OTEL_EXPORTER_OTLP_ENDPOINT" in told or "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" in told

    def s3_options(self) -> S3Options:
        """Return how to reach S3. Raises `InvalidError` for a plain http endpoint beyond loopback."""
        from storage.blobs.s3_options import S3Options

        endpoint = self.aws.get("AWS_ENDPOINT_URL_S3") or self.aws.get("AWS_ENDPOINT_URL")
        if endpoint is not None:
            _check_endpoint(endpoint, self.allow_http)
        return S3Options(
            endpoint=endpoint,
            region=self.aws.get("AWS_REGION") or self.aws.get("AWS_DEFAULT_REGION"),
            access_key_id=self.aws.get("AWS_ACCESS_KEY_ID"),
            secret_access_key=self.aws.get("AWS_SECRET_ACCESS_KEY"),
            session_token=self.aws.get("AWS_SESSION_TOKEN"),
            allow_http=self.allow_http,
        )


def variables() -> dict[str, tuple[Variable, Any]]:
    """Return field name → (variable, default) for every setting."""
    return {
        each.name: (each.metadata["variable"], each.default) for each in fields(Settings) if "variable" in each.metadata
    }


def environment() -> Settings:
    """Return the settings of this process's environment. Raises `InvalidError` as `read` does."""
    return read(os.environ)


def read(environ: Mapping[str, str]) -> Settings:
    """Return the settings of a mapping of variables.

    Raises `InvalidError` for an unknown ``FIRN_`` name (with the nearest known one) and for a value that does not read.
    """
    known = {variable.name: (attribute, variable) for attribute, (variable, _default) in variables().items()}
    hidden = {each.name for each in fields(Settings) if not each.repr}
    for name in environ:
        if name.startswith("FIRN_") and name not in known and name not in IGNORED:
            raise InvalidError(_unknown(name, list(known)), variable=name)
    values = {
        attribute: _parse(variable, environ[name], shown=attribute not in hidden)
        for name, (attribute, variable) in known.items()
        if name in environ and (environ[name] or name == "FIRN_HISTORY")
    }
    aws = {name: environ[name] for name in AWS_VARIABLES if environ.get(name)}
    otel = {name: environ[name] for name in OTEL_VARIABLES if environ.get(name)}
    return Settings(**values, aws=aws, otel=otel)


def _parse(variable: Variable, text: str, parse: Callable[[str], Any] | None = None, *, shown: bool = True) -> Any:
    try:
        return (parse or variable.parse)(text)
    except ValueError as error:
        told = {"value": repr(text)} if shown else {}
        raise InvalidError(f"the environment's {variable.name} does not read: {error}", **told) from None


def _unknown(name: str, known: list[str]) -> str:
    from difflib import get_close_matches

    endings = [each.removeprefix("FIRN_") for each in known]
    near = get_close_matches(name.removeprefix("FIRN_"), endings, n=1, cutoff=0.6)
    hint = f"; did you mean FIRN_{near[0]}?" if near else "; docs/settings.md lists the known ones"
    return f"the environment sets a variable that Firnline does not know{hint}"


def is_url(lake: str) -> bool:
    """Tell whether a lake is a server's URL."""
    return lake.lower().startswith(("http://", "https://"))


def is_loopback(host: str | None) -> bool:
    """Tell whether a host name or address can only be this machine."""
    from ipaddress import ip_address

    name = (host or "").strip("[]").lower()
    try:
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False


def _check_endpoint(endpoint: str, allow_http: bool) -> None:
    parts = urlsplit(endpoint)
    if parts.scheme == "http" and not (allow_http or is_loopback(parts.hostname)):
        raise InvalidError(
            "the S3 endpoint is plain http and not on this machine, so data would cross the network in the clear; "
            "use https, or set FIRN_ALLOW_HTTP=1",
            endpoint=endpoint,
        )
