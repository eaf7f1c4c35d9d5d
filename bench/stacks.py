"""What the servers add to the first token: Elasticsearch and MariaDB next to the embedded backends, one user.

Both hold the same report and are asked the same questions in turn, so that the machine's moods meet both.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from bench.harness import Row, Server, call, ingest, median, publish, quantile
from bench.reports import PDFS, REPORT, first_text_ms, make_chat, questions, read
from tests.servers.elastic import Elasticsearch, fresh_prefix
from tests.servers.mariadb import Mariadb, fresh_database

ROUNDS = 3
ADDED_MS = 40


@contextmanager
def servers() -> Iterator[tuple[str, str]]:
    """Addresses of an Elasticsearch and of a MariaDB: given ones, or servers of our own."""
    with ExitStack() as stack:
        urls = []
        for name, make in (("PARLEY_TEST_ELASTICSEARCH_URL", Elasticsearch), ("PARLEY_TEST_MYSQL_URL", Mariadb)):
            if given := os.environ.get(name):
                urls.append(given)
                continue
            own = make()
            stack.callback(own.close)
            own.start()
            urls.append(own.url)
        yield urls[0], urls[1]


@contextmanager
def loaded(folder: Path, environ: dict[str, str]) -> Iterator[tuple[httpx.Client, str, str]]:
    """A warm server that holds the report: client, dataset and chat."""
    running = Server(folder, environ)
    try:
        running.wait("/readyz")
        with running.client() as client:
            dataset = call(client, "POST", "/api/v1/datasets", json={"name": "one"})["id"]
            ingest(client, dataset, read([PDFS / REPORT]))
            yield client, dataset, make_chat(client, dataset)
    finally:
        running.stop()


def search_ms(client: httpx.Client, dataset: str, question: str) -> float:
    """One retrieval over HTTP."""
    began = time.perf_counter()
    call(client, "POST", "/api/v1/retrieval", json={"dataset_ids": [dataset], "question": question})
    return (time.perf_counter() - began) * 1000


def main() -> bool:
    names = ("embedded", "servers")
    first: dict[str, list[float]] = {name: [] for name in names}
    search: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(prefix="parley-bench-") as folder, servers() as (elastic, mysql):
        away = {
            "PARLEY_INDEX__URL": elastic,
            "PARLEY_INDEX__PREFIX": fresh_prefix(),
            "PARLEY_ROWS__URL": fresh_database(mysql),
        }
        with (
            loaded(Path(folder) / "embedded", {}) as embedded,
            loaded(Path(folder) / "servers", away) as distant,
        ):
            time.sleep(40)  # the index is compacted when the worker has been idle for a while
            for number in range(ROUNDS + 1):
                for item in questions():
                    for name, (client, dataset, chat) in zip(names, (embedded, distant), strict=True):
                        tokens_ms = first_text_ms(client, chat, item["question"])
                        searched_ms = search_ms(client, dataset, item["question"])
                        if number:  # the first round warms both
                            first[name].append(tokens_ms)
                            search[name].append(searched_ms)
    rows = []
    for name in names:
        found = f"{median(first[name]):.0f} ms (p95 {quantile(first[name], 0.95):.0f})"
        rows.append(Row(f"first token, {name}, p50", found, "", None))
        found = f"{median(search[name]):.1f} ms (p95 {quantile(search[name], 0.95):.1f})"
        rows.append(Row(f"retrieval, {name}, p50", found, "", None))
    added = median(first["servers"]) - median(first["embedded"])
    rows.append(Row("first token, added by the servers", f"{added:.0f} ms", f"<= {ADDED_MS} ms", added <= ADDED_MS))
    return publish("stacks", rows)


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
