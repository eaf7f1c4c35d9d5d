"""What a route may reach: the services of this process and what the web process knows of itself."""

import asyncio
import hashlib
import hmac
from dataclasses import dataclass, field
from typing import cast

from quart import Quart, current_app

from api.db.services.container import Services

EXTENSION = "parley"


@dataclass(kw_only=True, slots=True)
class WebState:
    """What changes while the process runs.

    `missing` names what is still being loaded (empty: ready); `port` is the one that is bound; `loopback` tells
    whether only this machine can connect; `link_hash` is the sha256 of the sign-in link's token;
    `notes` has a sentence for the operator under the name of a part that works but needs something done;
    `stopping` is set when streams that nobody saves are to end by themselves.
    """

    services: Services | None = None
    missing: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    port: int = 0
    loopback: bool = True
    link_hash: str = ""
    loop_lag_s: float = 0.0
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def ready(self) -> bool:
        return self.services is not None and not self.lacking

    @property
    def lacking(self) -> set[str]:
        """What is still being loaded, and which servers are away."""
        return self.missing | self.away.keys()

    @property
    def away(self) -> dict[str, str]:
        """Servers that cannot be used now, with the reason."""
        return self.services.away if self.services is not None else {}

    def link_opens(self, token: str) -> bool:
        """Whether `token` is the one of the sign-in link (compared in constant time)."""
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
        return bool(self.link_hash) and hmac.compare_digest(digest, self.link_hash)


def attach(app: Quart, state: WebState) -> None:
    app.extensions[EXTENSION] = state


def web_state() -> WebState:
    """The state of the app that serves the current request."""
    return cast(WebState, current_app.extensions[EXTENSION])


def services() -> Services:
    """The services of the app that serves the current request."""
    found = web_state().services
    if found is None:
        raise RuntimeError("a request came in before the app was started")
    return found
