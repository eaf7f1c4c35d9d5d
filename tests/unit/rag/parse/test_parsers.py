import json
import re
from collections import Counter
from pathlib import Path

import pytest

from rag.core.errors import IngestError
from rag.core.types import ElementKind, ParsedDocument
from rag.parse.base import ParseLimits, Parser
from rag.parse.charset import decode, recode
from rag.parse.markdown_blocks import markdown_elements
from rag.parse.text_files import code_elements, find_delimiter
from rag.parse.wire import document_message, document_of
from rag.parse.xberg_parser import XbergParser
from rag.testing.fake_parser import FakeParser
from rag.testing.parser_suite import LIMITS, ParserSuite, words_of
from tests.unit.rag.parse.files import docx, pdf

DATA = Path(__file__).parents[5] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data")
WORDS_FOUND = {
    # Least share of the expected words, measured; the readers' opinions differ on merged cells and list numbers.
    "csv": 0.99,
    "docx": 0.70,
    "pptx": 0.83,
    "xlsx": 0.63,
    "html": 0.72,
    "md": 0.66,
    "epub": 0.97,
    "doc": 0.94,
    "ppt": 0.83,
    "odf": 0.99,
    "webvtt": 0.99,
    "asciidoc": 0.86,
}


class TestXberg(ParserSuite):
    def parser(self, limits: ParseLimits) -> Parser:
        return XbergParser(limits)


class TestFake(ParserSuite):
    def parser(self, limits: ParseLimits) -> Parser:
        return FakeParser(limits)


def read(folder: Path, name: str, content: bytes) -> ParsedDocument:
    path = folder / "blob"
    path.write_bytes(content)
    return XbergParser(LIMITS).parse(path, filename=name)


def test_pdf_positions_count_from_the_top_left(tmp_path: Path) -> None:
    document = read(tmp_path, "a.pdf", pdf([(72, 700, 12, "High up on the page.")], [(72, 100, 12, "Low down here.")]))
    high, low = document.elements
    assert (document.pages, high.page, low.page) == (2, 1, 2)
    assert 75 < high.positions[0].top < high.positions[0].bottom < 100
    assert 675 < low.positions[0].top < 700
    assert high.positions[0].left == pytest.approx(72, abs=3)


def test_running_lines_and_page_numbers_go(tmp_path: Path) -> None:
    pages = [
        [
            (72, 750, 9, "Annual Report of the Company"),
            (72, 500, 11, f"The {word} page tells of {word} things that happened in that year."),
            (300, 30, 9, str(number)),
        ]
        for number, word in enumerate(("first", "second", "third", "fourth", "fifth"), 7)
    ]
    text = words_of(read(tmp_path, "a.pdf", pdf(*pages)))
    assert text.count("Annual Report") == 1
    assert "fifth things" in text
    assert not re.search(r"^\d+$", text, re.M)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.pdf", b"plain text", "not a valid PDF"),
        ("a.pdf", b"%PDF-1.7\nbroken", "damaged"),
        ("a.docx", docx()[:300], "damaged"),
        ("a.docx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "EncryptedPackage".encode("utf-16-le"), "password"),
        ("a.txt", bytes(range(256)) * 100, "does not hold text"),
    ],
)
def test_broken_files_are_explained(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    with pytest.raises(IngestError, match=words):
        read(tmp_path, name, content)


@pytest.mark.parametrize(
    ("text", "charset"),
    [
        ("Grüße aus Köln, schöne Straße", "cp1252"),
        ("这是一个关于中国的句子，我们在这里说话。", "gb18030"),
        ("這是一個關於臺灣的句子，我們在這裡說話。", "big5"),
        ("これはひらがなとカタカナの文章です。", "shift_jis"),
        ("Это предложение на русском языке", "cp1251"),
        ("plain words", "utf-16-le"),
        ("naïve café", "utf-8-sig"),
    ],
)
def test_charsets_are_found(text: str, charset: str) -> None:
    assert decode((text * 5).encode(charset)) == text * 5


def test_html_keeps_its_words_whatever_it_declares(tmp_path: Path) -> None:
    page = (
        "<html><head><meta charset='gb2312'></head><body><h1>题目</h1><dl><dt>词</dt><dd>解释</dd></dl></body></html>"
    )
    document = read(tmp_path, "a.html", page.encode("gb18030"))
    assert (document.elements[0].kind, document.elements[0].text) == (ElementKind.HEADING, "题目")
    assert all(word in words_of(document) for word in ("题目", "词", "解释"))
    assert b"utf-8" in recode(page.encode("gb18030"))


def test_markdown_blocks() -> None:
    text = "# T\n\nSome *words* of [a link](http://x.y).\n\n- one\n- two\n\n| a | b |\n|---|---|\n"
    text += "| 1 | 2\\|3 |\n\n```\nx = 1\n```\n"
    kinds = [(e.kind.value, e.text) for e in markdown_elements(text)]
    assert kinds[:4] == [
        ("heading", "T"),
        ("paragraph", "Some words of a link."),
        ("list_item", "one"),
        ("list_item", "two"),
    ]
    assert kinds[5] == ("code", "x = 1")
    assert markdown_elements(text)[4].cells == (("a", "b"), ("1", "2|3"))


def test_separators_and_code() -> None:
    assert [find_delimiter(text) for text in ("a;b\n1;2", "a\tb\n1\t2", "a,b;c\n1,2;3", "one")] == [";", "\t", ",", ","]
    code = "import a\n\ndef f():\n    x = 1\n\n    return x\n\ndef g():\n    pass\n"
    assert [e.text.split("\n")[0] for e in code_elements(code)] == ["import a", "def f():", "def g():"]


def test_documents_cross_the_wire_whole(tmp_path: Path) -> None:
    document = read(tmp_path, "a.pdf", pdf([(72, 700, 12, "Some words on a page.")]))
    assert document_of(json.loads(json.dumps(document_message(document)))) == document


def cases() -> list[Path]:
    return [p for p in sorted((DATA / "parse").rglob("*")) if p.with_name(p.name + ".expected.md").exists()]


@needs_data
@pytest.mark.shared_data
@pytest.mark.parametrize("path", cases(), ids=lambda p: p.name)
def test_expected_words_are_read(path: Path) -> None:
    def words(text: str) -> Counter[str]:
        return Counter(re.findall(r"[^\W_]+", re.sub(r"\]\([^)]*\)", "]", text.lower())))

    expected = words(path.with_name(path.name + ".expected.md").read_text("utf-8"))
    found = words(words_of(XbergParser(LIMITS).parse(path, filename=path.name)))
    assert (expected & found).total() >= WORDS_FOUND[path.parent.name] * expected.total()


@needs_data
@pytest.mark.shared_data
def test_a_report_names_the_right_pages_and_keeps_its_statements() -> None:
    path = DATA / "financebench" / "pdfs" / "ADOBE_2022_10K.pdf"
    limits = ParseLimits(memory_bytes=1 << 30, timeout_s=60.0, output_chars=10_000_000)
    document = XbergParser(limits).parse(path, filename=path.name)
    assert document.pages == 99
    assert sum(e.kind is ElementKind.HEADING for e in document.elements) > 40
    pages: dict[int | None, set[str]] = {}
    for element in document.elements:
        pages.setdefault(element.page, set()).update(re.findall(r"\w+", element.text.lower()))
    for line in (DATA / "financebench" / "questions.jsonl").read_text("utf-8").splitlines():
        for evidence in json.loads(line)["evidence"]:
            if evidence["doc_name"] == path.stem:
                wanted = set(re.findall(r"\w+", evidence["text"].lower()))
                best = max(pages, key=lambda page: len(wanted & pages[page]))
                assert best == evidence["page"] + 1
    income = next(e for e in document.elements if e.kind is ElementKind.TABLE and "Cost of revenue" in e.text)
    assert ("Total revenue", "17,606", "15,785", "12,868") in income.cells
    assert ("Gross profit", "15,441", "13,920", "11,146") in income.cells
