"""100,000 chunks of real text: overlapping 60-word windows of the annual reports and of SciFact, with their vectors.

Parsing and embedding take a quarter of an hour, so both are kept outside the repository: vectors by model and text,
a part at a time, so that a run that is stopped goes on where it was.
"""

import itertools
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from bench.harness import DATA
from rag.core.resources import asset_path
from rag.core.types import Matrix
from rag.llm.minilm import MODEL_FILE, MiniLmEmbedder
from rag.nlp.analysis import index_tokens
from rag.parse.base import ParseLimits
from rag.parse.xberg_parser import XbergParser
from rag.store.base import Entry, EntryKey

CACHE = Path.home() / ".cache" / "parley"
WORDS = 60
COUNT = 100_000
DATASET = "windows"
_PART = 1000
_LIMITS = ParseLimits(memory_bytes=1 << 31, timeout_s=300, output_chars=64_000_000)


@dataclass(frozen=True, kw_only=True, slots=True)
class Windows:
    """`texts[i]` is of `documents[i]`; rows of `vectors` are unit vectors."""

    documents: tuple[str, ...]
    texts: tuple[str, ...]
    vectors: Matrix

    def entries(self) -> list[Entry]:
        """What an index keeps of them."""
        return [
            Entry(
                key=EntryKey(document_id=document, version_id=f"v-{document}", chunk_id=f"{number:016x}"),
                dataset_id=DATASET,
                tokens=index_tokens(text),
                vector=vector,
            )
            for number, (document, text, vector) in enumerate(
                zip(self.documents, self.texts, self.vectors, strict=True)
            )
        ]


def windows(count: int = COUNT, *, threads: int = 2) -> Windows:
    """The first `count` windows; parses and embeds what is not kept yet."""
    listed = list(itertools.islice(_cut(_sources()), count))
    if len(listed) < count:
        raise RuntimeError(f"The sources give {len(listed)} windows, {count} are wanted.")
    texts = tuple(text for _, text in listed)
    return Windows(documents=tuple(name for name, _ in listed), texts=texts, vectors=embedded(texts, threads=threads))


def embedded(texts: tuple[str, ...], *, threads: int = 2) -> Matrix:
    """Vectors of `texts` under the built-in model, kept from run to run."""
    model = MiniLmEmbedder(asset_path("minilm"), threads=threads)
    parts: list[Matrix] = []
    for part, kept in _kept(texts):
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            made = kept.with_suffix(f".{os.getpid()}.npy")
            np.save(made, model.encode(part).vectors)
            made.replace(kept)
        parts.append(np.load(kept))
    return np.concatenate(parts)


def is_kept(texts: tuple[str, ...]) -> bool:
    """Whether `embedded` has all of them already."""
    return all(kept.exists() for _, kept in _kept(texts))


def _kept(texts: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Path]]:
    """Parts of `texts`, and the file of each part's vectors."""
    folder = CACHE / "vectors" / xxhash.xxh64_hexdigest((asset_path("minilm") / MODEL_FILE).read_bytes())
    for start in range(0, len(texts), _PART):
        part = texts[start : start + _PART]
        yield part, folder / f"{xxhash.xxh64_hexdigest(chr(0).join(part).encode('utf-8', 'replace'))}.npy"


def _sources() -> list[tuple[str, str]]:
    """Names and texts of the documents, the reports' text kept from run to run."""
    kept = CACHE / "bench" / "reports.json"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        made = kept.with_suffix(".part")
        made.write_text(json.dumps({path.name: _text_of(path) for path in _reports()}), "utf-8")
        made.replace(kept)
    reports: dict[str, str] = json.loads(kept.read_text("utf-8"))
    corpus = (DATA / "retrieval" / "scifact" / "corpus.jsonl").read_text("utf-8").splitlines()
    articles = [(f"scifact-{row['_id']}", f"{row['title']} {row['text']}") for row in map(json.loads, corpus)]
    return [*reports.items(), *articles]


def _reports() -> list[Path]:
    return sorted((DATA / "financebench" / "pdfs").glob("*.pdf"))


def _text_of(path: Path) -> str:
    parsed = XbergParser(_LIMITS).parse(path, filename=path.name)
    return "\n".join(element.text for element in parsed.elements)


def _cut(sources: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Windows of 60 words, at least `COUNT` of them if there are: the step is the longest that gives so many."""
    split = [(name, text.split()) for name, text in sources]
    step = WORDS
    while step > 1 and sum(len(_starts(words, step)) for _, words in split) < COUNT:
        step -= 1
    for name, words in split:
        for start in _starts(words, step):
            yield name, " ".join(words[start : start + WORDS])


def _starts(words: list[str], step: int) -> range:
    return range(0, max(len(words) - WORDS // 2, 1), step)


def main() -> None:
    windows(threads=1)


if __name__ == "__main__":
    main()
