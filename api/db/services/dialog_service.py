"""From a question to a cited answer, as a stream of typed events.

Each step is a small function between the model's bundle and the events: refine the question, search, put the
prompt together, answer, cite. Nothing is kept between calls; who asks and for what travels as arguments.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, TypeVar

import structlog

from api.db.services.dialog_brief import AskOptions, Brief, brief_of_ask, brief_of_dialog
from api.db.services.dialog_citing import with_marks
from api.db.services.dialog_history import can_be_refined, cleaned, recent_from, refined, summed_up
from api.db.services.dialog_prompt import Material, PreparedPrompt, prepare
from api.db.services.dialog_reply import Said, reply_events
from api.db.services.llm_service import LLMBundle
from api.db.services.model_catalogue import ModelCatalogue
from api.db.services.records import DialogRecord, RetrievalRequest
from api.db.services.retrieval_service import LONGEST_QUESTION_CHARS
from api.db.services.tool_sources import Reach
from api.db.services.toolbox import Kit, Toolbox
from api.db.services.toolbox import Turn as ToolTurn
from rag.core.blocking import Lane, run_in
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
from rag.core.flags import Arms, Flags
from rag.core.types import Principal, Reference, Retrieved, Turn
from rag.llm.base import ChatRequest, Grounding, Sampling
from rag.llm.question import search_text
from rag.llm.quotable import worth_reading
from rag.nlp import citation
from rag.prompts.loader import Prompts

__all__ = ["AskOptions", "DialogService", "Sampling"]

T = TypeVar("T")

log = structlog.get_logger()

_SEARCHED_FOR_QUOTES = 24
_RESULTS_KEPT_FREE = 2
"""Results of tools that there is room for beside the prompt, unless they would take half of it."""
_LONG_TEXT_CHARS = 40_000
"""Texts above this are counted and split in a thread; below, a thread costs more than it saves."""


class Retrieval(Protocol):
    """What answers need of `RetrievalService`."""

    async def retrieve(self, principal: Principal, request: RetrievalRequest) -> Retrieved: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class _Call:
    """Who asks, for which message, and the turns without system ones; the last is the question."""

    principal: Principal
    turns: tuple[Turn, ...]
    message_id: str
    session_id: str

    @property
    def question(self) -> str:
        return self.turns[-1].content


@dataclass(frozen=True, kw_only=True, slots=True)
class _Material:
    """What a prompt is made of: the question that was searched for, what was found, the turns before the question, and
    a summary of what was said before those."""

    question: str
    found: Retrieved
    kit: Kit | None
    recent: tuple[Turn, ...]
    summary: str


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

    async def chat(
        self,
        principal: Principal,
        dialog: DialogRecord,
        turns: tuple[Turn, ...],
        *,
        options: AskOptions | None = None,
        message_id: str = "",
        session_id: str = "",
    ) -> AsyncGenerator[DialogEvent, None]:
        """Answer the last turn, a user's, with the settings of a chat assistant.

        Ends with exactly one `Done` or `Failed`; errors of the engine become `Failed` with the text so far.
        Closing the generator ends the model's request. System turns are left out: the chat has its own.
        """
        options = options or AskOptions()
        spoken = tuple(turn for turn in turns if turn.role != "system")
        yield Started(message_id=message_id, session_id=session_id)
        try:
            brief = brief_of_dialog(dialog, options)
        except RagError as error:
            yield Failed(code=error.code, message=error.message)
            return
        call = _Call(principal=principal, turns=spoken, message_id=message_id, session_id=session_id)
        async with aclosing(self._answer(call, brief)) as events:
            async for event in events:
                yield event

    async def ask(
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
        options = options or AskOptions()
        spoken = tuple(turn for turn in turns if turn.role != "system")
        wishes = [turn.content for turn in turns if turn.role == "system"]
        yield Started(message_id=message_id, session_id="")
        values = {f"wish {number}": wish for number, wish in enumerate(wishes)}
        slots = "".join(f"\n\n{{{key}}}" for key in values)
        brief = brief_of_ask(
            dataset_ids,
            replace(options, variables={**options.variables, **values}),
            model=model or self._models.default_chat(principal.tenant_id),
            system=self._prompts["ask"].text + slots,
        )
        call = _Call(principal=principal, turns=spoken, message_id=message_id, session_id="")
        async with aclosing(self._answer(call, brief)) as events:
            async for event in events:
                yield event

    async def _answer(self, call: _Call, brief: Brief) -> AsyncGenerator[DialogEvent, None]:
        said = Said()
        try:
            if not call.turns or call.turns[-1].role != "user":
                raise InvalidInput("The last message must be the user's.", field="messages")
            async with aclosing(self._steps(call, brief, said)) as events:
                async for event in events:
                    yield event
        except RagError as error:
            log.info("answer_failed", message=call.message_id, code=error.code)
            yield Failed(code=error.code, message=error.message, answer=said.text)

    async def _steps(self, call: _Call, brief: Brief, said: Said) -> AsyncGenerator[DialogEvent, None]:
        """The pipeline. A step of its own is a method; only events are made here."""
        bundle = self._bundle(call, brief)
        kit = await self._kit(call, brief, bundle)
        question = call.question
        searched = bool(brief.dataset_ids) and not (kit is not None and kit.agentic)
        if searched:
            question = await self._refined(call, brief, bundle)
            yield RetrievalStarted(question=question)
        searching = self._found(call.principal, brief, bundle, question) if searched else _nothing()
        found, recent, summary = await self._beside(searching, call, brief, bundle)
        material = _Material(question=question, found=found, kit=kit, recent=recent, summary=summary)
        prompt = await self._prepared(call, brief, bundle, material)
        if searched:
            yield RetrievalFinished(reference=prompt.reference, timings_ms=found.timings_ms)
        if searched and not found.hits and brief.empty_response:
            said.parts.append(brief.empty_response)
            yield Token(text=brief.empty_response)
            yield self._done(brief.empty_response, Reference(), prompt)
            return
        async with aclosing(self._streamed(call, brief, bundle, _Ready(question, prompt, kit, said))) as events:
            async for event in events:
                yield event
        if not said.text.strip():
            raise ModelBadOutput(f"The model {bundle.name!r} gave no answer. Ask again, or choose another model.")
        answer, reference = said.text, Reference()
        sources = prompt.reference if kit is None else kit.sources.reference()
        if brief.quote and sources.chunks:
            answer, reference = await self._cited(call, brief, bundle, sources, said.text)
            yield Cited(answer=answer, reference=reference)
        if said.usage is not None:
            yield Usage(model=said.model or bundle.name, usage=said.usage)
        yield self._done(answer, reference, prompt, said)

    async def _kit(self, call: _Call, brief: Brief, bundle: LLMBundle) -> Kit | None:
        """The tools of this turn, where the chat or the settings ask for some and the model can use them."""
        if not bundle.info.capabilities.tools:
            return None
        names = self._toolbox.wanted(brief.tools, agentic=brief.agentic)
        if not names:
            return None
        reach = Reach(principal=call.principal, dataset_ids=brief.dataset_ids, document_ids=tuple(brief.document_ids))
        turn = ToolTurn(reach=reach, search=partial(self._retrieve, call.principal, brief), count=bundle.count_tokens)
        return await self._toolbox.kit(names, turn, agentic=brief.agentic)

    def _bundle(self, call: _Call, brief: Brief, purpose: str = "answer") -> LLMBundle:
        arms = self._arms(call)
        try:
            return self._models.bundle_chat(
                brief.model,
                tenant_id=call.principal.tenant_id,
                purpose=purpose,
                dialog_id=brief.dialog_id,
                conversation_id=call.session_id or None,
                message_id=call.message_id or None,
                key_id=call.principal.key_id,
                arm=arms.text,
                fallbacks=brief.fallbacks,
                use_fallbacks=arms.fallback,
            )
        except NotFound as error:
            raise NotFound("model", brief.model, f"Model({brief.model}) not authorized") from error

    async def _refined(self, call: _Call, brief: Brief, bundle: LLMBundle) -> str:
        """The question to search for: complete in itself where a model can make it so, else as asked."""
        if not brief.refine or bundle.info.local or not can_be_refined(call.turns):
            return call.question
        model = self._bundle(call, brief, "refine")
        return await refined(model, self._prompts, call.turns, message_id=call.message_id)

    async def _beside(
        self, searching: Coroutine[Any, Any, Retrieved], call: _Call, brief: Brief, bundle: LLMBundle
    ) -> tuple[Retrieved, tuple[Turn, ...], str]:
        """What `searching` finds, the turns to keep as they are, and a summary of those before, made meanwhile."""
        history = call.turns[:-1]
        start = recent_from(history)
        wanted = start > 0 and call.session_id and not bundle.info.local and self._arms(call).summaries
        if not wanted:
            return await searching, history, ""
        model = self._bundle(call, brief, "summary")
        summing = asyncio.create_task(
            summed_up(model, self._prompts, history[:start], message_id=call.message_id), name="sum-up-history"
        )
        try:
            found = await searching
            summary = await summing
        finally:
            summing.cancel()
        return (found, history[start:], summary) if summary else (found, history, "")

    async def _found(self, principal: Principal, brief: Brief, bundle: LLMBundle, question: str) -> Retrieved:
        """The passages to answer from. The built-in model reads fast: for it more are searched, and the best kept."""
        if not bundle.info.local:
            return await self._retrieve(principal, brief, question)
        wide = replace(brief, top_n=max(brief.top_n, min(_SEARCHED_FOR_QUOTES, brief.top_k)))
        found = await self._retrieve(principal, wide, search_text(question))
        if len(found.hits) <= brief.top_n:
            return found
        passages = [hit.chunk for hit in found.hits]
        kept = await run_in(Lane.TEXT, worth_reading, question, passages, brief.top_n)
        return replace(found, hits=tuple(found.hits[index] for index in kept))

    async def _retrieve(self, principal: Principal, brief: Brief, question: str) -> Retrieved:
        """Search the datasets; those of the chat that were deleted since are left out."""
        wanted = list(brief.dataset_ids)
        while wanted and question.strip():
            request = RetrievalRequest(
                question=question[:LONGEST_QUESTION_CHARS],
                dataset_ids=tuple(wanted),
                document_ids=brief.document_ids,
                page_size=brief.top_n,
                similarity_threshold=brief.similarity_threshold,
                vector_similarity_weight=brief.vector_similarity_weight,
                top_k=brief.top_k,
            )
            try:
                return await self._retrieval.retrieve(principal, request)
            except NotFound as error:
                if error.kind != "dataset" or error.id not in wanted or error.id in brief.must_exist:
                    raise
                wanted.remove(error.id)
        return Retrieved(hits=(), total=0)

    async def _prepared(self, call: _Call, brief: Brief, bundle: LLMBundle, material: _Material) -> PreparedPrompt:
        hits, kit = material.found.hits, material.kit
        size = len(brief.system) + sum(len(turn.content) for turn in call.turns)
        size += sum(len(hit.chunk.content) for hit in hits)

        def work() -> PreparedPrompt:
            sees = bundle.info.capabilities.vision
            history = [cleaned(turn, sees=sees) for turn in material.recent if turn.content or turn.pictures]
            parts = Material(
                system=brief.system,
                values=brief.values,
                turns=[*history, call.turns[-1]],
                question=material.question,
                hits=hits,
                total=material.found.total,
                quote=brief.quote,
                sampling=brief.sampling,
                reserved=0 if kit is None else kit.tokens + _RESULTS_KEPT_FREE * kit.limits.result_tokens,
                searches=kit is not None and kit.searches,
                summary=material.summary,
            )
            return prepare(parts, prompts=self._prompts, info=bundle.info, count=bundle.count_tokens)

        prompt = await _apart_if_long(size, work)
        if kit is not None:
            kit.sources.begin(prompt.reference)
        return prompt

    def _streamed(
        self, call: _Call, brief: Brief, bundle: LLMBundle, ready: _Ready
    ) -> AsyncGenerator[DialogEvent, None]:
        """The model's reply. Without citations, marks are taken out as they come."""
        prompt, kit = ready.prompt, ready.kit
        grounding = None
        if brief.dataset_ids:
            grounding = Grounding(
                question=ready.question, passages=prompt.passages, empty_response=brief.empty_response
            )
        arms = self._arms(call)
        request = ChatRequest(
            turns=prompt.turns,
            sampling=prompt.sampling,
            grounding=grounding,
            cache_prefix=arms.prompt_caching,
            tool_fragments=kit is not None and arms.partial_tool_streaming,
        )
        if kit is not None:
            kit = replace(kit, limits=replace(kit.limits, room_tokens=max(0, prompt.left - kit.tokens)))
        marks = citation.MarkFilter() if brief.dataset_ids and not brief.quote else None
        return reply_events(bundle, request, ready.said, kit=kit, marks=marks, empty=brief.empty_response)

    def _arms(self, call: _Call) -> Arms:
        return self._flags.arms(tenant_id=call.principal.tenant_id, session_id=call.session_id)

    async def _cited(
        self, call: _Call, brief: Brief, bundle: LLMBundle, sources: Reference, text: str
    ) -> tuple[str, Reference]:
        """The answer with its marks in order, and the reference with the documents they name."""
        chunks = sources.chunks
        answer = await _apart_if_long(len(text), lambda: citation.repair_marks(text, len(chunks)))
        is_own_quote = bundle.info.local
        if not citation.cited_indices(answer) and not is_own_quote and answer.strip() != brief.empty_response:
            who = call.principal
            embedder = partial(self._models.bundle_embed, tenant_id=who.tenant_id, key_id=who.key_id, purpose="cite")
            answer = await with_marks(embedder, [chunk.content for chunk in chunks], answer)
        return answer, await _apart_if_long(len(answer), lambda: citation.with_counts(sources, answer))

    def _done(self, answer: str, reference: Reference, prompt: PreparedPrompt, said: Said | None = None) -> Done:
        dropped = prompt.dropped + (said.dropped if said is not None else 0)
        note = f"\n\n### Left out\nThe {dropped} oldest turns: the model has no room for them." if dropped else ""
        return Done(
            answer=answer,
            reference=reference,
            prompt=prompt.shown + note,
            created_at=self._clock.now().timestamp(),
            truncated=said is not None and said.finish in ("length", "cut_off"),
            dropped_turns=dropped,
        )


async def _nothing() -> Retrieved:
    return Retrieved(hits=(), total=0)


async def _apart_if_long(size: int, work: Callable[[], T]) -> T:
    """`work()`, in a thread where its texts have so many characters that it would hold up the loop."""
    return await run_in(Lane.TEXT, work) if size > _LONG_TEXT_CHARS else work()
