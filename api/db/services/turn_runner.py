"""Answers in work: each is a task of its own that nobody's leaving ends.

A turn is two tasks. The producer reads the dialog's events into the log and may be cancelled at any point. The
keeper waits for the end of the text, saves it, and closes the log once the speech has ended too; nothing cancels it.
One more task saves the partial texts of all running turns together, so that many streams cost one transaction a second.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field

import structlog

from api.db.database import Database
from api.db.services.message_rows import Partial, ended_elsewhere, save_end, save_partial
from rag.core.clock import Clock
from rag.core.errors import RagError
from rag.core.events import DialogEvent, Done, Failed, RetrievalFinished, Started, Stopped, Token, Usage
from rag.core.types import Reference, Turn
from rag.eventlog.base import EventLog
from rag.nlp.citation import cited_indices, with_counts

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True, slots=True)
class Past:
    """The conversation so far, the question last; `summary` tells what was said before `turns`."""

    turns: tuple[Turn, ...]
    summary: str = ""


Answer = Callable[[Past], AsyncGenerator[DialogEvent, None]]
"""Makes the dialog's events from the conversation so far."""

_WAIT_FOR_TURN_BEFORE_S = 30.0
"""How long a question waits for the answer before it in its session; then it goes on without that one."""
_ENDED_WITHOUT_RESULT = Failed(code="internal", message="The answer ended without a result. Ask again.")


@dataclass(slots=True, eq=False)
class RunningTurn:
    """One answer in work. `stream` names it in the event log; `past` reads its conversation, in the thread of the rows;
    `on_end` is told its end once that is saved."""

    stream: str
    session_id: str
    turn: int
    answer_row: int
    past: Callable[[], Past]
    answer: Answer
    on_end: Callable[[Done | Failed | Stopped], None] | None = None
    model: str = ""
    before: asyncio.Event | None = None
    parts: list[str] = field(default_factory=list)
    found: Reference = field(default_factory=Reference)
    unsaved: bool = False
    cites: bool = False
    end: Done | Failed | Stopped | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    saved: asyncio.Event = field(default_factory=asyncio.Event)
    stop_reason: str = ""
    producer: "asyncio.Task[None] | None" = None
    keeper: "asyncio.Task[None] | None" = None

    def text(self) -> str:
        """What has been said so far."""
        self.parts = ["".join(self.parts)]
        return self.parts[0]

    def note(self, event: DialogEvent) -> None:
        """Keep what an answer that is not completed will be saved with."""
        if isinstance(event, Token):
            self.parts.append(event.text)
            self.unsaved = True
        elif isinstance(event, RetrievalFinished):
            self.found = event.reference
            self.cites = False  # The sources have grown: what cites them is saved again.
        elif isinstance(event, Usage):
            self.model = event.model

    def cited(self) -> Reference | None:
        """The sources, if the text so far cites any."""
        text = self.text()
        return with_counts(self.found, text) if cited_indices(text) else None

    def partial(self) -> Partial:
        """What has come since the last time; the sources once, with the first mark."""
        self.unsaved = False
        cited = None if self.cites else self.cited()
        self.cites = self.cites or cited is not None
        return Partial(text=self.text(), reference=cited)

    def stop(self, reason: str) -> None:
        """Cancel the producer; the first reason given stays."""
        self.stop_reason = self.stop_reason or reason
        if self.producer is not None:
            self.producer.cancel()


class TurnRunner:
    """Runs turns, at most as many as are begun. Used on the loop only."""

    def __init__(self, db: Database, clock: Clock, event_log: EventLog, *, save_s: float) -> None:
        self._db = db
        self._clock = clock
        self._log = event_log
        self._save_s = save_s
        self._turns: dict[str, RunningTurn] = {}
        self._latest: dict[str, RunningTurn] = {}
        self._saver: asyncio.Task[None] | None = None
        self._closing = False

    @property
    def closing(self) -> bool:
        return self._closing

    def start(self, turn: RunningTurn) -> None:
        """Run `turn`, after the one before it in its session."""
        previous = self._latest.get(turn.session_id)
        turn.before = previous.saved if previous is not None else None
        self._turns[turn.stream] = turn
        self._latest[turn.session_id] = turn
        turn.producer = asyncio.create_task(self._produce(turn), name=f"answer-{turn.stream}")
        turn.producer.add_done_callback(lambda _: turn.ended.set())
        turn.keeper = asyncio.create_task(self._keep(turn), name=f"keep-{turn.stream}")
        if self._closing:
            turn.stop("interrupted")
        if self._saver is None or self._saver.done():
            self._saver = asyncio.create_task(self._save_partials(), name="save-partial-answers")

    async def stop(self, stream: str, reason: str) -> bool:
        """End a running turn and wait until its end is saved; False if it is not running here."""
        turn = self._turns.get(stream)
        if turn is None:
            return False
        turn.stop(reason)
        await _ended([turn])
        return True

    def is_running(self, stream: str) -> bool:
        return stream in self._turns

    async def stop_sessions(self, session_ids: frozenset[str], reason: str, *, first_turn: int = 0) -> None:
        """End all running turns of these sessions, from `first_turn` on."""
        turns = [each for each in self._turns.values() if each.session_id in session_ids and each.turn >= first_turn]
        for turn in turns:
            turn.stop(reason)
        await _ended(turns)

    def end_all(self) -> None:
        """End every running turn as interrupted, and those that begin from now on."""
        self._closing = True
        for turn in self._turns.values():
            turn.stop("interrupted")

    async def close(self, timeout_s: float) -> None:
        """`end_all`, and wait, at most `timeout_s`, until all are saved."""
        self.end_all()
        if self._saver is not None:
            self._saver.cancel()
        tasks = {each.keeper for each in self._turns.values() if each.keeper is not None}
        if self._saver is not None:
            tasks.add(self._saver)
        try:
            if tasks:
                await asyncio.wait(tasks, timeout=timeout_s)
        finally:
            if self._turns:
                log.warning("answers_not_saved_in_time", turns=len(self._turns))

    async def _produce(self, turn: RunningTurn) -> None:
        if turn.before is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_WAIT_FOR_TURN_BEFORE_S):
                    await turn.before.wait()
            turn.before = None
        past = await self._db.run(turn.past)
        async with aclosing(turn.answer(past)) as events:
            async for event in events:
                if isinstance(event, Done | Failed | Stopped):
                    turn.end = event
                    turn.ended.set()
                    continue
                turn.note(event)
                if not isinstance(event, Started):
                    await self._log.append(turn.stream, event)

    async def _keep(self, turn: RunningTurn) -> None:
        assert turn.producer is not None
        try:
            await turn.ended.wait()
            end = self._end_of(turn, turn.producer)
            cited = None if isinstance(end, Done) else turn.cited()
            ended_at = self._clock.now().timestamp()
            try:
                await self._db.write(
                    lambda: save_end(turn.answer_row, end, cited=cited, model=turn.model, created_at=ended_at)
                )
            except RagError as error:
                log.error("answer_not_saved", message=turn.stream, code=error.code)
                end = Failed(code=error.code, message=error.message, answer=end.answer)
            turn.saved.set()
            await asyncio.wait({turn.producer})
            if turn.end is not None and not turn.producer.cancelled() and turn.producer.exception() is not None:
                log.error("speech_broke", message=turn.stream, exc_info=turn.producer.exception())
            # The row first: who reads the last event may read the session at once.
            await self._append_end(turn, end)
            if turn.on_end is not None and not self._closing:
                turn.on_end(end)
        finally:
            turn.saved.set()
            self._turns.pop(turn.stream, None)
            if self._latest.get(turn.session_id) is turn:
                del self._latest[turn.session_id]

    async def _append_end(self, turn: RunningTurn, end: Done | Failed | Stopped) -> None:
        try:
            await self._log.append(turn.stream, end)
        except RagError as error:
            log.error("answer_log_not_closed", message=turn.stream, code=error.code)

    def _end_of(self, turn: RunningTurn, producer: "asyncio.Task[None]") -> Done | Failed | Stopped:
        """How the producer ended. What it did not foresee is logged with its trace, and told without."""
        if turn.end is not None:
            return turn.end
        text = turn.text()
        if producer.cancelled():
            return Stopped(answer=text, reason=turn.stop_reason or "interrupted")
        error = producer.exception()
        if error is None:
            return Failed(code=_ENDED_WITHOUT_RESULT.code, message=_ENDED_WITHOUT_RESULT.message, answer=text)
        if isinstance(error, RagError):
            return Failed(code=error.code, message=error.message, answer=text)
        log.error("answer_broke", message=turn.stream, exc_info=error)
        return Failed(code="internal", message="Something went wrong while answering. Ask again.", answer=text)

    async def _save_partials(self) -> None:
        """Every `save_s` seconds while turns run, save what is new, and end those that another server has ended."""
        while self._turns:
            await asyncio.sleep(self._save_s)
            turns = [turn for turn in self._turns.values() if turn.end is None]
            new = [turn for turn in turns if turn.unsaved]
            try:
                gone = await self._save(turns, {turn.answer_row: turn.partial() for turn in new})
            except RagError as error:
                log.warning("partial_answers_not_saved", turns=len(new), code=error.code)
                for turn in new:
                    turn.unsaved, turn.cites = True, False
                continue
            for turn in turns:
                if turn.answer_row in gone and turn.end is None:
                    turn.stop("stopped")

    async def _save(self, turns: list[RunningTurn], partials: dict[int, Partial]) -> frozenset[int]:
        """Save these; the rows of those turns that need no answer any more."""
        rows = [turn.answer_row for turn in turns]

        def write() -> frozenset[int]:
            save_partial(partials)
            return ended_elsewhere(rows)

        if partials:
            return await self._db.write(write)
        return await self._db.run(lambda: ended_elsewhere(rows)) if rows else frozenset()


async def _ended(turns: list[RunningTurn]) -> None:
    keepers = {turn.keeper for turn in turns if turn.keeper is not None}
    if keepers:
        await asyncio.wait(keepers)
