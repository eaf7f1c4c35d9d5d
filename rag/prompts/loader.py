"""Prompts are files: `rag/prompts/<name>.md`, read and checked once.

A placeholder is `{name}`, lower-case letters and underscores. Values are put in by one pass over the file's text:
what a value holds is never looked at again, so `{question}` or `{x.__init__}` in a question or a document stays as
it is. The same rule fills the system texts of chats (`fill`).
"""

import hashlib
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rag.core.errors import InvalidInput

_PLACEHOLDER = re.compile(r"\{([a-z][a-z_]*)\}")
_SLOT = re.compile(r"\{([^{}\n]{1,128})\}")
_FOLDER = Path(__file__).resolve().parent

PLACEHOLDERS: Mapping[str, frozenset[str]] = {
    "agentic": frozenset(),
    "ask": frozenset({"knowledge"}),
    "citation": frozenset(),
    "cross_languages": frozenset({"languages", "question"}),
    "full_question": frozenset({"history", "question"}),
    "keywords": frozenset({"question"}),
    "knowledge": frozenset({"sources"}),
    "notes": frozenset({"notes"}),
    "nothing_found": frozenset(),
    "metadata_filter": frozenset({"fields", "operators", "question"}),
    "related": frozenset({"industry", "question"}),
    "session_title": frozenset({"conversation"}),
    "research": frozenset(),
    "research_answer": frozenset(),
    "research_plan": frozenset({"asked", "found", "question"}),
    "summary": frozenset({"before", "history"}),
}
"""Every prompt and what it takes."""


def fill(text: str, values: Mapping[str, str], *, most_chars: int = sys.maxsize) -> str:
    """The first `most_chars` characters of `text` with each `{key}` of `values` replaced, in one pass; other braces
    stay as they are. No more than that is ever put together, however often a long value is named."""
    taken: list[str] = []
    for piece in _pieces(text, values):
        if most_chars <= 0:
            break
        taken.append(piece[:most_chars])
        most_chars -= len(taken[-1])
    return "".join(taken)


def _pieces(text: str, values: Mapping[str, str]) -> Iterator[str]:
    at = 0
    for slot in _SLOT.finditer(text):
        value = values.get(slot[1])
        if value is not None:
            yield text[at : slot.start()]
            yield value
            at = slot.end()
    yield text[at:]


def slots(text: str) -> Counter[str]:
    """How often each key stands in `text` where `fill` would look for its value."""
    return Counter(slot[1] for slot in _SLOT.finditer(text))


def has_slot(text: str, key: str) -> bool:
    """Whether `fill` would replace `key` in `text`."""
    return any(slot[1] == key for slot in _SLOT.finditer(text))


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """One prompt. `hash` is the sha256 of its file, hex: it says which wording an answer was made with."""

    name: str
    text: str
    placeholders: frozenset[str]
    hash: str

    def render(self, **values: str) -> str:
        """The text with its values, which must be exactly those it takes.

        Raises:
            TypeError: a value is missing or too many.
        """
        if values.keys() != self.placeholders:
            raise TypeError(f"prompt {self.name!r} takes {sorted(self.placeholders)}, not {sorted(values)}")
        return _PLACEHOLDER.sub(lambda slot: values[slot[1]], self.text)


class Prompts:
    """All prompts of the process, by name."""

    def __init__(self, prompts: Mapping[str, Prompt]) -> None:
        self._prompts = dict(prompts)

    def __getitem__(self, name: str) -> Prompt:
        return self._prompts[name]

    @property
    def hashes(self) -> dict[str, str]:
        """sha256 by name."""
        return {name: prompt.hash for name, prompt in self._prompts.items()}


def load_prompts(folder: Path = _FOLDER, placeholders: Mapping[str, frozenset[str]] = PLACEHOLDERS) -> Prompts:
    """Read the prompts named by `placeholders` and check each against what it takes.

    Raises:
        InvalidInput: a file is missing, unreadable, unknown, or its placeholders are not the ones it takes.
    """
    names = {path.stem for path in folder.glob("*.md")}
    for name in sorted(names ^ placeholders.keys()):
        raise InvalidInput(f"Prompt {name!r} is {'not known' if name in names else 'missing'} in {folder.name!r}.")
    return Prompts({name: _read(folder / f"{name}.md", takes) for name, takes in placeholders.items()})


def _read(path: Path, takes: frozenset[str]) -> Prompt:
    content = path.read_bytes()
    try:
        text = content.decode().strip()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"Prompt {path.stem!r} is not UTF-8.") from error
    found = frozenset(slot[1] for slot in _PLACEHOLDER.finditer(text))
    if found != takes:
        raise InvalidInput(f"Prompt {path.stem!r} has the placeholders {sorted(found)}, not {sorted(takes)}.")
    return Prompt(name=path.stem, text=text, placeholders=takes, hash=hashlib.sha256(content).hexdigest())
