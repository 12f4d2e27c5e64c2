"""`manage.py check --deploy` on production's settings: nothing to complain of."""

import os
import subprocess
import sys

from stack.rundir import CHECKOUT
from tests.support.settings import COMPLETE


def test_the_deployment_check_is_clean() -> None:
    kept = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG"}}

    ended = subprocess.run(
        [sys.executable, "manage.py", "check", "--deploy", "--fail-level=WARNING"],
        cwd=CHECKOUT,
        env={**kept, **COMPLETE},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (ended.returncode, "no issues" in ended.stdout) == (0, True), ended.stderr
