"""From elements to pieces: the smallest parts that a chunk is put together from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from rag.chunk.base import ChunkConfig
from rag.chunk.splitting import Delimiters, delimiters, split_lines, split_text
from rag.chunk.table_text import row_lines, split_table
from rag.core.types import Element, ElementKind, ParsedDocument, Position
from rag.nlp.tokens import count_tokens

Role = Literal["heading", "text", "list", "code", "table", "row"]

_SPREADSHEETS = ("spreadsheet", "ms-excel", "numbers", "text/csv", "tab-separated")


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """`path` is the headings above it, outermost first, and for a heading itself as well; `level` is that of a
    heading, else 0; `continues` marks a further part of the same block."""

    text: str
    tokens: int
    role: Role
    path: tuple[str, ...]
    level: int = 0
    page: int | None = None
    positions: tuple[Position, ...] = ()
    continues: bool = False


def is_spreadsheet(document: ParsedDocument) -> bool:
    """Whether rows of its tables are records rather than a layout."""
    return any(mark in document.media_type for mark in _SPREADSHEETS)


def pieces_of(document: ParsedDocument, *, config: ChunkConfig) -> Iterator[Piece]:
    """The pieces in reading order, each of about `chunk_token_num` tokens at the most."""
    maker = _Maker(config, records=is_spreadsheet(document))
    for group in _groups(document.elements):
        yield from maker.pieces(group)


def _groups(elements: Sequence[Element]) -> Iterator[list[Element]]:
    """Neighbouring items of a list on one page together, every other element alone."""
    group: list[Element] = []
    for element in elements:
        item = element.kind is ElementKind.LIST_ITEM
        if group and not (item and group[0].kind is ElementKind.LIST_ITEM and group[0].page == element.page):
            yield group
            group = []
        group.append(element)
    if group:
        yield group


class _Maker:
    def __init__(self, config: ChunkConfig, *, records: bool) -> None:
        self._limit = config.chunk_token_num
        self._delimiters: Delimiters = delimiters(config.delimiter)
        self._records = records
        self._stack: list[tuple[int, str]] = []

    def pieces(self, group: Sequence[Element]) -> Iterator[Piece]:
        first = group[0]
        if first.kind is ElementKind.HEADING:
            if first.text.strip():
                yield self._heading(first)
        elif first.kind is ElementKind.LIST_ITEM:
            yield from self._list(group)
        elif first.kind is ElementKind.TABLE:
            yield from self._table(first)
        elif first.kind is ElementKind.CODE:
            yield from self._made(split_lines(first.text, limit=self._limit), "code", first)
        else:
            yield from self._made(self._texts(first.text), "text", first)

    def _heading(self, element: Element) -> Piece:
        level = element.level or 1
        while self._stack and self._stack[-1][0] >= level:
            self._stack.pop()
        text = " ".join(element.text.split())
        self._stack.append((level, text))
        return self._piece(text, "heading", element, level=level)

    def _list(self, items: Sequence[Element]) -> Iterator[Piece]:
        """The whole list where it fits, else its items."""
        text = "\n".join(f"- {item.text}" for item in items)
        tokens = count_tokens(text)
        if tokens <= self._limit:
            positions = tuple(dict.fromkeys(p for item in items for p in item.positions))
            yield self._piece(text, "list", items[0], positions=positions, tokens=tokens)
            return
        for number, item in enumerate(items):
            yield from self._made(self._texts(f"- {item.text}"), "list", item, continues=number > 0)

    def _table(self, element: Element) -> Iterator[Piece]:
        if not self._records:
            tokens = count_tokens(element.text)
            texts = [element.text] if tokens <= self._limit else split_table(element.cells, limit=self._limit)
            return self._made(texts, "table", element)
        lines = row_lines(element.cells, sheet=self._stack[-1][1] if self._stack else "")
        return self._made((part for line in lines for part in self._texts(line)), "row", element)

    def _texts(self, text: str) -> Iterator[str]:
        for part in self._delimiters.drop_marks(text):
            if count_tokens(part) <= self._limit:
                yield part
            else:
                yield from split_text(part, limit=self._limit, single=self._delimiters.single)

    def _made(
        self, texts: Iterator[str] | Sequence[str], role: Role, element: Element, *, continues: bool = False
    ) -> Iterator[Piece]:
        for number, text in enumerate(texts):
            yield self._piece(text, role, element, continues=continues or number > 0)

    def _piece(
        self,
        text: str,
        role: Role,
        element: Element,
        *,
        level: int = 0,
        positions: tuple[Position, ...] | None = None,
        tokens: int | None = None,
        continues: bool = False,
    ) -> Piece:
        return Piece(
            text=text,
            tokens=count_tokens(text) if tokens is None else tokens,
            role=role,
            path=tuple(heading for _, heading in self._stack),
            level=level,
            page=element.page,
            positions=element.positions if positions is None else positions,
            continues=continues,
        )
