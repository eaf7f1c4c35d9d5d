"""The rows' server is down at the start, goes later, stalls, or refuses us: clear errors soon, no restart needed."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.serving import Serving, call, parley, wait_ended
from tests.servers.fixtures import PrivateServer
from tests.servers.mariadb import PASSWORD, Mariadb, connect, fresh_database

_SOON_S = 5.0
_BACK_S = 15.0


@contextmanager
def serving(folder: Path, url: str) -> Iterator[Serving]:
    running = Serving(folder / "data", env={"PARLEY_ROWS__URL": url, "PARLEY_LOG__LEVEL": "info"})
    try:
        yield running
    finally:
        code, output = running.stop()
        assert code == 0, output
        assert PASSWORD not in output
        assert "Traceback" not in output, output


def readiness(server: Serving) -> tuple[int, dict[str, Any]]:
    reply = httpx.get(f"{server.url}/readyz", trust_env=False, timeout=30)
    return reply.status_code, reply.json()


def wait_until_ready(server: Serving) -> None:
    give_up = time.monotonic() + _BACK_S
    while (found := readiness(server))[0] != 200:
        assert time.monotonic() < give_up, found
        time.sleep(0.1)


def wait_until_away(server: Serving) -> dict[str, Any]:
    give_up = time.monotonic() + _BACK_S
    while (found := readiness(server))[0] == 200:
        assert time.monotonic() < give_up
        time.sleep(0.1)
    return found[1]


def refused(server: Serving, key: str = "any") -> str:
    """The message of a contract call that the rows are needed for; it comes soon, and in the contract's envelope."""
    began = time.monotonic()
    reply = httpx.get(
        f"{server.url}/api/v1/datasets", headers={"Authorization": f"Bearer {key}"}, trust_env=False, timeout=30
    )
    assert time.monotonic() - began < _SOON_S
    body = reply.json()
    assert reply.status_code == 200, body
    assert body["code"] == 500, body
    return str(body["message"])


def refused_at_openai(server: Serving) -> httpx.Response:
    body = {"model": "extractive@Builtin", "messages": [{"role": "user", "content": "Hello?"}]}
    return httpx.post(
        f"{server.url}/v1/chat/completions",
        json=body,
        headers={"Authorization": "Bearer any"},
        trust_env=False,
        timeout=_SOON_S,
    )


def ingested(client: httpx.Client, name: str) -> None:
    """A document goes all the way."""
    dataset = call(client, "POST", "/api/v1/datasets", json={"name": name})["id"]
    path = f"/api/v1/datasets/{dataset}"
    uploaded = call(client, "POST", f"{path}/documents", files={"file": ("a.txt", b"The sea is wide.")})
    call(client, "POST", f"{path}/chunks", json={"document_ids": [uploaded[0]["id"]]})
    assert [document["run"] for document in wait_ended(client, dataset)] == ["DONE"]


def test_down_at_the_start_and_up_later(tmp_path: Path, private_server: PrivateServer) -> None:
    server = private_server(Mariadb)
    url = fresh_database(server.url)
    server.kill()
    with serving(tmp_path, url) as running:
        assert httpx.get(f"{running.url}/healthz", trust_env=False).status_code == 200
        body = wait_until_away(running)
        assert "rows" in body["missing"]
        assert "cannot be reached" in body["failed"]["rows"]
        assert "cannot be reached" in refused(running)
        assert refused_at_openai(running).status_code == 503
        assert httpx.get(f"{running.url}/", trust_env=False).status_code == 200
        assert "parley_ready 0.0" in httpx.get(f"{running.url}/metrics", trust_env=False).text
        server.start()
        wait_until_ready(running)
        with running.client() as client:
            ingested(client, "after the start")


def test_goes_and_stalls_while_it_serves(tmp_path: Path, private_server: PrivateServer) -> None:
    server = private_server(Mariadb)
    with serving(tmp_path, fresh_database(server.url)) as running:
        wait_until_ready(running)
        with running.client() as client:
            for number, (away, back) in enumerate([(server.kill, server.start), (server.pause, server.resume)]):
                away()
                with ThreadPoolExecutor(12) as pool:  # more than there are threads for rows
                    messages = list(pool.map(lambda _: refused(running, running.key), range(24)))
                assert all(running.data_dir.name not in message and "127.0.0.1" in message for message in messages)
                assert "rows" in wait_until_away(running)["failed"]
                assert httpx.get(f"{running.url}/healthz", trust_env=False).status_code == 200
                back()
                wait_until_ready(running)
                ingested(client, f"after {number}")


def test_a_server_that_refuses_us_ends_the_start_with_a_line(tmp_path: Path, mysql_url: str) -> None:
    url = fresh_database(mysql_url)
    newer = fresh_database(mysql_url)
    connection = connect(newer)
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE schema_migration (number INTEGER PRIMARY KEY, applied_at BIGINT)")
        cursor.execute("INSERT INTO schema_migration VALUES (9999, 0)")
    connection.close()
    login = url.partition("//")[2].partition("@")[0]
    for wrong, words in (
        (url.replace(login, "parley:not-the-password"), "rows.password"),
        (url.replace(login, "nobody:not-the-password"), "rows.password"),
        (url + "_absent", "CREATE DATABASE"),
        (newer, "newer version"),
    ):
        for command in (["serve", "--port", "0"], ["worker"], ["token", "list"]):
            done = parley(*command, "--data-dir", tmp_path / "data", env={"PARLEY_ROWS__URL": wrong})
            assert done.returncode == 1, done
            assert words in done.stderr, done.stderr
            assert "not-the-password" not in done.stderr + done.stdout
            assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [["token", "list"], ["search", "a", "b"]])
def test_a_command_does_not_wait(tmp_path: Path, command: list[str]) -> None:
    began = time.monotonic()
    url = "mysql://parley@127.0.0.1:1/parley"
    done = parley(*command, "--data-dir", tmp_path / "data", env={"PARLEY_ROWS__URL": url})
    assert done.returncode == 1
    assert "cannot be reached" in done.stderr
    assert time.monotonic() - began < 15


def test_the_doctor_tells_each_servers_state_and_no_password(tmp_path: Path, mysql_url: str) -> None:
    url = fresh_database(mysql_url)
    folder = tmp_path / "data"
    good = parley("doctor", "--data-dir", folder, env={"PARLEY_ROWS__URL": url}).stdout
    assert "MariaDB" in good
    assert f"{url.partition('@')[2]}, schema 0 of " in good
    login = url.partition("//")[2].partition("@")[0]
    servers = {
        "PARLEY_ROWS__URL": url.replace(login, "parley:not-the-password"),
        "PARLEY_INDEX__URL": "http://parley:not-the-password@127.0.0.1:1",
    }
    bad = parley("doctor", "--data-dir", folder, env=servers)
    assert bad.returncode == 1
    assert "refuses the login" in bad.stdout
    assert "Elasticsearch at http://127.0.0.1:1 cannot be reached" in bad.stdout
    for told in (good, bad.stdout, bad.stderr):
        assert "not-the-password" not in told
        assert PASSWORD not in told
