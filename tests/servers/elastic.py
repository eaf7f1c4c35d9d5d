"""Elasticsearch for tests."""

import base64
import os
import shutil
import ssl
import subprocess
import urllib.error
import urllib.request
import uuid
from pathlib import Path

from tests.servers.fetch import Missing, elasticsearch_home, java_home
from tests.servers.process import ServerProcess, free_port

_HEAP = "512m"
USER, PASSWORD = "parley", "a test's password"


def fresh_prefix() -> str:
    """A value of `index.prefix` that nobody used before."""
    return f"t{uuid.uuid4().hex[:12]}"


class Elasticsearch(ServerProcess):
    """A node of its own cluster. `url` holds user and password when it is secured.

    Args:
        secured: Whether it asks for a user and speaks TLS; `authority` is then the file to trust.
    """

    def __init__(self, *, secured: bool = False, heap: str = _HEAP) -> None:
        self._port = free_port()
        self._secured = secured
        self._heap = heap
        super().__init__("elasticsearch", prepare=self._prepare, answers=self._is_up)

    @property
    def url(self) -> str:
        if not self._secured:
            return f"http://127.0.0.1:{self._port}"
        return f"https://{USER}:{PASSWORD.replace(' ', '%20')}@127.0.0.1:{self._port}"

    @property
    def address(self) -> str:
        """`url` without a login."""
        return f"{'https' if self._secured else 'http'}://127.0.0.1:{self._port}"

    @property
    def authority(self) -> Path:
        return self.folder / "home" / "config" / "node.crt"

    def _prepare(self, folder: Path) -> tuple[list[str], dict[str, str]]:
        # Links, as the cache may be where only its owner can look; copies of what the server writes into.
        home = folder / "home"
        shutil.copytree(
            elasticsearch_home(fetch=False),
            home,
            copy_function=_link,
            ignore=lambda path, _: ["config", "logs"] if Path(path).name.startswith("elasticsearch-") else [],
        )
        shutil.copytree(elasticsearch_home(fetch=False) / "config", home / "config")
        lines = [
            "discovery.type: single-node",
            "network.host: 127.0.0.1",
            f"http.port: {self._port}",
            f"transport.port: {free_port()}",
            f"path.data: {folder / 'data'}",
            f"path.logs: {folder / 'logs'}",
            # How full the disk of the machine is does not decide whether tests pass.
            "cluster.routing.allocation.disk.threshold_enabled: false",
            f"xpack.security.enabled: {str(self._secured).lower()}",
        ]
        if self._secured:
            _make_certificate(home / "config")
            _add_user(home)
            lines += [
                "xpack.security.http.ssl.enabled: true",
                "xpack.security.http.ssl.certificate: node.crt",
                "xpack.security.http.ssl.key: node.key",
            ]
        (home / "config" / "elasticsearch.yml").write_text("\n".join(lines) + "\n")
        (folder / "tmp").mkdir()
        return ["bash", str(home / "bin" / "elasticsearch")], {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "HOME": str(folder),
            "ES_JAVA_HOME": str(java_home()),
            "ES_JAVA_OPTS": f"-Xms{self._heap} -Xmx{self._heap}",
            "ES_TMPDIR": str(folder / "tmp"),
            "CLI_JAVA_OPTS": "-Xmx64m -XX:+UseSerialGC",
        }

    def _is_up(self) -> bool:
        request = urllib.request.Request(f"{self.address}/_cluster/health?wait_for_status=yellow&timeout=1s")
        context = None
        if self._secured:
            login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            request.add_header("Authorization", f"Basic {login}")
            context = ssl.create_default_context(cafile=self.authority)
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        try:
            with opener.open(request, timeout=5) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _run(command: list[str], **environment: str) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, env=dict(os.environ) | environment, timeout=60, check=False
    )
    if done.returncode:
        raise Missing(f"{command[0]}: {done.stdout[-500:]}{done.stderr[-500:]}")


def _make_certificate(folder: Path) -> None:
    """A key and a certificate for 127.0.0.1 that signs itself."""
    _run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
        + ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
        + ["-keyout", str(folder / "node.key"), "-out", str(folder / "node.crt")]
    )


def _add_user(home: Path) -> None:
    """The user of tests, in the node's own files: the build keeps no `.security` index."""
    program = str(home / "bin" / "elasticsearch-users")
    _run(["bash", program, "useradd", USER, "-p", PASSWORD, "-r", "superuser"], ES_JAVA_HOME=str(java_home()))
