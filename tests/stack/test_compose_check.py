import re

import pytest
import yaml

from stack.compose_check import findings, known_variables
from stack.procfile import read_procfile
from stack.rundir import CHECKOUT

SOUND = """
x-bounds: &bounds
  cap_drop: [ALL]
  security_opt: ["no-new-privileges:true"]
  mem_limit: 1g
  pids_limit: 100
  networks: [inside]
services:
  web:
    <<: *bounds
    read_only: true
    image: acceptance-service
    environment:
      SECRET_KEY: ${SECRET_KEY:?set it}
    command: [env, PROCESS_ROLE=web, gunicorn]
    depends_on: [database]
    volumes: ["data:/data", "./etc:/etc/web"]
    healthcheck:
      test: [CMD, "true"]
  database:
    <<: *bounds
    cap_add: [CHOWN]
    image: postgres:18
    environment:
      POSTGRES_DB: acceptance
    healthcheck:
      test: [CMD, "true"]
networks:
  inside:
    internal: true
volumes:
  data:
"""


def check(text: str) -> list[str]:
    return list(findings(text, {"SECRET_KEY", "PROCESS_ROLE"}))


class TestComposeFile:
    def test_ours_is_sound(self) -> None:
        assert list(findings((CHECKOUT / "docker-compose.yml").read_text(), known_variables())) == []

    @pytest.mark.parametrize("name", ["worker", "worker-ops", "worker-suspects", "beat"])
    def test_runs_the_celery_processes_as_the_procfile_does(self, name: str) -> None:
        in_procfile = re.sub(r"\$\{\w+:-(\w+)\}", r"\1", read_procfile(CHECKOUT / "Procfile")[name]).replace(".$$", "")

        in_compose = yaml.safe_load((CHECKOUT / "docker-compose.yml").read_text())["services"][name]["command"]

        assert in_compose == ["env", f"PROCESS_ROLE={name}", *in_procfile.split()]

    def test_each_container_has_bounds(self) -> None:
        for bound in ("mem_limit: 1g", "pids_limit: 100", "networks: [inside]"):
            assert {found.split()[0] for found in check(SOUND.replace(f"  {bound}\n", "", 1))} == {"web", "database"}

    def test_of_two_networks_the_servers_are_on_the_one_that_leads_nowhere(self) -> None:
        document = yaml.safe_load((CHECKOUT / "docker-compose.yml").read_text())

        others = {name for name, service in document["services"].items() if not service.get("image", "acceptance-").startswith("acceptance-")}
        assert len(others) == 6
        assert {network for name in others for network in document["services"][name]["networks"]} == {"inside"}
        assert document["networks"]["inside"] == {"internal": True}
        assert document["services"]["sandbox"]["profiles"] == ["sandbox"]


class TestFindings:
    def test_a_sound_file_has_none(self) -> None:
        assert check(SOUND) == []

    @pytest.mark.parametrize(
        ("sound", "wrong", "finding"),
        [
            ("image: postgres:18", "picture: postgres:18", "the schema refuses it"),
            ("[database]", "[databse]", "web depends on databse, which is no service"),
            ("data:/data", "dta:/data", "web mounts dta, which is no volume"),
            ("PROCESS_ROLE=", "PROCES_ROLE=", "web is given PROCES_ROLE, which settings.py doesn't read"),
            ("${SECRET_KEY:?set it}", "${SECRET_KEY:-change-me}", "the secret SECRET_KEY isn't required"),
            ('    healthcheck:\n      test: [CMD, "true"]\nnetworks', "networks", "database has no healthcheck"),
            ("    read_only: true\n", "", "web may change its own files"),
            ("    read_only: true\n", "    read_only: true\n    cap_add: [NET_RAW]\n", "web is given capabilities"),
            ("    read_only: true\n", "    read_only: true\n    mem_limit: 1g\n    cap_drop: [NET_RAW]\n", "web keeps capabilities"),
            ("    read_only: true\n", "    read_only: true\n    security_opt: []\n", "web may gain privileges"),
        ],
    )
    def test_what_is_wrong_is_named(self, sound: str, wrong: str, finding: str) -> None:
        assert sound in SOUND

        [found] = check(SOUND.replace(sound, wrong))

        assert found.startswith(finding)
