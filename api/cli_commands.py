"""What the commands do. They talk to the server of the data folder if one runs, else start one for the call."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from api import client as http
from api.backends import make_database
from api.db.data_folder import DataFolder
from api.db.services.token_service import TokenService
from api.db.services.user_service import UserService
from rag.core.clock import Clock, SystemClock
from rag.core.errors import NotFound, RagError
from rag.core.settings import Settings
from rag.core.types import Principal

_POLL_S = 0.25
_IN_FLIGHT = 8


@asynccontextmanager
async def server_of(settings: Settings) -> AsyncIterator[http.ApiClient]:
    """A client of the data folder's server; without one, a private server on a free loopback port for this call."""
    folder = DataFolder(settings.data_dir)
    running = folder.running_server()
    if running is not None:
        async with http.connected(running.url, folder.key_path) as client:
            yield client
        return
    from api.serve import running_server  # costs 0.9 s, and only this branch needs it

    async with running_server(settings) as url, http.connected(url, folder.key_path) as client:
        await client.wait_ready()
        yield client


def files_below(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """All files of `paths`, folders read recursively in name order without hidden ones, and what does not exist."""
    found: list[Path] = []
    missing: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.is_file())
            found += [p for p in inside if not any(part.startswith(".") for part in p.relative_to(path).parts)]
        elif path.is_file():
            found.append(path)
        else:
            missing.append(path)
    return found, missing


class IngestView:
    """One progress bar per file: name, stage, pages a second, chunks."""

    def __init__(self, console: Console, clock: Clock) -> None:
        self._clock = clock
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[detail]}", markup=False),
            TimeElapsedColumn(),
            console=console,
        )
        self._rows: dict[str, TaskID] = {}
        self._began: dict[str, float] = {}

    def __enter__(self) -> "IngestView":
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    def add(self, name: str) -> TaskID:
        return self._bars.add_task(name, total=1.0, detail="uploading")

    def follow(self, bar: TaskID, document_id: str) -> None:
        self._rows[document_id] = bar
        self._began[document_id] = self._clock.monotonic()

    def failed(self, bar: TaskID, reason: str) -> None:
        self._bars.update(bar, detail=f"FAILED: {reason}")
        self._bars.stop_task(bar)

    def show(self, item: http.Progress) -> None:
        bar = self._rows[item.document_id]
        if item.run == "FAIL":
            self.failed(bar, reason_of(item.message))
            return
        seconds = max(self._clock.monotonic() - self._began[item.document_id], 0.001)
        parts = ["done" if item.run == "DONE" else item.stage or item.run.lower()]
        if item.pages_done:
            parts.append(f"{item.pages_done / seconds:.0f} pages/s")
        if item.chunk_count:
            parts.append(f"{item.chunk_count} chunks")
        done = 1.0 if item.run == "DONE" else max(item.progress, 0.0)
        self._bars.update(bar, completed=done, detail=", ".join(parts))
        if item.ended:
            self._bars.stop_task(bar)


def reason_of(message: str) -> str:
    """The last `[ERROR]` line of a document's messages, without its mark."""
    lines = [line for line in message.splitlines() if line.strip()]
    errors = [line for line in lines if "[ERROR]" in line]
    return (errors or lines or ["no reason was given"])[-1].split("[ERROR]")[-1].strip()


async def ingest_files(settings: Settings, dataset: str, paths: Sequence[Path]) -> int:
    """Upload and parse `paths`; 0 when every file can be searched, else 1."""
    console = Console(stderr=True)
    files, missing = files_below(paths)
    for path in missing:
        console.print(f"parley: no such file: {escape(str(path))}", style="red")
    if not files:
        console.print("parley: there is nothing to ingest.")
        return 1
    async with server_of(settings) as client:
        dataset_id = await client.dataset_id(dataset, create=True)
        with IngestView(console, SystemClock()) as view:
            slots = asyncio.Semaphore(_IN_FLIGHT)
            results = await asyncio.gather(*(_ingest_one(client, dataset_id, path, view, slots) for path in files))
    failures = [r for r in results if r is not None] + [f"{p}: no such file" for p in missing]
    total = len(files) + len(missing)
    console.print(f"{total - len(failures)} of {total} files can be searched in {dataset!r}.")
    for line in failures:
        console.print(f"  failed: {escape(line)}", style="red")
    return 1 if failures else 0


async def _ingest_one(
    client: http.ApiClient, dataset_id: str, path: Path, view: IngestView, slots: asyncio.Semaphore
) -> str | None:
    """Take one file in; None, or the line that says why not."""
    async with slots:
        bar = view.add(path.name)
        try:
            document_id = await client.upload(dataset_id, path)
            view.follow(bar, document_id)
            await client.parse(dataset_id, [document_id])
            while True:
                states = await client.progress(dataset_id, [document_id])
                if not states:
                    raise NotFound("document", document_id, "It was deleted while it was being ingested.")
                view.show(states[0])
                if states[0].ended:
                    break
                await asyncio.sleep(_POLL_S)
        except (RagError, OSError) as error:
            view.failed(bar, str(error))
            return f"{path}: {error}"
    return None if states[0].run == "DONE" else f"{path}: {reason_of(states[0].message)}"


async def search_dataset(settings: Settings, dataset: str, question: str, top: int) -> int:
    """Print the best passages as a table; 0 even if there are none."""
    console = Console()
    async with server_of(settings) as client:
        chunks = await client.retrieve(await client.dataset_id(dataset), question, size=top)
    if not chunks:
        console.print("Nothing was found.")
        return 0
    table = Table("score", "cosine", "terms", "source", "passage")
    for chunk in chunks:
        number = http.page_of(chunk.get("positions"))
        page = f" p. {number}" if number else ""
        table.add_row(
            f"{chunk['similarity']:.3f}",
            f"{chunk['vector_similarity']:.3f}",
            f"{chunk['term_similarity']:.3f}",
            escape(chunk["document_keyword"] + page),
            escape(" ".join(chunk["content"].split())[:300]),
        )
    console.print(table)
    return 0


async def ask_dataset(settings: Settings, dataset: str, question: str) -> int:
    """Stream the answer to stdout, then the sources it cites."""
    console = Console(soft_wrap=True)
    sources: tuple[http.Source, ...] = ()
    shown = answer = ""
    async with server_of(settings) as client:
        await client.dataset_id(dataset)
        async for piece in client.ask(dataset, question):
            if piece.text:
                shown += piece.text
                console.print(piece.text, end="", markup=False, highlight=False)
            if piece.final is not None and piece.final != shown:
                rest = piece.final.removeprefix(shown)
                console.print(
                    rest if rest != piece.final else f"\n\n{piece.final}",
                    end="",
                    markup=False,
                    highlight=False,
                )
            sources = piece.sources or sources
            answer = piece.final or shown
    console.print()
    cited = [source for source in sources if f"[ID:{source.number}]" in answer]
    if cited:
        console.print("\nSources", style="bold")
    for source in cited:
        page = f", page {source.page}" if source.page else ""
        excerpt = " ".join(source.text.split())[:120]
        console.print(f"  [ID:{source.number}] {source.document}{page}: {excerpt}", markup=False, highlight=False)
    return 0


@asynccontextmanager
async def _token_service(settings: Settings) -> AsyncIterator[tuple[TokenService, Principal]]:
    """Keys are rows: they are made and revoked in the data folder itself, whether or not a server runs on it."""
    folder = DataFolder(settings.data_dir)
    folder.prepare()
    database = make_database(settings, folder)
    database.open()
    try:
        clock = SystemClock()
        owner = await UserService(database, clock, settings.auth).ensure_local_user()
        yield TokenService(database, clock), owner
    finally:
        database.close()


async def create_token(settings: Settings, name: str) -> int:
    """Print a new key, alone, on stdout."""
    async with _token_service(settings) as (service, owner):
        print((await service.create(owner, name=name)).key)
    return 0


async def list_tokens(settings: Settings) -> int:
    """Print the keys, masked."""
    table = Table("key", "name", "id")
    async with _token_service(settings) as (service, owner):
        for record in await service.list(owner):
            table.add_row(escape(record.hint), escape(record.name), record.id)
    Console().print(table)
    return 0


async def revoke_token(settings: Settings, key: str) -> int:
    """Revoke by key, id or masked form; 1 if there is none."""
    async with _token_service(settings) as (service, owner):
        if not await service.revoke(owner, key):
            raise NotFound("key", key, f"No such key: {key!r}. `parley token list` shows them.")
    Console(stderr=True).print("The key is revoked.")
    return 0
