"""`parley doctor`: each part of this installation, its version, its state, and what to do."""

import shutil
import socket
import sqlite3
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from api import client as http
from api.backends import make_database, make_store
from api.cli_index import NotCompared, look_at_index
from api.db.data_folder import FORMAT, DataFolder
from api.db.services.index_state import advice
from rag.blob.object_store import ObjectBlobStore
from rag.core import blocking
from rag.core.clock import SystemClock
from rag.core.errors import RagError
from rag.core.resources import asset_path
from rag.core.settings import Settings, provider_environment
from rag.llm.minilm import MiniLmEmbedder
from rag.parse.base import ParseLimits
from rag.parse.pool import ParsePool
from rag.store.lance import LanceStore

_LOW_DISK_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One line. `todo` is empty when the part is well."""

    part: str
    version: str
    state: Literal["ok", "warn", "bad"]
    found: str
    todo: str = ""


async def examine(settings: Settings) -> int:
    """Look at everything and print a table; 1 if a part is bad, else 0."""
    table = Table("part", "version", "state", "found", "what to do")
    bad = False
    for look in (_python, _folder, _disk, _rows, _files, _index, _places, _parser, _embedder, _chat, _server):
        finding = await _look(look, settings)
        bad = bad or finding.state == "bad"
        colour = {"ok": "green", "warn": "yellow", "bad": "red"}[finding.state]
        cells = (
            finding.part,
            finding.version,
            f"[{colour}]{finding.state}[/]",
            escape(finding.found),
            escape(finding.todo),
        )
        table.add_row(*cells)
    Console().print(table)
    return 1 if bad else 0


async def _look(look: Callable[[Settings], Awaitable[Finding]], settings: Settings) -> Finding:
    try:
        return await look(settings)
    except RagError as error:
        part = look.__name__.strip("_").replace("places", "index content")
        return Finding(part=part, version="", state="bad", found=str(error), todo="see left")
    except (OSError, sqlite3.Error) as error:
        return Finding(
            part=look.__name__.strip("_"), version="", state="bad", found=str(error), todo="make the folder writable"
        )


async def _python(settings: Settings) -> Finding:
    ok = sys.version_info >= (3, 11)
    return Finding(
        part="python",
        version=sys.version.split()[0],
        state="ok" if ok else "bad",
        found=sys.executable,
        todo="" if ok else "install Python 3.11 and run `make setup`",
    )


async def _folder(settings: Settings) -> Finding:
    folder = DataFolder(settings.data_dir)
    if not settings.data_dir.exists():
        return Finding(
            part="data folder",
            version="",
            state="warn",
            found=f"{settings.data_dir} does not exist",
            todo="`parley serve` makes it",
        )
    text = (folder.path / "format").read_text("ascii").strip()
    ok = text.isdigit() and int(text) <= FORMAT
    return Finding(
        part="data folder",
        version=f"format {text}",
        state="ok" if ok else "bad",
        found=str(settings.data_dir.resolve()),
        todo="" if ok else "it was written by a newer Parley: update this one",
    )


async def _disk(settings: Settings) -> Finding:
    existing = next(p for p in [settings.data_dir.resolve(), *settings.data_dir.resolve().parents] if p.exists())
    free = shutil.disk_usage(existing).free
    ok = free > _LOW_DISK_BYTES
    return Finding(
        part="disk",
        version="",
        state="ok" if ok else "bad",
        found=f"{free / 2**30:.1f} GiB free",
        todo="" if ok else "free some space, or point --data-dir elsewhere",
    )


async def _rows(settings: Settings) -> Finding:
    if settings.rows.url:
        return await _rows_server(settings)
    path = DataFolder(settings.data_dir).rows_path
    if not path.exists():
        return Finding(part="rows", version=f"SQLite {sqlite3.sqlite_version}", state="ok", found="none yet")
    answer = await blocking.run(_quick_check, path)
    return Finding(
        part="rows",
        version=f"SQLite {sqlite3.sqlite_version}",
        state="ok" if answer == "ok" else "bad",
        found=str(path) if answer == "ok" else answer,
        todo="" if answer == "ok" else "restore the folder from a backup",
    )


async def _rows_server(settings: Settings) -> Finding:
    found = await blocking.run(make_database(settings, DataFolder(settings.data_dir)).examine)
    number, _, rest = found.version.partition("-")
    state: Literal["ok", "warn", "bad"] = "ok"
    todo = ""
    if found.schema > found.newest:
        state, todo = "bad", "a newer Parley wrote it: update this one, or name another database"
    elif 0 < found.schema < found.newest:
        state, todo = "warn", "the next start of `parley serve` brings the schema up to date"
    return Finding(
        part="rows",
        version=f"{'MariaDB' if 'mariadb' in rest.lower() else 'MySQL'} {number}",
        state=state,
        found=f"{settings.rows.url}, schema {found.schema} of {found.newest}",
        todo=todo,
    )


def _quick_check(path: Path) -> str:
    """`ok`, or what SQLite finds wrong with the file."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    finally:
        connection.close()


async def _files(settings: Settings) -> Finding:
    path = DataFolder(settings.data_dir).files_path
    if not path.exists():
        return Finding(part="files", version=f"obstore {version('obstore')}", state="ok", found="none yet")
    found = await ObjectBlobStore.in_folder(path).check()
    return Finding(part="files", version=f"obstore {version('obstore')}", state="ok", found=found)


async def _index(settings: Settings) -> Finding:
    if settings.index.url:
        return await _index_server(settings)
    path = DataFolder(settings.data_dir).index_path
    if not path.exists():
        return Finding(part="index", version=f"LanceDB {version('lancedb')}", state="ok", found="none yet")
    store = LanceStore(path, clock=SystemClock())
    await store.open()
    found = await store.check()
    return Finding(part="index", version=f"LanceDB {version('lancedb')}", state="ok", found=found)


async def _index_server(settings: Settings) -> Finding:
    store = make_store(settings, DataFolder(settings.data_dir), SystemClock(), cache_bytes=0)
    await store.open()
    try:
        found = await store.check()
    finally:
        await store.close()
    return Finding(
        part="index", version=found, state="ok", found=f"{settings.index.url}, prefix {settings.index.prefix}"
    )


async def _places(settings: Settings) -> Finding:
    """Whether the index holds what the rows say."""
    if not settings.rows.url and not DataFolder(settings.data_dir).rows_path.exists():
        return Finding(part="index content", version="", state="ok", found="none yet")
    try:
        _, places = await look_at_index(settings)
    except NotCompared as reason:
        return Finding(part="index content", version="", state="ok" if reason.empty else "warn", found=reason.message)
    todo = advice(places)
    chunks = sum(place.chunks for place in places)
    return Finding(
        part="index content",
        version="",
        state="bad" if todo else "ok",
        found=todo or f"all {chunks:,} chunks of {len(places)} places can be found",
        todo="`parley index rebuild`" if todo else "",
    )


async def _parser(settings: Settings) -> Finding:
    ingest = settings.ingest
    limits = ParseLimits(memory_bytes=ingest.parse_memory_bytes, timeout_s=30, output_chars=100_000)
    pool = ParsePool(children=1, limits=limits, recycle_files=1)
    sample = Path(__file__).resolve()
    await pool.open()
    try:
        parsed = await pool.parse(sample, filename="sample.txt")
    finally:
        await pool.close()
    ok = bool(parsed.elements)
    return Finding(
        part="parser",
        version=f"xberg {version('xberg')}",
        state="ok" if ok else "bad",
        found="a parser process read a sample" if ok else "it read nothing from a sample",
        todo="" if ok else "run `make setup` again",
    )


async def _embedder(settings: Settings) -> Finding:
    embedder = MiniLmEmbedder(asset_path("minilm"), threads=1, batch_tokens=settings.ingest.embed_batch_tokens)
    embedder.open()
    vectors = embedder.encode(["a sample"]).vectors
    return Finding(
        part="embeddings",
        version=f"onnxruntime {version('onnxruntime')}",
        state="ok",
        found=f"{embedder.name}, {vectors.shape[1]} dimensions",
    )


async def _chat(settings: Settings) -> Finding:
    keys = provider_environment(settings)
    if keys:
        return Finding(
            part="chat model",
            version=f"litellm {version('litellm')}",
            state="ok",
            found=f"{settings.models.chat or settings.models.openai_chat}; {', '.join(sorted(keys))} set",
        )
    return Finding(
        part="chat model",
        version="builtin",
        state="ok",
        found="extractive@Builtin quotes the documents",
        todo="for written answers set OPENAI_API_KEY in .env (optional)",
    )


async def _server(settings: Settings) -> Finding:
    folder = DataFolder(settings.data_dir)
    running = folder.running_server()
    if running is not None:
        async with http.connected(running.url, folder.key_path) as client:
            state = await client.ready()
        ready = state.get("status") == "ready"
        return Finding(
            part="server",
            version=version("parley"),
            state="ok" if ready else "warn",
            found=f"{running.url}, process {running.pid}: {state.get('status')}",
            todo="" if ready else f"wait, or read its output: {state}",
        )
    free = _port_is_free(settings.server.host, settings.server.port)
    return Finding(
        part="server",
        version=version("parley"),
        state="ok" if free else "warn",
        found="not running" if free else f"not running, and port {settings.server.port} is taken",
        todo="`parley serve` starts it" if free else "`parley serve --port 0` takes a free port",
    )


def _port_is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
