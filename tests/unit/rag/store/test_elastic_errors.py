import elastic_transport
import elasticsearch
import pytest
from elastic_transport import ApiResponseMeta, HttpHeaders, NodeConfig

from rag.core.errors import StoreError, StoreUnavailable
from rag.store.elastic_errors import IndexAbsent, Overloaded, of_reply, reason_of, translated

WHERE = "http://search:9200"
RETRYABLE = {elastic_transport.ConnectionError, elastic_transport.ConnectionTimeout, elastic_transport.SniffingError}


def below(top: type[BaseException]) -> list[type[BaseException]]:
    return [top, *(each for sub in top.__subclasses__() for each in below(sub))]


def told(status: int, *, ours: bool = True) -> ApiResponseMeta:
    headers = HttpHeaders({"x-elastic-product": "Elasticsearch"} if ours else {})
    node = NodeConfig("http", "search", 9200)
    return ApiResponseMeta(status=status, http_version="1.1", headers=headers, duration=0.0, node=node)


@pytest.mark.parametrize("kind", sorted(set(below(elastic_transport.TransportError)), key=lambda each: each.__name__))
def test_every_error_of_the_transport_has_a_translation(kind: type[elastic_transport.TransportError]) -> None:
    if issubclass(kind, elasticsearch.ApiError | elasticsearch.UnsupportedProductError):
        return
    with pytest.raises(StoreError) as caught, translated(WHERE, 4.0):
        raise kind("no")
    assert WHERE in caught.value.message
    assert isinstance(caught.value.__cause__, kind)
    if kind in RETRYABLE:
        assert isinstance(caught.value, StoreUnavailable)


@pytest.mark.parametrize("kind", sorted(set(below(elasticsearch.ApiError)), key=lambda each: each.__name__))
def test_every_error_of_a_reply_has_a_translation(kind: type[elasticsearch.ApiError]) -> None:
    if kind is elasticsearch.UnsupportedProductError:
        with pytest.raises(StoreError, match="is not Elasticsearch"), translated(WHERE, 4.0):
            raise kind("no", meta=told(200, ours=False), body={})
        return
    for status in (400, 401, 403, 404, 408, 409, 413, 429, 500, 502, 503, 504):
        with pytest.raises(StoreError) as caught, translated(WHERE, 4.0):
            raise kind("no", meta=told(status), body={"error": {"type": "x", "reason": "y"}})
        assert isinstance(caught.value, StoreUnavailable) == (status in (408, 429) or status >= 500), status
        with pytest.raises(StoreError), translated(WHERE, 4.0):
            raise kind("no", meta=told(status, ours=False), body="<html>")


@pytest.mark.parametrize(
    ("status", "kind", "error"),
    [
        (404, "index_not_found_exception", IndexAbsent),
        (429, "es_rejected_execution_exception", Overloaded),
        (503, "unavailable_shards_exception", Overloaded),
        (429, "cluster_block_exception", StoreUnavailable),
        (400, "mapper_parsing_exception", StoreError),
    ],
)
def test_kinds(status: int, kind: str, error: type[StoreError]) -> None:
    assert type(of_reply(WHERE, status, {"error": {"type": kind, "reason": "for a test"}})) is error


def test_a_reason_is_the_innermost_one_and_holds_no_text_of_a_document() -> None:
    body = {
        "error": {
            "type": "document_parsing_exception",
            "reason": "failed to parse field [tokens]. Preview of field's value: 'a secret'",
            "caused_by": {"type": "illegal_argument_exception", "reason": "too long"},
        }
    }
    assert reason_of(body) == ("document_parsing_exception", "failed to parse field [tokens].: too long")
    assert reason_of("x" * 1000)[1] == "x" * 300
    assert reason_of(None) == ("", "no reason given")
