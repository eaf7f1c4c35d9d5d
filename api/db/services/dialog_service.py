"""From a question to a cited answer, as a stream of typed events.

Each step is a small function between the model's bundle and the events: refine the question, search, put the
prompt together, answer, cite. Nothing is kept between calls; who asks and for what travels as arguments.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace

import structlog

from api.db.services.dialog_asking import Asking, Steps
from api.db.services.dialog_brief import AskOptions, Brief, brief_of_ask, brief_of_dialog
from api.db.services.dialog_citing import cited
from api.db.services.dialog_kit import Means, is_agentic, kit_for
from api.db.services.dialog_prompt import PreparedPrompt
from api.db.services.dialog_question import Metadata, SearchPlan, search_plan
from api.db.services.dialog_ready import Found, prepared, request_of, within_room
from api.db.services.dialog_reply import Said, reply_events
from api.db.services.dialog_research import plans_searches, researched
from api.db.services.dialog_search import NOTHING, Pages, Retrieval, Sources, found_for
from api.db.services.dialog_speech import with_speech
from api.db.services.llm_service import LLMBundle
from api.db.services.model_catalogue import ModelCatalogue
from api.db.services.records import DialogRecord
from api.db.services.toolbox import Toolbox
from rag.core.clock import Clock
from rag.core.errors import InvalidInput, ModelBadOutput, NotFound, RagError
from rag.core.events import (
    Cited,
    DialogEvent,
    Done,
    Failed,
    RetrievalFinished,
    RetrievalStarted,
    Started,
    Token,
    Usage,
)
from rag.core.flags import Flags
from rag.core.tool_settings import ResearchSettings
from rag.core.types import Principal, Reference, Retrieved, ToolCall, Turn
from rag.llm.base import Sampling
from rag.nlp import citation
from rag.prompts.loader import Prompts

__all__ = ["AskOptions", "DialogService", "Sampling"]

log = structlog.get_logger()


class DialogService:
    """Answers questions. Used by stored sessions, and by calls that keep nothing."""

    def __init__(
        self,
        retrieval: Retrieval,
        models: ModelCatalogue,
        prompts: Prompts,
        clock: Clock,
        *,
        toolbox: Toolbox,
        flags: Flags,
        metadata: Metadata,
        pages: Pages | None = None,
        research: ResearchSettings | None = None,
        rerank_s: float = 5.0,
    ) -> None:
        self._models = models
        self._prompts = prompts
        self._clock = clock
        sources = Sources(retrieval=retrieval, reader=toolbox.reader, pages=pages, rerank_s=rerank_s)
        self._means = Means(sources=sources, toolbox=toolbox, research=research or ResearchSettings())
        self._flags = flags
        self._metadata = metadata

    def chat(
        self,
        principal: Principal,
        dialog: DialogRecord,
        turns: tuple[Turn, ...],
        *,
        options: AskOptions | None = None,
        message_id: str = "",
        session_id: str = "",
        summary: str = "",
    ) -> AsyncGenerator[DialogEvent, None]:
        """Answer the last turn, a user's, with the settings of a chat assistant.

        Ends with exactly one `Done` or `Failed`; errors of the engine become `Failed` with the text so far.
        Closing the generator ends the model's request. System turns are left out: the chat has its own.

        Args:
            summary: What was said before `turns`.
        """

        def asking() -> Asking:
            brief = brief_of_dialog(dialog, options or AskOptions())
            made = self._asking(principal, brief, turns, message_id=message_id, session_id=session_id)
            return replace(made, summary=summary)

        return self._answer(asking, message_id=message_id, session_id=session_id)

    def ask(
        self,
        principal: Principal,
        dataset_ids: Sequence[str],
        turns: tuple[Turn, ...],
        options: AskOptions | None = None,
        *,
        model: str = "",
        message_id: str = "",
    ) -> AsyncGenerator[DialogEvent, None]:
        """Answer the last turn from datasets, without a stored chat; events as in `chat`.

        Args:
            turns: System turns are added to the prompt's own text.
            model: The chat model; empty means the tenant's default.
        """

        def asking() -> Asking:
            given = options or AskOptions()
            wishes = tuple(turn.content for turn in turns if turn.role == "system")
            brief = brief_of_ask(
                dataset_ids,
                replace(given, wishes=given.wishes + wishes),
                model=model or self._models.default_chat(principal.tenant_id),
                system=self._prompts["ask"].text,
            )
            return self._asking(principal, brief, turns, message_id=message_id, session_id="")

        return self._answer(asking, message_id=message_id, session_id="")

    def _asking(
        self, principal: Principal, brief: Brief, turns: Sequence[Turn], *, message_id: str, session_id: str
    ) -> Asking:
        spoken = tuple(turn for turn in turns if turn.role != "system")
        asked = max((index for index, turn in enumerate(spoken) if turn.role == "user"), default=-1)
        if asked < 0 or spoken[-1].role not in ("user", "tool"):
            raise InvalidInput("The last message must be the user's.", field="messages")
        return Asking(
            principal=principal,
            brief=brief,
            turns=spoken[: asked + 1],
            after=spoken[asked + 1 :],
            message_id=message_id,
            session_id=session_id,
            arms=self._flags.arms(tenant_id=principal.tenant_id, session_id=session_id),
            models=self._models,
            prompts=self._prompts,
            steps=Steps(self._clock),
        )

    async def _answer(
        self, make: Callable[[], Asking], *, message_id: str, session_id: str
    ) -> AsyncGenerator[DialogEvent, None]:
        yield Started(message_id=message_id, session_id=session_id)
        said = Said()
        try:
            async with aclosing(self._aloud(make(), said)) as events:
                async for event in events:
                    yield event
        except RagError as error:
            log.info("answer_failed", message=message_id, code=error.code)
            yield Failed(code=error.code, message=error.message, answer=said.text)

    def _aloud(self, asking: Asking, said: Said) -> AsyncGenerator[DialogEvent, None]:
        """The pipeline's events, spoken as well where the chat asks for it and the tenant has a model that speaks."""
        events = self._steps(asking, said)
        if not asking.brief.speech:
            return events
        try:
            speaker = self._models.bundle_speak(
                tenant_id=asking.principal.tenant_id,
                dialog_id=asking.brief.dialog_id,
                conversation_id=asking.session_id or None,
                message_id=asking.message_id or None,
                key_id=asking.principal.key_id,
            )
        except NotFound as error:
            log.info("speech_not_there", message=asking.message_id, error=error.message)
            return events
        return with_speech(events, speaker.tts)

    async def _steps(self, asking: Asking, said: Said) -> AsyncGenerator[DialogEvent, None]:
        """The pipeline. A step of its own is a function in a module of its own; only events are made here."""
        brief, means = asking.brief, self._means
        bundle = asking.bundle()
        brief.refuse_what_cannot(bundle.info)
        agentic = is_agentic(asking, bundle)
        plan = SearchPlan(question=asking.question, document_ids=brief.document_ids or None)
        if brief.searches:
            # A model that searches by itself finds its own words; only the filter binds it.
            plan = await search_plan(asking, bundle, self._metadata, filter_only=agentic)
        kit = await kit_for(asking, means, bundle, plan)
        searched = brief.searches and not (kit is not None and kit.agentic)
        hits = NOTHING
        if searched:
            yield RetrievalStarted(question=plan.searched)
            async with aclosing(self._searched(asking, bundle, plan)) as events:
                async for event in events:
                    if isinstance(event, Retrieved):
                        hits = event
                    else:
                        yield event
        found = Found(question=plan.question, hits=hits, kit=kit)
        prompt = await prepared(asking, bundle, found)
        if searched:
            yield RetrievalFinished(reference=prompt.reference, timings_ms=hits.timings_ms)
        if searched and not hits.hits and brief.empty_response:
            said.parts.append(brief.empty_response)
            yield Token(text=brief.empty_response)
            yield self._done(asking, brief.empty_response, Reference(), prompt)
            return
        async with aclosing(self._streamed(asking, bundle, prompt, found, said)) as replied:
            async for event in replied:
                yield event
        if not said.text.strip() and not _passed_on(asking, said):
            raise ModelBadOutput(f"The model {bundle.name!r} gave no answer. Ask again, or choose another model.")
        answer, reference = said.text, Reference()
        sources = prompt.reference if kit is None else kit.sources.reference()
        if brief.quote and sources.chunks and said.text.strip():
            answer, reference = await cited(asking, bundle, sources, said.text)
            yield Cited(answer=answer, reference=reference)
        if said.usage is not None:
            yield Usage(model=said.model or bundle.name, usage=said.usage)
        yield self._done(asking, answer, reference, prompt, said)

    async def _searched(
        self, asking: Asking, bundle: LLMBundle, plan: SearchPlan
    ) -> AsyncGenerator[DialogEvent | Retrieved, None]:
        """What the answer may rest on, at the end; before it, the progress of a research."""
        if not plans_searches(asking, bundle):
            yield await found_for(asking, self._means.sources, bundle, plan)
            return
        async with aclosing(researched(asking, self._means, bundle, plan)) as events:
            async for event in events:
                yield event

    async def _streamed(
        self, asking: Asking, bundle: LLMBundle, prompt: PreparedPrompt, found: Found, said: Said
    ) -> AsyncGenerator[DialogEvent, None]:
        """The model's reply. Without citations, or sources to cite, marks are taken out as they come."""
        brief = asking.brief
        cites = brief.quote and (prompt.reference.chunks or found.kit is not None)
        marks = citation.MarkFilter() if brief.searches and not cites else None
        kit, request = within_room(found.kit, prompt), request_of(asking, prompt, found)
        replied = reply_events(bundle, request, said, kit=kit, marks=marks, empty=brief.empty_response)
        first = asking.steps.until_first("first_token")
        with asking.steps.timed("answer"):
            async with aclosing(replied) as events:
                async for event in events:
                    if isinstance(event, Token):
                        first()
                    yield event

    def _done(
        self, asking: Asking, answer: str, reference: Reference, prompt: PreparedPrompt, said: Said | None = None
    ) -> Done:
        dropped = prompt.dropped + (said.dropped if said is not None else 0)
        note = f"\n\n### Left out\nThe {dropped} oldest turns: the model has no room for them." if dropped else ""
        return Done(
            answer=answer,
            reference=reference,
            prompt=prompt.shown + note,
            created_at=self._clock.now().timestamp(),
            truncated=said is not None and said.finish in ("length", "cut_off"),
            dropped_turns=dropped,
            timings_ms=asking.steps.taken_ms,
            tool_calls=_passed_on(asking, said) if said is not None else (),
        )


def _passed_on(asking: Asking, said: Said) -> tuple[ToolCall, ...]:
    """Calls for the client to run. A model that was offered no tools may call some all the same: those are nobody's."""
    return tuple(call for call in said.calls if call.name) if asking.brief.form.tools else ()
