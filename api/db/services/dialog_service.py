"""From a question to a cited answer, as a stream of typed events.

Each step is a small function between the model's bundle and the events: refine the question, search, put the
prompt together, answer, cite. Nothing is kept between calls; who asks and for what travels as arguments.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

import structlog

from api.db.services.dialog_asking import Asking, Steps
from api.db.services.dialog_brief import AskOptions, Brief, brief_of_ask, brief_of_dialog
from api.db.services.dialog_citing import cited
from api.db.services.dialog_history import cleaned
from api.db.services.dialog_prompt import Material, PreparedPrompt, prepare
from api.db.services.dialog_question import SearchPlan, search_plan
from api.db.services.dialog_reply import Said, reply_events
from api.db.services.dialog_search import NOTHING, Retrieval, found_for, retrieved
from api.db.services.llm_service import LLMBundle
from api.db.services.model_catalogue import ModelCatalogue
from api.db.services.records import DialogRecord
from api.db.services.tool_sources import Reach
from api.db.services.toolbox import Kit, Toolbox
from api.db.services.toolbox import Turn as ToolTurn
from rag.core.blocking import apart_if_long
from rag.core.clock import Clock
from rag.core.errors import InvalidInput, ModelBadOutput, RagError
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
from rag.core.types import Principal, Reference, Retrieved, ToolCall, Turn
from rag.llm.base import ChatRequest, Grounding, Sampling
from rag.nlp import citation
from rag.nlp.budget import turn_cost
from rag.prompts.loader import Prompts

__all__ = ["AskOptions", "DialogService", "Sampling"]

log = structlog.get_logger()

_RESULTS_KEPT_FREE = 2
"""Results of tools that there is room for beside the prompt, unless they would take half of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Material:
    """What a prompt is made of: the question that was searched for, what was found, and the tools."""

    question: str
    found: Retrieved
    kit: Kit | None


@dataclass(frozen=True, slots=True)
class _Ready:
    """All that a model is to be asked with, and where its reply goes."""

    question: str
    prompt: PreparedPrompt
    kit: Kit | None
    said: Said


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
    ) -> None:
        self._retrieval = retrieval
        self._models = models
        self._prompts = prompts
        self._clock = clock
        self._toolbox = toolbox
        self._flags = flags

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
            async with aclosing(self._steps(make(), said)) as events:
                async for event in events:
                    yield event
        except RagError as error:
            log.info("answer_failed", message=message_id, code=error.code)
            yield Failed(code=error.code, message=error.message, answer=said.text)

    async def _steps(self, asking: Asking, said: Said) -> AsyncGenerator[DialogEvent, None]:
        """The pipeline. A step of its own is a function in a module of its own; only events are made here."""
        brief = asking.brief
        bundle = asking.bundle()
        brief.form.refuse_what_cannot(bundle.info)
        kit = await self._kit(asking, bundle)
        plan = SearchPlan(question=asking.question)
        searched = bool(brief.dataset_ids) and not (kit is not None and kit.agentic)
        if searched:
            plan = await search_plan(asking, bundle)
            yield RetrievalStarted(question=plan.question)
        searching = found_for(asking, self._retrieval, bundle, plan) if searched else _nothing()
        found = await searching
        material = _Material(question=plan.question, found=found, kit=kit)
        prompt = await self._prepared(asking, bundle, material)
        if searched:
            yield RetrievalFinished(reference=prompt.reference, timings_ms=found.timings_ms)
        if searched and not found.hits and brief.empty_response:
            said.parts.append(brief.empty_response)
            yield Token(text=brief.empty_response)
            yield self._done(asking, brief.empty_response, Reference(), prompt)
            return
        async with aclosing(self._streamed(asking, bundle, _Ready(plan.question, prompt, kit, said))) as events:
            async for event in events:
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

    async def _kit(self, asking: Asking, bundle: LLMBundle) -> Kit | None:
        """The tools of this turn, where the chat or the settings ask for some and the model can use them."""
        brief, principal = asking.brief, asking.principal
        if not bundle.info.capabilities.tools or brief.form.tools:
            return None
        names = self._toolbox.wanted(brief.tools, agentic=brief.agentic)
        if not names:
            return None
        reach = Reach(principal=principal, dataset_ids=brief.dataset_ids, document_ids=tuple(brief.document_ids))

        async def search(question: str) -> Retrieved:
            plan = SearchPlan(question=question, document_ids=brief.document_ids or None)
            return await retrieved(self._retrieval, principal, brief, plan)

        turn = ToolTurn(reach=reach, search=search, count=bundle.count_tokens)
        return await self._toolbox.kit(names, turn, agentic=brief.agentic)

    async def _prepared(self, asking: Asking, bundle: LLMBundle, material: _Material) -> PreparedPrompt:
        brief, hits, kit = asking.brief, material.found.hits, material.kit
        size = len(brief.system) + sum(len(turn.content) for turn in asking.turns)
        size += sum(len(hit.chunk.content) for hit in hits)

        def work() -> PreparedPrompt:
            sees = bundle.info.capabilities.vision
            history = [
                cleaned(turn, sees=sees)
                for turn in asking.turns[:-1]
                if turn.content or turn.pictures or turn.tool_calls
            ]
            parts = Material(
                system=brief.system,
                values=brief.values,
                turns=[*history, asking.turns[-1]],
                question=material.question,
                hits=hits,
                total=material.found.total,
                quote=brief.quote,
                sampling=brief.sampling,
                reserved=_reserved(asking, bundle, kit),
                searches=kit is not None and kit.searches,
                summary=asking.summary,
            )
            return prepare(parts, prompts=self._prompts, info=bundle.info, count=bundle.count_tokens)

        with asking.steps.timed("prompt"):
            prompt = await apart_if_long(size, work)
        if kit is not None:
            kit.sources.begin(prompt.reference)
        return prompt

    def _streamed(self, asking: Asking, bundle: LLMBundle, ready: _Ready) -> AsyncGenerator[DialogEvent, None]:
        """The model's reply. Without citations, marks are taken out as they come."""
        brief, prompt, kit = asking.brief, ready.prompt, ready.kit
        grounding = None
        if brief.dataset_ids:
            grounding = Grounding(
                question=ready.question, passages=prompt.passages, empty_response=brief.empty_response
            )
        arms = asking.arms
        form = brief.form
        request = ChatRequest(
            turns=(*prompt.turns, *asking.after),
            tools=form.tools,
            tool_choice=form.tool_choice,
            parallel_tools=form.parallel_tools,
            reply_schema=form.schema,
            extra={"response_format": {"type": "json_object"}} if form.json_object else {},
            sampling=prompt.sampling,
            grounding=grounding,
            cache_prefix=arms.prompt_caching,
            tool_fragments=kit is not None and arms.partial_tool_streaming,
        )
        if kit is not None:
            kit = replace(kit, limits=replace(kit.limits, room_tokens=max(0, prompt.left - kit.tokens)))
        marks = citation.MarkFilter() if brief.dataset_ids and not brief.quote else None
        return reply_events(bundle, request, ready.said, kit=kit, marks=marks, empty=brief.empty_response)

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


def _reserved(asking: Asking, bundle: LLMBundle, kit: Kit | None) -> int:
    """Tokens to keep free beside the prompt: for tools and what they find, ours or the client's."""
    if kit is not None:
        return kit.tokens + _RESULTS_KEPT_FREE * kit.limits.result_tokens
    count = bundle.count_tokens
    tools = sum(count(f"{tool.name} {tool.description} {tool.parameters}") for tool in asking.brief.form.tools)
    return tools + sum(turn_cost(turn, count) for turn in asking.after)


async def _nothing() -> Retrieved:
    return NOTHING
