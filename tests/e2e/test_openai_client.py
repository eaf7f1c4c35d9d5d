"""The official `openai` client against a real server: models, cited answers, embeddings, and its error classes."""

import math
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.e2e.serving import Serving, call, wait_ended

NOTES = b"""The Aldermoor bridge was opened in 1932. It carries two lanes of traffic over the river Wend.

The bridge is painted green every seven years. The paint costs 41,000 pounds.
"""
QUESTION = [{"role": "user", "content": "When was the Aldermoor bridge opened?"}]


@pytest.fixture(scope="module")
def chat_id(server: Serving) -> str:
    """A chat on one text."""
    with server.client() as client:
        dataset = call(client, "POST", "/api/v1/datasets", json={"name": "bridges"})["id"]
        path = f"/api/v1/datasets/{dataset}"
        (document,) = call(client, "POST", f"{path}/documents", files={"file": ("bridge.md", NOTES)})
        call(client, "POST", f"{path}/chunks", json={"document_ids": [document["id"]]})
        wait_ended(client, dataset)
        body = {"name": "Ada", "dataset_ids": [dataset]}
        return str(call(client, "POST", "/api/v1/chats", json=body)["id"])


@pytest.fixture
def client(server: Serving, chat_id: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.key, max_retries=0) as made:
        yield made


def test_chats_datasets_and_embedders_are_models(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert {"chat:Ada", "dataset:bridges", "minilm@Builtin"} <= set(names)
    assert client.models.retrieve("dataset:bridges").id == "dataset:bridges"


@pytest.mark.parametrize("model", ["chat:Ada", "dataset:bridges"])
def test_an_answer_is_cited(client: openai.OpenAI, server: Serving, model: str) -> None:
    completion = client.chat.completions.create(model=model, messages=QUESTION)
    message = completion.choices[0].message
    assert message.content is not None
    assert "1932" in message.content
    assert message.annotations
    citation = message.annotations[0].url_citation
    assert message.content[citation.start_index : citation.end_index] == "[ID:0]"
    assert citation.title == "bridge.md"
    assert citation.url.startswith(f"{server.url}/api/v1/datasets/")
    assert message.model_extra is not None
    assert "1932" in message.model_extra["references"][0]["content"]
    assert completion.usage is not None
    assert completion.usage.total_tokens > 0
    with server.client() as http:
        assert http.get(citation.url).content == NOTES


def test_a_streamed_answer_is_cited_in_the_last_delta(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="chat:Ada", messages=QUESTION, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert len({chunk.id for chunk in chunks}) == 1
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert "1932" in text
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 0
    last = chunks[-2].choices[0]
    assert last.finish_reason == "stop"
    extra: dict[str, Any] = last.delta.model_extra or {}
    citation = extra["annotations"][0]["url_citation"]
    assert text[citation["start_index"] : citation["end_index"]] in ("[ID:0]", "")
    assert extra["references"][0]["document_name"] == "bridge.md"


def test_history_comes_from_the_request(client: openai.OpenAI) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        *QUESTION,
        {"role": "assistant", "content": "In 1932."},
        {"role": "user", "content": "What does the paint of the bridge cost?"},
    ]
    completion = client.chat.completions.create(model="chat:Ada", messages=messages, temperature=0)
    assert "41,000" in (completion.choices[0].message.content or "")


def test_the_contracts_route_serves_the_client_too(server: Serving, chat_id: str) -> None:
    base = f"{server.url}/api/v1/chats_openai/{chat_id}"
    with openai.OpenAI(base_url=base, api_key=server.key) as client:
        stream = client.chat.completions.create(
            model="any", messages=QUESTION, stream=True, extra_body={"reference": True}
        )
        chunks = list(stream)
    assert "1932" in "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    last = chunks[-1]
    assert last.choices[0].finish_reason == "stop"
    assert last.usage is not None
    assert last.usage.prompt_tokens == len(QUESTION[0]["content"])
    extra = last.choices[0].delta.model_extra or {}
    assert "1932" in extra["final_content"]
    assert extra["reference"][0]["document_name"] == "bridge.md"


def test_embeddings(client: openai.OpenAI) -> None:
    found = client.embeddings.create(model="minilm@Builtin", input=["a bridge", "a river", "an invoice"])
    vectors = [item.embedding for item in found.data]
    assert [len(vector) for vector in vectors] == [384] * 3
    assert math.isclose(sum(x * x for x in vectors[0]), 1, abs_tol=1e-3)
    dot = [sum(a * b for a, b in zip(vectors[0], other, strict=True)) for other in vectors]
    assert dot[1] > dot[2]
    assert found.usage.prompt_tokens > 0
    floats = client.embeddings.create(model="minilm@Builtin", input="a bridge", encoding_format="float")
    assert all(math.isclose(a, b, abs_tol=1e-5) for a, b in zip(floats.data[0].embedding, vectors[0], strict=True))


def test_errors_arrive_as_the_clients_own_classes(client: openai.OpenAI, server: Serving) -> None:
    create = client.chat.completions.create
    with pytest.raises(openai.NotFoundError, match="gpt-4"):
        create(model="gpt-4", messages=QUESTION)
    with pytest.raises(openai.BadRequestError, match="set n to 1"):
        create(model="chat:Ada", messages=QUESTION, n=2)
    with pytest.raises(openai.BadRequestError, match="temperature"):
        create(model="chat:Ada", messages=QUESTION, temperature=9)
    with pytest.raises(openai.BadRequestError, match="Token arrays"):
        client.embeddings.create(model="minilm@Builtin", input=[1, 2, 3])
    with pytest.raises(openai.BadRequestError, match="384 dimensions"):
        client.embeddings.create(model="minilm@Builtin", input="x", dimensions=100)
    with (
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="nobody", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError, match="API key"),
    ):
        stranger.models.list()
