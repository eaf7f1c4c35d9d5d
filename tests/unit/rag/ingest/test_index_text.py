import pytest

from rag.ingest.index_text import index_text


@pytest.mark.parametrize(
    ("name", "headings", "text"),
    [
        ("3M_2018_10K.pdf", ("Item 7", "Capital"), "3M 2018 10K\nItem 7\nCapital\nbody"),
        ("README", (), "README\nbody"),
        (".hidden", (), ".hidden\nbody"),
        ("notes v1.2 final", (), "notes v1.2 final\nbody"),
        ("\u5e74\u62a5.pdf", ("", " "), "\u5e74\u62a5\nbody"),
        ("4711.txt", (), "body"),
        ("", (), "body"),
    ],
)
def test_name_and_headings_lead(name: str, headings: tuple[str, ...], text: str) -> None:
    assert index_text(name, headings, "body") == text


def test_a_long_path_does_not_crowd_out_the_content() -> None:
    assert len(index_text("n" * 250 + ".pdf", ("h" * 5_000,), "body")) == 305
