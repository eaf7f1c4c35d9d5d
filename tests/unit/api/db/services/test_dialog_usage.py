"""Whose a dialog's model calls are: the rows name the key that asked, and the session's arms."""

from dataclasses import replace

from api.db.services.records import ModelCall
from tests.unit.api.db.services.talk import Talk, chatter, spoken
from tests.unit.api.db.services.world import ANN, World


class Sink:
    def __init__(self) -> None:
        self.calls: list[ModelCall] = []

    async def record(self, call: ModelCall) -> None:
        self.calls.append(call)


async def test_rows_name_the_key_that_asked(world: World) -> None:
    """Budgets of single keys are kept by it."""
    sink = Sink()
    talk = Talk(world, chatter(), usage=sink, features={"prompt_caching": "on"})
    dialog = replace(talk.dialog(), dataset_ids=())
    events = talk.dialogs.chat(replace(ANN, key_id="key-7"), dialog, spoken("Hello?"), message_id="m")
    assert [event async for event in events]
    await talk.models.settle()
    (call,) = sink.calls
    assert (call.key_id, call.tenant_id, call.message_id) == ("key-7", ANN.tenant_id, "m")
    assert "prompt_caching=on" in call.arm
