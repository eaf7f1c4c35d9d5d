"""How a rebuild is shown."""

import io

from rich.console import Console

from api.cli_index import RebuildView, _made_for, detail
from api.db.services.rebuild_service import Progress
from rag.core.settings import Settings
from tests.unit.api.db.services.test_task_service import HeldClock


def progress(done: int, stage: str = "filling", *, resumed: bool = False, total: int = 2000) -> Progress:
    return Progress(
        place="t_x_g1", number=1, places=2, stage=stage, chunks_done=done, chunks_total=total, resumed=resumed
    )


def test_speed_counts_from_where_this_run_began() -> None:
    assert detail(progress(1200), 1000, 10.0) == "1,200 of 2,000 chunks, 20 chunks/s, 0:40 left, filling"
    assert detail(progress(1000), 1000, 0.0) == "1,000 of 2,000 chunks, filling"
    assert detail(progress(2000, "done"), 0, 100.0) == "2,000 of 2,000 chunks, 20 chunks/s, done"


def shown(*, terminal: bool) -> str:
    clock, output = HeldClock(), io.StringIO()
    with RebuildView(Console(file=output, force_terminal=terminal, width=150), clock) as view:
        for done in range(0, 2001, 100):
            view.show(progress(done, resumed=True))
            clock.seconds += 1
        view.show(progress(2000, "done", resumed=True))
    return output.getvalue()


def test_where_nobody_looks_a_line_each_ten_seconds() -> None:
    lines = shown(terminal=False).splitlines()
    assert lines[0] == "Going on with t_x_g1, which an earlier run began."
    assert len(lines) == 5
    assert lines[-1] == "place 1 of 2: 2,000 of 2,000 chunks, 95 chunks/s, done"


def test_on_a_terminal_a_bar() -> None:
    text = shown(terminal=True)
    assert "place 1 of 2" in text
    assert "100%" in text


def test_what_a_place_is_made_for_fits_its_column_and_tells_servers_apart() -> None:
    def made_for(url: str) -> str:
        return _made_for(Settings.model_validate({"index": {"url": url, "prefix": "p" * 63}}))

    hosts = ",".join(f"http://search-{number}.example:9200" for number in range(12))
    one, other = made_for(hosts), made_for(hosts + ",http://another.example:9200")
    assert max(len(one), len(other)) <= 255
    assert one != other
    assert "http://s:9200 ppp" in made_for("http://s:9200")
