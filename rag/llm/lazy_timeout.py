"""A timeout for many short waits one after another, such as those for the pieces of a stream.

`asyncio.timeout` makes and cancels a timer for each wait, which costs more than reading the piece. Here a timer that is
early looks at the deadline of now and is set again: a stream that flows sets one every few seconds.
"""

import asyncio
from types import TracebackType


class LazyTimeout:
    """`with timeout.at(when):` as `async with asyncio.timeout_at(when):`, again and again, in one wait at a time.

    `close` when there will be no more waits; a timer that is forgotten ends at the deadline, without effect.
    """

    __slots__ = ("_cancelling", "_expired", "_loop", "_task", "_timer", "_timer_at", "_when")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[object] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._when = 0.0
        self._cancelling = 0
        self._expired = False

    def at(self, when: float) -> "LazyTimeout":
        """Set the deadline of the next wait, in the loop's time."""
        self._when = when
        return self

    def __enter__(self) -> None:
        # With the loop: without it Python 3.11 asks the system for the process' id each time.
        task = asyncio.current_task(self._loop)
        if task is None:
            raise RuntimeError("a timeout needs a task")
        self._task = task
        self._cancelling = task.cancelling()
        self._expired = False
        if self._timer is None or self._when < self._timer_at:
            self._set()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raises TimeoutError if the wait ended because of the deadline."""
        task, self._task = self._task, None
        if self._expired and task is not None:
            self._expired = False
            if task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
                raise TimeoutError from error

    def close(self) -> None:
        """End the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set(self) -> None:
        self.close()
        self._timer_at = self._when
        self._timer = self._loop.call_at(self._when, self._ring)

    def _ring(self) -> None:
        self._timer = None
        if self._task is None:
            return
        if self._loop.time() < self._when:
            self._set()
            return
        self._expired = True
        self._task.cancel()
