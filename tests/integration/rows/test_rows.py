from tests.unit.api.db.test_rows import *  # noqa: F403
