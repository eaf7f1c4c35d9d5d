"""A real upstream on a loopback port for all that is not chat: embeddings, reranking, speech, lists of models.

Embeddings share words as those of `HashEmbedder`; a passage scores by the words it shares with the question; speech is
its own text, and what was said is heard again. It also answers chats, whole, with what it was sent.
"""

import asyncio
import base64
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

from rag.testing.hash_embedder import HashEmbedder

MP3 = b"ID3\x04"
"""What every file of speech begins with here."""
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, kw_only=True)
class Called:
    path: str
    headers: dict[str, str]
    body: Any


@dataclass(kw_only=True)
class Answer:
    """What the next replies are in place of the right ones; `wait_s` before each."""

    status: int = 200
    body: Any = None
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    wait_s: float = 0.0
    cut: bool = False


class ServicesUpstream:
    """Replies rightly, unless `answer` is set. `base64`: vectors as OpenAI's own client asks for them; `logits`: raw
    scores; `most_texts`: of one request, more are refused; `key`: others are refused."""

    def __init__(self, *, dim: int = 384) -> None:
        self.calls: list[Called] = []
        self.answer: Answer | None = None
        self.models: list[str] = ["chat-one", "embed-one"]
        self.base64 = False
        self.logits = False
        self.usage = True
        self.most_texts = 64
        self.key = ""
        self.busy = 0
        self.busiest = 0
        self.left_early = 0
        self.url = ""
        self._embedder = HashEmbedder(dim=dim)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["ServicesUpstream"]:
        app = web.Application(client_max_size=64 << 20)
        post: dict[str, Callable[[web.Request, Any], Awaitable[web.StreamResponse]]] = {
            "/embeddings": self._embeddings,
            "/rerank": self._rerank,
            "/audio/transcriptions": self._heard,
            "/audio/speech": self._speech,
            "/chat/completions": self._chat,
        }
        for path, handler in post.items():
            app.router.add_post("/v1" + path, self._answering(handler))
            # As Azure has them.
            app.router.add_post("/openai/deployments/{model}" + path, self._answering(handler))
        # As Cohere has them.
        app.router.add_post("/v2/embed", self._answering(self._cohere_embed))
        app.router.add_post("/v2/rerank", self._answering(self._rerank))
        app.router.add_post("/v1/rerank", self._answering(self._rerank))
        app.router.add_get("/v1/models", self._answering(self._models))
        app.router.add_get("/api/tags", self._answering(self._tags))
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        self.url = f"http://{host}:{port}/v1"
        try:
            yield self
        finally:
            await runner.cleanup()

    def _answering(
        self, handler: Callable[[web.Request, Any], Awaitable[web.StreamResponse]]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def answered(request: web.Request) -> web.StreamResponse:
            body = await _body(request)
            self.calls.append(Called(path=request.path_qs, headers=dict(request.headers), body=body))
            self.busy += 1
            self.busiest = max(self.busiest, self.busy)
            try:
                if self.key and not self._fits(request):
                    return web.json_response({"error": {"message": f"wrong key {request.headers}"}}, status=401)
                if self.answer is not None:
                    return await self._instead(request, self.answer)
                return await handler(request, body)
            except (asyncio.CancelledError, ConnectionError):
                self.left_early += 1
                raise
            finally:
                self.busy -= 1

        return answered

    def _fits(self, request: web.Request) -> bool:
        return f"Bearer {self.key}" == request.headers.get("Authorization") or self.key == request.headers.get(
            "api-key"
        )

    async def _instead(self, request: web.Request, answer: Answer) -> web.StreamResponse:
        await asyncio.sleep(answer.wait_s)
        if answer.cut and request.transport is not None:
            request.transport.abort()
        data = answer.body if isinstance(answer.body, bytes) else orjson.dumps(answer.body)
        return web.Response(body=data, status=answer.status, content_type=answer.content_type, headers=answer.headers)

    async def _embeddings(self, request: web.Request, body: Any) -> web.StreamResponse:
        texts = body["input"]
        if len(texts) > self.most_texts or not all(texts):
            return web.json_response({"error": {"message": "too many texts, or an empty one"}}, status=400)
        await asyncio.sleep(0.02)  # So that requests overlap.
        found = self._embedder.encode(texts)
        data = [
            {"object": "embedding", "index": index, "embedding": self._written(row * 3)}
            for index, row in enumerate(found.vectors)
        ]
        usage = {"prompt_tokens": found.tokens, "total_tokens": found.tokens} if self.usage else None
        # Clients go by the index, not by the place.
        return web.json_response({"object": "list", "data": data[::-1], "model": body["model"], "usage": usage})

    def _written(self, row: Any) -> Any:
        return base64.b64encode(row.astype("<f4").tobytes()).decode() if self.base64 else [float(x) for x in row]

    async def _cohere_embed(self, request: web.Request, body: Any) -> web.StreamResponse:
        found = self._embedder.encode(body["texts"])
        rows = [[float(x) for x in row] for row in found.vectors]
        meta = {"billed_units": {"input_tokens": found.tokens}}
        return web.json_response({"id": "e1", "embeddings": {"float": rows}, "texts": body["texts"], "meta": meta})

    async def _rerank(self, request: web.Request, body: Any) -> web.StreamResponse:
        asked = set(_WORD.findall(body["query"].casefold()))
        results = []
        for index, passage in enumerate(body["documents"]):
            share = len(asked & set(_WORD.findall(passage.casefold()))) / max(1, len(asked))
            results.append({"index": index, "relevance_score": share * 12 - 6 if self.logits else share})
        results.sort(key=lambda result: -float(result["relevance_score"]))
        reply: dict[str, Any] = {"id": "r1", "results": results, "meta": {"billed_units": {"search_units": 1}}}
        if self.usage:
            reply["usage"] = {"total_tokens": 17}
        return web.json_response(reply)

    async def _heard(self, request: web.Request, body: Any) -> web.StreamResponse:
        audio: bytes = body["file"]
        text = audio.removeprefix(MP3).decode("utf-8", "replace")
        return web.json_response({"text": f" {text}\n", "duration": 1.5})

    async def _speech(self, request: web.Request, body: Any) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "audio/mpeg"})
        await response.prepare(request)
        await response.write(MP3)
        for word in body["input"].split(" "):
            await response.write(word.encode() + b" ")
            await asyncio.sleep(0.001)
        await response.write_eof()
        return response

    async def _chat(self, request: web.Request, body: Any) -> web.StreamResponse:
        said = orjson.dumps(body["messages"][-1]["content"]).decode()
        message = {"role": "assistant", "content": f"I was sent {said}"}
        usage = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        reply = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": choices}
        return web.json_response(reply | ({"usage": usage} if self.usage else {}))

    async def _models(self, request: web.Request, body: Any) -> web.StreamResponse:
        return web.json_response({"object": "list", "data": [{"id": name, "object": "model"} for name in self.models]})

    async def _tags(self, request: web.Request, body: Any) -> web.StreamResponse:
        return web.json_response({"models": [{"name": name, "size": 1} for name in self.models]})


async def _body(request: web.Request) -> Any:
    if request.content_type == "multipart/form-data":
        fields: dict[str, Any] = {}
        async for part in await request.multipart():
            data = await part.read()  # type: ignore[union-attr]  # no nested parts are sent
            name = part.name  # type: ignore[union-attr]  # no nested parts are sent
            fields[name or ""] = bytes(data) if name == "file" else data.decode()
            if name == "file":
                fields["file_name"] = part.filename  # type: ignore[union-attr]  # no nested parts are sent
        return fields
    return orjson.loads(await request.read()) if request.can_read_body else None
