"""Where the servers' programs are, and how they come there."""

import os
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

ELASTICSEARCH = "8.19.4"
_ARTIFACT = f"org.elasticsearch.distribution.integ-test-zip:elasticsearch:{ELASTICSEARCH}:zip"
_LEAST_JAVA = 17


class Missing(Exception):
    """A server cannot be had here; says what to install."""


def cache_folder() -> Path:
    """Where fetched servers are kept between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "parley" / "servers"


def elasticsearch_home(*, fetch: bool) -> Path:
    """The unpacked distribution: the real server without optional modules, from Maven Central (90 MB).

    Raises:
        Missing: it is not there, and `fetch` is false or fetching failed.
    """
    home = cache_folder() / f"elasticsearch-{ELASTICSEARCH}"
    if (home / "bin" / "elasticsearch").exists():
        return home
    if not fetch:
        raise Missing(f"Elasticsearch {ELASTICSEARCH} is not in {home}: run `python -m tests.servers`")
    maven = shutil.which("mvn")
    if maven is None:
        raise Missing("Maven fetches Elasticsearch: install `maven`")
    download = home.parent / "download"
    command = [maven, "-q", "-B", "dependency:copy", f"-Dartifact={_ARTIFACT}", f"-DoutputDirectory={download}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise Missing(f"Maven did not fetch {_ARTIFACT}: {done.stdout[-500:]}{done.stderr[-500:]}")
    partly = home.parent / f"unpacking-{os.getpid()}"
    with zipfile.ZipFile(download / f"elasticsearch-{ELASTICSEARCH}.zip") as packed:
        packed.extractall(partly)
    shutil.rmtree(home, ignore_errors=True)
    (partly / home.name).rename(home)
    shutil.rmtree(partly)
    shutil.rmtree(download)
    return home


def java_home() -> Path:
    """A Java new enough for Elasticsearch.

    Raises:
        Missing: there is none.
    """
    given = [Path(os.environ[name]) for name in ("ES_JAVA_HOME", "JAVA_HOME") if os.environ.get(name)]
    found = shutil.which("java")
    homes = given + ([Path(found).resolve().parent.parent] if found else [])
    for home in [*homes, *sorted(Path("/usr/lib/jvm").glob("java-*"), reverse=True)]:
        program = home / "bin" / "java"
        if not program.exists():
            continue
        told = subprocess.run([program, "-version"], capture_output=True, text=True, check=False).stderr
        version = re.search(r'version "(\d+)', told)
        if version and int(version.group(1)) >= _LEAST_JAVA:
            return home
    raise Missing(f"Elasticsearch runs on Java {_LEAST_JAVA} or newer: install `openjdk-17-jre-headless`")


def mariadb_programs() -> tuple[str, str]:
    """Paths of the server and of what makes its data folder.

    Raises:
        Missing: they are not installed.
    """
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    server, install = (shutil.which(name, path=path) for name in ("mariadbd", "mariadb-install-db"))
    if server is None or install is None:
        raise Missing("MariaDB is not installed: install `mariadb-server`")
    return server, install
