"""The web search of a chat: its key, sealed in the chat's row, and the pages it finds."""

from collections.abc import Mapping
from typing import Any, Final

from pydantic import SecretStr

from api.db.services.secret_box import SecretBox
from rag.core.blocking import Lane, run_in
from rag.core.types import Hit, Principal
from rag.retrieve.web_search import WebSearch

WEB_KEY: Final = "tavily_api_key"
"""Where prompt settings hold the key."""
MASK: Final = "********"
"""What replies show in its place; sent back, it leaves the stored key as it is."""
_SEALED = "v1."


class WebPages:
    """One for all; holds no key."""

    def __init__(self, search: WebSearch, box: SecretBox) -> None:
        self._search = search
        self._box = box

    async def find(self, principal: Principal, sealed: str, question: str) -> tuple[Hit, ...]:
        """The pages for `question`; see `WebSearch.search`.

        Raises:
            WebSearchFailed: there are none, with the reason in words.
            StoreError: the key cannot be opened.
        """
        key = await run_in(Lane.TEXT, opened, self._box, sealed, principal.tenant_id)
        return await self._search.search(question, key)


def opened(box: SecretBox, sealed: str, tenant_id: str) -> SecretStr:
    """The key. One that was stored before keys were sealed is as it is."""
    return box.open(sealed, owner=_owner(tenant_id)) if sealed.startswith(_SEALED) else SecretStr(sealed)


def with_sealed_key(
    config: Mapping[str, Any], box: SecretBox, tenant_id: str, *, stored: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Prompt settings as a row keeps them: the key sealed; `MASK` stands for the one in `stored`, if there is one."""
    kept = dict(config)
    if WEB_KEY not in kept:
        return kept
    key, before = kept[WEB_KEY], (stored or {}).get(WEB_KEY, "")
    if key == MASK or (key and key == before):
        key = before
    if isinstance(key, str) and key and not (key == before and key.startswith(_SEALED)):
        key = box.seal(key, owner=_owner(tenant_id))
    kept[WEB_KEY] = key
    return kept


def without_key(config: Mapping[str, Any]) -> dict[str, Any]:
    """Prompt settings as replies show them."""
    return {**config, WEB_KEY: MASK} if config.get(WEB_KEY) else dict(config)


def _owner(tenant_id: str) -> str:
    return f"web search of {tenant_id}"
