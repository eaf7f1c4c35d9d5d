"""The prompt of one answer, within the model's budget: system text, numbered sources, history, question.

What is fixed comes first (rules of citing, notes of the conversation, system text, question), then sources, best first
and whole, then as much of the history as is left; a quarter of the room is kept for a history that needs it. Sources
are numbered here, once. Where even the system text is too long, it is cut, and what is fixed behind it stays.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from api.db.services.dialog_brief import CHARS_PER_TOKEN, KNOWLEDGE
from api.db.services.dialog_sources import Numbered, cited_chunk, harmless, shown_safe, source_text, source_texts
from rag.core.types import ChunkText, Hit, Reference, Turn
from rag.llm.base import ModelInfo, Sampling
from rag.nlp import budget
from rag.nlp.budget import TURN_TOKENS, Count
from rag.nlp.citation import count_documents
from rag.prompts.loader import Prompts, fill, has_slot
from rag.prompts.summaries import fenced

_HISTORY_SHARE = 4
_RESERVED_SHARE = 2
_FIXED_SHARE = 4
"""Of the room: the most that the notes take, and that the rules of citing do."""
_LEAST_CUT_TOKENS = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Material:
    """What the prompt is made of. `question` is the one that was searched for, the last of `turns` the one asked.

    `reserved` tokens are kept free for tools and what they find; `searching` tells a model how it can search by itself.
    `nothing` tells that the search found nothing, if it did. `summary` tells what was said before `turns`, if anything
    was.
    """

    system: str
    values: Mapping[str, str]
    turns: Sequence[Turn]
    question: str
    hits: Sequence[Hit]
    total: int
    quote: bool
    sampling: Sampling
    reserved: int = 0
    searching: str = ""
    nothing: str = ""
    summary: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedPrompt:
    """`passages[n]` and `reference.chunks[n]` are source n; `shown` is the debug view. `dropped` counts the oldest
    turns that did not fit, and `left` the tokens that the prompt may still grow by."""

    turns: tuple[Turn, ...]
    reference: Reference
    passages: tuple[ChunkText, ...]
    sampling: Sampling
    shown: str
    dropped: int = 0
    left: int = 0


def prepare(material: Material, *, prompts: Prompts, info: ModelInfo, count: Count) -> PreparedPrompt:
    """Put the prompt together; it never counts more tokens than the model's context leaves beside the reply."""
    count = _each_once(count)
    sampling = material.sampling
    reply = budget.reply_tokens(info.context_tokens, sampling.max_tokens, info.max_output_tokens)
    most = budget.prompt_room(info.context_tokens, reply)
    room = most - min(material.reserved, most // _RESERVED_SHARE)
    most_chars = info.context_tokens * CHARS_PER_TOKEN
    fixed = _fixed(material, prompts, room // _FIXED_SHARE, count)
    system_without = _joined(_system(material, "", most_chars), fixed)
    asked = budget.cut_turn(material.turns[-1], max(room // 2, room - count(system_without) - TURN_TOKENS), count)
    left = room - budget.turn_cost(asked, count) - TURN_TOKENS
    sources_room = left - count(system_without)
    history = budget.from_first_user(material.turns[:-1])
    needed = _at_most(history, sources_room // _HISTORY_SHARE, count)
    texts, placed = _place(material.hits, sources_room - needed, prompts, count)
    if texts:
        system = _joined(_system(material, _knowledge(prompts, texts), most_chars), fixed)
    elif sources_room < 0:
        head = budget.cut_text(_system(material, "", most_chars), left - count(_joined("-", fixed)), count)
        system = _joined(head, fixed)
    else:
        system = system_without
    system = budget.cut_text(system, left, count)
    kept = budget.fit_history(history, left - count(system), count)
    turns = (*([Turn(role="system", content=system)] if system.strip() else []), *kept, asked)
    cost = sum(budget.turn_cost(turn, count) for turn in turns)
    free = info.context_tokens - cost
    if sampling.max_tokens is not None:
        sampling = replace(sampling, max_tokens=max(1, min(sampling.max_tokens, free)))
    return PreparedPrompt(
        turns=turns,
        reference=_reference(placed, material.total),
        passages=tuple(shown_safe(hit.chunk) for hit in placed),
        sampling=sampling,
        shown=f"{system}\n\n### Question\n{material.question}",
        dropped=len(history) - len(kept),
        left=max(0, most - cost),
    )


def _each_once(count: Count) -> Count:
    """`count`, asked once for each text: the same ones are weighed again and again while the prompt is put together."""
    known: dict[str, int] = {}

    def counted(text: str) -> int:
        tokens = known.get(text)
        if tokens is None:
            tokens = known[text] = count(text)
        return tokens

    return counted


def _system(material: Material, knowledge: str, most_chars: int) -> str:
    text = material.system
    knowledge = knowledge or material.searching or material.nothing
    if (_has_sources(material) or material.nothing) and not has_slot(text, KNOWLEDGE):
        text = f"{text}\n\n{{{KNOWLEDGE}}}"
    return fill(text, {**material.values, KNOWLEDGE: knowledge}, most_chars=most_chars)


def _has_sources(material: Material) -> bool:
    return bool(material.hits or material.searching)


def _fixed(material: Material, prompts: Prompts, most: int, count: Count) -> str:
    """What follows the system text and is never cut with it: the notes, which were made from texts of others, and our
    own rules after them. Each has at most `most` tokens; rules that would take more are left out."""
    parts = []
    notes = prompts["notes"]
    told = harmless(fenced(material.summary))
    told = budget.cut_text(told, most - count(notes.render(notes="")), count)
    if told.strip():
        parts.append(notes.render(notes=told))
    if material.quote and _has_sources(material) and count(prompts["citation"].text) <= most:
        parts.append(prompts["citation"].text)
    return "\n\n".join(parts)


def _joined(head: str, fixed: str) -> str:
    return (f"{head}\n\n{fixed}" if fixed else head).strip()


def _knowledge(prompts: Prompts, sources: Sequence[str]) -> str:
    return prompts["knowledge"].render(sources="\n\n".join(sources)) if sources else ""


def _at_most(history: Sequence[Turn], limit: int, count: Count) -> int:
    """Tokens the history needs, at most `limit`."""
    needed = 0
    for turn in reversed(history):
        if needed >= limit:
            break
        needed += budget.turn_cost(replace(turn, content=turn.content[: max(0, limit) * 16]), count)
    return max(0, min(needed, limit))


def _place(hits: Sequence[Hit], room: int, prompts: Prompts, count: Count) -> tuple[list[str], list[Hit]]:
    """The sources that fit, numbered from 0 in rank order; neighbours are shown as one. If not even one fits, the best
    is cut."""
    if not hits:
        return [], []
    room -= count(_knowledge(prompts, [""]))
    # A number may take a token more than it did while counting: two are added for it and the blank line.
    costs = [count(source_text(number, hit.chunk)) + 2 for number, hit in enumerate(hits)]
    taken = [hits[index] for index in budget.place_whole(costs, room)]
    if taken:
        numbered: list[Numbered] = [(number, hit.chunk) for number, hit in enumerate(taken)]
        return source_texts(numbered), taken
    if room < _LEAST_CUT_TOKENS:
        return [], []
    best = hits[0].chunk
    frame = count(source_text(0, replace(best, content=""))) + 2
    cut = replace(best, content=budget.cut_text(harmless(best.content), room - frame, count))
    return ([source_text(0, cut)], [hits[0]]) if cut.content else ([], [])


def _reference(placed: Sequence[Hit], total: int) -> Reference:
    chunks = tuple(cited_chunk(index, hit) for index, hit in enumerate(placed))
    return Reference(total=total if chunks else 0, chunks=chunks, documents=count_documents(chunks, frozenset()))
