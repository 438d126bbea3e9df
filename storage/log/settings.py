"""What can be tuned of a log."""

from __future__ import annotations

from dataclasses import dataclass

from storage.errors import InvalidError

__all__ = ["LogSettings"]


@dataclass(frozen=True, slots=True)
class LogSettings:
    """Sizes, times and limits of one log writer. Raises `InvalidError` for values that cannot work.

    Attributes
    ----------
    flush_interval_ms : a segment is put this long after its first append at the latest; with ``object`` acks it is put
        at once if none was put for so long
    segment_bytes_max : or as soon as it has this many bytes (encoded)
    append_bytes_max : one append's encoded records; more raises `TooLargeError`
    unflushed_bytes_max : appended and not in the object store; past it appends raise `OverloadedError`
    unfolded_bytes_max : in the object store and not folded into tables; past it appends raise `OverloadedError`
    fold_retry_after_s : what that `OverloadedError` tells the client to wait
    tail_bytes_max : records kept in memory for readers after they were uploaded
    journal_bytes_max : the journal is written anew without what is uploaded once it is larger
    idempotency_window_ms : how long keys are remembered; sweeping spares segments that are younger
    idempotency_keys_max : how many keys are remembered, the newest
    put_tries_max : puts of a segment whose fate is unknown before the writer gives up and stops
    retry_delay_ms : before the second of them; doubled each time, jittered, at most 5 s
    compression_level : of zstd
    """

    flush_interval_ms: int = 100
    segment_bytes_max: int = 8 << 20
    append_bytes_max: int = 96 << 20
    unflushed_bytes_max: int = 256 << 20
    unfolded_bytes_max: int = 4 << 30
    fold_retry_after_s: float = 5.0
    tail_bytes_max: int = 32 << 20
    journal_bytes_max: int = 256 << 20
    idempotency_window_ms: int = 15 * 60 * 1000
    idempotency_keys_max: int = 100_000
    put_tries_max: int = 6
    retry_delay_ms: int = 50
    compression_level: int = 1

    def __post_init__(self) -> None:
        for name in ("segment_bytes_max", "append_bytes_max", "idempotency_keys_max", "put_tries_max"):
            if getattr(self, name) < 1:
                raise InvalidError("the setting must be at least 1", setting=name, value=getattr(self, name))
        if min(self.flush_interval_ms, self.retry_delay_ms, self.idempotency_window_ms, self.tail_bytes_max) < 0:
            raise InvalidError("times and sizes of a log cannot be negative")
        if self.unflushed_bytes_max < self.append_bytes_max:
            raise InvalidError("unflushed_bytes_max must hold the largest append", value=self.unflushed_bytes_max)
        if self.segment_bytes_max + self.append_bytes_max > 1 << 30:
            raise InvalidError("segment_bytes_max and append_bytes_max together may be at most 1 GiB")
