from dataclasses import replace

from api.apps.openai_wire import Completion, annotations, source_url
from rag.core.types import TokenUsage
from tests.unit.api.apps.test_sse import CHUNK, REFERENCE

BASE = "http://host:1"


def test_an_annotation_spans_its_mark() -> None:
    text = "Sales rose [ID:0]. Costs fell."
    (found,) = annotations(text, text, REFERENCE, BASE)
    assert found["type"] == "url_citation"
    citation = found["url_citation"]
    assert text[citation["start_index"] : citation["end_index"]] == "[ID:0]"
    assert citation["title"] == "report.pdf"
    assert citation["url"] == f"{BASE}/api/v1/datasets/s1/documents/d1#page=7"


def test_marks_put_in_later_are_placed_in_the_streamed_text() -> None:
    shown = "Sales rose. Costs fell."
    answer = "Sales rose [ID:0]. Costs fell [ID:0]."
    places = [each["url_citation"] for each in annotations(shown, answer, REFERENCE, BASE)]
    assert [place["start_index"] for place in places] == [10, 22]
    assert [place["end_index"] for place in places] == [10, 22]


def test_a_mark_that_was_taken_back_or_moved_is_told_as_the_answer_has_it() -> None:
    more = replace(REFERENCE, chunks=(*REFERENCE.chunks, replace(CHUNK, index=1)))
    shown = "Sales rose [ID:0]. Costs fell [ID:0]. Rain fell [ID:0][ID:1]. Snow too [ID:1]."
    answer = "Sales rose. Costs fell [ID:1]. Rain fell [ID:1]. Snow too [ID:1]."
    places = [each["url_citation"] for each in annotations(shown, answer, more, BASE)]
    texts = [shown[place["start_index"] : place["end_index"]] for place in places]
    assert texts == ["", "[ID:1]", "[ID:1]"]
    assert shown[: places[0]["start_index"]].endswith("Costs fell")
    assert shown[: places[1]["end_index"]].endswith("Rain fell [ID:0][ID:1]")


def test_a_mark_without_a_source_is_left_out() -> None:
    assert annotations("x [ID:9]", "x [ID:9]", REFERENCE, BASE) == []


def test_a_source_from_the_web_keeps_its_address() -> None:
    assert source_url(replace(CHUNK, url="https://example.org/a"), BASE) == "https://example.org/a"
    assert source_url(replace(CHUNK, positions=()), BASE) == f"{BASE}/api/v1/datasets/s1/documents/d1"


def test_a_completion() -> None:
    completion = Completion(id="chatcmpl-1", created=1, model="chat:a", base_url=BASE)
    usage = TokenUsage(prompt_tokens=3, completion_tokens=2)
    whole = completion.whole("a [ID:0]", REFERENCE, usage, finish="stop", reasoning="")
    message = whole["choices"][0]["message"]
    assert message["references"][0]["page"] == 7
    assert len(message["annotations"]) == 1
    assert whole["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "total_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    assert completion.usage_chunk(usage)["choices"] == []
