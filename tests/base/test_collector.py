"""The garbage collector while a process starts."""

import gc
import subprocess
import sys

import pytest

from base.collector import uncollected
from stack.rundir import CHECKOUT

STARTED = "import acceptance_site, django, gc; django.setup(); print(gc.isenabled(), gc.get_freeze_count() > 50_000)"


class TestUncollected:
    def test_nothing_is_collected_within(self) -> None:
        with uncollected():
            assert not gc.isenabled()

        assert gc.isenabled()

    def test_an_import_that_fails_leaves_it_on(self) -> None:
        with pytest.raises(ImportError), uncollected():
            import no_such_module  # type: ignore[import-not-found]  # noqa: F401

        assert gc.isenabled()

    def test_within_another_the_outer_one_decides(self) -> None:
        with uncollected():
            with uncollected():
                pass
            assert not gc.isenabled()


def test_a_process_that_has_started_leaves_its_imports_alone_and_collects_the_rest() -> None:
    environment = {"DJANGO_SETTINGS_MODULE": "acceptance_site.settings"}
    command = [sys.executable, "-c", STARTED]

    ended = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False)

    assert ended.stdout.split() == ["True", "True"], ended.stderr
