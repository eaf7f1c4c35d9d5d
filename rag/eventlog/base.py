"""What running answers have said so far: an ordered log per answer that late readers can read from any event id."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from rag.core.events import DialogEvent


@dataclass(frozen=True, kw_only=True, slots=True)
class LoggedEvent:
    """`event_id` starts at 1 and grows by 1 within a stream."""

    event_id: int
    event: DialogEvent


class Batch(NamedTuple):
    """Events that follow each other; the first has the id `first_id`."""

    first_id: int
    events: Sequence[DialogEvent]


class EventLog(Protocol):
    """`stream` is the id of one answer: made by the conversation service, unguessable, owner-checked by it."""

    async def append(self, stream: str, event: DialogEvent) -> int:
        """Add an event and return its id. After a terminal event the stream is closed: raises Conflict."""
        ...

    def follow(self, stream: str, *, after: int = 0, idle_s: float | None = None) -> AsyncGenerator[Batch, None]:
        """Yield all events with an id above `after`, by arrival: past ones in one batch, then each time all that has
        come since the last look. A batch without events comes after `idle_s` seconds of silence. Ends after a terminal
        event.

        Raises:
            NotFound: no such stream (never begun, or dropped after its retention time).
        """
        ...

    def subscribe(self, stream: str, *, after: int = 0) -> AsyncIterator[LoggedEvent]:
        """Yield the events of `follow` one by one.

        Raises:
            NotFound: as `follow`.
        """
        ...

    async def drop(self, stream: str) -> None:
        """Forget it, now; absent is not an error. Closed streams are also forgotten by themselves after a while."""
        ...
