"""What Elasticsearch and its client say when something fails, as errors of ours with a sentence on what to do.

StoreUnavailable is for what heals by waiting; a wrong login, version, mapping or address of something else is a
StoreError. No message holds a password: addresses are those of the settings, where none is left.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rag.core.errors import StoreError, StoreUnavailable

_REASON_CHARS = 300
_PRODUCT = "Elasticsearch"
_GATEWAY = (502, 503, 504)


class IndexAbsent(StoreError):
    """The index or alias is not there."""


class Unreachable(StoreUnavailable):
    """No connection to the server."""


class NoReply(StoreUnavailable):
    """The server gave no reply in time. A single call may also have been too dear."""


class Outdated(StoreUnavailable):
    """The index is one of an older Parley: what is to be written there can wait for `parley index rebuild`."""


class Overloaded(StoreUnavailable):
    """The server is there and had no room for this call; the same call may pass in a moment."""


def reason_of(body: Any) -> tuple[str, str]:
    """The type and the sentence of an error in a reply's body; the innermost cause, where it names one."""
    error = body.get("error", body) if isinstance(body, dict) else body
    if not isinstance(error, dict):
        return "", str(error or "no reason given")[:_REASON_CHARS]
    kind, reason = str(error.get("type", "")), str(error.get("reason", "no reason given"))
    roots = error.get("root_cause") or error.get("failed_shards") or ()
    if roots and isinstance(roots[0], dict):
        inner = roots[0].get("reason")
        root: dict[str, Any] = inner if isinstance(inner, dict) else roots[0]
        kind, reason = str(root.get("type", kind)), str(root.get("reason", reason))
    # What follows is the text of a document, which belongs in no message.
    reason = reason.partition(" Preview of field's value")[0]
    cause = error.get("caused_by")
    if isinstance(cause, dict) and cause.get("reason"):
        reason = f"{reason}: {cause['reason']}"
    return kind, reason[:_REASON_CHARS]


def of_reply(where: str, status: int, body: Any) -> StoreError:
    """The error of a reply, or of one part of it, that is not a success."""
    kind, reason = reason_of(body)
    if kind == "index_not_found_exception" or (status == 404 and kind == "aliases_not_found_exception"):
        return IndexAbsent(reason)
    if kind == "cluster_block_exception":
        return _of_block(where, reason)
    if status == 401:
        return StoreError(
            f"Elasticsearch at {where} refuses the login: check index.user and index.password, or index.api_key."
        )
    if status == 403:
        return StoreError(
            f"Elasticsearch at {where} forbids a call: give the user the cluster privilege `monitor` and `all` on the "
            f"indices `<index.prefix>.*`. {reason}"
        )
    if kind in ("media_type_header_exception", "content_type_header_exception"):
        return StoreError(f"The server at {where} does not speak Elasticsearch 8: check its version. {reason}")
    if status == 429:
        return Overloaded(f"Elasticsearch at {where} has no room for more work now. {reason}")
    if status in (408, 503):
        return Overloaded(f"Elasticsearch at {where} is not ready ({status}). {reason}")
    if status == 413:
        return StoreError(f"Elasticsearch at {where} takes no call of this size: raise its http.max_content_length.")
    if status >= 500:
        return StoreUnavailable(f"Elasticsearch at {where} failed ({status}). {reason}")
    return StoreError(f"Elasticsearch at {where} refused a call ({status}, {kind or 'no type'}): {reason}")


def _of_block(where: str, reason: str) -> StoreError:
    if "flood-stage" in reason or "read-only / allow delete" in reason:
        return StoreUnavailable(
            f"The disk of Elasticsearch at {where} is too full, so it takes no writes: free space or add a disk; it "
            f"lifts the block itself below its high watermark. {reason}"
        )
    return StoreUnavailable(f"Elasticsearch at {where} blocks this index: lift the block to go on. {reason}")


def is_ours(status: int, headers: Any) -> bool:
    """Whether a reply can be that of Elasticsearch, or of a gateway before it."""
    return headers.get("x-elastic-product") == _PRODUCT or status in (401, 403, 429, *_GATEWAY)


def not_elasticsearch(where: str) -> StoreError:
    """The error of an address where something else answers."""
    return StoreError(f"What answers at {where} is not Elasticsearch: check index.url.")


@contextmanager
def translated(where: str, timeout_s: float) -> Iterator[None]:
    """Errors of the client as ours, most specific first."""
    import elastic_transport
    import elasticsearch  # Both are loaded by then: with the client, never before.

    try:
        yield
    except elasticsearch.UnsupportedProductError as error:
        raise not_elasticsearch(where) from error
    except elasticsearch.ApiError as error:
        if not is_ours(error.meta.status, error.meta.headers):
            raise not_elasticsearch(where) from error
        raise of_reply(where, error.meta.status, error.body) from error
    except elastic_transport.ConnectionTimeout as error:
        raise NoReply(f"Elasticsearch at {where} did not answer within {timeout_s:g} s.") from error
    except elastic_transport.TlsError as error:
        raise StoreError(
            f"The certificate of Elasticsearch at {where} is not trusted: name its authority in index.tls_ca. {error}"
        ) from error
    except elastic_transport.ConnectionError as error:
        raise Unreachable(
            f"Elasticsearch at {where} cannot be reached: check that it runs and index.url. {error.message}"
        ) from error
    except elastic_transport.SerializationError as error:
        raise not_elasticsearch(where) from error
    except elastic_transport.TransportError as error:
        raise StoreUnavailable(f"The call to Elasticsearch at {where} failed: {error.message}") from error
    except TimeoutError as error:
        raise NoReply(f"Elasticsearch at {where} did not answer within {timeout_s:g} s.") from error
