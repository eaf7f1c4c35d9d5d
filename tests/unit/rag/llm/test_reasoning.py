import itertools

import pytest

from rag.llm.reasoning import ThinkSplitter


def split(parts: list[str]) -> tuple[str, str]:
    splitter = ThinkSplitter()
    found = [splitter.feed(part) for part in parts] + [splitter.finish()]
    return "".join(r for r, _ in found), "".join(t for _, t in found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", ("", "plain")),
        ("<think>why</think>\n\nbecause", ("why", "because")),
        ("\n<think>a<b</thin</think>c", ("a<b</thin", "c")),
        ("<think>never ends", ("never ends", "")),
        ("<thinking aloud>", ("", "<thinking aloud>")),
        ("The tag <think>x</think> stays.", ("", "The tag <think>x</think> stays.")),
        ("<thi", ("", "<thi")),
        ("", ("", "")),
    ],
)
def test_every_split_gives_the_same(text: str, expected: tuple[str, str]) -> None:
    for first, second in itertools.combinations_with_replacement(range(len(text) + 1), 2):
        assert split([text[:first], text[first:second], text[second:]]) == expected
    assert split(list(text)) == expected
