"""The members of an etcd cluster: which one to ask, how long to wait, and when to ask another.

One channel per member rather than one channel over all. grpc's own list of addresses takes numeric ones only, checks
no TLS name, and keeps sending to a member that accepts but does not answer; here a try that fails moves on to the
next member. A member whose connection was never ready has been sent nothing, so such a try leaves no doubt behind.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from catalog.kv.etcd_errors import did_not_happen, final_error, is_from_etcd, token_is_stale
from catalog.kv.etcd_stubs import load_etcdrpc
from storage.clock import Clock
from storage.errors import IndeterminateError, InvalidError, UnavailableError

__all__ = ["EtcdOptions", "Member", "Members", "Metadata", "Reply", "unary"]

_CHANNEL_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # A member that is frozen or cut off ends its streams after 6 to 9 s. etcd closes connections that ping more often
    # than every 5 s. Without the last two, grpc waits 60 s for a ping's answer and stops pinging an idle watch.
    ("grpc.keepalive_time_ms", 6_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.ping_timeout_ms", 3_000),
    ("grpc.http2.max_pings_without_data", 0),
)

_PAUSE_MAX_S = 0.4
_READY_POLL_S = 0.002
_CLOSE_S = 0.05
_AWAY_DEADLINE_S = 1.0
_AGAIN_S = 0.5
_AGAIN_DEADLINE_S = 0.25
"""A statement asks several times: what it asks right after a question that nobody answered is asked briefly."""


@dataclass(frozen=True, slots=True)
class EtcdOptions:
    """How to reach a cluster, and where in it the catalog is.

    namespace : letters, digits and ``._-``; keys are kept under ``{namespace}/`` and ``{namespace}!txn/``
    ca_file, cert_file, key_file : PEM files; a CA turns TLS on, a certificate and its key make it mutual
    user, password : etcd's own users; leave both out when a certificate's CN is the user
    try_timeout_ms : of the first try; doubled whenever a try runs out of time
    deadline_ms : of a call, all tries together; after a call that nobody answered, the next ones give up after a
        second or one try of each member, until one is answered
    silence_ms : of a call that may be repeated, while no member gives a sign of life: whoever reads hears soon that
        etcd is away. A new connection is one, and so is an answer such as that there is no leader: elections are
        waited for
    """

    namespace: str = "firn"
    tls: bool = False
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    try_timeout_ms: int = 500
    deadline_ms: int = 8_000
    silence_ms: int = 2_500

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]{1,64}", self.namespace, re.ASCII):
            raise InvalidError(
                "an etcd namespace is 1 to 64 letters, digits, '.', '_' or '-'", namespace=self.namespace
            )


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer; ``doubtful`` when an earlier try of the same request may have been executed too."""

    message: Any
    doubtful: bool


class Member:
    """One server and the stubs to call it."""

    def __init__(self, endpoint: str, channel: grpc.aio.Channel) -> None:
        rpc = load_etcdrpc()
        self.endpoint = endpoint
        self.kv = rpc.KVStub(channel)
        self.lease = rpc.LeaseStub(channel)
        self.watches = rpc.WatchStub(channel)
        self.auth = rpc.AuthStub(channel)
        self._channel = channel

    def is_connected(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._channel.get_state() is grpc.ChannelConnectivity.READY

    async def is_ready(self, timeout_s: float) -> bool:
        """Whether there is a connection; waits for one under way, not for a second try after a failure."""
        # Polled: a `wait_for_state_change` that is cancelled stays in grpc, and fires into whatever loop runs then.
        for _ in range(max(1, int(timeout_s / _READY_POLL_S))):
            state = self._channel.get_state(try_to_connect=True)
            if state is grpc.ChannelConnectivity.READY:
                return True
            if state in (grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN):
                return False
            await asyncio.sleep(_READY_POLL_S)
        return False

    async def close(self) -> None:
        await self._channel.close()


Metadata = tuple[tuple[str, str], ...]

Send = Callable[[Member, float, Metadata], Awaitable[Any]]
"""Sends one request to a member within so many seconds, with this metadata."""


def unary(pick: Callable[[Member], Any], request: Any) -> Send:
    """Return what sends ``request`` to the method that ``pick`` finds on a member."""
    return lambda member, timeout_s, metadata: pick(member)(request, timeout=timeout_s, metadata=metadata)


class Members:
    """Sends requests to the members in turn. The channels are made by the first call, in its event loop."""

    def __init__(self, endpoints: Sequence[str], clock: Clock, options: EtcdOptions) -> None:
        if not endpoints:
            raise InvalidError("an etcd catalog needs at least one host:port")
        self._endpoints = tuple(endpoints)
        self._clock = clock
        self._options = options
        self._members: list[Member] = []
        self._turn = 0
        self._token: str | None = None
        self._closed = False
        self._away = False
        self._away_s = float("-inf")

    @property
    def try_timeout_s(self) -> float:
        """Seconds of a first try."""
        return self._options.try_timeout_ms / 1000

    def current(self) -> Member:
        """Return the member that answered last, or the next one after `move_on`."""
        if self._closed:
            raise InvalidError("this catalog connection is closed")
        if not self._members:
            self._members = [Member(endpoint, _channel(endpoint, self._options)) for endpoint in self._endpoints]
        return self._members[self._turn % len(self._members)]

    def move_on(self, member: Member) -> None:
        """Ask another member from now on, unless somebody has moved on already."""
        if member is self.current():
            self._turn += 1

    def forget_token(self, details: str) -> None:
        """Authenticate again before the next call if that is what ``details`` asks for."""
        if token_is_stale(details):
            self._token = None

    async def metadata(self) -> Metadata:
        """Return what to send along: a member without a leader shall say so at once, and the user's token."""
        base = (("hasleader", "true"),)
        if self._options.user is None:
            return base
        if self._token is None:
            rpc = load_etcdrpc()
            request = rpc.AuthenticateRequest(name=self._options.user, password=self._options.password or "")
            send = unary(attrgetter("auth.Authenticate"), request)
            reply = await self._call(send, authenticated=False, repeatable=True)
            self._token = str(reply.message.token)
        return (*base, ("token", self._token))

    async def call(self, send: Send, *, repeatable: bool) -> Reply:
        """Send until a member answers, at most until the deadline.

        A request that is not ``repeatable`` must itself see to it that it takes effect once however often it is
        sent. Raises `UnavailableError` when it has not been executed (or is repeatable, so that it does not
        matter), `IndeterminateError` when it may have been.
        """
        return await self._call(send, authenticated=True, repeatable=repeatable)

    async def close(self) -> None:
        """Close the connections; what is under way ends with an error."""
        self._closed = True
        members, self._members = self._members, []
        for member in members:
            await member.close()
        if members:
            # grpc ends cancelled calls from its own thread, and complains in the next event loop if this one is gone.
            await asyncio.sleep(_CLOSE_S)

    async def _call(self, send: Send, *, authenticated: bool, repeatable: bool) -> Reply:
        asked_s = self._clock.monotonic_s()
        again = repeatable and asked_s - self._away_s < _AGAIN_S
        whole_s, silent_s = self._deadlines_s(repeatable, again)
        give_up_s = asked_s + silent_s
        timeout_s, doubtful, cause, n_tries = self.try_timeout_s, False, "no connection", 0
        while (left_s := give_up_s - self._clock.monotonic_s()) > 0:
            member, n_tries = self.current(), n_tries + 1
            connected = member.is_connected()
            if await member.is_ready(min(timeout_s, left_s)):
                give_up_s = give_up_s if connected else asked_s + whole_s
                try:
                    metadata = await self.metadata() if authenticated else ()
                    message = await send(member, min(timeout_s, left_s), metadata)
                    self._away, self._away_s = False, float("-inf")
                    return Reply(message, doubtful)
                except grpc.aio.AioRpcError as error:
                    code, cause = error.code().name, error.details() or ""
                    self._raise_if_final(code, cause, doubtful and not repeatable)
                    self.forget_token(cause)
                    doubtful = doubtful or not did_not_happen(cause)
                    give_up_s = asked_s + whole_s if is_from_etcd(cause) else give_up_s
                    timeout_s *= 2 if code == "DEADLINE_EXCEEDED" else 1
                except UnavailableError as error:
                    cause = error.message  # no token to be had
            self.move_on(member)
            if again and n_tries >= len(self._endpoints):
                break
            await asyncio.sleep(min(self._pause_s(n_tries), max(0.0, give_up_s - self._clock.monotonic_s())))
        self._away, self._away_s = True, self._clock.monotonic_s()
        facts = {"endpoints": ",".join(self._endpoints), "tries": n_tries, "cause": cause}
        if doubtful and not repeatable:
            raise IndeterminateError("etcd did not answer; the request may or may not have happened", **facts)
        raise UnavailableError("etcd did not answer; see that the members run and can be reached", **facts)

    def _deadlines_s(self, repeatable: bool, again: bool) -> tuple[float, float]:
        """Return how long a call is tried in all, and how long while nobody gives a sign of life."""
        whole_s = self._options.deadline_ms / 1000
        if not self._away:
            return whole_s, min(whole_s, self._options.silence_ms / 1000) if repeatable else whole_s
        whole_s = min(whole_s, max(_AWAY_DEADLINE_S, len(self._endpoints) * self.try_timeout_s))
        return whole_s, min(whole_s, _AGAIN_DEADLINE_S) if again else whole_s

    def _raise_if_final(self, code: str, details: str, in_doubt: bool) -> None:
        error = final_error(code, details)
        if error is None:
            return
        if in_doubt:
            raise IndeterminateError("an earlier try may have happened", cause=details, code=code) from error
        raise error

    def _pause_s(self, n_tries: int) -> float:
        """No pause until every member has been asked once, then jittered and growing."""
        n_rounds = n_tries // len(self._endpoints)
        return self._clock.uniform(0.5, 1) * min(_PAUSE_MAX_S, 0.025 * 2**n_rounds) if n_rounds else 0.0


def _channel(endpoint: str, options: EtcdOptions) -> grpc.aio.Channel:
    if not (options.tls or options.ca_file or options.cert_file):
        return grpc.aio.insecure_channel(endpoint, options=_CHANNEL_OPTIONS)
    credentials = grpc.ssl_channel_credentials(
        _read(options.ca_file), _read(options.key_file), _read(options.cert_file)
    )
    return grpc.aio.secure_channel(endpoint, credentials, options=_CHANNEL_OPTIONS)


def _read(path: Path | None) -> bytes | None:
    try:
        return None if path is None else path.read_bytes()
    except OSError as error:
        raise InvalidError("cannot read the TLS file", path=str(path), cause=error.strerror) from error
