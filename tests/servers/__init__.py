"""Real servers for tests: found or fetched, started once per run on free loopback ports, gone with the run.

`python -m tests.servers` fetches what is missing; `python -m tests.servers start` starts them and prints the
environment by which tests and a `parley serve` use them. The fixtures are in `fixtures.py`.
"""
