"""What a process counts of its work, for whoever shows it: totals and durations by name and labels.

Nothing here knows of Prometheus: a worker process counts, its server takes what is new with each answer (`Counts.take`,
`Counts.merge`) and shows the sum. Names are those of docs/observability.md, without ``_total``.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from storage.clock import Clock

__all__ = ["BOUNDS_S", "Counts", "Durations", "Key"]

BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper ends of the classes of durations; one class more is past them all."""
_SOURCES_MAX = 64

Key = tuple[str, tuple[tuple[str, str], ...]]
"""A name, and its labels sorted."""


@dataclass
class Durations:
    """How many durations fell into each class of `BOUNDS_S`, and their sum in seconds."""

    n: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))
    sum_s: float = 0.0

    def add(self, n: list[int], sum_s: float) -> None:
        """Count in others."""
        self.n = [mine + theirs for mine, theirs in zip(self.n, n, strict=True)]
        self.sum_s += sum_s


@dataclass
class _Followed:
    """A count that something else keeps, and how far it was seen."""

    key: Key
    read: Callable[[], float]
    seen: float = 0.0


class Counts:
    """The counts of one process, and those that others told it. Other threads may count too: at worst one is lost."""

    def __init__(self) -> None:
        self._totals: dict[Key, float] = {}
        self._durations: dict[Key, Durations] = {}
        self._new_totals: dict[Key, float] = {}
        self._new_durations: dict[Key, Durations] = {}
        self._followed: list[_Followed] = []
        self._levels: list[tuple[Key, Callable[[], float]]] = []
        self._told: OrderedDict[str, dict[Key, float]] = OrderedDict()

    def add(self, name: str, value: float = 1.0, /, **labels: str) -> None:
        """Count ``value`` more."""
        self._add(_key(name, labels), value)

    def observe(self, name: str, seconds: float, /, **labels: str) -> None:
        """Count a duration."""
        key, place = _key(name, labels), bisect_left(BOUNDS_S, seconds)
        for durations in (self._durations, self._new_durations):
            found = durations.get(key)
            if found is None:
                found = durations[key] = Durations()
            found.n[place] += 1
            found.sum_s += seconds

    @contextmanager
    def request(self, requests: str, seconds: str, clock: Clock, /, **labels: str) -> Iterator[None]:
        """Count what is done within as one of ``requests``, by its outcome too, and the time it took as ``seconds``."""
        started_s, outcome = clock.monotonic_s(), "succeeded"
        try:
            yield
        except BaseException as error:
            outcome = type(error).__name__
            raise
        finally:
            self.add(requests, outcome=outcome, **labels)
            self.observe(seconds, clock.monotonic_s() - started_s, **labels)

    def follow(self, name: str, read: Callable[[], float], /, **labels: str) -> None:
        """Count what ``read`` gives, which never falls."""
        self._followed.append(_Followed(_key(name, labels), read))

    def level(self, name: str, read: Callable[[], float], /, **labels: str) -> None:
        """Show what ``read`` gives, as it is when somebody looks."""
        self._levels.append((_key(name, labels), read))

    def take(self) -> dict[str, Any]:
        """Return what is new since this was called last, JSON-ready, for `merge` in another process."""
        self._catch_up()
        totals, self._new_totals = self._new_totals, {}
        durations, self._new_durations = self._new_durations, {}
        return {
            "totals": [[name, dict(labels), value] for (name, labels), value in totals.items()],
            "durations": [[name, dict(labels), each.n, each.sum_s] for (name, labels), each in durations.items()],
            "levels": [[name, dict(labels), read()] for (name, labels), read in self._levels],
        }

    def merge(self, told: Mapping[str, Any], source: str = "") -> None:
        """Count in what another process took; its levels stand until it tells others, or `forget`."""
        for name, labels, value in told.get("totals", ()):
            self._add(_key(name, labels), value)
        for name, labels, n, sum_s in told.get("durations", ()):
            for durations in (self._durations, self._new_durations):
                durations.setdefault(_key(name, labels), Durations()).add(n, sum_s)
        self._told[source] = {_key(name, labels): value for name, labels, value in told.get("levels", ())}
        self._told.move_to_end(source)
        while len(self._told) > _SOURCES_MAX:
            self._told.popitem(last=False)

    def forget(self, source: str) -> None:
        """Drop the levels of a process that is no more."""
        self._told.pop(source, None)

    def totals(self, name: str) -> Iterator[tuple[Mapping[str, str], float]]:
        """Yield labels and value of every total of this name."""
        self._catch_up()
        yield from ((dict(labels), value) for (each, labels), value in list(self._totals.items()) if each == name)

    def durations(self, name: str) -> Iterator[tuple[Mapping[str, str], Durations]]:
        """Yield labels and durations of this name."""
        yield from ((dict(labels), value) for (each, labels), value in list(self._durations.items()) if each == name)

    def levels(self, name: str) -> Iterator[tuple[Mapping[str, str], float]]:
        """Yield labels and level of this name, added up over processes."""
        found: dict[tuple[tuple[str, str], ...], float] = {}
        mine = {key: 0.0 for key, _read in self._levels}
        for key, read in self._levels:
            mine[key] += read()
        for levels in (mine, *self._told.values()):
            for (each, labels), value in levels.items():
                if each == name:
                    found[labels] = found.get(labels, 0.0) + value
        yield from ((dict(labels), value) for labels, value in found.items())

    def _catch_up(self) -> None:
        for each in self._followed:
            now = each.read()
            if now > each.seen:
                self._add(each.key, now - each.seen)
                each.seen = now

    def _add(self, key: Key, value: float) -> None:
        self._totals[key] = self._totals.get(key, 0.0) + value
        self._new_totals[key] = self._new_totals.get(key, 0.0) + value


def _key(name: str, labels: Mapping[str, str]) -> Key:
    return name, tuple(sorted(labels.items()))
