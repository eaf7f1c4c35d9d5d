"""The `parley` command as a newcomer types it: real processes, real sockets, real files."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.serving import ROOT, Serving, environment, parley

TEXT = (
    "The Aldermoor bridge was opened in 1932. It carries two lanes of traffic over the river Wend.\n\n"
    "The bridge is painted green every seven years. The paint costs 41,000 pounds.\n"
)


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    running = Serving(tmp_path_factory.mktemp("cli") / "data")
    yield running
    if running.process.poll() is None:
        running.stop()


@pytest.fixture(scope="module")
def bridge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    (folder / "bridge.txt").write_text(TEXT)
    return folder / "bridge.txt"


def test_ingest_search_ask_with_a_running_server(serving: Serving, bridge: Path) -> None:
    done = parley("ingest", "bridges", bridge, "--data-dir", serving.data_dir)
    assert done.returncode == 0, done.stderr
    assert "1 of 1 files can be searched in 'bridges'" in done.stderr

    found = parley("search", "bridges", "When was the bridge opened?", "--data-dir", serving.data_dir)
    assert found.returncode == 0, found.stderr
    assert "bridge.txt" in found.stdout
    assert "1932" in found.stdout

    answer = parley("ask", "bridges", "When was the Aldermoor bridge opened?", "--data-dir", serving.data_dir)
    assert answer.returncode == 0, answer.stderr
    text, _, sources = answer.stdout.partition("Sources")
    assert "1932" in text
    assert "[ID:0]" in text
    assert "bridge.txt" in sources


def test_what_fails_is_told_by_the_exit_code_and_in_words(serving: Serving, bridge: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.pdf"
    broken.write_bytes(b"%PDF-1.7 this is not one")
    program = tmp_path / "program.exe"
    program.write_bytes(b"MZ")
    result = parley("ingest", "mixed", broken, program, bridge, tmp_path / "absent", "--data-dir", serving.data_dir)
    assert result.returncode == 1
    assert "1 of 4 files" in result.stderr
    assert "Traceback" not in result.stderr
    for name in ("broken.pdf", "program.exe", "absent"):
        assert f"{name}:" in result.stderr


def test_an_unknown_dataset_is_named(serving: Serving) -> None:
    for command in ("search", "ask"):
        result = parley(command, "no such dataset", "why?", "--data-dir", serving.data_dir)
        assert result.returncode == 1
        assert "'no such dataset'" in result.stderr
        assert "Traceback" not in result.stderr


def test_a_second_serve_on_the_folder_is_one_line(serving: Serving) -> None:
    result = parley("serve", "--port", "0", "--data-dir", serving.data_dir)
    assert result.returncode != 0
    assert str(serving.process.pid) in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_keys_are_shown_once_listed_masked_and_revoked(serving: Serving) -> None:
    created = parley("token", "create", "--name", "mine", "--data-dir", serving.data_dir)
    key = created.stdout.strip()
    assert created.stdout == key + "\n"
    assert key.startswith("ragflow-")
    assert len(key) == len("ragflow-") + 43
    listed = parley("token", "list", "--data-dir", serving.data_dir)
    assert key not in listed.stdout
    assert "mine" in listed.stdout
    assert parley("token", "revoke", key, "--data-dir", serving.data_dir).returncode == 0
    again = parley("token", "revoke", key, "--data-dir", serving.data_dir)
    assert again.returncode == 1
    assert key not in parley("token", "list", "--data-dir", serving.data_dir).stdout


def test_doctor_finds_everything_well(serving: Serving) -> None:
    result = parley("doctor", "--data-dir", serving.data_dir)
    assert result.returncode == 0, result.stdout + result.stderr
    for part in ("rows", "files", "index", "parser", "embeddings", "chat model", "server"):
        assert part in result.stdout


def test_without_a_server_the_commands_work_in_process(tmp_path: Path, bridge: Path) -> None:
    data = tmp_path / "data"
    assert parley("ingest", "alone", bridge, "--data-dir", data).returncode == 0
    answer = parley("ask", "alone", "How often is the bridge painted?", "--data-dir", data)
    assert answer.returncode == 0, answer.stderr
    assert "seven years" in answer.stdout
    assert not (data / "server.json").exists(), "the private server went with its command"


def test_a_stopped_server_ends_well_and_leaves_no_process(tmp_path: Path) -> None:
    running = Serving(tmp_path / "data")
    code, output = running.stop()
    assert code == 0, output
    assert "Traceback" not in output
    assert not (tmp_path / "data" / "server.json").exists()
    left = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True, check=False).stdout
    assert left == ""


def test_the_banner_says_address_link_and_key(tmp_path: Path) -> None:
    running = Serving(tmp_path / "data")
    state = json.loads((tmp_path / "data" / "server.json").read_text())
    _, output = running.stop()
    assert state["url"] in output
    assert "?token=" in output
    assert str(tmp_path / "data" / "key") in output
    assert (tmp_path / "data" / "key").stat().st_mode & 0o777 == 0o600


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = parley("serve", "--port", str(port), "--data-dir", tmp_path / "data")
    assert result.returncode != 0
    assert str(port) in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("a file where the folder should be")
    result = parley("serve", "--port", "0", "--data-dir", blocked / "data")
    assert result.returncode != 0
    assert str(blocked) in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_newer_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert parley("token", "create", "--data-dir", data).returncode == 0
    (data / "format").write_text("999\n")
    result = parley("serve", "--port", "0", "--data-dir", data)
    assert result.returncode != 0
    assert "999" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_anything_but_loopback_is_refused_without_a_policy(tmp_path: Path) -> None:
    result = parley("serve", "--host", "0.0.0.0", "--port", "0", "--data-dir", tmp_path / "data")
    assert result.returncode != 0
    assert "PARLEY_AUTH__ALLOW_NON_LOOPBACK" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_settings_that_cannot_be_used_are_one_line(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "api.cli", "serve", "--data-dir", str(tmp_path / "d")],
        cwd=ROOT,
        env=environment() | {"PARLEY_SERVER__PRT": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 2
    assert "PARLEY_SERVER__PRT" in result.stderr
    assert "Traceback" not in result.stderr
