"""Where the files that come with the package lie: `conf/` beside the packages in a checkout, `rag/_conf` in a wheel."""

import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path

_RAG = Path(__file__).resolve().parent.parent


def conf_path(name: str) -> Path:
    """The path of `conf/<name>`."""
    packed = _RAG / "_conf" / name
    return packed if packed.exists() else _RAG.parent / "conf" / name


def asset_path(name: str) -> Path:
    """The path of `rag/assets/<name>`."""
    return _RAG / "assets" / name


@cache
def project_version() -> str:
    """The version of this project: the installed one, else that of the checkout. Reads files the first time."""
    try:
        return metadata.version("parley")
    except metadata.PackageNotFoundError:
        project = tomllib.loads((_RAG.parent / "pyproject.toml").read_text("utf-8"))["project"]
        return str(project["version"])
