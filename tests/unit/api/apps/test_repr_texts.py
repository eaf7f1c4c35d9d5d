"""The texts of Python's exceptions are in one module."""

import re
from pathlib import Path

import pytest

from api.apps import repr_texts

APPS = Path(repr_texts.__file__).parent
SPELLED = re.compile(
    r"repr\(\s*[A-Z]\w*(?:Error|Exception)\(|[\"'](?:[A-Z]\w*Error|Exception)\(|object has no attribute|is not iterable"
)


def test_no_other_module_spells_one() -> None:
    found = [
        f"{path.relative_to(APPS)}:{number}: {line.strip()}"
        for path in sorted(APPS.rglob("*.py"))
        if path.name != "repr_texts.py"
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if SPELLED.search(line)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        (repr_texts.lacks("ids", "get"), "AttributeError(\"'str' object has no attribute 'get'\")"),
        (repr_texts.lacks(None, "get"), repr_texts.NULL_HAS_NO_GET),
        (repr_texts.not_iterable(None), "TypeError(\"'NoneType' object is not iterable\")"),
        (repr_texts.missing("Miss parameter: tone"), "KeyError('Miss parameter: tone')"),
        (repr_texts.of_status("NotFound", 404, "Not Found"), "<NotFound '404: Not Found'>"),
        (repr_texts.failed_lookup("Can't find x!"), 'LookupError("Can\'t find x!")'),
        (
            repr_texts.unknown_field("llm", {"name": 1, "llm": {}}),
            "ValueError('Unrecognized field name: \"llm\" in [\\'llm\\', \\'name\\'].')",
        ),
    ],
)
def test_texts_are_spelled_as_the_contract_has_them(text: str, spelled: str) -> None:
    assert text == spelled
