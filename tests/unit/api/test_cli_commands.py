"""The parts of the commands that need no server."""

from pathlib import Path

from api.cli_commands import files_below, reason_of
from api.client import page_of


def test_folders_are_read_recursively_in_order_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", ".hidden", "sub/c.txt", ".git/config"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    single = tmp_path / "b.txt"
    found, missing = files_below([tmp_path, single, tmp_path / "no"])
    assert [p.relative_to(tmp_path).as_posix() for p in found] == ["a.txt", "b.txt", "sub/c.txt", "b.txt"]
    assert missing == [tmp_path / "no"]


def test_the_reason_is_the_last_error_line() -> None:
    assert reason_of("10:00:00 Start to parse.\n10:00:01 [ERROR]The file is encrypted.\n") == "The file is encrypted."
    assert reason_of("10:00:00 Start to parse.") == "10:00:00 Start to parse."
    assert reason_of("") == "no reason was given"


def test_a_box_without_extent_is_no_page() -> None:
    assert page_of([[60, 40, 500, 100, 300], [61, 40, 500, 80, 120]]) == 60
    assert page_of([[4, 3, 3, 3, 3]]) is None
    assert page_of([]) is None
    assert page_of(None) is None
