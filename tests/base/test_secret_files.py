"""Secrets from files: a container's environment is shown by whoever may inspect it."""

import re
from pathlib import Path

import pytest

from acceptance_site.configuration import SECRETS
from tests.base.test_settings import FREE, WRONG, Read, read  # noqa: F401 - a fixture
from tests.support.settings import COMPLETE

MAY_BE_SECRET = re.compile(r"SECRET|PASSWORD|TOKEN|_KEYS?$|^(DATABASE|BROKER|ALARM_WEBHOOK)_URL$")
FUND_KEY = COMPLETE["FUND_KEY"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "fund_key"


def test_every_setting_that_may_be_secret_may_lie_in_a_file() -> None:
    assert {name for name in {*WRONG, *FREE} if MAY_BE_SECRET.search(name)} == SECRETS


class TestAFile:
    @pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
    def test_holds_the_secret_and_its_last_line_break_is_cut(self, read: Read, file: Path, ending: str) -> None:  # noqa: F811
        file.write_bytes((FUND_KEY + ending).encode())

        values, said = read(FUND_KEY="", FUND_KEY_FILE=str(file))

        assert said == []
        assert values["COUNTERPARTY_KEYS"]["fund"] == FUND_KEY

    def test_holds_an_address(self, read: Read, file: Path) -> None:  # noqa: F811
        file.write_text(COMPLETE["DATABASE_URL"].replace("a@", "a:s3cret@") + "\n")

        values, _ = read(DATABASE_URL="", DATABASE_URL_FILE=str(file))

        assert values["DATABASES"]["default"]["PASSWORD"] == "s3cret"

    def test_beside_the_variable_is_a_problem(self, read: Read, file: Path) -> None:  # noqa: F811
        file.write_text("another-s3cret")

        _, said = read(FUND_KEY_FILE=str(file))

        assert said[1:] == ["FUND_KEY and FUND_KEY_FILE are both set: unset one of them"]

    def test_that_is_not_there_is_a_problem(self, read: Read) -> None:  # noqa: F811
        _, said = read(FUND_KEY="", FUND_KEY_FILE="/no/such/file")

        assert said[1:] == ["FUND_KEY_FILE can't be read (No such file or directory): set it to a file that holds FUND_KEY alone"]

    def test_that_is_empty_is_as_good_as_none(self, read: Read, file: Path) -> None:  # noqa: F811
        file.touch()

        _, said = read(FUND_KEY="", FUND_KEY_FILE=str(file))

        assert [line.split(":")[0] for line in said[1:]] == ["FUND_KEY is not set"]

    def test_holds_what_production_refuses(self, read: Read, file: Path) -> None:  # noqa: F811
        file.write_text("s3cret")

        _, said = read(FUND_KEY="", FUND_KEY_FILE=str(file))

        assert said[1].startswith("FUND_KEY is too short")
        assert "s3cret" not in said[1]
