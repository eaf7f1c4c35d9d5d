from tests.unit.api.db.services.test_answer_lease import *  # noqa: F403
