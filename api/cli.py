"""The `parley` command."""

import asyncio
import gc
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from rag.core.errors import RagError
from rag.core.settings import Settings, load_settings

app = typer.Typer(
    name="parley",
    help="Documents in, cited and streamed answers out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
tokens = typer.Typer(help="API keys of this data folder.", no_args_is_help=True)
app.add_typer(tokens, name="token")
index = typer.Typer(help="The search index, which is made from the rows.", no_args_is_help=True)
app.add_typer(index, name="index")

DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Folder that holds everything (default: ./parley-data).", show_default=False),
]

_GC_THRESHOLD = (10_000, 20, 50)
"""How many new objects bring the collector out, and how seldom it walks older ones. What a request leaves in cycles is
little; Python's 700 makes the collector a good part of what an answer costs."""
_SWITCH_S = 0.0005
"""How long a computing thread may keep the interpreter from the event loop, which asks for it anew at each socket's
callback: with Python's 5 ms, two such threads make a hundred streams wait for tens of ms."""


def fail(message: str, code: int = 1) -> NoReturn:
    """Print one line on stderr and end."""
    typer.echo(f"parley: {message}", err=True)
    raise typer.Exit(code)


def settings_of(data_dir: Path | None, **overrides: Any) -> Settings:
    """The settings of this call, or one line on stderr and exit code 2."""
    try:
        return load_settings({"data_dir": data_dir, **overrides})
    except RagError as error:
        fail(str(error), 2)


def run_async(work: Coroutine[Any, Any, int]) -> NoReturn:
    """Run `work` and end with the exit code it returns; an expected error becomes one line on stderr."""
    try:
        code = asyncio.run(work)
    except RagError as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("interrupted.", 130)
    raise typer.Exit(code)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on (default 127.0.0.1).")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on (default 9380; 0 takes a free one).")] = None,
    data_dir: DataDir = None,
) -> None:
    """Start the server and its worker."""
    gc.disable()  # nothing that is imported is garbage: looking for some takes a tenth of the start
    from api.serve import run_serve  # not needed by the other commands, and it costs their start 0.9 s

    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLD)
    gc.enable()
    sys.setswitchinterval(_SWITCH_S)
    settings = settings_of(data_dir, server={"host": host, "port": port})
    raise typer.Exit(run_serve(settings))


@app.command()
def worker(
    data_dir: DataDir = None,
    embedded: Annotated[bool, typer.Option("--embedded", hidden=True)] = False,
) -> None:
    """Run a worker that ingests documents (`serve` starts one by itself unless told otherwise)."""
    from api.worker import run_worker  # as in serve

    run_async(run_worker(settings_of(data_dir), embedded=embedded))


@app.command()
def ingest(
    dataset: Annotated[str, typer.Argument(help="Name of the dataset; made if there is none.")],
    paths: Annotated[list[Path], typer.Argument(help="Files, or folders that are read with all below them.")],
    data_dir: DataDir = None,
) -> None:
    """Upload files and wait until they can be searched. Exit code 1 if any failed."""
    from api.cli_commands import ingest_files

    run_async(ingest_files(settings_of(data_dir), dataset, paths))


@app.command()
def search(
    dataset: Annotated[str, typer.Argument(help="Name of the dataset.")],
    question: Annotated[str, typer.Argument(help="What to look for.")],
    top: Annotated[int, typer.Option(help="How many passages to show.", min=1, max=100)] = 5,
    data_dir: DataDir = None,
) -> None:
    """Show the passages that fit a question best, with their scores."""
    from api.cli_commands import search_dataset

    run_async(search_dataset(settings_of(data_dir), dataset, question, top))


@app.command()
def ask(
    dataset: Annotated[str, typer.Argument(help="Name of the dataset.")],
    question: Annotated[str, typer.Argument(help="The question.")],
    data_dir: DataDir = None,
) -> None:
    """Stream an answer, then list its sources with file and page."""
    from api.cli_commands import ask_dataset

    run_async(ask_dataset(settings_of(data_dir), dataset, question))


@app.command()
def doctor(data_dir: DataDir = None) -> None:
    """Look at each backend: version, state, and what to do. Exit code 1 if something needs doing."""
    from api.doctor import examine

    run_async(examine(settings_of(data_dir)))


@tokens.command("create")
def token_create(
    name: Annotated[str, typer.Option(help="A name to know it by.")] = "",
    data_dir: DataDir = None,
) -> None:
    """Make a key and print it, alone, on stdout. It is not shown again."""
    from api.cli_commands import create_token

    run_async(create_token(settings_of(data_dir), name))


@tokens.command("list")
def token_list(data_dir: DataDir = None) -> None:
    """List the keys, masked."""
    from api.cli_commands import list_tokens

    run_async(list_tokens(settings_of(data_dir)))


@tokens.command("revoke")
def token_revoke(
    key: Annotated[str, typer.Argument(help="The key, its id, or its masked form from `token list`.")],
    data_dir: DataDir = None,
) -> None:
    """Make a key useless, at once."""
    from api.cli_commands import revoke_token

    run_async(revoke_token(settings_of(data_dir), key))


@index.command("rebuild")
def index_rebuild(data_dir: DataDir = None) -> None:
    """Make the search index anew from the rows, while searches go on in the old one.

    For an index that is lost or damaged, after a change of `index.url`, and where `parley doctor` asks for it. Stopped
    or killed, it goes on where it was when it is called again. A server and a worker may run meanwhile.
    """
    from api.cli_index import rebuild_index

    run_async(rebuild_index(settings_of(data_dir)))


@index.command("status")
def index_status(data_dir: DataDir = None) -> None:
    """Show each place of the index, and what of the rows it lacks. Exit code 1 if anything is missing."""
    from api.cli_index import show_index

    run_async(show_index(settings_of(data_dir)))


def main() -> None:
    """Entry point of the `parley` command."""
    app()


if __name__ == "__main__":
    main()
