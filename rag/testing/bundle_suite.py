"""What every bundle does, whichever kind its models are: inherit `BundleSuite` and give it the fixtures it names."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest

from rag.core.errors import ModelBadOutput, ModelOverloaded, ModelRefused
from rag.core.types import Picture, TokenUsage, ToolCall, Turn
from rag.llm.base import AsyncBundle, ChatRequest, Delta
from rag.testing.role_models import AsyncModels, Script, SyncModels

Models = AsyncModels | SyncModels
Rows = Callable[[], Awaitable[list[Any]]]
PICTURE = Picture(media_type="image/png", data=b"12345")


def asking(text: str = "What is the answer?") -> ChatRequest:
    return ChatRequest(turns=(Turn(role="user", content=text),))


async def taken(stream: AsyncIterator[Any], count: int) -> list[Any]:
    """The first items of `stream`, which is left then."""
    async with aclosing(stream) as items:  # type: ignore[type-var]
        return [await anext(items) for _ in range(count)]


class BundleSuite:
    """The contract of `rag.llm.base.AsyncBundle`.

    Fixtures: `models`, all roles in one object named `model@Testing`; `bundle` of them, for tenant "t", purpose
    "answer", dialog "d", conversation "c", message "m", key "k" and arm "fallback=on", with three attempts that do
    not wait; `rows`, which gives the usage rows of all ended calls.
    """

    async def test_chat(self, bundle: AsyncBundle, rows: Rows) -> None:
        text, usage = await bundle.chat(asking())
        assert text == "The answer is 42."
        assert (usage.prompt_tokens, usage.completion_tokens, usage.estimated) == (7, 5, False)
        (row,) = await rows()
        assert (row.tenant_id, row.dialog_id, row.conversation_id, row.message_id) == ("t", "d", "c", "m")
        assert (row.key_id, row.arm, row.purpose) == ("k", "fallback=on", "answer")
        assert (row.model, row.provider) == ("model@Testing", "Testing")
        assert (row.prompt_tokens, row.completion_tokens, row.estimated) == (7, 5, False)
        assert (row.cached_tokens, row.cache_write_tokens, row.reasoning_tokens) == (3, 2, 1)
        assert (row.outcome, row.attempts, row.tool_calls) == ("ok", 1, 0)
        assert 0 <= row.first_token_ms <= row.duration_ms

    async def test_a_stream_keeps_what_the_model_said(self, bundle: AsyncBundle, models: Models) -> None:
        said = [Delta(text=str(number)) for number in range(500)]
        models.script.deltas = [*said, Delta(usage=TokenUsage(completion_tokens=500), finish="stop")]
        deltas = [delta async for delta in bundle.chat_streamly(asking())]
        assert deltas[:-1] == said
        assert (deltas[-1].model, deltas[-1].finish) == ("model@Testing", "stop")

    async def test_tool_calls_are_counted(self, bundle: AsyncBundle, models: Models, rows: Rows) -> None:
        calls = tuple(ToolCall(id=str(n), name="look up", arguments="{}") for n in range(2))
        models.script.deltas = (Delta(tool_calls=calls), Delta(finish="tool_calls"))
        assert (await taken(bundle.chat_streamly(asking()), 1))[0].tool_calls == calls
        assert (await rows())[0].tool_calls == 2

    async def test_missing_usage_is_estimated_and_marked(self, bundle: AsyncBundle, models: Models, rows: Rows) -> None:
        models.script.deltas = (Delta(reasoning="so so"), Delta(text="one two three"), Delta(finish="stop"))
        _, usage = await bundle.chat(asking("four words are here"))
        assert usage == TokenUsage(prompt_tokens=4, completion_tokens=4, estimated=True)
        (row,) = await rows()
        assert (row.prompt_tokens, row.completion_tokens, row.estimated, row.outcome) == (4, 4, True, "ok")

    async def test_a_reply_without_an_end_is_noted(self, bundle: AsyncBundle, models: Models, rows: Rows) -> None:
        models.script.deltas = (Delta(text="half a"), Delta(finish="cut_off"))
        await bundle.chat(asking())
        assert (await rows())[0].outcome == "cut_off"

    async def test_leaving_early_closes_the_model(self, bundle: AsyncBundle, models: Models, rows: Rows) -> None:
        models.script.deltas = [Delta(text="word ") for _ in range(10_000)]
        assert await taken(bundle.chat_streamly(asking()), 2) == [Delta(text="word ")] * 2
        assert await asyncio.to_thread(models.script.closed.wait, 5)
        (row,) = await rows()
        assert (row.outcome, row.estimated, row.prompt_tokens) == ("cancelled", True, 4)
        assert row.completion_tokens < 1000

    async def test_a_cancelled_call_is_noted(self, bundle: AsyncBundle, models: Models, rows: Rows) -> None:
        models.script.wait_s = 0.3
        calling = asyncio.ensure_future(bundle.chat(asking()))
        await asyncio.sleep(0.05)
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        (row,) = await rows()
        assert (row.outcome, row.first_token_ms) == ("cancelled", None)

    async def test_failures_before_the_first_piece_are_tried_again(
        self, bundle: AsyncBundle, models: Models, rows: Rows
    ) -> None:
        models.script.fails = [ModelOverloaded("busy"), ModelOverloaded("busy")]
        assert (await bundle.chat(asking()))[0] == "The answer is 42."
        (row,) = await rows()
        assert (row.attempts, row.outcome, models.script.calls) == (3, "ok", 3)

    async def test_a_failure_is_raised_itself_and_costs_nothing(
        self, bundle: AsyncBundle, models: Models, rows: Rows
    ) -> None:
        error = ModelRefused("no")
        models.script.fails = [error]
        with pytest.raises(ModelRefused) as caught:
            await bundle.chat(asking())
        assert caught.value is error
        (row,) = await rows()
        assert (row.outcome, row.attempts, row.prompt_tokens, row.estimated) == ("model_refused", 1, 0, True)

    async def test_what_came_before_a_failure_is_kept(self, bundle: AsyncBundle, models: Models, rows: Rows) -> None:
        models.script.breaks, models.script.breaks_after = ModelOverloaded("gone"), 2
        deltas: list[Delta] = []
        with pytest.raises(ModelOverloaded):
            deltas.extend([delta async for delta in bundle.chat_streamly(asking())])
        async with aclosing(bundle.chat_streamly(asking())) as stream:  # type: ignore[type-var]
            assert [await anext(stream), await anext(stream)] == [Delta(reasoning="Hm."), Delta(text="The answer")]
            with pytest.raises(ModelOverloaded):
                await anext(stream)
        assert models.script.calls == 2
        assert [(row.outcome, row.attempts) for row in await rows()] == [("model_overloaded", 1)] * 2

    async def test_defects_of_a_model_are_noted_too(self, bundle: AsyncBundle, models: Models, rows: Rows) -> None:
        models.script.fails = [KeyError("a defect")]
        with pytest.raises(KeyError):
            await bundle.chat(asking())
        assert (await rows())[0].outcome == "internal"

    async def test_many_at_once_do_not_mix(self, bundle: AsyncBundle, models: Models, rows: Rows) -> None:
        def own(request: ChatRequest) -> Sequence[Delta]:
            asked = request.turns[0].content
            words = [Delta(text=f"{asked}.{number} ") for number in range(40)]
            return [*words, Delta(usage=TokenUsage(prompt_tokens=int(asked)), finish="stop")]

        models.script.deltas = own
        models.script.wait_s = 0.0005
        answers = await asyncio.gather(*(bundle.chat(asking(str(n))) for n in range(64)))
        for number, (text, usage) in enumerate(answers):
            assert text.split() == [f"{number}.{piece}" for piece in range(40)]
            assert usage.prompt_tokens == number
        assert sorted(row.prompt_tokens for row in await rows()) == list(range(64))

    async def test_encode(self, bundle: AsyncBundle, rows: Rows) -> None:
        found = await bundle.encode(["a", "bbb"])
        assert found.vectors.tolist() == [[1, 1], [3, 1]]
        (row,) = await rows()
        assert (row.prompt_tokens, row.estimated, row.outcome, row.first_token_ms) == (11, False, "ok", None)

    async def test_encode_queries_is_one_call(self, bundle: AsyncBundle, rows: Rows) -> None:
        found = await bundle.encode_queries(["a", "bbb", "cc"])
        assert found.vectors.tolist() == [[1, 1], [3, 1], [2, 1]]
        assert (await bundle.encode_queries([])).vectors.shape == (0, 2)
        row, _ = await rows()
        assert (row.prompt_tokens, row.outcome) == (33, "ok")

    async def test_tokens_a_provider_does_not_tell_are_estimated(
        self, bundle: AsyncBundle, models: Models, rows: Rows
    ) -> None:
        models.script.tokens = 0
        await bundle.encode(["one two three"])
        (row,) = await rows()
        assert (row.prompt_tokens, row.estimated) == (3, True)

    async def test_similarity(self, bundle: AsyncBundle, models: Models, rows: Rows) -> None:
        found = await bundle.similarity("question", ["", "a"])
        assert found.scores.tolist() == [1.0, 0.5]
        assert (await rows())[0].prompt_tokens == 11
        assert (await bundle.similarity("question", [])).scores.shape == (0,)
        assert models.script.calls == 1

    async def test_describe(self, bundle: AsyncBundle, rows: Rows) -> None:
        assert (await bundle.describe(PICTURE, "count")).text == "count: 5 bytes"
        (row,) = await rows()
        assert (row.prompt_tokens, row.completion_tokens, row.estimated) == (11, 2, False)

    async def test_transcribe(self, bundle: AsyncBundle, rows: Rows) -> None:
        said = await bundle.transcribe(b"123", file_name="a.mp3")
        assert (said.text, said.seconds) == ("heard 3 bytes of a.mp3", 1.5)
        assert (await rows())[0].outcome == "ok"

    async def test_tts(self, bundle: AsyncBundle, models: Models, rows: Rows) -> None:
        assert [piece async for piece in bundle.tts("say it all")] == [b"say", b"it", b"all"]
        (row,) = await rows()
        assert (row.prompt_tokens, row.estimated, row.outcome) == (3, True, "ok")
        assert 0 <= row.first_token_ms <= row.duration_ms
        models.script.closed.clear()
        assert await taken(bundle.tts("word " * 5000), 1) == [b"word"]
        assert await asyncio.to_thread(models.script.closed.wait, 5)
        assert (await rows())[-1].outcome == "cancelled"

    @pytest.mark.parametrize(
        "role", ["encode", "encode_queries", "similarity", "describe", "transcribe", "tts", "chat_streamly"]
    )
    async def test_every_role_is_tried_again_and_noted(
        self, bundle: AsyncBundle, models: Models, rows: Rows, role: str
    ) -> None:
        calls: dict[str, Callable[[], Any]] = {
            "encode": lambda: bundle.encode(["a"]),
            "encode_queries": lambda: bundle.encode_queries(["a"]),
            "similarity": lambda: bundle.similarity("q", ["a"]),
            "describe": lambda: bundle.describe(PICTURE),
            "transcribe": lambda: bundle.transcribe(b"1", file_name="a.wav"),
            "tts": lambda: taken(bundle.tts("say"), 1),
            "chat_streamly": lambda: taken(bundle.chat_streamly(asking()), 1),
        }
        models.script.fails = [ModelOverloaded("busy")]
        await calls[role]()
        models.script.fails = [ModelOverloaded(f"busy {n}") for n in range(3)]
        with pytest.raises(ModelOverloaded, match="busy 2"):
            await calls[role]()
        first, second = await rows()
        assert first.attempts == 2
        assert (second.attempts, second.outcome) == (3, "model_overloaded")

    async def test_a_model_that_answers_too_little_is_told_of(
        self, bundle: AsyncBundle, models: Models, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        few = models.script.embedded(["only one"])
        monkeypatch.setattr(models.script, "embedded", lambda texts: few)
        with pytest.raises(ModelBadOutput, match="1 results for 2 texts"):
            await bundle.encode(["a", "b"])

    async def test_nothing_synchronous_runs_on_the_loop(self, bundle: AsyncBundle, models: Models) -> None:
        """And everything asynchronous does."""
        await bundle.chat(asking())
        await bundle.encode(["a"])
        await bundle.describe(PICTURE)
        assert [piece async for piece in bundle.tts("a")] == [b"a"]
        on_loop = models.script.threads == {threading.get_ident()}
        assert on_loop == isinstance(models, AsyncModels)
        assert on_loop or threading.get_ident() not in models.script.threads

    async def test_scores_and_vectors_keep_their_type(self, bundle: AsyncBundle) -> None:
        assert (await bundle.encode_queries(["a"])).vectors.dtype == np.float32
        assert (await bundle.similarity("q", ["a"])).scores.dtype == np.float32


__all__ = ["BundleSuite", "Models", "Rows", "Script", "asking"]
