import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from rag.llm.kept import Kept


def test_the_longest_unused_goes() -> None:
    kept: Kept[str, object] = Kept(2)
    a, b = kept.get("a", object), kept.get("b", object)
    assert kept.get("a", object) is a
    kept.get("c", object)
    assert len(kept) == 2
    assert kept.get("a", object) is a
    assert kept.get("b", object) is not b


def test_a_failure_is_not_kept() -> None:
    kept: Kept[str, int] = Kept(2)
    with pytest.raises(ZeroDivisionError):
        kept.get("a", lambda: 1 // 0)
    assert kept.get("a", lambda: 1) == 1


def test_threads_get_one_value() -> None:
    kept: Kept[str, object] = Kept(2)
    barrier = threading.Barrier(8)

    def get(_: int) -> object:
        return kept.get("a", lambda: barrier.wait(5) and object() or object())

    with ThreadPoolExecutor(8) as pool:
        assert len(set(map(id, pool.map(get, range(8))))) == 1


def test_values_do_not_show() -> None:
    kept: Kept[str, str] = Kept(2)
    kept.get("key", lambda: "visible")
    assert repr(kept) == "Kept(['key'])"
    kept.clear()
    assert len(kept) == 0
