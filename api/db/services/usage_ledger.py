"""Usage rows beside the calls: no answer waits for a disk."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypedDict, runtime_checkable

import structlog

from api.db.services.records import ModelCall
from rag.core.errors import RagError

log = structlog.get_logger()


class UsageSink(Protocol):
    """Keeps usage rows; implemented by `usage_service`."""

    async def record(self, call: ModelCall) -> None: ...


@runtime_checkable
class Flushed(UsageSink, Protocol):
    """A sink that keeps rows for later while the store is away."""

    async def flush(self) -> None:
        """Write them.

        Raises:
            StoreUnavailable: that still cannot be done.
        """
        ...


class Caller(TypedDict, total=False):
    """Who asks for a bundle, as keyword arguments; see `CallContext`."""

    tenant_id: str
    dialog_id: str | None
    conversation_id: str | None
    message_id: str | None
    key_id: str
    arm: str
    steps: Callable[[], dict[str, float]] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class CallContext:
    """For whom and what for a model is called; ends up in the usage row, never on a model."""

    tenant_id: str = ""
    purpose: str = "answer"
    dialog_id: str | None = None
    conversation_id: str | None = None
    message_id: str | None = None
    key_id: str = ""
    """The API key that asked; empty for a login or the server itself."""
    arm: str = ""
    """Which switched features took part: `fallback=on,prompt_caching=off`."""
    model: str = ""
    """The model that is about to be called; only a budget is told."""
    steps: Callable[[], dict[str, float]] | None = None
    """What the steps of the answer have taken so far, in ms by name."""


class BudgetGate(Protocol):
    """Says no before a call that would go over a budget; implemented by `budget_service`."""

    async def check(self, context: CallContext) -> None:
        """Return if `context` may call a model now.

        Raises:
            LimitExceeded: the day's budget of the tenant or of the key is spent; says when it begins anew.
            StoreUnavailable: what was spent cannot be read.
        """
        ...


class CallObserver(Protocol):
    """Looks at priced calls on their way to the rows. Its methods neither wait nor fail."""

    def ended(self, call: ModelCall) -> None:
        """`call` has ended; its row is not written yet."""
        ...

    def settled(self, call: ModelCall) -> None:
        """The row of `call` is written, or given up."""
        ...


class UsageLedger:
    """Writes usage rows beside the calls."""

    def __init__(self, sink: UsageSink | None) -> None:
        self._sink = sink
        self._writes: set[asyncio.Task[None]] = set()

    def add(self, call: ModelCall) -> None:
        if self._sink is None:
            return
        task = asyncio.get_running_loop().create_task(self._write(self._sink, call))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    async def settle(self) -> None:
        """Wait until every row is written; those that could not be are tried once more, and lost with the process
        if that fails."""
        while self._writes:
            await asyncio.wait(self._writes)
        if isinstance(self._sink, Flushed):
            try:
                await self._sink.flush()
            except RagError as error:
                log.warning("usage_rows_wait", code=error.code, reason=error.message)

    @staticmethod
    async def _write(sink: UsageSink, call: ModelCall) -> None:
        try:
            await sink.record(call)
        except RagError as error:
            log.warning("usage_row_not_written", model=call.model, purpose=call.purpose, code=error.code)
