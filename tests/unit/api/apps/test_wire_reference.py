from dataclasses import replace

from api.apps.wire_reference import numbered_reference_wire, reference_wire
from rag.core.types import Reference
from tests.unit.api.apps.test_sse import CHUNK, REFERENCE


def test_our_own_routes_tell_number_and_page() -> None:
    reference = replace(REFERENCE, chunks=(CHUNK, replace(CHUNK, index=1, positions=())))
    own, contract = numbered_reference_wire(reference), reference_wire(reference)
    assert [(chunk["index"], chunk["page"]) for chunk in own["chunks"]] == [(0, 7), (1, None)]
    assert own["chunks"][0]["positions"] == contract["chunks"][0]["positions"] != []
    assert not {"index", "page"} & contract["chunks"][0].keys()
    assert own.keys() == contract.keys()


def test_no_sources_are_an_empty_object() -> None:
    assert numbered_reference_wire(Reference()) == reference_wire(Reference()) == {}
