"""The library's objects do not fit their own schema: they are read without a warning, and without hiding those of
others."""

import warnings
from collections.abc import AsyncIterator
from contextlib import nullcontext
from typing import Any

import pytest
from pydantic import BaseModel

from rag.llm import litellm_port
from rag.llm.endpoint import Endpoint


class Unfitting(BaseModel):
    """A piece of a reply whose fields do not fit its schema, as the library's."""

    content: str


async def unfitting_pieces() -> AsyncIterator[Unfitting]:
    for _ in range(2):
        yield Unfitting.model_construct(content=["not a string"])


async def test_streams_side_by_side_leave_the_warnings_of_the_process_alone() -> None:
    before = list(warnings.filters)
    streams: list[Any] = [litellm_port.pieces(unfitting_pieces()) for _ in range(2)]
    for stream in streams:
        assert await anext(stream) == {"content": ["not a string"]}
        assert warnings.filters == before
    for stream in streams:
        await stream.aclose()
    assert warnings.filters == before


@pytest.mark.parametrize("call", ["embed", "rerank", "whole_reply"])
async def test_a_reply_is_read_without_touching_the_warnings_of_the_process(
    monkeypatch: pytest.MonkeyPatch, endpoint: Endpoint, call: str
) -> None:
    """They are the same for all threads: who changes them for a moment may put back another's change."""
    before, seen = list(warnings.filters), []

    class Reply(Unfitting):
        def model_dump(self, **how: Any) -> dict[str, Any]:
            seen.append(list(warnings.filters))
            return super().model_dump(**how)

    class Library:
        async def acompletion(self, **_: Any) -> Reply:
            return Reply.model_construct(content=["not a string"])

        aembedding = arerank = acompletion

    monkeypatch.setattr(litellm_port, "_library", Library())
    monkeypatch.setattr(litellm_port, "translated", lambda *_, **__: nullcontext())
    if call == "embed":
        found = await litellm_port.embed(endpoint, ["text"], name="m", query=False, timeout_s=5)
    elif call == "rerank":
        found = await litellm_port.rerank(endpoint, "q", ["text"], name="m", timeout_s=5)
    else:
        found = await litellm_port.whole_reply(endpoint, {}, timeout_s=5)
    assert found == {"content": ["not a string"]}
    assert seen == [before]
