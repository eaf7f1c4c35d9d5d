"""The pool with real children, against files that mean harm."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from rag.core.errors import EmptyDocument, IngestError, ParserDied, ParserLimit, Unsupported
from rag.parse.base import ParseLimits
from rag.parse.pool import ParsePool
from tests.unit.rag.parse.files import docx, pdf

LIMITS = ParseLimits(memory_bytes=512 << 20, timeout_s=20.0, output_chars=5_000_000)
HOSTILE = Path(__file__).parents[5] / "shared" / "data" / "hostile"


@pytest.fixture
async def pool() -> AsyncIterator[ParsePool]:
    pool = ParsePool(children=1, limits=LIMITS, recycle_files=200)
    await pool.open()
    yield pool
    await pool.close()


def put(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def child() -> psutil.Process:
    found = [p for p in psutil.Process().children() if "rag.parse.child" in p.cmdline()]
    assert len(found) == 1
    return found[0]


async def test_reads_with_one_reused_child(pool: ParsePool, tmp_path: Path) -> None:
    pids = set()
    told: list[tuple[int, int]] = []
    for number in range(3):
        path = put(tmp_path, f"{number}", pdf([(72, 700, 12, f"Number {number} says something.")]))
        document = await pool.parse(path, filename="a.pdf", on_progress=lambda *pages: told.append(pages))
        assert f"Number {number}" in document.elements[0].text
        pids.add(child().pid)
    assert len(pids) == 1
    assert told == [(1, 1)] * 3


async def test_errors_cross_the_pipe_and_the_child_stays(pool: ParsePool, tmp_path: Path) -> None:
    before = child().pid
    for name, content, error in (
        ("a.pdf", b"no pdf at all", IngestError),
        ("a.docx", b"PK\x03\x04broken", IngestError),
        ("a.txt", b"", EmptyDocument),
        ("a.exe", b"MZ", Unsupported),
    ):
        with pytest.raises(error) as caught:
            await pool.parse(put(tmp_path, name, content), filename=name)
        assert caught.value.message.endswith(".")
        assert "Error" not in caught.value.message
        assert not caught.value.retryable
    assert child().pid == before


async def test_a_child_knows_no_secret_and_no_other_file(pool: ParsePool, monkeypatch: pytest.MonkeyPatch) -> None:
    process = child()
    assert set(process.environ()) <= {
        *("HOME", "TMPDIR", "LANG", "LC_CTYPE", "PATH", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE"),
        *("MALLOC_ARENA_MAX", "TOKIO_WORKER_THREADS", "RAYON_NUM_THREADS"),
    }
    assert process.open_files() == []
    assert int(Path(f"/proc/{process.pid}/oom_score_adj").read_text()) > 0


async def test_children_work_below_the_folder_given(tmp_path: Path) -> None:
    pool = ParsePool(children=1, limits=LIMITS, recycle_files=200, tmp_dir=tmp_path)
    await pool.open()
    (folder,) = tmp_path.iterdir()
    assert child().cwd() == child().environ()["TMPDIR"] == str(folder)
    await pool.close()
    assert list(tmp_path.iterdir()) == []


async def test_a_killed_child_is_reported_and_replaced(pool: ParsePool, tmp_path: Path) -> None:
    slow = put(tmp_path, "slow", b"a,b,c\n" + b"1,2,3\n" * 300_000)
    task = asyncio.create_task(pool.parse(slow, filename="slow.csv"))
    await asyncio.sleep(0.2)
    os.kill(child().pid, signal.SIGKILL)
    with pytest.raises(ParserDied) as caught:
        await task
    assert caught.value.retryable
    assert "SIGKILL" in caught.value.message
    document = await pool.parse(put(tmp_path, "b", b"Still alive."), filename="b.txt", alone=True)
    assert document.elements[0].text == "Still alive."


async def test_a_child_that_dies_idle_harms_no_file(pool: ParsePool, tmp_path: Path) -> None:
    os.kill(child().pid, signal.SIGKILL)
    await asyncio.sleep(0.2)
    assert (await pool.parse(put(tmp_path, "b", b"Words."), filename="b.txt")).elements


async def test_too_slow_and_cancelled_files_are_killed_at_once(tmp_path: Path) -> None:
    pool = ParsePool(
        children=1, limits=ParseLimits(memory_bytes=1 << 30, timeout_s=0.3, output_chars=10**9), recycle_files=9
    )
    await pool.open()
    slow = put(tmp_path, "slow", b"a,b,c\n" + b"1,2,3\n" * 1_000_000)
    try:
        begun = time.monotonic()
        with pytest.raises(ParserLimit):
            await pool.parse(slow, filename="slow.csv")
        assert time.monotonic() - begun < 1.3
        task = asyncio.create_task(pool.parse(slow, filename="slow.csv"))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await pool.parse(put(tmp_path, "b", b"Words."), filename="b.txt")).elements
    finally:
        await pool.close()
    assert not [p for p in psutil.Process().children() if "rag.parse.child" in p.cmdline()]


async def test_children_are_replaced_by_count(tmp_path: Path) -> None:
    pool = ParsePool(children=1, limits=LIMITS, recycle_files=2)
    await pool.open()
    path, seen = put(tmp_path, "b", b"Words."), []
    try:
        for _ in range(3):
            await pool.parse(path, filename="b.txt")
            await asyncio.sleep(0.05)
            seen.append([p.pid for p in psutil.Process().children() if "rag.parse.child" in p.cmdline()])
    finally:
        await pool.close()
    assert seen[1] == []
    assert seen[0] != seen[2]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bomb.docx", lambda: docx(body=b"<w:p><w:r><w:t>" + b"a" * (1 << 20) + b"</w:t></w:r></w:p>", times=600)),
        ("random.pdf", lambda: b"%PDF-1.7\n" + os.urandom(200 << 20)),
        ("random.docx", lambda: b"PK\x03\x04" + os.urandom(200 << 20)),
        ("random.txt", lambda: os.urandom(200 << 20)),
        ("deep.xml", lambda: b"<a>" * 500_000 + b"x" + b"</a>" * 500_000),
        ("wide.csv", lambda: b"," * 2_000_000 + b"x\n" + b"y\n" * 2000),
    ],
)
async def test_bombs_end_in_a_sentence(pool: ParsePool, tmp_path: Path, name: str, content: object) -> None:
    assert callable(content)
    path = put(tmp_path, name, content())
    with pytest.raises(IngestError) as caught:
        await pool.parse(path, filename=name)
    assert caught.value.message.endswith(".")
    assert (await pool.parse(put(tmp_path, "b", b"Words."), filename="b.txt")).elements


async def test_entities_are_not_expanded(pool: ParsePool, tmp_path: Path) -> None:
    entities = b'<!ENTITY a "lol">' + b"".join(
        b'<!ENTITY %c "%s">' % (98 + n, b"&%c;" % (97 + n) * 10) for n in range(9)
    )
    bomb = b'<?xml version="1.0"?><!DOCTYPE r [' + entities + b"]><r>&j;</r>"
    outside = b'<?xml version="1.0"?><!DOCTYPE r [<!ENTITY x SYSTEM "file:///etc/passwd">]><r>&x; words</r>'
    for name, content in (("bomb.xml", bomb), ("outside.xml", outside)):
        try:
            text = str(await pool.parse(put(tmp_path, name, content), filename=name))
        except IngestError as error:
            text = error.message
        assert len(text) < 10_000
        assert "root:" not in text


@pytest.mark.shared_data
@pytest.mark.skipif(not HOSTILE.is_dir(), reason="needs ../shared/data/hostile")
async def test_hostile_files_end_in_text_or_a_sentence(pool: ParsePool) -> None:
    files = sorted(HOSTILE.iterdir())
    assert len(files) == 95
    read, sentences = 0, []
    for path in files:
        try:
            document = await pool.parse(path, filename=path.name)
        except IngestError as error:
            sentences.append(error.message)
        else:
            read += bool(document.elements)
    assert read + len(sentences) == len(files)
    assert all(s.endswith(".") and not s.startswith("Parsing error") for s in sentences)
    assert read >= 25
    assert child().is_running()
