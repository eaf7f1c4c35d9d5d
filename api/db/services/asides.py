"""What is made beside answers, after they ended: summaries of long conversations, and names of sessions.

No answer waits for them. They end with the process; what is missing then is made after the session's next answer.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import structlog

from api.db.database import Database
from api.db.services.dialog_history import cleaned
from api.db.services.llm_service import LLMBundle
from api.db.services.model_catalogue import ModelCatalogue
from api.db.services.summary_rows import (
    SUMMED_UP_BEYOND,
    recent_past,
    save_summary,
    summed_past,
    unsummed,
)
from api.db.services.turn_runner import Past
from api.db.tables import Conversation
from rag.core.clock import Clock, now_ms
from rag.core.errors import RagError
from rag.core.flags import Flags
from rag.core.types import Turn
from rag.prompts.loader import Prompts
from rag.prompts.summaries import summary
from rag.prompts.titles import ruled_title, session_title

log = structlog.get_logger()

_LIMIT_S = 60.0
_SAME_MANY = 2
"""Messages of a turn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """An answer that ended, and for whom and with which model it was made."""

    tenant_id: str
    key_id: str
    dialog_id: str
    session_id: str
    message_id: str
    turn: int
    model: str
    wants_title: bool
    question: str


class Asides:
    """Makes them, one summary of a session at a time. Used on the loop only."""

    def __init__(self, db: Database, clock: Clock, models: ModelCatalogue, prompts: Prompts, flags: Flags) -> None:
        self._db = db
        self._clock = clock
        self._models = models
        self._prompts = prompts
        self._flags = flags
        self._summing: dict[str, asyncio.Task[None]] = {}
        self._again: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    def past(self, tenant_id: str, session_id: str, model: str) -> Callable[[str, int], Past] | None:
        """How the conversation before a question is read: with its summary, or without its oldest turns where the model
        cannot sum up. None: as it is, since summaries are switched off."""
        if not self._flags.arm("summaries", tenant_id=tenant_id, session_id=session_id):
            return None
        return recent_past if self._is_local(model, tenant_id) else summed_past

    def answered(self, answered: Answered, *, done: bool) -> None:
        """Begin what is due after an answer that ended; `done` if it is complete."""
        if self._closing:
            return
        if done and answered.wants_title:
            self._begin(self._titled(answered))
        # A session has no more than two messages for each number of a turn.
        if answered.turn * _SAME_MANY > SUMMED_UP_BEYOND and self._sums_up(answered):
            if answered.session_id in self._summing:
                self._again.add(answered.session_id)
            else:
                self._summing[answered.session_id] = self._begin(self._summed(answered))

    async def settle(self) -> None:
        """Wait until nothing is being made."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    async def close(self) -> None:
        """End what is being made."""
        self._closing = True
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _sums_up(self, answered: Answered) -> bool:
        on = self._flags.arm("summaries", tenant_id=answered.tenant_id, session_id=answered.session_id)
        return on and not self._is_local(answered.model, answered.tenant_id)

    def _is_local(self, model: str, tenant_id: str) -> bool:
        try:
            return self._models.bundle_chat(model, tenant_id=tenant_id).info.local
        except RagError:
            return False  # Whatever is wrong with the model, its answer says it.

    def _begin(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work, name="beside-answers")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _bundle(self, answered: Answered, purpose: str) -> LLMBundle:
        arms = self._flags.arms(tenant_id=answered.tenant_id, session_id=answered.session_id)
        return self._models.bundle_chat(
            answered.model,
            tenant_id=answered.tenant_id,
            purpose=purpose,
            dialog_id=answered.dialog_id,
            conversation_id=answered.session_id,
            message_id=answered.message_id,
            key_id=answered.key_id,
            arm=arms.text,
        )

    async def _summed(self, answered: Answered) -> None:
        """Sum up what is due, and again what has become due meanwhile."""
        session_id = answered.session_id
        try:
            while True:
                self._again.discard(session_id)
                await self._sum_up_once(answered)
                if session_id not in self._again:
                    return
        except (RagError, TimeoutError) as error:
            # The turns stay as they are, within the budget, until the next answer has ended.
            log.warning("summary_failed", session=session_id, error=type(error).__name__)
        finally:
            self._again.discard(session_id)
            del self._summing[session_id]

    async def _sum_up_once(self, answered: Answered) -> None:
        due = await self._db.run(lambda: unsummed(answered.session_id))
        if due is None:
            return
        bundle = self._bundle(answered, "summary")
        async with asyncio.timeout(_LIMIT_S):
            content = await summary(
                bundle,
                self._prompts,
                [cleaned(turn) for turn in due.turns],
                before=due.before,
                # A character for each token of the context is about a quarter of it.
                most_chars=bundle.info.context_tokens,
                count=bundle.count_tokens,
            )
        now = now_ms(self._clock)
        await self._db.write(lambda: save_summary(answered.session_id, due, content, now))

    async def _titled(self, answered: Answered) -> None:
        """Name the session, unless somebody has named it."""
        ruled = ruled_title(answered.question)
        try:
            title = await self._title(answered) or ruled
        except (RagError, TimeoutError) as error:
            log.warning("title_failed", session=answered.session_id, error=type(error).__name__)
            title = ruled
        if not title:
            return

        def write() -> None:
            unnamed = (Conversation.id == answered.session_id) & (Conversation.auto_title == True)  # noqa: E712
            Conversation.update(name=title, auto_title=False).where(unnamed).execute()

        try:
            await self._db.write(write)
        except RagError as error:
            log.warning("title_not_saved", session=answered.session_id, code=error.code)

    async def _title(self, answered: Answered) -> str:
        """The model's title; empty where the model cannot make one."""
        bundle = self._bundle(answered, "title")
        if bundle.info.local:
            return ""
        past = await self._db.run(lambda: recent_past(answered.session_id, answered.turn + 1))
        said = [cleaned(turn) for turn in past.turns]
        async with asyncio.timeout(_LIMIT_S):
            return await session_title(bundle, self._prompts, said or [Turn(role="user", content=answered.question)])
