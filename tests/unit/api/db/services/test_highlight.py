import pytest

from api.db.services.highlight import highlighter


@pytest.mark.parametrize(
    ("question", "text", "marked"),
    [
        ("Which companies grew?", "The company grew.", "The <em>company</em> <em>grew</em>."),
        ("total revenues", "Total revenue, REVENUE!", "<em>Total</em> <em>revenue</em>, <em>REVENUE</em>!"),
        ("what is the", "what is the use", "what is the use"),
        ("", "a < b & c", "a &lt; b &amp; c"),
        ("script", "<script>alert(1)</script>", "&lt;<em>script</em>&gt;alert(1)&lt;/<em>script</em>&gt;"),
        ("北京", "我在北京", "我在<em>北京</em>"),
        ("a.b (c* [x", "a.b (c* [x", "a.b (c* [x"),
    ],
)
def test_words_are_marked_by_their_stem(question: str, text: str, marked: str) -> None:
    assert highlighter(question)(text) == marked
