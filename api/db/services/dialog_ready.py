"""All that a model is asked with: the prompt within its budget, and the request around it."""

from dataclasses import dataclass, replace

from api.db.services.dialog_asking import Asking
from api.db.services.dialog_history import cleaned
from api.db.services.dialog_prompt import Material, PreparedPrompt, prepare
from api.db.services.llm_service import LLMBundle
from api.db.services.retrieval_service import LONGEST_QUESTION_CHARS
from api.db.services.toolbox import Kit
from rag.core.blocking import apart_if_long
from rag.core.types import Retrieved, Turn
from rag.llm.base import ChatRequest, Grounding
from rag.nlp.budget import turn_cost
from rag.nlp.evidence import evidence

_RESULTS_KEPT_FREE = 2
"""Results of tools that there is room for beside the prompt, unless they would take half of it."""
_TURN_CHARS = 60
"""What a turn costs besides its text, in characters: many short ones take as long as one long one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What a prompt is made of beside the conversation: the question that was searched for, what was found, the
    tools."""

    question: str
    hits: Retrieved
    kit: Kit | None


async def prepared(asking: Asking, bundle: LLMBundle, found: Found) -> PreparedPrompt:
    """The prompt; the sources of the kit begin with those in it."""
    brief, hits, kit = asking.brief, found.hits.hits, found.kit
    size = len(brief.system) + sum(brief.filled_chars().values()) + len(asking.summary)
    size += sum(_length(turn) for turn in (*asking.turns, *asking.after))
    size += sum(len(hit.chunk.content) for hit in hits)

    def work() -> PreparedPrompt:
        sees = bundle.info.capabilities.vision
        history = [
            cleaned(turn, sees=sees) for turn in asking.turns[:-1] if turn.content or turn.pictures or turn.tool_calls
        ]
        material = Material(
            system=brief.system,
            values=brief.values,
            turns=[*history, asking.turns[-1]],
            question=found.question,
            hits=hits,
            total=found.hits.total,
            quote=brief.quote,
            sampling=brief.sampling,
            reserved=_reserved(asking, bundle, kit),
            searching=_searching(asking, kit),
            nothing=asking.prompts["nothing_found"].text if brief.searches and not hits else "",
            summary=asking.summary,
        )
        return prepare(material, prompts=asking.prompts, info=bundle.info, count=bundle.count_tokens)

    with asking.steps.timed("prompt"):
        prompt = await apart_if_long(size, work)
    if kit is not None:
        kit.sources.begin(prompt.reference)
    return prompt


def request_of(asking: Asking, prompt: PreparedPrompt, found: Found) -> ChatRequest:
    """The request for the answer, without the tools of the kit."""
    brief, form, arms = asking.brief, asking.brief.form, asking.arms
    grounding = None
    if brief.searches:
        chunks = prompt.reference.chunks
        # A page of the web has no scores of ours.
        known = None if any(chunk.url for chunk in chunks) else evidence(chunks)
        grounding = Grounding(
            question=found.question[:LONGEST_QUESTION_CHARS],
            passages=prompt.passages,
            empty_response=brief.empty_response,
            evidence=known,
        )
    return ChatRequest(
        turns=(*prompt.turns, *asking.after),
        tools=form.tools,
        tool_choice=form.tool_choice,
        parallel_tools=form.parallel_tools,
        reply_schema=form.schema,
        extra={"response_format": {"type": "json_object"}} if form.json_object else {},
        sampling=prompt.sampling,
        grounding=grounding,
        cache_prefix=arms.prompt_caching,
        tool_fragments=found.kit is not None and arms.partial_tool_streaming,
    )


def within_room(kit: Kit | None, prompt: PreparedPrompt) -> Kit | None:
    """The tools, with what the prompt leaves of the model's context for their results."""
    if kit is None:
        return None
    return replace(kit, limits=replace(kit.limits, room_tokens=max(0, prompt.left - kit.tokens)))


def _length(turn: Turn) -> int:
    return _TURN_CHARS + len(turn.content) + sum(len(call.arguments) for call in turn.tool_calls)


def _searching(asking: Asking, kit: Kit | None) -> str:
    """What a model is told that can search by itself."""
    if kit is None or not kit.searches:
        return ""
    return asking.prompts["research" if kit.researches else "agentic"].text


def _reserved(asking: Asking, bundle: LLMBundle, kit: Kit | None) -> int:
    """Tokens to keep free beside the prompt: for tools and what they find, ours or the client's."""
    if kit is not None:
        return kit.tokens + _RESULTS_KEPT_FREE * kit.limits.result_tokens
    count = bundle.count_tokens
    tools = sum(count(f"{tool.name} {tool.description} {tool.parameters}") for tool in asking.brief.form.tools)
    return tools + sum(turn_cost(turn, count) for turn in asking.after)
