"""Runs one server and ends it when whoever asked for it is gone: a pipe on standard input is the life line.

A program of its own, with the standard library alone: it outlives a killed test run by a moment, to clean up.
Usage: `keeper.py JSON`, with `command`, `environment`, `user` (or null), `log` and `folder`. Prints the process id,
which is that of the group, too. Removes `folder` only when its input ends, not when the server ends.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import suppress


def main() -> int:
    order = json.loads(sys.argv[1])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with open(order["log"], "ab") as log:
        server = subprocess.Popen(
            order["command"],
            cwd=order["folder"],
            env=order["environment"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            user=order["user"],
            group=order["group"],
            extra_groups=[] if order["user"] is not None else None,
        )
    print(server.pid, flush=True)

    ending = threading.Event()

    def end_with_input() -> None:
        while os.read(0, 64):
            pass
        ending.set()
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        shutil.rmtree(order["folder"], ignore_errors=True)

    cleaner = threading.Thread(target=end_with_input, daemon=True)
    cleaner.start()
    code = server.wait()
    if ending.is_set():
        cleaner.join()
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)  # a launcher's child, too
    return abs(code)


if __name__ == "__main__":
    sys.exit(main())
