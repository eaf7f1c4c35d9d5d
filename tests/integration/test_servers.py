"""The test servers themselves: what every other test on them relies on."""

import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from tests.servers.elastic import Elasticsearch
from tests.servers.fixtures import PrivateServer
from tests.servers.mariadb import Mariadb, connect, fresh_database

_STARTS_ONE = """
import sys, time
from tests.servers.fixtures import PrivateServer
from tests.servers.mariadb import Mariadb
server = Mariadb()
server.start()
print(server.pid, server.folder, flush=True)
time.sleep(60)
"""


def one(url: str, statement: str) -> tuple[object, ...]:
    connection = connect(url)
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return tuple(cursor.fetchone() or ())
    finally:
        connection.close()


def test_both_answer(elasticsearch_url: str, mysql_url: str) -> None:
    with urllib.request.urlopen(f"{elasticsearch_url}/_nodes/_local") as reply:
        assert b'"version":"8.' in reply.read()
    url = fresh_database(mysql_url)
    assert one(url, "SELECT DATABASE()") == (url.rpartition("/")[2],)


def test_a_private_server_keeps_its_data_over_a_kill_and_its_port(private_server: PrivateServer) -> None:
    server = private_server(Mariadb)
    url = fresh_database(server.url)
    one(url, "CREATE TABLE kept (n INT PRIMARY KEY)")
    one(url, "INSERT INTO kept VALUES (7)")
    server.kill()
    assert not psutil.pid_exists(server.pid)
    server.start()
    assert one(url, "SELECT n FROM kept") == (7,)
    server.pause()
    assert psutil.Process(server.pid).status() == psutil.STATUS_STOPPED
    server.resume()
    assert one(url, "SELECT n FROM kept") == (7,)
    server.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="a server is the user of the tests already")
def test_servers_are_not_root(private_server: PrivateServer) -> None:
    assert psutil.Process(private_server(Mariadb).pid).uids().effective != 0


def test_servers_end_when_the_tests_are_killed() -> None:
    run = subprocess.Popen([sys.executable, "-c", _STARTS_ONE], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    pid, folder = run.stdout.readline().split()
    assert psutil.pid_exists(int(pid))
    run.send_signal(signal.SIGKILL)
    run.communicate()
    give_up = time.monotonic() + 10
    while psutil.pid_exists(int(pid)) or Path(folder).exists():
        assert time.monotonic() < give_up
        time.sleep(0.05)


def test_elasticsearch_with_a_login_and_tls(private_server: PrivateServer) -> None:
    server = private_server(lambda: Elasticsearch(secured=True))
    trust = ssl.create_default_context(cafile=server.authority)
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{server.address}/_cluster/health", context=trust)
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        urllib.request.urlopen(f"{server.address}/_cluster/health")
