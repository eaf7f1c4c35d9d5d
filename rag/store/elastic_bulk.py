"""Bulk writes: parts side by side, back-off when the server has no room, and each item judged by itself."""

import asyncio
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from rag.core.clock import Clock
from rag.core.errors import StoreError, StoreUnavailable
from rag.store.elastic_client import LINES, ElasticConnection
from rag.store.elastic_errors import IndexAbsent, Overloaded, of_reply, reason_of

_PART_ITEMS = 250
_PART_BYTES = 4 << 20
_SIDE_BY_SIDE = 4
_FIRST_WAIT_S = 0.1
_LONGEST_WAIT_S = 5.0
_PATIENCE_S_PER_ITEM = 0.05
_GONE = 404


@dataclass(slots=True)
class _Outcome:
    """What became of the items of one call; `line` and error of those that failed."""

    again: list[bytes] = field(default_factory=list)
    refused: list[tuple[bytes, StoreError]] = field(default_factory=list)
    error: StoreError | None = None


class BulkWriter:
    """Writes lines of bulk calls (one bytes object an item, its line breaks included) to an alias."""

    def __init__(self, connection: ElasticConnection, clock: Clock, *, patience_s: float) -> None:
        self._connection = connection
        self._clock = clock
        self._patience_s = patience_s

    async def write(self, alias: str, lines: Sequence[bytes]) -> None:
        """Write all items; returns when each was written. A delete of what is not there counts as done.

        Items that the server had no room for are written again, with growing pauses, for the patience given and a
        little more for each item; items it refused are not.

        Raises:
            IndexAbsent: the alias is not there; nothing of this call's rest was written.
            StoreUnavailable: the server did not answer, or had no room for too long.
            StoreError: items were refused; the message names one and how many. The others are written.
        """
        deadline = self._clock.monotonic() + self._patience_s + _PATIENCE_S_PER_ITEM * len(lines)
        slots = asyncio.Semaphore(_SIDE_BY_SIDE)

        async def one(part: list[bytes]) -> list[tuple[bytes, StoreError]]:
            async with slots:
                return await self._write_part(alias, part, deadline)

        refused: list[tuple[bytes, StoreError]] = []
        tasks = [asyncio.ensure_future(one(part)) for part in _parts(lines)]
        try:
            for task in tasks:
                refused += await task
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if refused:
            raise StoreError(
                f"{len(refused)} of {len(lines)} entries could not be written to the index. {refused[0][1].message}"
            )

    async def _write_part(self, alias: str, lines: list[bytes], deadline: float) -> list[tuple[bytes, StoreError]]:
        refused: list[tuple[bytes, StoreError]] = []
        wait_s = _FIRST_WAIT_S
        while True:
            outcome = await self._try(alias, lines)
            refused += outcome.refused
            lines = outcome.again
            if not lines:
                return refused
            # Of many writers that were sent away at once, not all may come back at once.
            pause_s = wait_s * random.uniform(0.5, 1.0)
            if self._clock.monotonic() + pause_s > deadline:
                reason = outcome.error.message if outcome.error else ""
                raise StoreUnavailable(f"The index could not take {len(lines)} entries in time. {reason}")
            await asyncio.sleep(pause_s)
            wait_s = min(wait_s * 2, _LONGEST_WAIT_S)

    async def _try(self, alias: str, lines: list[bytes]) -> _Outcome:
        query = {"require_alias": "true", "filter_path": "errors,items.*.status,items.*.error"}
        try:
            reply = await self._connection.slow_call(
                "POST", alias, "_bulk", query=query, body=b"".join(lines), kind=LINES
            )
        except Overloaded as error:
            return _Outcome(again=lines, error=error)
        outcome = _Outcome()
        if not reply.get("errors"):
            return outcome
        for line, item in zip(lines, reply["items"], strict=True):
            self._judge(outcome, line, next(iter(item.values())))
        return outcome

    def _judge(self, outcome: _Outcome, line: bytes, result: dict[str, Any]) -> None:
        status = int(result.get("status", 500))
        if status < 300 or (status == _GONE and "error" not in result):
            return
        error = of_reply(self._connection.where, status, result)
        if isinstance(error, Overloaded):
            outcome.again.append(line)
            outcome.error = error
        elif isinstance(error, IndexAbsent | StoreUnavailable):
            raise error
        else:
            kind, reason = reason_of(result)
            refused = StoreError(f"The first{_name_of(line)} was refused ({status}, {kind}): {reason}")
            outcome.refused.append((line, refused))


def _name_of(line: bytes) -> str:
    """Which entry an item writes, for a message."""
    _, _, document = line.strip().partition(b"\n")
    if not document:
        return ""
    written = orjson.loads(document)
    return f", chunk {written['chunk_id'][:80]!r} of document {written['document_id'][:80]!r},"


def _parts(lines: Sequence[bytes]) -> Iterator[list[bytes]]:
    part: list[bytes] = []
    size = 0
    for line in lines:
        if part and (len(part) >= _PART_ITEMS or size + len(line) > _PART_BYTES):
            yield part
            part, size = [], 0
        part.append(line)
        size += len(line)
    if part:
        yield part
