from typing import Any

import orjson
import pytest

from api.db.services.dialog_brief import AskOptions, ReplyForm
from api.db.services.turn_options import options_of_json, options_to_json
from rag.llm.base import Sampling

WHOLE = AskOptions(
    quote=False,
    document_ids=("d1", "d2"),
    dataset_ids=("k1",),
    variables={"who": "Ann"},
    sampling=Sampling(temperature=0.0, max_tokens=5, stop=("a", "b")),
    own_sampling=True,
    model="m@P",
)


def stored(options: AskOptions) -> Any:
    """As a row gives them back."""
    return orjson.loads(orjson.dumps(options_to_json(options)))


def test_a_call_that_sets_nothing_leaves_nothing() -> None:
    assert options_to_json(AskOptions()) is None
    assert options_of_json(None) == AskOptions()


@pytest.mark.parametrize("options", [WHOLE, AskOptions(quote=False), AskOptions(sampling=Sampling())])
def test_what_a_call_set_comes_back(options: AskOptions) -> None:
    assert options_of_json(stored(options)) == options


def test_variables_are_kept_as_the_prompt_has_them() -> None:
    odd = {"n": 10**30, "list": [1, {"a": None}], "half \ud800": "\ud800", "none": None}
    back = options_of_json(stored(AskOptions(variables=odd)))
    assert back.variables == {"n": str(10**30), "list": "[1, {'a': None}]", "half ?": "?", "none": "None"}


def test_the_form_of_a_reply_is_not_kept() -> None:
    assert options_to_json(AskOptions(form=ReplyForm(json_object=True))) is None


@pytest.mark.parametrize("row", [{"colour": "red"}, {"sampling": {"heat": 9}}, {"document_ids": 7}, [], "x", 7])
def test_what_other_versions_kept_is_left_out(row: Any) -> None:
    found = options_of_json(row)
    assert found in (AskOptions(), AskOptions(sampling=Sampling()))
