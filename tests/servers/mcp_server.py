"""A real MCP server over streamable HTTP, for tests: `python -m tests.servers.mcp_server`. Prints its port.

Its tools answer, take their time, say too much, fail, and end the process. `seen` tells what it was asked so far.
"""

import asyncio
import os
import socket

import uvicorn
from mcp.server.fastmcp import Context, FastMCP, Image

server = FastMCP("testing", log_level="ERROR")
counts = {"begun": 0, "cancelled": 0}


@server.tool()
def echo(text: str) -> str:
    """Say it again."""
    return text


@server.tool()
async def slow(seconds: float) -> str:
    """Take your time."""
    counts["begun"] += 1
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        counts["cancelled"] += 1
        raise
    return "done"


@server.tool()
def huge(megabytes: float) -> str:
    """Say too much."""
    return "x" * int(megabytes * (1 << 20))


@server.tool()
def fail() -> str:
    """Fail."""
    raise ValueError("out of order")


@server.tool()
async def die() -> str:
    """End the server in the middle of the call."""
    os._exit(1)


@server.tool(name="odd name! " + "y" * 80)
def odd() -> str:
    """Have a name that no provider takes."""
    return "odd"


@server.tool(structured_output=False)
def picture() -> Image:
    """Show a picture."""
    return Image(data=b"png", format="png")


@server.tool()
def key(context: Context) -> str:  # type: ignore[type-arg]
    """Tell the header X-Key of this request."""
    return str(context.request_context.request.headers.get("x-key"))


@server.tool()
def seen() -> str:
    """Tell how often `slow` was begun, and how often it was cancelled."""
    return f"{counts['begun']} {counts['cancelled']}"


def main() -> None:
    app = server.streamable_http_app()

    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    bound.listen()
    print(bound.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="on")).run(sockets=[bound])


if __name__ == "__main__":
    main()
