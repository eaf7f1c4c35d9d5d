from dataclasses import replace

from rag.core.types import Retrieved
from rag.retrieve.joined import joined
from tests.unit.api.db.services.talk import CASH, DEBT, RAIN, hits

ONE, TWO, THREE = hits(CASH, DEBT, RAIN)


def found(*listed: object, total: int = 0, **timings: float) -> Retrieved:
    return Retrieved(hits=tuple(listed), total=total or len(listed), timings_ms=timings)  # type: ignore[arg-type]  # hits


def test_one_list_stays_as_it_is() -> None:
    alone = found(ONE, TWO, total=9)
    assert joined([alone], 1) is alone


def test_what_several_wordings_find_comes_first_and_once() -> None:
    both = joined([found(ONE, TWO), found(THREE, TWO)], 5)
    assert [hit.chunk.content for hit in both.hits] == [DEBT, CASH, RAIN]
    assert [hit.rank for hit in both.hits] == [1, 2, 3]
    assert both.total == 3
    assert [hit.chunk.content for hit in joined([found(ONE, TWO), found(THREE, TWO)], 1).hits] == [DEBT]


def test_a_wording_that_fits_nothing_well_moves_little() -> None:
    weak = replace(THREE, similarity=0.02)
    assert [hit.chunk.content for hit in joined([found(ONE, TWO), found(weak)], 3).hits] == [CASH, DEBT, RAIN]
    assert joined([found(), found(ONE)], 3).hits[0].chunk == ONE.chunk


def test_the_highest_similarity_and_the_longest_time_are_kept() -> None:
    high = replace(ONE, similarity=0.8)
    both = joined([found(ONE, total=40, search=2.0), found(high, total=7, search=5.0, embed=1.0)], 3)
    assert [hit.similarity for hit in both.hits] == [0.8]
    assert both.total == 40
    assert both.timings_ms == {"search": 5.0, "embed": 1.0}
