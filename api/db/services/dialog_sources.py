"""Sources as a model reads them: numbered, fenced, and unable to leave their fence.

What stands in a document is data. Whatever in it looks like the line that begins or ends a source, or like one of our
citation marks, is shown with other brackets; the saved reference keeps the text as it is.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

from rag.core.types import ChunkText, CitedChunk, Hit

_GAP = "[\u00ad\u200b-\u200f\u2060-\u2064\ufeff]*"
"""Characters that nobody sees and that would hide a word from the pattern."""
_WORDS = "|".join(_GAP.join(word) for word in ("source", "passage"))
_TAG = re.compile(rf"[<＜﹤](?=\W{{0,16}}(?i:{_WORDS}))")
_MARK = re.compile(rf"[\[［(（【](?=\s{{0,2}}[Ii]{_GAP}[Dd]{_GAP}\s{{0,2}}[:：]\s{{0,2}}\d)")
_OPENING = "‹"
_MOST_FIELDS = 16
_MOST_FIELD_CHARS = 200

Numbered = tuple[int, ChunkText]
"""A source: the n of `[ID:n]`, and what of it is shown."""


def harmless(text: str) -> str:
    """`text` without what could pass for a fence or a mark of ours."""
    return _MARK.sub(_OPENING, _TAG.sub(_OPENING, text))


def source_text(number: int, chunk: ChunkText) -> str:
    """One source: id, title, address, page, headings, the document's metadata, content."""
    head = [f"<source id={number}>", *_head(chunk)]
    if chunk.positions:
        head.append(f"Page: {chunk.positions[0].page}")
    return "\n".join([*head, *_section(chunk), *_fields(chunk), "Content:", harmless(chunk.content), "</source>"])


def source_texts(sources: Sequence[Numbered]) -> list[str]:
    """`sources`, the best first; those that follow each other in a document are shown as one, where the best of them
    would stand. Each keeps its number. No longer than one by one, as a model counts."""
    return [_merged(run) if len(run) > 1 else source_text(*run[0]) for run in _runs(sources)]


def _runs(sources: Sequence[Numbered]) -> list[list[Numbered]]:
    """Runs of neighbours in the order of the document, by their best member."""
    at: dict[tuple[str, str, int], int] = {}
    for place, (_, chunk) in enumerate(sources):
        if chunk.document_id:
            at.setdefault((chunk.document_id, chunk.version_id, chunk.ordinal), place)
    runs: list[list[Numbered]] = []
    taken: set[int] = set()
    for place, (_, chunk) in enumerate(sources):
        if place in taken:
            continue
        run = [place]
        for step in (-1, 1):
            ordinal = chunk.ordinal + step
            while (other := at.get((chunk.document_id, chunk.version_id, ordinal), place)) not in (place, *taken):
                run = [other, *run] if step < 0 else [*run, other]
                ordinal += step
        taken.update(run)
        runs.append([sources[each] for each in run])
    return runs


def _merged(run: Sequence[Numbered]) -> str:
    first = run[0][1]
    lines = [f"<source ids={','.join(str(number) for number, _ in run)}>", *_head(first), *_section(first)]
    lines += [*_fields(first), "Content:"]
    path = first.heading_path
    for number, chunk in run:
        page = f" page={chunk.positions[0].page}" if chunk.positions else ""
        lines.append(f"<passage id={number}{page}>")
        if chunk.heading_path != path:
            lines += _section(chunk)
            path = chunk.heading_path
        lines.append(harmless(chunk.content))
    return "\n".join([*lines, "</source>"])


def _head(chunk: ChunkText) -> list[str]:
    lines = [f"Title: {_one_line(chunk.document_name)}"]
    return [*lines, f"URL: {_one_line(chunk.url)}"] if chunk.url else lines


def _section(chunk: ChunkText) -> list[str]:
    return [f"Section: {_one_line(' > '.join(chunk.heading_path))}"] if chunk.heading_path else []


def _fields(chunk: ChunkText) -> list[str]:
    return [
        f"{_one_line(key)[:_MOST_FIELD_CHARS]}: {_one_line(value)[:_MOST_FIELD_CHARS]}"
        for key, value in chunk.metadata[:_MOST_FIELDS]
    ]


def _one_line(text: str) -> str:
    return harmless(" ".join(text.split()))


def shown_safe(chunk: ChunkText) -> ChunkText:
    """The passage for a model that takes passages apart from the prompt: what it quotes must hold no foreign marks."""
    content = harmless(chunk.content)
    return chunk if content == chunk.content else replace(chunk, content=content)


def cited_chunk(index: int, hit: Hit) -> CitedChunk:
    """The hit as source number `index`."""
    chunk = hit.chunk
    return CitedChunk(
        index=index,
        chunk_id=chunk.chunk_id,
        document_id=chunk.document_id,
        document_name=chunk.document_name,
        dataset_id=chunk.dataset_id,
        content=chunk.content,
        positions=chunk.positions,
        similarity=hit.similarity,
        vector_similarity=hit.vector_similarity,
        term_similarity=hit.term_similarity,
        image_id=chunk.image_id,
        url=chunk.url or None,
        kind=chunk.kind,
    )


def unranked(chunk: ChunkText) -> Hit:
    """A passage that was read, not found."""
    return Hit(chunk=chunk, rank=0, similarity=0.0, vector_similarity=0.0, term_similarity=0.0, fused=0.0)
