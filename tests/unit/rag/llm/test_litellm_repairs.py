from typing import Any

from rag.llm.litellm_repairs import Repairs


def delta(*calls: dict[str, Any]) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": "", "tool_calls": list(calls)}}]}


def left(piece: dict[str, Any]) -> list[Any]:
    return list(piece["choices"][0]["delta"]["tool_calls"])


def test_tools_that_the_provider_runs_are_left_out_with_all_their_pieces() -> None:
    repairs = Repairs()
    own = {"id": "srvtoolu_1", "index": 0, "function": {"name": "web_search", "arguments": ""}}
    ours = {"id": "toolu_1", "index": 1, "function": {"name": "search_knowledge", "arguments": ""}}
    assert left(repairs.put_right(delta(own, ours))) == [ours]
    first, second = {"index": 0, "function": {"arguments": "{}"}}, {"index": 1, "function": {"arguments": "{}"}}
    assert left(repairs.put_right(delta(first, second))) == [second]
    later = {"id": "toolu_2", "index": 0, "function": {"name": "read_document", "arguments": ""}}
    assert left(repairs.put_right(delta(later))) == [later]
    assert left(repairs.put_right(delta(first))) == [first]


def test_a_whole_reply_keeps_the_calls_for_us() -> None:
    calls = [
        {"id": "srvtoolu_1", "function": {}},
        {"id": "mcptoolu_1", "function": {}},
        {"id": "toolu_1", "function": {}},
    ]
    reply = Repairs().put_right({"choices": [{"message": {"tool_calls": calls}}]})
    assert reply["choices"][0]["message"]["tool_calls"] == [{"id": "toolu_1", "function": {}}]


def test_what_gemini_read_through_its_own_tools_is_prompt() -> None:
    details = {"text_tokens": 12, "image_tokens": 5, "audio_tokens": None, "tool_use_tokens": 102}
    for told in (17, 119):
        usage = {"prompt_tokens": told, "completion_tokens": 653, "prompt_tokens_details": dict(details)}
        assert Repairs().put_right({"usage": usage})["usage"]["prompt_tokens"] == 119
    plain = {"prompt_tokens": 17, "prompt_tokens_details": {"text_tokens": 17, "tool_use_tokens": None}}
    assert Repairs().put_right({"usage": plain})["usage"]["prompt_tokens"] == 17
    assert Repairs().put_right({"usage": {"prompt_tokens": 17}})["usage"]["prompt_tokens"] == 17


def test_pieces_without_choices_or_calls_pass() -> None:
    for piece in ({}, {"choices": []}, {"choices": [{"delta": {"content": "x"}}]}, {"choices": [{"delta": None}]}):
        assert Repairs().put_right(dict(piece)) == piece
