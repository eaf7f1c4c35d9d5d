from tests.unit.api.db.services.test_asides import *  # noqa: F403
