from tests.unit.api.db.services.test_turn_edits import *  # noqa: F403
