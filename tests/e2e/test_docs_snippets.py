"""The Python of docs/sdk.md, run as it stands, in order, from a folder like the reader's."""

import contextlib
import io
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import REPORT
from tests.e2e.serving import ROOT, Serving

pytestmark = pytest.mark.shared_data
_WRITTEN_ADDRESS = "http://127.0.0.1:9380"


def snippets(page: str) -> list[str]:
    found = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text("utf-8"), re.S)
    assert found, f"{page} has no Python"
    return found


def test_the_snippets_of_the_sdk_page(server: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not REPORT.exists():
        pytest.skip("needs ../shared/data")
    shutil.copyfile(REPORT, tmp_path / "report.pdf")
    (tmp_path / "parley-data").mkdir()
    (tmp_path / "parley-data" / "key").write_text(server.key)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    said = []
    for snippet in snippets("docs/sdk.md"):
        assert _WRITTEN_ADDRESS in snippet
        with contextlib.redirect_stdout(io.StringIO()) as output:
            exec(compile(snippet.replace(_WRITTEN_ADDRESS, server.url), "docs/sdk.md", "exec"), names)
        said.append(output.getvalue())
    names["client"].close()
    of_sdk, of_openai = said
    assert "report.pdf page " in of_sdk
    assert "[ID:" in of_sdk
    assert "chat:Reports" in of_openai
    assert "dataset:reports" in of_openai
    assert f"{server.url}/" in of_openai, "a citation opens the document"
    assert len(names["vectors"].data[0].embedding) == 384
