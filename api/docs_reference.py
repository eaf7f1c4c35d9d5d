"""Writes the pages of docs/ that are made from the code: `make docs`. A test fails when they are out of step."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from rag.core.settings import PREFIX, Settings


def configuration_page() -> str:
    """docs/configuration.md: every setting with its variable, default, range and meaning."""
    lines = [
        "# Configuration",
        "",
        "Made from `rag/core/settings.py` by `make docs`; edit there.",
        "",
        "Strongest first: options of the command line, environment variables, `.env` in the working directory, the "
        "YAML file that `PARLEY_CONFIG` names, the defaults below. Two underscores nest: `PARLEY_SERVER__PORT=9000` is "
        "`server: {port: 9000}` in YAML. An unknown name is an error.",
    ]
    lines += ["", "## General", "", *_table(Settings, PREFIX, areas=False)]
    for name, field in Settings.model_fields.items():
        area = field.annotation
        if isinstance(area, type) and issubclass(area, BaseModel):
            prefix = "" if name == "providers" else f"{PREFIX}{name.upper()}__"
            lines += ["", f"## `{name}`", "", *_table(area, prefix, areas=False)]
    return "\n".join(lines) + "\n"


def _table(area: type[BaseModel], prefix: str, *, areas: bool) -> list[str]:
    rows = ["| variable | default | range | meaning |", "|---|---|---|---|"]
    for name, field in area.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel) and not areas:
            continue
        variable = f"{prefix}{name.upper()}"
        rows.append(f"| `{variable}` | {_default(field.default)} | {_range(field)} | {field.description} |")
    return rows


def _default(value: Any) -> str:
    if value is None or value is PydanticUndefined or value in ("", ()):
        return "none"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _range(field: Any) -> str:
    choices = getattr(field.annotation, "__args__", None)
    if choices and all(isinstance(choice, str) for choice in choices):
        return ", ".join(f"`{choice}`" for choice in choices)
    signs = {"ge": "from", "gt": "above", "le": "to", "lt": "below"}
    parts = [
        f"{word} {getattr(item, sign)}"
        for item in field.metadata
        for sign, word in signs.items()
        if hasattr(item, sign)
    ]
    return " ".join(parts)


PAGES = {"configuration.md": configuration_page}


def main() -> None:
    """Write every generated page."""
    folder = Path(__file__).resolve().parent.parent / "docs"
    for name, make in PAGES.items():
        (folder / name).write_text(make(), "utf-8")


if __name__ == "__main__":
    main()
