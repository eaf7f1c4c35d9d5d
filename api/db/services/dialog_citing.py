"""An answer's citation marks: repaired, checked against their sources, and put in where a model wrote none."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import structlog

from api.db.services.dialog_asking import Asking
from api.db.services.llm_service import LLMBundle
from rag.core.blocking import Lane, apart_if_long, run_in
from rag.core.errors import InvalidInput, LimitExceeded, ModelError, NotFound, StoreError
from rag.core.types import CitedChunk, Matrix, Reference
from rag.nlp import citation
from rag.nlp.citation import Repaired, cited_indices
from rag.nlp.citation_check import KEPT, Claim, Findings, claims_of, restored, settled, spans
from rag.nlp.support import FEWEST_TERMS, Overlap, overlap, support_scores, telling

log = structlog.get_logger()

_READ_TIMES = 4
"""How much longer than other work on a text it takes to repair its marks, where it is full of them."""
_MOST_CLAIMS = 64
"""Sentences that are looked at; marks behind those stay as they are."""
_MOST_PASSAGES = 32
"""Passages that are looked at, those that are cited first. Tools may have found many more."""
_MOST_EMBEDDED = 64
"""Texts in the one batch that is embedded."""
_MOST_WINDOWS = 4
"""Passages whose nearest window is embedded for one sentence."""
_WINDOW_CHARS = 600
_SURE = 0.03
"""Nearer than this to 0 or 1, words alone decide."""
_OWN_QUOTE = 0.05
"""Least support of a mark on a quotation of the built-in model, which words alone judge."""
_NO_EMBEDDING = (InvalidInput, LimitExceeded, ModelError, NotFound, StoreError)
"""What keeps the embedding model from answering: words alone decide then, the answer is there already."""

Find = Callable[[], LLMBundle]


async def cited(asking: Asking, bundle: LLMBundle, sources: Reference, text: str) -> tuple[str, Reference]:
    """The answer with its marks in order, each on a sentence that its source supports, and the reference with the
    documents they name."""
    chunks = sources.chunks
    with asking.steps.timed("cite"):
        own = bundle.info.local
        repaired, plain = await apart_if_long(_READ_TIMES * len(text), partial(_read, text, len(chunks), loose=not own))
        answer = repaired.text
        if plain.strip() == asking.brief.empty_response:
            return plain, sources
        who = asking.principal
        find = partial(asking.models.bundle_embed, tenant_id=who.tenant_id, key_id=who.key_id, purpose="cite")
        if repaired.marked or repaired.originals:
            answer = await checked(None if own else find, chunks, repaired)
        if not own and not repaired.marked and not await apart_if_long(len(answer), partial(cited_indices, answer)):
            answer = await with_marks(find, chunks, answer)
        return answer, await apart_if_long(len(answer), lambda: citation.with_counts(sources, answer))


def _read(text: str, sources: int, *, loose: bool) -> tuple[Repaired, str]:
    """The answer repaired, and without any marks."""
    repaired = citation.repair_marks(text, sources, loose=loose)
    return repaired, citation.without_marks(repaired.text)


async def checked(find: Find | None, chunks: Sequence[CitedChunk], repaired: Repaired) -> str:
    """The answer with the marks that its sources support; others are moved or dropped, or what they were made of
    comes back.

    Args:
        find: Gives the embedding model. None for quotations, of which words tell enough.
    """
    answer, originals = repaired.text, repaired.originals
    claims = await run_in(Lane.TEXT, _marked, answer, len(chunks))
    if not claims:
        return await run_in(Lane.TEXT, restored, answer, originals)
    texts = [claim.text for claim in claims]
    near = _nearest(chunks, claims)
    passages = [chunks[index] for index in near]
    words = await run_in(Lane.TEXT, _overlap, texts, passages)
    scores = support_scores(words)
    if find is not None:
        cosines = await _cosines(find, words, texts, scores)
        scores = support_scores(words, cosines)

    def work() -> str:
        findings = Findings(
            scores=_widened(scores, near, len(chunks)),
            shares=_widened(words.near, near, len(chunks)),
            judged=_widened(1.0 - (words.alien & ~words.wrong_figure), near, len(chunks)) > 0,
            joint=_joint(claims, texts, chunks),
        )
        kept = KEPT if find is not None else _OWN_QUOTE
        return settled(answer, claims, findings, kept=kept, originals=originals)

    return await run_in(Lane.TEXT, work)


async def with_marks(find: Find, chunks: Sequence[CitedChunk], answer: str) -> str:
    """`answer` with marks where `chunks` support it."""
    claims = await run_in(Lane.TEXT, _citable, answer)
    if not claims:
        return answer
    texts = [claim.text for claim in claims]
    near = list(range(min(len(chunks), _MOST_PASSAGES)))
    words = await run_in(Lane.TEXT, _overlap, texts, [chunks[index] for index in near])
    scores = support_scores(words)
    scores = support_scores(words, await _cosines(find, words, texts, scores))
    return citation.insert_marks(answer, claims, scores)


def _citable(answer: str) -> list[citation.Sentence]:
    claims = citation.citable_sentences(answer)[:_MOST_CLAIMS]
    return [claim for claim in claims if telling(claim.text) >= FEWEST_TERMS]


def _marked(answer: str, sources: int) -> list[Claim]:
    """The claims up to the last one with a mark of one of the `sources`."""
    claims = claims_of(answer)[:_MOST_CLAIMS]
    for claim in claims:
        claim.marks = [mark for mark in claim.marks if mark.source < sources]
    ends = [last for _, last in spans(claims)]
    return claims[: ends[-1] + 1] if ends else []


def _nearest(chunks: Sequence[CitedChunk], claims: Sequence[Claim]) -> list[int]:
    """The cited chunks, and the first ones beside them."""
    named = dict.fromkeys(mark.source for claim in claims for mark in claim.marks)
    return list(dict.fromkeys([*named, *range(len(chunks))]))[: max(_MOST_PASSAGES, len(named))]


def _overlap(texts: Sequence[str], chunks: Sequence[CitedChunk]) -> Overlap:
    return overlap(texts, [chunk.content for chunk in chunks], [chunk.document_name for chunk in chunks])


async def _cosines(find: Find, words: Overlap, texts: Sequence[str], scores: Matrix) -> Matrix | None:
    """The cosines of sentences with their nearest windows, where words alone do not decide; NaN elsewhere. None where
    no embedding model can be had."""
    unsure = (scores > _SURE) & (scores < 1 - _SURE) & ~words.contradicted & ~words.short[:, None]
    places: dict[str, int] = {}
    pairs: list[tuple[int, int]] = []
    for row, text in enumerate(texts):
        best = [column for column in np.argsort(-scores[row], kind="stable")[:_MOST_WINDOWS] if unsure[row, column]]
        wanted = [text, *(words.windows[row][column] for column in best)]
        new = [each for each in dict.fromkeys(wanted) if each and each not in places]
        if best and len(places) + len(new) <= _MOST_EMBEDDED:
            places.update([(each, len(places) + index) for index, each in enumerate(new)])
            pairs.extend((row, int(column)) for column in best)
    if not pairs:
        return None
    try:
        embedded = await find().encode([text[:_WINDOW_CHARS] for text in places])
    except _NO_EMBEDDING as error:
        log.warning("citing_failed", code=error.code)
        return None
    cosines = np.full(scores.shape, np.nan, dtype=np.float32)
    for row, column in pairs:
        window = embedded.vectors[places[words.windows[row][column]]]
        cosines[row, column] = float(embedded.vectors[places[texts[row]]] @ window)
    return cosines


def _widened(matrix: Matrix, near: Sequence[int], sources: int) -> Matrix:
    """`matrix` with a column for each source, 0 where none was looked at."""
    wide = np.zeros((len(matrix), sources), dtype=np.float32)
    wide[:, near] = matrix
    return wide


def _joint(claims: Sequence[Claim], texts: Sequence[str], chunks: Sequence[CitedChunk]) -> dict[int, float]:
    """The support that the sources of a sentence with several marks give together, by sentence."""
    joint = {}
    for index, claim in enumerate(claims):
        named = sorted({mark.source for mark in claim.marks})
        if len(named) > 1:
            together = "\n\n".join(chunks[source].content for source in named)
            title = " ".join(chunks[source].document_name for source in named)
            joint[index] = float(support_scores(overlap([texts[index]], [together], [title]))[0, 0])
    return joint
