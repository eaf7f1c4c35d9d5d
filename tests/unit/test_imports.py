"""The layer rules of docs/architecture.md, checked on the parsed imports; and every module can be imported."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(p for top in ("api", "rag") for p in (ROOT / top).rglob("*.py"))
HEAVY = (
    "lancedb",
    "pyarrow",
    "onnxruntime",
    "tokenizers",
    "litellm",
    "xberg",
    "elasticsearch",
    "tiktoken",
    "httpx",
    "typer",
)

WIRING = {
    "api.app",
    "api.backends",
    "api.worker",
    "api.cli",
    "api.serve",
    "api.watch",
    "api.worker_models",
    "api.docs_reference",
    "api.cli_commands",
    "api.cli_index",
    "api.doctor",
    "api.client",
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            pytest.fail(f"{path}: relative imports hide the layer; write the whole name")
    return found


def allowed(importer: str, target: str) -> bool:
    """Whether `importer` may import the project's `target`."""

    def under(name: str, *tops: str) -> bool:
        return any(name == top or name.startswith(top + ".") for top in tops)

    if under(target, "rag.core") or target in ("rag", "api"):
        return True
    if importer in WIRING or under(importer, "rag.testing"):
        return not under(importer, "rag") or under(target, "rag")
    if under(importer, "api.apps"):
        return under(target, "api.apps", "api.db.services", "api.errors")
    if under(importer, "api.db.services"):
        return under(target, "api.db", "api.utils", "rag")
    if under(importer, "api.db"):
        return under(target, "api.db")
    if under(importer, "api.utils"):
        return under(target, "api.utils", "rag.llm.base")
    if importer == "api.errors":
        return False
    if under(importer, "rag"):
        return allowed_in_engine(importer, target)
    return False


def allowed_in_engine(importer: str, target: str) -> bool:
    if not target.startswith("rag."):
        return False
    room, target_room = importer.split(".")[1], target.split(".")[1]
    if target_room == room or target_room == "nlp":
        return True
    if room in ("ingest", "retrieve", "chunk", "prompts", "nlp"):
        return target.split(".")[2:3] == ["base"] or len(target.split(".")) == 2
    return False


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_go_one_way(path: Path) -> None:
    importer = module_name(path)
    ours = {name for name in imports_of(path) if name.split(".")[0] in ("api", "rag")}
    wrong = sorted(name for name in ours if not allowed(importer, name))
    assert not wrong, f"{importer} may not import {wrong}"


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_libraries_stay_in_their_room(path: Path) -> None:
    importer = module_name(path)
    tops = {name.split(".")[0] for name in imports_of(path)}
    if not importer.startswith("api.db"):
        assert "peewee" not in tops
    if importer != "rag.llm.litellm_port":
        assert "litellm" not in tops
    if not importer.startswith("api.apps") and importer not in WIRING:
        assert "quart" not in tops


def adapters_in(room: str) -> set[str]:
    """The modules of a room that hold an adapter: a public class named for its role."""
    found: set[str] = set()
    for path in (ROOT / "rag" / room).glob("*.py"):
        classes = [node.name for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, ast.ClassDef)]
        if path.stem != "base" and any(name.endswith(("Store", "Queue", "EventLog")) for name in classes):
            found.add(module_name(path))
    return found


@pytest.mark.parametrize("room", ["store", "blob", "queue", "eventlog"])
def test_sibling_adapters_do_not_import_each_other(room: str) -> None:
    adapters = adapters_in(room)
    assert adapters
    for path in (ROOT / "rag" / room).glob("*.py"):
        siblings = (adapters - {module_name(path)}) & imports_of(path)
        assert not siblings, f"{path} imports {siblings}"


def test_every_module_can_be_imported() -> None:
    for path in SOURCES:
        if path.name != "__main__.py":
            importlib.import_module(module_name(path))


def test_the_web_app_imports_nothing_heavy() -> None:
    """The port opens before LanceDB, ONNX and LiteLLM are loaded; they are imported on first use or while warming."""
    code = f"import sys, api.app, api.serve; print([m for m in {HEAVY!r} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout.strip() == "[]"
