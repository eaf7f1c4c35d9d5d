"""Chat models behind any address that speaks OpenAI's Responses, read by ourselves."""

from typing import Any

from rag.llm.base import ChatRequest
from rag.llm.chat_body import as_json, is_big
from rag.llm.responses_body import responses_body
from rag.llm.responses_reply import ResponsesReader
from rag.llm.upstream_lane import UpstreamLane


class ResponsesLane(UpstreamLane):
    """ChatModel of Responses."""

    path = "/responses"
    protocol = "OpenAI's Responses protocol"

    async def _body(self, request: ChatRequest) -> bytes:
        body = await responses_body(request, self.info, self._endpoint)
        return await as_json(body | {"model": self._endpoint.model, "stream": True}, big=is_big(request))

    def _reader(self) -> ResponsesReader:
        return ResponsesReader(model=self.info.name)

    def _failure(self, piece: dict[str, Any]) -> Any:
        kind = piece.get("type")
        if kind == "response.failed":
            response = piece.get("response")
            return (isinstance(response, dict) and response.get("error")) or {"message": "the reply failed"}
        if kind == "error":
            return piece.get("error") or piece
        # A whole reply, or the error of a server that does not know the format.
        return piece.get("error")
