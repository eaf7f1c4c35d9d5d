"""The connections to providers that all model calls of a process share. Identity travels with each request."""

from typing import TYPE_CHECKING

from rag.core.errors import ModelError
from rag.llm.addresses import guarded_socket

if TYPE_CHECKING:
    import aiohttp

CONNECT_S = 10.0


class UpstreamPool:
    """An aiohttp session without cookies, default headers or proxies from the environment.

    Args:
        guarded: Whether connections to loopback, private and metadata addresses are refused, whatever name led there.
    """

    def __init__(self, *, guarded: bool = False) -> None:
        self._guarded = guarded
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Make the session on the running loop; again is a no-op."""
        # Imported here because aiohttp costs 15 MB, which a process without a provider does not pay.
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0, keepalive_timeout=30.0, socket_factory=guarded_socket if self._guarded else None
                ),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=True,
                raise_for_status=False,
            )

    async def close(self) -> None:
        """Close all connections, idle or not."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    @property
    def session(self) -> "aiohttp.ClientSession":
        """The open session.

        Raises:
            ModelError: `open()` was not awaited, or the process is stopping.
        """
        if self._session is None:
            raise ModelError("The server is not ready to reach model providers. Try again in a moment.")
        return self._session
