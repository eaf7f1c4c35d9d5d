"""The contract of `rag.parse.base.Parser`. Subclass it and give `parser()`."""

from pathlib import Path

import pytest

from rag.core.errors import EmptyDocument, ParserLimit, Unsupported
from rag.core.types import ElementKind, ParsedDocument
from rag.parse.base import ParseLimits, Parser

LIMITS = ParseLimits(memory_bytes=1 << 30, timeout_s=30.0, output_chars=1_000_000)


def words_of(document: ParsedDocument) -> str:
    """All text of a document."""
    return "\n".join(element.text for element in document.elements)


class ParserSuite:
    """Tests that every parser passes."""

    def parser(self, limits: ParseLimits) -> Parser:
        """A parser with these limits."""
        raise NotImplementedError

    def test_text_becomes_elements_in_reading_order(self, tmp_path: Path) -> None:
        path = tmp_path / "blob"
        path.write_text("First words.\n\nSecond words.\n", "utf-8")
        document = self.parser(LIMITS).parse(path, filename="a.txt")
        assert [element.text for element in document.elements] == ["First words.", "Second words."]
        assert document.pages == 0
        assert all(element.text and not element.positions for element in document.elements)

    def test_headings_have_levels(self, tmp_path: Path) -> None:
        path = tmp_path / "blob"
        path.write_text("# One\n\n## Two\n\nWords.\n", "utf-8")
        elements = self.parser(LIMITS).parse(path, filename="a.md").elements
        assert [(e.text, e.level) for e in elements if e.kind is ElementKind.HEADING] == [("One", 1), ("Two", 2)]

    @pytest.mark.parametrize("content", [b"", b"  \n\t\n", b"\x00\x00"])
    def test_nothing_in_it(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "blob"
        path.write_bytes(content)
        with pytest.raises(EmptyDocument):
            self.parser(LIMITS).parse(path, filename="a.txt")

    @pytest.mark.parametrize("name", ["a.exe", "noextension", "a.zip", "a.mp3"])
    def test_unknown_type(self, tmp_path: Path, name: str) -> None:
        path = tmp_path / "blob"
        path.write_bytes(b"anything")
        with pytest.raises(Unsupported) as caught:
            self.parser(LIMITS).parse(path, filename=name)
        assert caught.value.message.endswith(".")

    def test_more_text_than_allowed(self, tmp_path: Path) -> None:
        path = tmp_path / "blob"
        path.write_text("words " * 1000, "utf-8")
        limits = ParseLimits(memory_bytes=1 << 30, timeout_s=30.0, output_chars=1000)
        with pytest.raises(ParserLimit):
            self.parser(limits).parse(path, filename="a.txt")

    def test_twice_the_same(self, tmp_path: Path) -> None:
        path = tmp_path / "blob"
        path.write_text("# One\n\nWords.\n", "utf-8")
        parser = self.parser(LIMITS)
        assert parser.parse(path, filename="a.md") == parser.parse(path, filename="a.md")
