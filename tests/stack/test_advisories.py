"""`make advisories` never says "nothing found" where nobody could know."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from stack.advisories import KNOWN_WEAK, main

WEAK = {"name": KNOWN_WEAK[0], "version": KNOWN_WEAK[1], "vulns": [{"id": "CVE-1", "fix_versions": ["6.0"]}]}
SOUND = {"name": "django", "version": "5.2.19", "vulns": []}
SKIPPED = {"name": "django", "skip_reason": "Dependency not found on PyPI and could not be audited: django (5.2.19)"}


@pytest.fixture
def audit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the command on a pip-audit that answers so of the weak package, and so of ours."""

    def run(weak: object, ours: object, *options: str) -> tuple[int, str, str]:
        script = tmp_path / "pip-audit"
        answers = json.dumps([json.dumps({"dependencies": each}) if isinstance(each, list) else each for each in (weak, ours)])
        script.write_text(f"import sys\nprint({answers}['--require-hashes' in sys.argv])\nsys.stderr.write('last words')\n")
        code = main(list(options), (sys.executable, str(script)))
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


class TestAdvisories:
    def test_nothing_known_is_said_by_a_source_that_knows_others(self, audit: Any) -> None:
        assert audit([WEAK], [SOUND])[:2] == (0, "0 known weaknesses\n")

    def test_what_is_known_is_listed(self, audit: Any) -> None:
        code, out, _ = audit([WEAK], [SOUND, WEAK], "--json")

        assert code == 1
        assert json.loads(out) == [{"package": "pyyaml", "version": "5.3", "id": "CVE-1", "fixed_in": ["6.0"]}]

    @pytest.mark.parametrize(
        ("weak", "ours", "why"),
        [
            ([{**WEAK, "vulns": []}], [SOUND], "it serves no advisories"),
            ([SKIPPED], [SKIPPED], "it serves no advisories"),  # a mirror of packages alone, for which pip-audit ends with 0
            ([WEAK], [SOUND, SKIPPED], "the source doesn't know django"),
            ([WEAK], [], "the source doesn't know any package"),
            ("", "", "last words"),
        ],
    )
    def test_a_source_that_does_not_know_is_none(self, audit: Any, weak: object, ours: object, why: str) -> None:
        code, out, err = audit(weak, ours)

        assert (code, out) == (3, "")
        assert why in err

    def test_no_pip_audit_is_none_either(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([], ("/no/such/pip-audit",)) == 3
        assert "can't be started" in capsys.readouterr().err
