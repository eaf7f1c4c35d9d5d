"""Starting and stopping `parley serve`: each obstacle is one line and a non-zero exit; a stop ends streams first."""

import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.e2e.serving import ROOT, Serving, environment, parley


def one_line(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode != 0
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("parley: ")
    return lines[0]


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = one_line(parley("serve", "--port", str(port), "--data-dir", tmp_path / "data"))
    assert f"127.0.0.1:{port}" in line
    assert "--port" in line


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert "--data-dir" in one_line(parley("serve", "--port", "0", "--data-dir", tmp_path / "file"))


def test_a_newer_format(tmp_path: Path) -> None:
    (tmp_path / "format").write_text("99\n")
    assert "99" in one_line(parley("serve", "--port", "0", "--data-dir", tmp_path))


def test_addresses_others_can_reach_need_a_word(tmp_path: Path) -> None:
    line = one_line(parley("serve", "--host", "0.0.0.0", "--port", "0", "--data-dir", tmp_path / "data"))
    assert "PARLEY_AUTH__ALLOW_NON_LOOPBACK" in line


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    running = Serving(tmp_path / "data")
    yield running
    if running.process.poll() is None:
        running.stop()


def test_a_second_server_on_one_folder(serving: Serving) -> None:
    line = one_line(parley("serve", "--port", "0", "--data-dir", serving.data_dir))
    assert str(serving.process.pid) in line


def test_files_with_secrets_are_private(serving: Serving) -> None:
    for name in ("key", "secret", "server.json"):
        assert stat.S_IMODE((serving.data_dir / name).stat().st_mode) == 0o600


def test_the_worker_comes_back_and_goes_with_the_server(serving: Serving) -> None:
    web = psutil.Process(serving.process.pid)

    def workers() -> list[psutil.Process]:
        return [child for child in web.children() if child.status() != psutil.STATUS_ZOMBIE]

    deadline = time.monotonic() + 20
    while not workers():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    first = workers()[0]
    first.kill()
    while not [worker for worker in workers() if worker.pid != first.pid]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (second,) = [worker for worker in workers() if worker.pid != first.pid]
    code, output = serving.stop()
    assert code == 0, output
    assert "Traceback" not in output
    assert not second.is_running()
    assert not (serving.data_dir / "server.json").exists()


def test_a_killed_server_takes_its_worker_along(serving: Serving) -> None:
    web = psutil.Process(serving.process.pid)
    deadline = time.monotonic() + 20
    while not web.children():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (worker,) = web.children()
    serving.kill()
    worker.wait(timeout=60)


def test_a_large_refused_body_still_gets_its_answer(serving: Serving) -> None:
    """The client writes all of it before it reads; the server must not stop reading, nor keep it."""
    before = psutil.Process(serving.process.pid).memory_info().rss

    def pieces() -> Iterator[bytes]:
        yield b'--edge\r\nContent-Disposition: form-data; name="parent_path"\r\n\r\n'
        for _ in range(200):
            yield b"x" * (1 << 20)

    headers = {"Content-Type": "multipart/form-data; boundary=edge", "Authorization": f"Bearer {serving.key}"}
    with httpx.Client(base_url=serving.url, timeout=60, trust_env=False) as client:
        response = client.post("/api/v1/datasets/x/documents", content=pieces(), headers=headers)
        assert response.status_code == 413
        anonymous = client.post(
            "/api/v1/datasets/x/documents", content=pieces(), headers=headers | {"Authorization": "Bearer no"}
        )
        assert anonymous.json()["code"] == 109
        assert client.get("/healthz").status_code == 200
    grown = psutil.Process(serving.process.pid).memory_info().rss - before
    assert grown < 400 << 20, "loading the models takes part of this; 200 MB bodies must not"


def test_a_server_inside_a_command(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys, urllib.request\n"
        "from api.serve import running_server\n"
        "from rag.core.settings import load_settings\n"
        "async def main():\n"
        "    settings = load_settings({'data_dir': sys.argv[1]})\n"
        "    async with running_server(settings) as url:\n"
        "        read = lambda: urllib.request.urlopen(url + '/healthz').status\n"
        "        print(await asyncio.to_thread(read))\n"
        "asyncio.run(main())\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "data")],
        cwd=ROOT,
        env=environment() | {"PYTHONPATH": os.fspath(ROOT)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert result.stdout.strip().startswith("200"), result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "data" / "server.json").exists()
