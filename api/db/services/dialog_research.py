"""Research with a model that has no tools: it plans searches as JSON, round by round, and then answers as always.

Models with tools do the same by calling them (`rag.llm.tools`). The built-in model, which plans nothing, answers by the
plain pipeline. Where a budget is spent or a plan cannot be read, the answer is made from what is there.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from api.db.services.dialog_asking import Asking
from api.db.services.dialog_kit import Means, is_agentic
from api.db.services.dialog_question import SearchPlan
from api.db.services.dialog_search import found_for, web_for_model
from api.db.services.dialog_sources import harmless
from api.db.services.llm_service import LLMBundle
from api.db.services.tool_sources import SEARCH
from rag.core.errors import LimitExceeded, ModelError, RagError
from rag.core.events import DialogEvent, Reasoning, ToolFinished, ToolStarted
from rag.core.types import Hit, Retrieved, TokenUsage, Turn
from rag.llm.base import ChatRequest, ModelInfo, ReplySchema, Sampling
from rag.llm.structured import ask_json
from rag.retrieve.joined import joined

log = structlog.get_logger()

_MOST_QUERIES: Final = 3
_LONGEST_QUERY_CHARS: Final = 400
_LONGEST_QUESTION_CHARS: Final = 4000
_TOLD_PASSAGES: Final = 24
_TOLD_CHARS: Final = 400
_KEPT_TIMES: Final = 3
"""Passages kept for the answer, times the chat's `top_n`."""
_MOST_KEPT: Final = 60
_PLAN: Final = ReplySchema(
    name="research_plan",
    schema={
        "type": "object",
        "properties": {
            "thought": {"type": "string"},
            "queries": {"type": "array", "items": {"type": "string"}},
            "enough": {"type": "boolean"},
        },
        "required": ["thought", "queries", "enough"],
        "additionalProperties": False,
    },
)


@dataclass(slots=True)
class _Notes:
    """What the research has asked and found so far."""

    asked: list[str] = field(default_factory=list)
    found: list[Retrieved] = field(default_factory=list)

    def new(self, queries: Sequence[Any]) -> list[str]:
        known = {text.casefold() for text in self.asked}
        texts = (str(query).strip()[:_LONGEST_QUERY_CHARS] for query in queries)
        return [text for text in dict.fromkeys(texts) if text and text.casefold() not in known][:_MOST_QUERIES]

    def hits(self) -> list[Hit]:
        each = {(hit.chunk.document_id, hit.chunk.chunk_id): hit for found in self.found for hit in found.hits}
        return list(each.values())


class _Counting:
    """The bundle that plans, and the tokens it has taken."""

    def __init__(self, bundle: LLMBundle) -> None:
        self._bundle = bundle
        self.tokens = 0

    @property
    def info(self) -> ModelInfo:
        return self._bundle.info

    async def chat(self, request: ChatRequest) -> tuple[str, TokenUsage]:
        text, usage = await self._bundle.chat(request)
        self.tokens += usage.total_tokens
        return text, usage


def plans_searches(asking: Asking, bundle: LLMBundle) -> bool:
    """Whether the searches of this answer are planned here."""
    brief = asking.brief
    return brief.reasoning and brief.searches and not bundle.info.local and not is_agentic(asking, bundle)


async def researched(
    asking: Asking, means: Means, bundle: LLMBundle, plan: SearchPlan
) -> AsyncGenerator[DialogEvent | Retrieved, None]:
    """Yield the progress, and at the end all that was found.

    Raises:
        RagError: the question itself could not be searched for; further searches that fail are told and left out.
    """
    notes, limits = _Notes(), means.research
    planner = _Counting(asking.bundle("research"))
    until = asyncio.get_running_loop().time() + limits.time_s
    queries = [plan.searched, *plan.queries]
    for number in range(limits.rounds):
        searching = _searched(asking, means, bundle, plan, notes=notes, queries=queries, number=number, until=until)
        async with aclosing(searching) as events:
            async for event in events:
                yield event
        left_s = until - asyncio.get_running_loop().time()
        if number + 1 >= limits.rounds or left_s <= 0 or planner.tokens >= limits.tokens:
            break
        with asking.steps.timed("research_plan"):
            wanted = await _next(asking, planner, plan.question, notes, left_s)
        if wanted.get("thought"):
            yield Reasoning(text=f"{str(wanted['thought']).strip()}\n")
        queries = [] if wanted.get("enough", True) else notes.new(wanted.get("queries", ()))
        if not queries:
            break
    most = min(_MOST_KEPT, asking.brief.top_n * _KEPT_TIMES)
    yield joined(notes.found, most)


async def _searched(
    asking: Asking,
    means: Means,
    bundle: LLMBundle,
    plan: SearchPlan,
    *,
    notes: _Notes,
    queries: Sequence[str],
    number: int,
    until: float,
) -> AsyncGenerator[DialogEvent, None]:
    """One round: its searches side by side. The first of all must succeed, and is not cut short."""
    loop = asyncio.get_running_loop()
    tasks: dict[str, asyncio.Task[Retrieved]] = {}
    began = loop.time()
    try:
        for place, query in enumerate(queries):
            # The first round is the question and its wordings; further searches are of a model that has read passages.
            web = None if number == 0 else web_for_model(asking.brief, query)
            asked = SearchPlan(question=query, document_ids=plan.document_ids, web=web)
            call_id = f"research_{number}_{place}"
            tasks[call_id] = asyncio.create_task(found_for(asking, means.sources, bundle, asked), name=call_id)
            notes.asked.append(query)
            yield Reasoning(text=f"Searching: {query}\n")
            yield ToolStarted(call_id=call_id, name=SEARCH, arguments=_json({"question": query}))
        for place, (call_id, task) in enumerate(tasks.items()):
            problem = ""
            try:
                is_first = number == 0 and place == 0
                async with asyncio.timeout(None if is_first else max(0.0, until - loop.time())):
                    notes.found.append(await task)
            except (RagError, TimeoutError) as error:
                if number == 0 and place == 0:
                    raise
                problem = error.message if isinstance(error, RagError) else "There was no time left for it."
            took_ms = round((loop.time() - began) * 1000, 1)
            yield ToolFinished(call_id=call_id, name=SEARCH, error=problem, duration_ms=took_ms)
    finally:
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)


async def _next(asking: Asking, planner: _Counting, question: str, notes: _Notes, left_s: float) -> dict[str, Any]:
    """What the model wants to search for next; nothing where it does not say so in time."""
    text = asking.prompts["research_plan"].render(
        question=_json(question[:_LONGEST_QUESTION_CHARS]),
        asked=_json(notes.asked),
        found=_json(list(_told(notes.hits()))),
    )
    request = ChatRequest(turns=(Turn(role="user", content=text),), sampling=Sampling(temperature=0.0, max_tokens=512))
    try:
        async with asyncio.timeout(left_s):
            wanted: dict[str, Any] = await ask_json(planner, request, _PLAN)
            return wanted
    except (ModelError, LimitExceeded, TimeoutError) as error:
        log.warning("research_plan_failed", message=asking.message_id, error=type(error).__name__)
        return {}


def _told(hits: Sequence[Hit]) -> Iterator[dict[str, str]]:
    for hit in hits[-_TOLD_PASSAGES:]:
        text = " ".join(hit.chunk.content[:_TOLD_CHARS].split())
        yield {"title": harmless(" ".join(hit.chunk.document_name.split())), "text": harmless(text)}


def _json(value: object) -> str:
    """`value` as JSON that can be sent: half of a pair of surrogates, which a question may hold, cannot."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace").decode()
