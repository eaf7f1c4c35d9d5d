"""`python -m tests.servers [fetch|start]`."""

import argparse
import os
import signal
import sys

from tests.servers.elastic import Elasticsearch
from tests.servers.fetch import Missing, elasticsearch_home, java_home, mariadb_programs
from tests.servers.mariadb import Mariadb, fresh_database


def fetch() -> None:
    """Fetch what can be fetched; name what must be installed."""
    print(f"Java           {java_home()}")
    print(f"Elasticsearch  {elasticsearch_home(fetch=True)}")
    print(f"MariaDB        {mariadb_programs()[0]}")


def start() -> None:
    """Run both until a signal."""
    servers = (Elasticsearch(), Mariadb())
    try:
        for server in servers:
            server.start()
        elastic, mariadb = servers
        print("# For tests:")
        print(f"export PARLEY_TEST_ELASTICSEARCH_URL={elastic.url}")
        print(f"export PARLEY_TEST_MYSQL_URL={mariadb.url}")
        print("# For a server:")
        print(f"export PARLEY_INDEX__URL={elastic.url}")
        print(f"export PARLEY_ROWS__URL={fresh_database(mariadb.url)}")
        print(f"# Both end with process {os.getpid()} (Ctrl-C).", flush=True)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        signal.pause()
    except KeyboardInterrupt:
        print("# Ended.")
    finally:
        for server in servers:
            server.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.servers", description=__doc__)
    parser.add_argument("what", nargs="?", choices=("fetch", "start"), default="fetch")
    try:
        fetch() if parser.parse_args().what == "fetch" else start()
    except Missing as missing:
        print(missing, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
