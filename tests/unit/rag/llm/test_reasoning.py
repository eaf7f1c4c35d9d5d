import itertools

import pytest

from rag.llm.reasoning import MOST_SPACE, ThinkSplitter


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
        (" \n\t", ("", " \n\t")),
        (" \n<thi", ("", " \n<thi")),
    ],
)
def test_every_split_gives_the_same(text: str, expected: tuple[str, str]) -> None:
    for first, second in itertools.combinations_with_replacement(range(len(text) + 1), 2):
        assert split([text[:first], text[first:second], text[second:]]) == expected
    assert split(list(text)) == expected


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ("plain", (0, "plain")),
        ("<think>why</think>because", (3, "because")),
        ("", (0, "")),
    ],
)
def test_white_space_at_the_beginning_is_held_back_no_longer_than_needed(after: str, expected: tuple[int, str]) -> None:
    splitter = ThinkSplitter()
    told = [splitter.feed(" \n" * 500) for _ in range(100)]
    assert len(splitter._held) <= MOST_SPACE
    rest = [splitter.feed(after), splitter.finish()]
    answer = "".join(text for _, text in told + rest)
    thought = sum(len(reasoning) for reasoning, _ in told + rest)
    assert (thought, answer.lstrip()) == expected
    assert len(answer) <= MOST_SPACE + len(after)
    assert split([" \n" * 50_000 + after]) == split([" \n"] * 50_000 + [after])
