import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from api.db import private_files
from api.db.data_folder import FORMAT, DataFolder, FileLock, ServerInfo
from rag.core.clock import SystemClock
from rag.core.errors import Conflict, InvalidInput, StoreUnavailable

ROOT = Path(__file__).parents[4]


def prepared(tmp_path: Path) -> DataFolder:
    folder = DataFolder(tmp_path / "data")
    folder.prepare()
    return folder


def test_a_fresh_folder_gets_its_format_and_parts(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "deep" / "data")
    assert folder.format_version() is None
    assert folder.prepare() == FORMAT
    assert folder.format_version() == FORMAT
    assert folder.files_path.is_dir()
    assert folder.tmp_path.is_dir()
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    assert folder.prepare() == FORMAT


def test_an_older_folder_is_upgraded_step_by_step(tmp_path: Path) -> None:
    folder = prepared(tmp_path)
    steps = []
    upgrades = {n: (lambda path, n=n: steps.append((n, path))) for n in range(1, 4)}
    assert folder.prepare(newest=4, upgrades=upgrades) == 1
    assert steps == [(1, folder.path), (2, folder.path), (3, folder.path)]
    assert folder.format_version() == 4


def test_an_upgrade_that_breaks_off_goes_on_where_it_was(tmp_path: Path) -> None:
    folder = prepared(tmp_path)

    def fails(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StoreUnavailable, match="No space left"):
        folder.prepare(newest=3, upgrades={1: lambda path: None, 2: fails})
    assert folder.format_version() == 2
    assert folder.prepare(newest=3, upgrades={2: lambda path: None}) == 2
    assert folder.format_version() == 3


@pytest.mark.parametrize(
    ("text", "says"), [(str(FORMAT + 1), "newer version"), ("one", "Restore"), ("", "Restore"), ("-1", "Restore")]
)
def test_a_newer_or_unreadable_format_is_refused(tmp_path: Path, text: str, says: str) -> None:
    folder = prepared(tmp_path)
    (folder.path / "format").write_text(text)
    with pytest.raises(InvalidInput, match=says):
        folder.prepare()


def test_rows_without_a_format_are_refused(tmp_path: Path) -> None:
    folder = prepared(tmp_path)
    (folder.path / "format").unlink()
    folder.rows_path.write_bytes(b"")
    with pytest.raises(InvalidInput, match="'format' is missing"):
        folder.prepare()


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InvalidInput, match="cannot be used: Not a directory") as caught:
        DataFolder(tmp_path / "file" / "data").prepare()
    assert "\n" not in caught.value.message


def test_a_full_disk_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreUnavailable, match="No space left"):
        DataFolder(tmp_path / "data").prepare()


def test_a_second_server_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    folder = prepared(tmp_path)
    with folder.lock_serve():
        with pytest.raises(Conflict, match=f"process {os.getpid()}") as caught:
            DataFolder(folder.path).lock_serve()
        assert caught.value.facts["pid"] == os.getpid()
    folder.lock_serve().release()


def test_a_killed_holder_frees_the_lock_and_its_note_does_not_count(tmp_path: Path) -> None:
    folder = prepared(tmp_path)
    code = (
        "import sys, os, time; from pathlib import Path; from api.db.data_folder import DataFolder, ServerInfo\n"
        "f = DataFolder(Path(sys.argv[1])); lock = f.lock_serve()\n"
        "f.write_server(ServerInfo(pid=os.getpid(), url='http://127.0.0.1:1'))\n"
        "print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(folder.path)], stdout=subprocess.PIPE, cwd=ROOT) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        assert folder.running_server() == ServerInfo(pid=child.pid, url="http://127.0.0.1:1")
        with pytest.raises(Conflict, match=str(child.pid)):
            folder.lock_serve()
        child.send_signal(signal.SIGKILL)
    assert folder.running_server() is None
    folder.lock_serve().release()


def test_a_worker_lock_can_be_tried(tmp_path: Path) -> None:
    folder = prepared(tmp_path)
    first, second = folder.worker_lock(), folder.worker_lock()
    assert not first.is_held()
    assert first.acquire()
    assert second.is_held()
    assert not second.acquire()
    first.release()
    first.release()
    assert second.acquire()
    second.release()


def test_the_lock_of_a_missing_file_is_free(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "none")
    assert not lock.is_held()
    assert lock.holder() is None


def test_the_secret_is_made_once_and_private(tmp_path: Path) -> None:
    folder = prepared(tmp_path)
    secret = folder.secret()
    assert len(secret) >= 43
    assert DataFolder(folder.path).secret() == secret
    assert stat.S_IMODE(folder.secret_path.stat().st_mode) == 0o600


def test_processes_that_make_a_secret_at_once_agree(tmp_path: Path) -> None:
    made: list[str] = []
    start = threading.Barrier(8)

    def make(number: int) -> None:
        start.wait()
        made.append(private_files.create_private(tmp_path / "secret", lambda: f"secret {number}"))

    threads = [threading.Thread(target=make, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret"]


def test_the_first_key_is_private_and_may_be_removed(tmp_path: Path) -> None:
    folder = prepared(tmp_path)
    assert folder.first_key() is None
    folder.write_first_key("parley-abc")
    assert folder.first_key() == "parley-abc"
    assert stat.S_IMODE(folder.key_path.stat().st_mode) == 0o600
    folder.key_path.unlink()
    assert folder.first_key() is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x", "url": 1}', '{"pid": 1}'])
def test_a_broken_server_note_is_no_server(tmp_path: Path, text: str) -> None:
    folder = prepared(tmp_path)
    with folder.lock_serve():
        (folder.path / "server.json").write_text(text)
        assert folder.running_server() is None
        folder.remove_server()
        folder.remove_server()
        assert folder.running_server() is None


def test_only_old_uploads_are_swept(tmp_path: Path) -> None:
    folder = prepared(tmp_path)
    (folder.tmp_path / "upload").mkdir()
    (folder.files_path / "staging").mkdir()
    (folder.files_path / "ab").mkdir()
    old, staged = folder.tmp_path / "upload" / "old", folder.files_path / "staging" / "x"
    new, stored = folder.tmp_path / "new", folder.files_path / "ab" / "stored"
    long_ago = datetime(2020, 1, 1, tzinfo=UTC).timestamp()
    for path in (old, staged, new, stored):
        path.write_bytes(b"x")
        if path != new:
            os.utime(path, (long_ago, long_ago))
    assert folder.sweep_tmp(SystemClock()) == 2
    assert [path.exists() for path in (old, staged, new, stored)] == [False, False, True, True]
