"""What all tests share."""

from hypothesis import settings

# The same examples in every run: a change is judged by what it changed. `--hypothesis-profile=default` looks further.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")
