import base64

import pytest

from rag.core.errors import ModelBadOutput
from rag.core.types import TokenUsage
from rag.llm.base import Capabilities, Delta, ModelInfo
from rag.llm.deadlines import Deadlines
from rag.llm.openai_lane import OpenAiLane
from rag.llm.upstream import UpstreamPool
from rag.llm.upstream_call import UpstreamCall
from rag.llm.vision import ChatDescriber
from rag.testing.describer_suite import PICTURE, DescriberSuite, described
from rag.testing.plain_services import SizeDescriber
from rag.testing.role_models import AsyncModels, Script
from rag.testing.upstream_services import ServicesUpstream
from tests.unit.rag.llm.services import call, services

__all__ = ["call", "services"]

SEES = ModelInfo(name="m@Here", context_tokens=8192, max_output_tokens=1024, capabilities=Capabilities(vision=True))


@pytest.fixture
def describer(call: UpstreamCall, pool: UpstreamPool) -> ChatDescriber:
    deadlines = Deadlines(first_token_s=2, next_token_s=2, answer_s=5)
    return ChatDescriber(OpenAiLane(SEES, call.endpoint, pool=pool, deadlines=deadlines))


class TestFake(DescriberSuite):
    @pytest.fixture
    def describer(self) -> SizeDescriber:
        return SizeDescriber()


class TestContract(DescriberSuite):
    @pytest.fixture
    def describer(self, describer: ChatDescriber) -> ChatDescriber:
        return describer


async def test_the_picture_is_sent_as_it_is(describer: ChatDescriber, services: ServicesUpstream) -> None:
    found = await described(describer, "What is it?")
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (5, 7)
    (message,) = services.calls[0].body["messages"]
    parts = {part["type"]: part for part in message["content"]}
    assert parts["text"]["text"] == "What is it?"
    expected = "data:image/png;base64," + base64.b64encode(PICTURE.data).decode()
    assert parts["image_url"]["image_url"]["url"] == expected


async def test_an_empty_prompt_asks_for_everything(describer: ChatDescriber, services: ServicesUpstream) -> None:
    await described(describer)
    assert "Describe" in str(services.calls[0].body["messages"])


async def test_usage_is_estimated_where_nobody_counts() -> None:
    model = AsyncModels("m@Here", Script(deltas=[Delta(text="A cat."), Delta(finish="stop")]))
    found = await described(ChatDescriber(model))
    assert found.usage.estimated
    assert found.usage.prompt_tokens > 1000


async def test_a_model_that_says_nothing_failed() -> None:
    script = Script(deltas=[Delta(text=" \n"), Delta(usage=TokenUsage(), finish="stop")])
    with pytest.raises(ModelBadOutput):
        await described(ChatDescriber(AsyncModels("m@Here", script)))
    assert script.closed.is_set()
