"""An answer said aloud beside its text, clause by clause.

The text is never held up: a task of its own speaks what has been said so far, and what it has is put between the
answer's events; what is not said by then follows `Done`. A speaker that fails is logged, and the answer goes on in
silence.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing

import structlog

from rag.core.errors import RagError
from rag.core.events import TERMINAL, DialogEvent, Done, Spoken, Token
from rag.nlp.citation import MarkFilter

log = structlog.get_logger()

Speak = Callable[[str], AsyncIterator[bytes]]
"""Pieces of an MP3 that says a text."""

MOST_CHARS = 6000
"""Of one answer that are spoken: about six minutes. What was spoken is kept until the answer has ended."""
REST_S = 20.0
"""How long the speech of a complete answer may go on after it."""
_AHEAD = 256
"""Events that may wait for the reader."""
_CLAUSE_CHARS = 40
"""A clause may end at a comma from this length on, and wherever it is from `_LONG_CLAUSE_CHARS` on."""
_LONG_CLAUSE_CHARS = 400
_END = re.compile(r"[.!?…][\"')\]]*\s|[。！？]|\n")
_PAUSE = re.compile(r"[,;:]\s|[，；：、]")
_CODE = "```"
_NOT_SAID = re.compile(r"https?://\S+|^\s*#+\s|^\s*[-+*]\s|[*_`|~>]+", re.MULTILINE)
_SAYS_NOTHING = re.compile(r"[\W_]*")


class Clauses:
    """Cuts a text that comes in pieces into what can be said at once: no citation marks, no code, no Markdown. Beyond
    `most_chars` nothing is said."""

    def __init__(self, most_chars: int = MOST_CHARS) -> None:
        self._marks = MarkFilter()
        self._held = ""
        self._in_code = False
        self._room = most_chars

    def feed(self, piece: str) -> list[str]:
        """The clauses that are whole now."""
        self._held += self._marks.feed(piece)
        found = []
        while (end := self._end()) is not None:
            found.append(self._taken(end))
        return [clause for clause in found if clause]

    def rest(self) -> list[str]:
        """What was held back, at the end of the text."""
        self._held += self._marks.rest()
        clause = self._taken(len(self._held))
        return [clause] if clause else []

    def _end(self) -> int | None:
        """Where the next clause ends; None if that is not known yet."""
        text = self._held
        fence = text.find(_CODE)
        if self._in_code:
            return fence + len(_CODE) if fence >= 0 else None
        if fence == 0:
            return len(_CODE)
        limit = fence if fence > 0 else len(text)
        ended = _END.search(text, 0, limit)
        if ended is not None:
            return ended.end()
        paused = _PAUSE.search(text, _CLAUSE_CHARS, limit)
        if paused is not None:
            return paused.end()
        if fence > 0:
            return fence
        return text.rfind(" ") + 1 or len(text) if len(text) > _LONG_CLAUSE_CHARS else None

    def _taken(self, end: int) -> str:
        text, self._held = self._held[:end], self._held[end:]
        if text.endswith(_CODE):
            self._in_code = not self._in_code
            return ""
        said = "" if self._in_code else " ".join(_NOT_SAID.sub(" ", text).split())
        if not said or _SAYS_NOTHING.fullmatch(said):
            return ""
        said = said[: self._room]
        self._room -= len(said)
        return said


async def with_speech(
    events: AsyncGenerator[DialogEvent, None], speak: Speak, *, rest_s: float = REST_S
) -> AsyncGenerator[DialogEvent, None]:
    """Yield `events` as they come and, among them, `Spoken`: each after the text it says, in order, and for at most
    `rest_s` seconds after `Done`. An answer that failed is not read to its end. Leaving early ends both.

    Raises:
        Exception: whatever `events` raise.
    """
    aloud = _Aloud(speak)
    reader = asyncio.create_task(aloud.read(events, rest_s), name="read-for-speech")
    reader.add_done_callback(aloud.close)
    try:
        while (event := await aloud.take()) is not None:
            yield event
        reader.result()
    finally:
        tasks = {reader, aloud.speaking}
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def _told(speaking: "asyncio.Task[None]") -> None:
    """Log what no speaker may raise."""
    error = None if speaking.cancelled() else speaking.exception()
    if error is not None:
        log.error("speech_broke", exc_info=error)


class _Aloud:
    """One answer's text on its way out and its speech on its way in."""

    def __init__(self, speak: Speak) -> None:
        self._speak = speak
        self._clauses = Clauses()
        self._waiting: asyncio.Queue[str | None] = asyncio.Queue()
        self._out: asyncio.Queue[DialogEvent | None] = asyncio.Queue()
        self._room = asyncio.Event()
        self._room.set()
        self.speaking = asyncio.create_task(self._say(), name="speak")
        # However it ends, and whoever waits for it: a defect must not end it unseen.
        self.speaking.add_done_callback(_told)

    async def take(self) -> DialogEvent | None:
        """The next event; None after the last one."""
        event = await self._out.get()
        if self._out.qsize() < _AHEAD:
            self._room.set()
        return event

    def close(self, _: "asyncio.Task[None]") -> None:
        self._out.put_nowait(None)

    async def read(self, events: AsyncGenerator[DialogEvent, None], rest_s: float) -> None:
        """Pass on the answer's events, and give its text to the speaker."""
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Token):
                    self._to_say(self._clauses.feed(event.text))
                elif isinstance(event, TERMINAL) and not isinstance(event, Done):
                    await self._end_speech(whole=False)
                self._out.put_nowait(event)
                if isinstance(event, Done):
                    await self._finish(rest_s)
                if self._out.qsize() >= _AHEAD:
                    self._room.clear()
                    await self._room.wait()

    def _to_say(self, clauses: list[str]) -> None:
        for clause in clauses:
            self._waiting.put_nowait(clause)

    async def _finish(self, rest_s: float) -> None:
        """Wait for what is still to be said."""
        self._to_say(self._clauses.rest())
        self._waiting.put_nowait(None)
        await asyncio.wait({self.speaking}, timeout=rest_s)
        await self._end_speech(whole=True)

    async def _end_speech(self, *, whole: bool) -> None:
        if not self.speaking.done():
            log.info("speech_cut", whole=whole)
            self.speaking.cancel()
            await asyncio.wait({self.speaking})

    async def _say(self) -> None:
        """Say clause after clause; what has come meanwhile is said together."""
        try:
            while (text := await self._next()) is not None:
                audio = b"".join([piece async for piece in self._speak(text)])
                if audio:
                    self._out.put_nowait(Spoken(audio=audio))
        except RagError as error:
            log.warning("speech_failed", code=error.code, error=error.message)

    async def _next(self) -> str | None:
        text = await self._waiting.get()
        while text is not None and len(text) < _LONG_CLAUSE_CHARS and not self._waiting.empty():
            more = self._waiting.get_nowait()
            if more is None:
                self._waiting.put_nowait(None)
                break
            text = f"{text} {more}"
        return text
