from typing import Any

import pytest

from api.apps.envelope import Refused
from api.apps.sdk.chat_wire import (
    chat_wire,
    check_name,
    check_variables,
    columns_of_create,
    columns_of_update,
    llm_of,
    prompt_config,
    prompt_wire,
    search_settings,
    with_defaults,
)
from api.db.services.assistant_defaults import PROMPT
from api.db.services.records import DialogRecord


def chat(**changes: Any) -> DialogRecord:
    fields: dict[str, Any] = {
        "id": "c",
        "tenant_id": "t",
        "name": "Ada",
        "description": "d",
        "icon": "i",
        "language": "English",
        "llm_id": "m@P",
        "llm_setting": {"temperature": 0.0},
        "prompt_type": "simple",
        "prompt_config": dict(PROMPT),
        "meta_data_filter": {},
        "similarity_threshold": 0.2,
        "vector_similarity_weight": 0.3,
        "top_n": 6,
        "top_k": 1024,
        "do_refer": "1",
        "rerank_id": "",
        "dataset_ids": (),
        "status": "1",
        "create_time": 0,
        "update_time": 0,
    }
    return DialogRecord(**(fields | changes))


def test_the_create_form() -> None:
    wire = chat_wire(chat())
    assert wire["llm"] == {"temperature": 0.0, "model_name": "m@P"}
    assert wire["avatar"] == "i"
    assert wire["create_date"] == "Thu, 01 Jan 1970 00:00:00 GMT"
    assert "top_k" not in wire


def test_the_prompt_carries_the_wire_names_in_order() -> None:
    shown = prompt_wire(chat())
    assert list(shown) == sorted(shown)
    assert shown["prompt"].endswith("      The above is the knowledge base.")
    assert shown["opener"].startswith("Hi!")
    assert shown["variables"] == [{"key": "knowledge", "optional": False}]
    assert shown["show_quote"] is True
    assert shown["keywords_similarity_weight"] == 0.7
    assert not {"system", "prologue", "parameters", "quote"} & set(shown)


def test_the_weight_is_kept_as_sent_and_shown_inverted() -> None:
    stored = search_settings({"keywords_similarity_weight": 0.7})
    assert stored == {"vector_similarity_weight": 0.7}
    assert prompt_wire(chat(**stored))["keywords_similarity_weight"] == 1 - 0.7


def test_wire_names_win_over_internal_ones() -> None:
    assert prompt_config({"prompt": "a", "system": "b", "extra": 1, "top_n": 3}) == {"system": "a", "extra": 1}


def test_defaults_fill_each_missing_key_and_an_empty_prompt() -> None:
    filled = with_defaults({"system": "", "quote": False})
    assert filled["system"] == PROMPT["system"]
    assert filled["quote"] is False
    assert filled["empty_response"].startswith("Sorry!")


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({"system": "x", "parameters": [{"key": "k", "optional": False}]}, "Parameter 'k' is not used"),
        ({"system": "x", "parameters": [{"key": "k"}]}, "KeyError('optional')"),
        ({"system": "x", "parameters": [{"optional": True}]}, "KeyError('key')"),
        ({"system": "x", "parameters": ["k"]}, "AttributeError(\"'str' object has no attribute 'get'\")"),
        ({"system": "x", "parameters": 3}, "TypeError(\"'int' object is not iterable\")"),
    ],
)
def test_variables_that_are_refused(prompt: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused) as caught:
        check_variables(prompt)
    assert caught.value.message == message


def test_variables_that_pass() -> None:
    check_variables({"system": "{k}", "parameters": [{"key": "k", "optional": False}]})
    check_variables({"system": "", "parameters": [{"key": "k", "optional": True}]})
    check_variables({"system": "", "parameters": None})


def test_names_that_are_refused() -> None:
    assert check_name("a" * 255)
    for bad in ("a" * 256, 3, ["a"]):
        with pytest.raises(Refused) as caught:
            check_name(bad)
        assert caught.value.code == 100


def test_columns() -> None:
    body = {"description": "d", "avatar": "a", "do_refer": False, "unknown": 1, "status": "0"}
    assert columns_of_create(body) == {"description": "d", "icon": "a", "do_refer": "0"}
    assert columns_of_update({"name": "n", "top_n": 3, "id": "c", "create_time": 9}, chat()) == {
        "name": "n",
        "top_n": 3,
    }


@pytest.mark.parametrize("body", [{"x": 1}, {"llm": {}}, {"prompt": None}, {"status": "0"}, {"tenant_id": "other"}])
def test_columns_an_update_may_not_write(body: dict[str, Any]) -> None:
    with pytest.raises(Refused, match="Unrecognized field name") as caught:
        columns_of_update(body, chat())
    assert caught.value.message.startswith("ValueError(")


def test_an_llm_that_is_no_object() -> None:
    assert llm_of({"llm": None}) == {}
    with pytest.raises(Refused, match="has no attribute 'get'"):
        llm_of({"llm": "gpt"})
