"""Threads for synchronous iterators: one each, few at work at a time, and none that blocks for ever unnoticed."""

import contextvars
import threading
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import structlog

from rag.core.clock import SystemClock
from rag.core.conveyor import Conveyor
from rag.core.errors import LimitExceeded

T = TypeVar("T")
LIMIT = 1024
PATIENCE_S = 30.0
_LEFT_CHECK_S = 0.25

log = structlog.get_logger(__name__)
_clock = SystemClock()


class StreamThreads:
    """One kind of iterators. Each has a daemon thread of its own, so that a slow reader keeps nobody else waiting, and
    one that never comes back keeps no process from ending. `at_once` of them are advanced at a time: a place is given
    back while a thread waits for its reader.

    Args:
        at_once: Places. Iterators that compute want about as many as cores, those that wait for a network many more.
        limit: Threads, at work or waiting; one iterator more is refused.
        patience_s: How long all places may be taken without one item from any of them, until those that wait for a
            place are refused.
    """

    def __init__(self, name: str, *, at_once: int, limit: int = LIMIT, patience_s: float = PATIENCE_S) -> None:
        self.name = name
        self.at_once = at_once
        self.limit = limit
        self.patience_s = patience_s
        self._free = threading.Condition()
        self._taken = 0
        self._moved = _clock.monotonic()
        self._lines: set[_Line[Any]] = set()

    @property
    def running(self) -> int:
        """Threads there are."""
        return len(self._lines)

    @property
    def abandoned(self) -> int:
        """Threads whose reader has gone and whose iterator has not come back yet."""
        with self._free:
            return sum(line.conveyor.left for line in self._lines)

    def start(self, conveyor: Conveyor[T], produce: Callable[[Callable[[T], bool]], None]) -> None:
        """Run `produce(put)` in a new thread, with a copy of the caller's context. `put` says False when to stop.

        Raises:
            LimitExceeded: there are `limit` threads already.
        """
        line = _Line(self, conveyor, produce)
        with self._free:
            if len(self._lines) >= self.limit:
                raise LimitExceeded(
                    f"{self.limit} {self.name} streams are under way, which is the most there may be. "
                    "Try again when some of them have ended.",
                    lane=self.name,
                )
            self._lines.add(line)
        work = contextvars.copy_context().run
        thread = threading.Thread(target=work, args=(line.run,), name=f"stream-{self.name}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # The system gives no more threads.
            self._ended(line)
            raise LimitExceeded(f"No thread can be started: {error}.", lane=self.name) from error

    def stop(self) -> None:
        """Tell all iterators to end at their next item."""
        with self._free:
            lines = list(self._lines)
        for line in lines:
            line.conveyor.leave()

    def _take_place(self, line: "_Line[Any]") -> bool:
        """Wait for a place; False when the reader has gone.

        Raises:
            LimitExceeded: nothing moved for `patience_s`.
        """
        with self._free:
            while self._taken >= self.at_once:
                if line.conveyor.left:
                    return False
                left_s = self._moved + self.patience_s - _clock.monotonic()
                if left_s <= 0:
                    log.warning("streams_stuck", lane=self.name, places=self.at_once)
                    raise LimitExceeded(
                        f"All {self.at_once} {self.name} streams that may run at a time have said nothing for "
                        f"{self.patience_s:g} s. Try again later, or choose another model.",
                        lane=self.name,
                    )
                self._free.wait(min(left_s, _LEFT_CHECK_S))
            self._taken += 1
            self._moved = _clock.monotonic()
            return True

    def _give_place_back(self) -> None:
        with self._free:
            self._taken -= 1
            self._moved = _clock.monotonic()
            self._free.notify()

    def _has_moved(self) -> None:
        self._moved = _clock.monotonic()

    def _ended(self, line: "_Line[Any]") -> None:
        with self._free:
            self._lines.discard(line)


class _Line(Generic[T]):
    """One iterator's thread."""

    def __init__(
        self, threads: StreamThreads, conveyor: Conveyor[T], produce: Callable[[Callable[[T], bool]], None]
    ) -> None:
        self.conveyor = conveyor
        self._threads = threads
        self._produce = produce
        self._placed = False
        self._thread = 0

    def run(self) -> None:
        self._thread = threading.get_ident()
        error: BaseException | None = None
        try:
            if self._enter():
                self._produce(self._put)
        except BaseException as raised:  # noqa: BLE001  # the thread's edge: the reader gets it, or the log
            error = raised
            if self.conveyor.left:
                log.warning("stream_failed_after_leaving", lane=self._threads.name, error=type(raised).__name__)
        finally:
            self._exit()
            self._threads._ended(self)
            self.conveyor.end(error)
            del error

    def _put(self, item: T) -> bool:
        # Another thread may call this too, but the place is this one's.
        if threading.get_ident() == self._thread and self.conveyor.is_full():
            self._exit()
            if not self.conveyor.wait_for_room() or not self._enter():
                return False
        self._threads._has_moved()
        return self.conveyor.put(item)

    def _enter(self) -> bool:
        self._placed = self._threads._take_place(self)
        return self._placed

    def _exit(self) -> None:
        if self._placed:
            self._placed = False
            self._threads._give_place_back()


def advance(make: Callable[[], Iterator[T]], put: Callable[[T], bool]) -> None:
    """Put all items of `make()`; close it, whatever the reason for the end."""
    iterator = make()
    try:
        for item in iterator:
            if not put(item):
                return
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()
