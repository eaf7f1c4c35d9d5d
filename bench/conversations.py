"""MTRAG-UN's conversations with all that the set says of them."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from bench.harness import DATA
from rag.core.types import Turn

NAME = "mtragun_507"


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversation:
    """`turns` end with the user's question; `answer` is the set's own; `passages` are the ids of those that hold it."""

    id: str
    turns: tuple[Turn, ...]
    answer: str
    answerability: str
    passages: tuple[str, ...]

    @property
    def question(self) -> str:
        return self.turns[-1].content

    @property
    def chosen_on(self) -> bool:
        """Whether constants may be chosen on it; the other half only reports."""
        return int(hashlib.md5(self.id.encode(), usedforsecurity=False).hexdigest(), 16) % 2 == 0


def conversations() -> list[Conversation]:
    """All of the set, in its order."""
    folder = DATA / "retrieval" / NAME
    judged: dict[str, list[str]] = {}
    for line in (folder / "qrels.tsv").read_text("utf-8").splitlines()[1:]:
        query, passage, _ = line.split("\t")
        judged.setdefault(query, []).append(passage)
    rows: list[dict[str, Any]] = [
        json.loads(line) for line in (folder / "queries.jsonl").read_text("utf-8").split("\n") if line
    ]
    return [
        Conversation(
            id=row["_id"],
            turns=(
                *(Turn(role=turn["role"], content=turn["content"]) for turn in row["metadata"]["history"]),
                Turn(role="user", content=row["text"]),
            ),
            answer=row["metadata"]["reference_answer"],
            answerability=row["metadata"]["answerability"],
            passages=tuple(judged.get(row["_id"], ())),
        )
        for row in rows
    ]
