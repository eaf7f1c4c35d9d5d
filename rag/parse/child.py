"""A parser process: reads requests from its standard input, parses, answers on its standard output.

Started by `pool.py` as `python -m rag.parse.child MEMORY_BYTES TIMEOUT_S OUTPUT_CHARS`. It ends when its input
ends, so it never outlives the process that started it.
"""

import asyncio
import ctypes
import os
import queue
import resource
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import orjson

from rag.core.errors import IngestError, ParserLimit
from rag.parse.base import ParseLimits, Parser
from rag.parse.failures import BROKEN, NO_MEMORY
from rag.parse.wire import HEADER, document_message, error_message, frame

_PR_SET_PDEATHSIG = 1
_OOM_SCORE = "900"
_MAX_OPEN_FILES = 128
_MAX_WRITTEN_FILE = 1 << 30


def main() -> None:
    """Serve until the input ends."""
    memory_bytes, timeout_s, output_chars = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    answers = _private_output()
    requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    _die_with_parent()
    threading.Thread(target=_read_requests, args=(requests,), daemon=True).start()
    parser = _warm_parser(ParseLimits(memory_bytes=memory_bytes, timeout_s=timeout_s, output_chars=output_chars))
    start = _address_space()
    _limit(start + memory_bytes)
    _send(answers, {"ready": True})
    while True:
        request = requests.get()
        _send(answers, {"begin": True})
        answer = _answer(parser, request)
        answer["grown"] = _address_space() - start
        _send(answers, answer)


def _answer(parser: Parser, request: dict[str, Any]) -> dict[str, Any]:
    try:
        document = parser.parse(Path(request["path"]), filename=request["filename"])
        return {"document": document_message(document)}
    except IngestError as error:
        return {"error": error_message(error)}
    except MemoryError:
        return {"error": error_message(ParserLimit(NO_MEMORY)), "worn": True}
    # The loop of a worker, and of the least trusted one: native code may also raise panics, which are no Exceptions.
    except BaseException as error:  # noqa: BLE001
        name = Path(request["filename"]).suffix.removeprefix(".").upper()[:20]
        reason = f"{type(error).__name__}: {error}"[:500]
        return {"error": error_message(IngestError(BROKEN.format(name=name), reason=reason)), "worn": True}


def _warm_parser(limits: ParseLimits) -> Parser:
    """The parser, its library loaded and its threads started, so that they do not count against the first file."""
    import xberg

    from rag.parse.xberg_parser import XbergParser

    source = xberg.ExtractInput(kind=xberg.ExtractInputKind.BYTES, bytes=b"warm", mime_type="text/plain")
    asyncio.run(xberg.extract(source, xberg.ExtractionConfig(use_cache=False)))
    return XbergParser(limits)


def _private_output() -> int:
    """The descriptor of the answers; whatever else prints goes to the error output."""
    answers = os.dup(1)
    os.dup2(2, 1)
    return answers


def _read_requests(requests: "queue.SimpleQueue[dict[str, Any]]") -> None:
    """End of input ends the process at once, also in the middle of a file."""
    source = os.fdopen(0, "rb", closefd=False)
    while True:
        header = source.read(HEADER.size)
        body = source.read(HEADER.unpack(header)[0]) if len(header) == HEADER.size else b""
        if not body:
            os._exit(0)
        requests.put(orjson.loads(body))


def _send(descriptor: int, message: dict[str, Any]) -> None:
    data = memoryview(frame(message))
    while data:
        data = data[os.write(descriptor, data) :]


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        try:
            Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)
        except OSError:
            # Only a wish: where it is not allowed, the limits below still hold.
            return


def _limit(address_space: int) -> None:
    for what, most in (
        (resource.RLIMIT_AS, address_space),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, _MAX_WRITTEN_FILE),
        (resource.RLIMIT_NOFILE, _MAX_OPEN_FILES),
    ):
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        try:
            resource.setrlimit(what, (most, most))
        except (ValueError, OSError):
            # macOS refuses a limit of the address space; time and output stay limited there.
            continue


def _address_space() -> int:
    """Bytes of address space in use; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


if __name__ == "__main__":
    main()
