"""The general chunk method: pieces merged in reading order until a chunk is full.

A chunk is closed
- when the next piece would make it clearly longer than the limit: lists, code and tables stay whole where they fit;
- at a top heading, and at a lower one once it is half full;
- at the end of a page once it is half full or holds two pages, because citations name pages.
Headings, a table's caption and the words that lead in a list are never left behind at the end of a chunk.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from rag.chunk.base import ChunkConfig
from rag.chunk.pieces import Piece, pieces_of
from rag.core.types import ChunkDraft, ElementKind, ParsedDocument, Position
from rag.nlp.tokens import count_tokens

_OVERSHOOT = 1.25
_TINY_TOKENS = 24
_LEAD_IN_TOKENS = 80
_MAX_PAGES = 2
_TABLE_SHARE = 0.6
_COLUMN_GAP = 24.0


class NaiveChunker:
    """Implements `rag.chunk.base.Chunker`.

    Args:
        page_per_chunk: Close a chunk at the end of every page, as slides want it.
    """

    def __init__(self, *, page_per_chunk: bool = False) -> None:
        self._page_per_chunk = page_per_chunk

    def chunk(self, document: ParsedDocument, *, config: ChunkConfig) -> list[ChunkDraft]:
        """Chunks in reading order, deterministic; none if there is no text."""
        top = top_level(document)
        drafts: list[ChunkDraft] = []
        current: list[Piece] = []
        for piece in pieces_of(document, config=config):
            if current and self._closes(current, piece, limit=config.chunk_token_num, top=top):
                current, carried = _carry_over(current, piece)
                if current:
                    drafts.append(_draft(current))
                current = carried
            current.append(piece)
        if current:
            drafts.append(_draft(current))
        return drafts

    def _closes(self, current: Sequence[Piece], piece: Piece, *, limit: int, top: int) -> bool:
        tokens = sum(held.tokens for held in current)
        body = [held for held in current if held.role != "heading"]
        turned = piece.page is not None and current[-1].page is not None and piece.page != current[-1].page
        if tokens > limit or (body and tokens + piece.tokens > limit * _OVERSHOOT):
            return True
        if not body:
            return False
        if turned and (self._page_per_chunk or tokens >= limit / 2 or _pages(current) >= _MAX_PAGES):
            return True
        if piece.role == "heading":
            if piece.level <= top:
                return turned or tokens >= min(_TINY_TOKENS, limit / 2)
            return tokens >= limit / 2
        return False


def top_level(document: ParsedDocument) -> int:
    """The outermost heading level that occurs more than once: a single title above all does not divide a document."""
    counts = Counter(e.level for e in document.elements if e.kind is ElementKind.HEADING)
    return min((level for level, count in counts.items() if count > 1), default=min(counts, default=0))


def _carry_over(current: list[Piece], piece: Piece) -> tuple[list[Piece], list[Piece]]:
    """Split off the end of a chunk that belongs to what follows: headings, a caption, a lead-in."""
    end = len(current)
    if piece.role in ("table", "list") and not piece.continues and end > 1:
        last = current[-1]
        leads = last.text.rstrip().endswith((":", "：")) or piece.role == "table"
        if last.role == "text" and not last.continues and leads and last.tokens <= _LEAD_IN_TOKENS:
            end -= 1
    while end and current[end - 1].role == "heading":
        end -= 1
    if not end:  # headings alone fill a chunk: nothing that follows is waited for
        return current, []
    return current[:end], current[end:]


def _draft(pieces: Sequence[Piece]) -> ChunkDraft:
    content = pieces[0].text
    for last, piece in zip(pieces, pieces[1:], strict=False):
        content += _joint(last, piece) + piece.text
    tables = sum(piece.tokens for piece in pieces if piece.role == "table")
    tokens = count_tokens(content)
    return ChunkDraft(
        content=content,
        token_count=tokens,
        heading_path=_common_path(pieces),
        positions=merge_positions([position for piece in pieces for position in piece.positions]),
        page=next((piece.page for piece in pieces if piece.page is not None), None),
        kind="table" if tables > _TABLE_SHARE * tokens else "text",
    )


def _joint(last: Piece, piece: Piece) -> str:
    same_block = piece.continues and piece.role == last.role
    return "\n" if same_block and piece.role != "table" else "\n\n"


def _common_path(pieces: Sequence[Piece]) -> tuple[str, ...]:
    """The headings above all of its text."""
    paths = [piece.path for piece in pieces if piece.role != "heading"] or [pieces[0].path]
    common = 0
    for level in zip(*paths, strict=False):
        if len(set(level)) > 1:
            break
        common += 1
    return paths[0][:common]


def merge_positions(positions: Sequence[Position]) -> tuple[Position, ...]:
    """One box for what stands close together in one column of a page; order of first appearance."""
    merged: list[Position] = []
    for position in positions:
        last = merged[-1] if merged else None
        if last is not None and _one_column(last, position):
            merged[-1] = replace(
                last,
                left=min(last.left, position.left),
                right=max(last.right, position.right),
                top=min(last.top, position.top),
                bottom=max(last.bottom, position.bottom),
            )
        elif position not in merged:
            merged.append(position)
    return tuple(merged)


def _one_column(last: Position, position: Position) -> bool:
    if last.page != position.page:
        return False
    shared = min(last.right, position.right) - max(last.left, position.left)
    narrow = min(last.right - last.left, position.right - position.left)
    gap = max(last.top, position.top) - min(last.bottom, position.bottom)
    return shared >= 0.5 * narrow and gap <= _COLUMN_GAP


def _pages(pieces: Sequence[Piece]) -> int:
    return len({piece.page for piece in pieces if piece.page is not None})
