"""The one place that reads the time. Passed in, so that tests can hold it still."""

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    def now(self) -> datetime:
        """The current instant, aware, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back; only differences mean anything."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


def to_ms(instant: datetime) -> int:
    """Whole Unix milliseconds of an aware instant."""
    return int(instant.timestamp() * 1000)


def now_ms(clock: Clock) -> int:
    """Whole Unix milliseconds of `clock.now()`."""
    return to_ms(clock.now())


def from_ms(ms: int) -> datetime:
    """The aware UTC instant of Unix milliseconds."""
    return datetime.fromtimestamp(ms / 1000, UTC)
