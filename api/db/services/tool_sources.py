"""The built-in tools: a model searches the chat's datasets, and reads on in their documents, by itself.

What they show is numbered on from the passages that the answer began with, so that `[ID:n]` means one passage
throughout the answer. Each is made for one turn of one principal, and reaches no other datasets than the chat's.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import orjson

from api.db.services.dialog_sources import cited_chunk, source_text, unranked
from api.db.services.document_reader import Part, Reading
from rag.core.blocking import Lane, run_in
from rag.core.errors import InvalidInput
from rag.core.types import ChunkText, CitedChunk, Hit, Principal, Reference, Retrieved
from rag.llm.base import ToolSpec
from rag.llm.tool_round import Share, ToolResult
from rag.nlp.budget import cut_text, place_whole
from rag.nlp.citation import count_documents

SEARCH = "search_knowledge"
READ = "read_document"
MOST_SOURCES = 200
"""Numbered passages of one answer: each is stored with it."""
_TOO_MANY = "There are too many passages in this answer already. Answer from what you have."
_LONGEST_QUESTION_CHARS = 4000
_LONGEST_PROGRESS_CHARS = 300
_LEAST_TOKENS = 16
_FRAME_TOKENS = 48
"""Kept for the lines around the passages."""

SEARCH_SPEC = ToolSpec(
    name=SEARCH,
    description=(
        "Search the knowledge base of this conversation. Returns numbered passages; cite passage n as [ID:n]. Search "
        "again with other words when the passages do not answer the question, and once for each part of a question "
        "that asks for several things."
    ),
    parameters={
        "type": "object",
        "properties": {
            "question": {
                "type": "string",
                "description": "What to look for: a question or words, complete in itself.",
            }
        },
        "required": ["question"],
        "additionalProperties": False,
    },
)
READ_SPEC = ToolSpec(
    name=READ,
    description=(
        "Read on in a document of the knowledge base, for what stands around a passage that was found. Give pages, or "
        "the ordinals of passages, which start at 0; without a range it begins at the beginning. Returns numbered "
        "passages in their order; cite passage n as [ID:n]."
    ),
    parameters={
        "type": "object",
        "properties": {
            "document": {"type": "string", "description": "Title of the document as the passages show it, or its id."},
            "first_page": {"type": "integer", "minimum": 1},
            "last_page": {"type": "integer", "minimum": 1},
            "first_passage": {"type": "integer", "minimum": 0},
            "last_passage": {"type": "integer", "minimum": 0},
        },
        "required": ["document"],
        "additionalProperties": False,
    },
)


class Reader(Protocol):
    """Reads documents; `DocumentReader`."""

    async def read(self, principal: Principal, reading: Reading) -> Part: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Reach:
    """What the tools of a turn may reach: the datasets of the chat, or only these documents of them."""

    principal: Principal
    dataset_ids: tuple[str, ...]
    document_ids: tuple[str, ...] = ()


class Sources:
    """The numbered sources of one answer. A number keeps its meaning; a passage that comes again keeps its number."""

    def __init__(self) -> None:
        self._chunks: list[CitedChunk] = []
        self._numbers: dict[tuple[str, str], int] = {}
        self._total = 0

    def begin(self, reference: Reference) -> None:
        """Take over the sources that the answer begins with, before any other."""
        self._chunks = list(reference.chunks)
        self._numbers = {(chunk.document_id, chunk.chunk_id): chunk.index for chunk in reference.chunks}
        self._total = reference.total

    @property
    def full(self) -> bool:
        return len(self._chunks) >= MOST_SOURCES

    def number_of(self, chunk: ChunkText) -> int | None:
        """The number that the passage has, if it has one."""
        return self._numbers.get((chunk.document_id, chunk.chunk_id))

    def add(self, hit: Hit) -> CitedChunk:
        """The source of that passage, which gets the next number if it has none."""
        number = self.number_of(hit.chunk)
        if number is None:
            number = len(self._chunks)
            self._numbers[(hit.chunk.document_id, hit.chunk.chunk_id)] = number
            self._chunks.append(cited_chunk(number, hit))
        return self._chunks[number]

    def reference(self) -> Reference:
        """All sources so far, none of them cited yet."""
        chunks = tuple(self._chunks)
        total = max(self._total, len(chunks))
        return Reference(total=total, chunks=chunks, documents=count_documents(chunks, frozenset()))


def progress_of(name: str, arguments: str) -> str:
    """What a call does, in a line for whoever waits for the answer."""
    try:
        told = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        told = None
    given = told if isinstance(told, dict) else {}
    subject = " ".join(str(given.get("question") or given.get("document") or "").split())[:_LONGEST_PROGRESS_CHARS]
    verb = {SEARCH: "Searching", READ: "Reading"}.get(name, f"Using {name}")
    return f"{verb}: {subject}\n" if subject else f"{verb}\n"


class SearchKnowledge:
    """The tool `search_knowledge`."""

    spec = SEARCH_SPEC

    def __init__(self, search: Callable[[str], Awaitable[Retrieved]], sources: Sources, share: Share) -> None:
        self._search = search
        self._sources = sources
        self._share = share

    async def call(self, arguments: Mapping[str, Any]) -> ToolResult:
        """The passages found, those that were not shown before with their text.

        Raises:
            InvalidInput: the question is empty.
            RagError: the search failed.
        """
        question = str(arguments.get("question") or "").strip()
        if not question:
            raise InvalidInput("Give a question to search for.")
        found = await self._search(question[:_LONGEST_QUESTION_CHARS])
        known = [number for hit in found.hits if (number := self._sources.number_of(hit.chunk)) is not None]
        new = [hit for hit in found.hits if self._sources.number_of(hit.chunk) is None]
        if self._sources.full:
            return ToolResult(text=_TOO_MANY)
        shown = await run_in(Lane.TEXT, _placed, new, self._share)
        chunks = tuple(self._sources.add(hit) for hit, _ in shown)
        texts = _texts(chunks, shown)
        if known:
            marks = " ".join(f"[ID:{number}]" for number in known)
            texts.append(f"Found as well, shown before: {marks}")
        return ToolResult(text="\n\n".join(texts) or "Nothing was found. Other words may find more.", chunks=chunks)


class ReadDocument:
    """The tool `read_document`."""

    spec = READ_SPEC

    def __init__(self, reader: Reader, reach: Reach, sources: Sources, share: Share) -> None:
        self._reader = reader
        self._reach = reach
        self._sources = sources
        self._share = share

    async def call(self, arguments: Mapping[str, Any]) -> ToolResult:
        """The passages of the range, as many as there is room for, and where to read on.

        Raises:
            NotFound: no such document within reach.
            InvalidInput: several documents have this name, or the range is empty.
        """
        reach = self._reach
        reading = Reading(
            document=str(arguments.get("document") or "").strip(),
            dataset_ids=reach.dataset_ids,
            document_ids=reach.document_ids,
            first_page=arguments.get("first_page"),
            last_page=arguments.get("last_page"),
            first_passage=arguments.get("first_passage"),
            last_passage=arguments.get("last_passage"),
        )
        part = await self._reader.read(reach.principal, reading)
        if not part.chunks:
            return ToolResult(text=f"There is nothing in this range: the document has {part.passages} passages.")
        if self._sources.full:
            return ToolResult(text=_TOO_MANY)
        shown = await run_in(Lane.TEXT, _beginning, [unranked(chunk) for chunk in part.chunks], self._share)
        known = {number for hit, _ in shown if (number := self._sources.number_of(hit.chunk)) is not None}
        chunks = tuple(self._sources.add(hit) for hit, _ in shown)
        texts = _texts(chunks, shown)
        if len(shown) < len(part.chunks) or part.more:
            last = shown[-1][0].chunk.ordinal
            texts.append(
                f"Shown up to passage {last} of 0 to {part.passages - 1}. Read on with first_passage={last + 1}."
            )
        return ToolResult(text="\n\n".join(texts), chunks=tuple(each for each in chunks if each.index not in known))


Shown = tuple[Hit, ChunkText]
"""A passage, and what of it is shown: its text may be cut."""


def _texts(chunks: Sequence[CitedChunk], shown: Sequence[Shown]) -> list[str]:
    return [source_text(chunk.index, text) for chunk, (_, text) in zip(chunks, shown, strict=True)]


def _costs(hits: Sequence[Hit], share: Share) -> list[int]:
    return [share.count(source_text(MOST_SOURCES, hit.chunk)) + 1 for hit in hits]


def _placed(hits: Sequence[Hit], share: Share) -> list[Shown]:
    """Those that fit, best first and whole; if not even one does, the best is cut."""
    taken = [hits[index] for index in place_whole(_costs(hits, share), share.tokens - _FRAME_TOKENS)]
    return [(hit, hit.chunk) for hit in taken] or _cut_to_fit(hits[:1], share)


def _beginning(hits: Sequence[Hit], share: Share) -> list[Shown]:
    """The first ones, without a gap, as long as they fit; if not even one does, the first is cut."""
    room, taken = share.tokens - _FRAME_TOKENS, list[Shown]()
    for hit, cost in zip(hits, _costs(hits, share), strict=True):
        room -= cost
        if room < 0:
            break
        taken.append((hit, hit.chunk))
    return taken or _cut_to_fit(hits[:1], share)


def _cut_to_fit(hits: Sequence[Hit], share: Share) -> list[Shown]:
    cut = []
    for hit in hits:
        frame = share.count(source_text(MOST_SOURCES, replace(hit.chunk, content="")))
        room = max(_LEAST_TOKENS, share.tokens - _FRAME_TOKENS - frame)
        content = cut_text(hit.chunk.content, room, share.count)
        cut.append((hit, replace(hit.chunk, content=f"{content} [...]")))
    return cut
