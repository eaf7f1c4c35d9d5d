from tests.unit.api.db.services.test_turn_races import *  # noqa: F403
