"""What running answers have said so far: an ordered log per answer that late readers can read from any event id."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from rag.core.events import DialogEvent


@dataclass(frozen=True, kw_only=True, slots=True)
class LoggedEvent:
    """`event_id` starts at 1 and grows by 1 within a stream."""

    event_id: int
    event: DialogEvent


class EventLog(Protocol):
    """`stream` is the id of one answer: made by the conversation service, unguessable, owner-checked by it."""

    async def append(self, stream: str, event: DialogEvent) -> int:
        """Add an event and return its id. After a terminal event the stream is closed: raises Conflict."""
        ...

    def subscribe(self, stream: str, *, after: int = 0) -> AsyncIterator[LoggedEvent]:
        """Yield all events with an id above `after`, past ones first, then live ones, and end after a terminal event.

        Raises:
            NotFound: no such stream (never begun, or dropped after its retention time).
        """
        ...

    async def drop(self, stream: str) -> None:
        """Forget it, now; absent is not an error. Closed streams are also forgotten by themselves after a while."""
        ...
