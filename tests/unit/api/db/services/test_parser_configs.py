import pytest

from api.db.services.parser_configs import (
    DATASET_METHODS,
    DOCUMENT_METHODS,
    deep_merge,
    default_parser_config,
    filled_parser_config,
)
from rag.core.errors import InvalidInput

FILLED_KEYS = {
    "auto_keywords", "auto_questions", "chunk_token_num", "delimiter", "html4excel", "layout_recognize", "tag_kb_ids",
    "topn_tags", "filename_embd_weight", "task_page_size", "pages", "raptor", "graphrag",
}  # fmt: skip


def test_naive_has_its_own_values() -> None:
    config = default_parser_config("naive")
    assert config["delimiter"] == "\n"
    assert config["topn_tags"] == 3
    assert config["raptor"]["use_raptor"] is True
    assert config["raptor"]["prompt"].count("\n      {cluster_content}\n") == 1
    assert "tag_kb_ids" not in config


@pytest.mark.parametrize("method", ["qa", "manual", "paper", "book", "laws", "presentation"])
def test_these_methods_have_two_flags(method: str) -> None:
    assert default_parser_config(method) == {"raptor": {"use_raptor": False}, "graphrag": {"use_graphrag": False}}


@pytest.mark.parametrize("method", ["table", "tag", "one", "email", "picture", "audio", "resume", "no such method"])
def test_these_methods_have_nothing(method: str) -> None:
    assert default_parser_config(method) == {}


def test_every_method_has_an_entry() -> None:
    assert len(DATASET_METHODS) == 12
    assert {"knowledge_graph"} == DOCUMENT_METHODS - DATASET_METHODS
    assert default_parser_config("knowledge_graph")["chunk_token_num"] == 8192


def test_defaults_are_copies() -> None:
    default_parser_config("naive")["raptor"]["use_raptor"] = "spoiled"
    assert default_parser_config("naive")["raptor"]["use_raptor"] is True


@pytest.mark.parametrize("sent", [None, {}])
def test_nothing_sent_stores_the_method_s_own(sent: dict[str, object] | None) -> None:
    assert filled_parser_config("naive", sent) == default_parser_config("naive")


@pytest.mark.parametrize("method", ["naive", "qa", "table"])
def test_a_partial_config_is_filled_with_every_key(method: str) -> None:
    config = filled_parser_config(method, {"chunk_token_num": 100, "raptor": {"max_token": 9}})
    assert set(config) == FILLED_KEYS
    assert config["chunk_token_num"] == 100
    assert config["delimiter"] == "\\n"
    assert config["raptor"]["max_token"] == 9
    assert config["raptor"]["use_raptor"] is False
    assert config["graphrag"]["use_graphrag"] is False


def test_objects_merge_and_the_rest_replaces() -> None:
    base = {"a": 1, "b": {"c": 1, "d": [1, 2]}, "n": None}
    merged = deep_merge(base, {"b": {"d": [3]}, "e": {"f": 1}, "n": {"x": 1}})
    assert merged == {"a": 1, "b": {"c": 1, "d": [3]}, "e": {"f": 1}, "n": {"x": 1}}
    assert base == {"a": 1, "b": {"c": 1, "d": [1, 2]}, "n": None}


def test_an_object_over_a_value_is_refused() -> None:
    with pytest.raises(InvalidInput) as caught:
        deep_merge({"a": 1}, {"a": {"b": 1}})
    assert caught.value.facts["key"] == "a"
