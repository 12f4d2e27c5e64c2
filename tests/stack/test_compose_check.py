import re

import pytest
import yaml

from stack.compose_check import findings, known_variables
from stack.procfile import read_procfile
from stack.rundir import CHECKOUT

SOUND = """
services:
  web:
    image: acceptance-service
    environment:
      SECRET_KEY: ${SECRET_KEY:?set it}
    command: [env, PROCESS_ROLE=web, gunicorn]
    depends_on: [database]
    volumes: ["data:/data", "./etc:/etc/web"]
    healthcheck:
      test: [CMD, "true"]
  database:
    image: postgres:18
    environment:
      POSTGRES_DB: acceptance
    healthcheck:
      test: [CMD, "true"]
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
            ('    healthcheck:\n      test: [CMD, "true"]\nvolumes', "volumes", "database has no healthcheck"),
        ],
    )
    def test_what_is_wrong_is_named(self, sound: str, wrong: str, finding: str) -> None:
        assert sound in SOUND

        [found] = check(SOUND.replace(sound, wrong))

        assert found.startswith(finding)
