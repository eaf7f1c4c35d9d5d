"""What LiteLLM (1.106.2) gets wrong of replies, put right before they are read."""

from collections.abc import Mapping
from typing import Any, Final

_RUN_BY_PROVIDER: Final = ("srvtoolu_", "mcptoolu_")
"""How ids of tools begin that Anthropic runs by itself. The library tells of them as if the caller had to run them."""


class Repairs:
    """For the pieces of one reply, in order. A whole reply is one piece."""

    def __init__(self) -> None:
        self._hidden: set[Any] = set()

    def put_right(self, piece: dict[str, Any]) -> dict[str, Any]:
        """`piece` (changed in place) without what the reply did not say."""
        for choice in piece.get("choices") or ():
            message = choice.get("delta") or choice.get("message")
            if isinstance(message, dict) and message.get("tool_calls"):
                message["tool_calls"] = [call for call in message["tool_calls"] if not self._is_hidden(call)]
        usage = piece.get("usage")
        if isinstance(usage, dict):
            _count_all(usage)
        return piece

    def _is_hidden(self, call: Mapping[str, Any]) -> bool:
        """Whether a call, or a later piece of one by its index, is none of ours."""
        call_id, index = call.get("id"), call.get("index")
        if not call_id:
            return index in self._hidden
        if str(call_id).startswith(_RUN_BY_PROVIDER):
            self._hidden.add(index)
            return True
        self._hidden.discard(index)
        return False


def _count_all(usage: dict[str, Any]) -> None:
    """Count what Gemini read through its own tools as prompt: the library leaves out what is not billed."""
    details = usage.get("prompt_tokens_details")
    if not isinstance(details, Mapping):
        return
    own_tools = details.get("tool_use_tokens") or 0
    others = sum(details.get(name) or 0 for name in ("text_tokens", "audio_tokens", "image_tokens", "video_tokens"))
    if own_tools and usage.get("prompt_tokens") == others:
        usage["prompt_tokens"] = others + own_tools
