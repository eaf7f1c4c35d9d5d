"""The files of docker/, as far as they can be judged without an engine: every setting exists, every image is pinned."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from api.cli import app
from rag.core.settings import load_settings
from tests.servers.fetch import ELASTICSEARCH

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text("utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text("utf-8"))
OURS = ("web", "worker")
_ASKED = re.compile(r"\$\{([A-Z_]+):\?[^}]+\}")
_OPTIONAL = re.compile(r"\$\{([A-Z_]+):-\}")


def given(service: str) -> dict[str, str]:
    """The environment of a service, as compose hands it on when all that it asks for is set."""
    raw: dict[str, str] = COMPOSE["services"][service]["environment"]
    assert all(isinstance(value, str) for value in raw.values()), "YAML must not make numbers or truths of them"
    return {name: _OPTIONAL.sub("", _ASKED.sub(r"secret of \1", value)) for name, value in raw.items()}


@pytest.mark.parametrize("service", OURS)
def test_every_variable_is_a_setting(service: str) -> None:
    variables = given(service)
    settings = load_settings(environ=variables, env_file=ROOT / "no.env")
    assert {name for name in variables if not name.startswith("PARLEY_")} <= {"OPENAI_API_KEY", "OPENAI_BASE_URL"}
    assert settings.rows.url == "mysql://parley@mysql:3306/parley"
    assert settings.rows.password is not None
    assert settings.rows.password.get_secret_value() == "secret of MYSQL_PASSWORD"
    assert settings.index.url == "http://elasticsearch:9200"
    assert settings.index.password is not None
    assert settings.index.password.get_secret_value() == "secret of ELASTIC_PASSWORD"
    assert settings.providers.openai_api_key is None


def test_web_and_worker_fit_each_other_and_the_servers() -> None:
    web, worker = given("web"), given("worker")
    shared = {name: value for name, value in web.items() if name in worker}
    assert shared == worker
    settings = load_settings(environ=web, env_file=ROOT / "no.env")
    assert settings.ingest.worker == "external", "the worker is a container of its own"
    assert settings.auth.allow_non_loopback
    assert COMPOSE["services"]["web"]["ports"] == [f"127.0.0.1:{settings.server.port}:{settings.server.port}"]
    mysql = given("mysql")
    assert mysql["MYSQL_PASSWORD"] == web["PARLEY_ROWS__PASSWORD"]
    assert settings.rows.url == f"mysql://{mysql['MYSQL_USER']}@mysql:3306/{mysql['MYSQL_DATABASE']}"
    assert given("elasticsearch")["ELASTIC_PASSWORD"] == web["PARLEY_INDEX__PASSWORD"]


def test_services_use_what_is_declared() -> None:
    for service in COMPOSE["services"].values():
        assert {volume.split(":")[0] for volume in service["volumes"]} <= COMPOSE["volumes"].keys()
        assert set(service.get("depends_on", ())) <= COMPOSE["services"].keys()
        assert service["restart"] == "unless-stopped"
    data = {tuple(COMPOSE["services"][service]["volumes"]) for service in OURS}
    assert data == {("data:/data",)}, "both work on one data folder"
    commands = {command.callback.__name__ for command in app.registered_commands if command.callback}
    assert {COMPOSE["services"][service]["command"][0] for service in OURS} <= commands


def test_images_are_pinned_and_elasticsearch_is_the_one_that_was_run() -> None:
    images = [service["image"] for service in COMPOSE["services"].values()]
    images += re.findall(r"^FROM (\S+)", DOCKERFILE, re.M)
    assert all(re.search(r":\d+\.\d+\.\d+(-|$)", image) for image in images), images
    assert f"elasticsearch:{ELASTICSEARCH}" in images


def test_the_image_is_made_of_what_is_there() -> None:
    sources = [name for line in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.M) for name in line.split()]
    assert sources
    ignored = (ROOT / "docker" / "Dockerfile.dockerignore").read_text("utf-8").split()
    for name in sources:
        assert (ROOT / name).exists(), name
        assert f"!{name}" in ignored, name
    for lock in re.findall(r"-r (\S+)", DOCKERFILE):
        assert (ROOT / lock).exists(), lock
    build = COMPOSE["services"]["web"]["build"]
    assert (ROOT / "docker" / build["context"] / build["dockerfile"]).resolve() == ROOT / "docker" / "Dockerfile"
    assert "USER parley" in DOCKERFILE
