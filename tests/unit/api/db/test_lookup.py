import pytest

from api.db.lookup import Lookup
from api.db.tables import Tenant
from tests.unit.api.db.rows import Rows


@pytest.mark.parametrize("rounds", [1, 3])
def test_values_go_to_their_places_each_time(rows: Rows, rounds: int) -> None:
    database = rows.database()
    database.open()
    lookup = Lookup(Tenant, lambda name, id: Tenant.select().where((Tenant.id == id) & (Tenant.name == name)), 2)

    def fill() -> None:
        for number in range(3):
            Tenant.create(id=f"id{number}", name=f"it's {number}", create_time=1, update_time=1)

    def read() -> None:
        for number in range(3):
            found = lookup.first(f"it's {number}", f"id{number}")
            assert found is not None
            assert (found.id, found.name) == (f"id{number}", f"it's {number}")
            assert found == Tenant.get_by_id(f"id{number}")
        assert lookup.first("it's 1", "id2") is None
        assert lookup.first("value 0", "value 1") is None
        assert lookup.first("' OR 1=1 --", "id1") is None

    try:
        database.write_blocking(fill)
        for _ in range(rounds):
            database.run_blocking(read)
    finally:
        database.close()
