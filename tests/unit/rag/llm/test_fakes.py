import pytest

from rag.core.errors import ModelOverloaded, NotFound
from rag.testing.chat_model_suite import TWO_CALLS, ChatModelSuite, Said, ToolModelSuite, a_request, said_by
from rag.testing.embedder_suite import EmbedderSuite
from rag.testing.hash_embedder import HashEmbedder
from rag.testing.models import FixedModels
from rag.testing.scripted_chat import ScriptedChat


class TestScriptedChat(ChatModelSuite):
    @pytest.fixture
    def model(self) -> ScriptedChat:
        return ScriptedChat()


class SteeredScript:
    """The model itself is the provider."""

    def __init__(self) -> None:
        self._model = ScriptedChat()

    def model(self, said: Said) -> ScriptedChat:
        self._model = ScriptedChat(
            [["".join(said.words), *said.calls]],
            reasoning="".join(said.reasoning),
            wait_s=said.wait_s,
            finish="cut_off" if said.cut_off else "stop",
        )
        return self._model

    def left(self) -> int:
        return self._model.closed


class TestScriptedTools(ToolModelSuite):
    @pytest.fixture
    def steered(self) -> SteeredScript:
        return SteeredScript()


class TestHashEmbedder(EmbedderSuite):
    @pytest.fixture
    def embedder(self) -> HashEmbedder:
        return HashEmbedder()


async def text_of(model: ScriptedChat, question: str = "q") -> str:
    return "".join(delta.text for delta in await said_by(model, a_request(question)))


async def test_replies_cycle() -> None:
    model = ScriptedChat(["one", "two"])
    assert [await text_of(model) for _ in range(3)] == ["one", "two", "one"]


async def test_a_reply_can_be_computed() -> None:
    model = ScriptedChat(lambda request: request.turns[-1].content.upper())
    assert await text_of(model, "loud") == "LOUD"
    assert len(model.requests) == 1


async def test_replies_may_be_tool_calls() -> None:
    model = ScriptedChat([[TWO_CALLS[0]], "done"])
    assert [(await said_by(model, a_request()))[-1].tool_calls for _ in range(2)] == [TWO_CALLS[:1], ()]


async def test_it_fails_where_it_is_told() -> None:
    model = ScriptedChat("a b c", fail=ModelOverloaded("no"), fail_after=2)
    stream = model.stream(a_request())
    assert [(await anext(stream)).text for _ in range(2)] == ["a", " b"]
    with pytest.raises(ModelOverloaded):
        await anext(stream)


def test_fixed_models_are_found_by_either_name() -> None:
    models = FixedModels()
    assert models.chat("extractive").info.name == "extractive@Builtin"
    assert models.embedder("minilm@Builtin").dim == 384
    with pytest.raises(NotFound):
        models.chat("other")
