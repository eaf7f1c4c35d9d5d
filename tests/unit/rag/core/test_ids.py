"""Identifiers have the versions and shapes of the wire contract."""

import uuid

import xxhash
from hypothesis import given
from hypothesis import strategies as st

from rag.core import ids


def test_row_ids_are_version_1_without_the_machines_address() -> None:
    made = [uuid.UUID(ids.new_id()) for _ in range(200)]
    assert {u.version for u in made} == {1}
    assert len({u.node for u in made}) > 190, "the node is random, not the hardware address"
    assert all(u.node >> 40 & 1 for u in made), "the multicast bit marks it as random"
    assert len(set(made)) == 200


def test_message_ids_are_version_4_with_hyphens() -> None:
    text = ids.new_message_id()
    assert uuid.UUID(text).version == 4
    assert text.count("-") == 4


@given(st.text(), st.text(alphabet="0123456789abcdef", min_size=32, max_size=32))
def test_chunk_id_is_the_contracts_hash(content: str, document_id: str) -> None:
    made = ids.chunk_id(content, document_id)
    assert len(made) == 16
    assert made == xxhash.xxh64((content + document_id).encode("utf-8", "surrogatepass")).hexdigest()


def test_is_row_id() -> None:
    assert ids.is_row_id(ids.new_id())
    assert ids.is_row_id(str(uuid.UUID(ids.new_id())))
    assert not ids.is_row_id(ids.new_message_id())
    assert not ids.is_row_id("x")
    assert not ids.is_row_id("")


def test_secrets_have_the_contracts_length() -> None:
    assert len(ids.new_secret("ragflow-")) == len("ragflow-") + 43
    assert len(ids.new_share_token()) == 32
