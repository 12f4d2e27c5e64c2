"""What the leader notices by itself within a minute, and what it tells."""

import json
from dataclasses import replace
from decimal import Decimal
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from django.core.management import CommandError, call_command
from django.db import connection
from pytest_django import Settings
from structlog.testing import capture_logs

from base.fence import no_fence
from base.models import Seal
from base.seal_key import private_key
from clearing.models import Attempt, StatusChange
from clearing.status import State
from ops.seals import job, sealing
from ops.seals.chain import newest
from tests.clearing.people import BY_PHONE, K, done_by_two, unknown
from tests.ops.seals.conftest import by_superuser, new_key, seal
from tests.support.orders import World, operation
from tests.support.states import any_transition

pytestmark = pytest.mark.django_db(transaction=True)


def passed() -> list[Any]:
    """The lines of one pass that alarm or tell."""
    with capture_logs() as lines:
        assert job.seal_history(no_fence)
    return [line for line in lines if "alarm" in line or "told" in line]


def codes() -> list[str]:
    return [line.get("alarm") or line["told"] for line in passed()]


class TestAPass:
    def test_seals_and_tells_the_root(self, world: World) -> None:
        [line] = passed()

        last = newest()
        assert last is not None
        assert (line["told"], line["seal"], line["root"], line["key"]) == ("history_sealed", 1, f"1:{last.root}", last.key)

    def test_of_nothing_new_tells_nothing(self, world: World) -> None:
        passed()

        assert passed() == []

    def test_catches_up_with_a_long_past(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sealing, "ROWS_MAX", 3)

        assert codes() == ["history_sealed"] * Seal.objects.count()
        assert Seal.objects.count() > 3

    def test_every_root_gets_out_however_soon_one_follows_another(self) -> None:
        from base.webhook import SUBJECTS

        assert "seal" in SUBJECTS


class TestNoticed:
    def test_a_changed_row_of_the_newest_seal(self, world: World) -> None:
        passed()
        by_superuser("UPDATE clearing_attempt SET response = NULL WHERE id = (SELECT max(id) FROM clearing_attempt)")

        [line] = passed()

        assert (line["alarm"], line["what"], line["table"]) == ("history_tampered", "changed", "clearing_attempt")

    def test_one_of_an_older_seal_when_its_turn_comes(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        passed()
        world.run(world.accept())
        passed()
        by_superuser("UPDATE clearing_attempt SET detail = 'well' WHERE id = (SELECT min(id) FROM clearing_attempt)")
        monkeypatch.setattr("ops.seals.job.time.time", lambda: 60.0)
        assert codes() == []
        monkeypatch.setattr("ops.seals.job.time.time", lambda: 120.0)
        assert codes() == ["history_tampered"]

    def test_a_chain_that_was_cut_off(self, world: World) -> None:
        passed()
        by_superuser("DELETE FROM base_seal")

        assert codes()[0] == "history_tampered"

    def test_a_chain_that_was_made_anew(self, world: World, settings: Settings) -> None:
        passed()
        by_superuser("DELETE FROM base_seal; UPDATE clearing_attempt SET detail = 'well'")
        seal()

        assert codes() == ["history_tampered"]

    def test_another_key(self, world: World, settings: Settings) -> None:
        settings.SEAL_KEY, ours = new_key(), settings.SEAL_KEY
        passed()
        settings.SEAL_KEY = ours

        assert codes() == ["history_tampered"]


class TestClearedOrders:
    def test_that_were_cleared_as_they_should_are_proven(self, world: World) -> None:
        clearing = unknown(world)
        assert done_by_two(clearing, K.CONFIRM_DONE, replace(BY_PHONE, amount=Decimal(3000))).state != State.PARKED
        assert world.run(clearing).state == State.CLEARED

        assert codes() == ["history_sealed"]

    def test_one_without_an_answer_for_each_step(self, world: World) -> None:
        clearing = unknown(world)
        with any_transition(), connection.cursor() as cursor:
            cursor.execute("UPDATE clearing_clearing SET state = 'cleared', step = 4, cleared_at = now(), due_at = NULL WHERE id = %s", [clearing.pk])
            cursor.execute("UPDATE clearing_operation SET state = 'done' WHERE clearing_id = %s", [clearing.pk])

        lines = passed()

        found = [(line["order_id"], line["step"]) for line in lines if line.get("alarm") == "cleared_unproven"]
        assert found == [(clearing.order.order_id, step) for step in (2, 3, 4)]

    def test_also_where_only_the_history_says_so(self, world: World) -> None:
        clearing = unknown(world)
        StatusChange.objects.create(clearing=clearing, from_state="running", to_state="cleared", step=4, epoch=1, actor="eve")

        assert [line.get("alarm") for line in passed()] == ["cleared_unproven"] * 3 + [None]

    def test_an_attempt_that_failed_proves_nothing(self, world: World) -> None:
        clearing = world.run(world.accept())
        third = operation(clearing, 3)
        by_superuser("UPDATE clearing_attempt SET outcome = 'unknown' WHERE operation_id = %s", third.pk)
        assert Attempt.objects.filter(operation=third).exists()

        assert codes() == ["cleared_unproven", "cleared_unproven", "history_sealed"]


class TestWithoutAKey:
    def test_production_is_told_once_an_hour(self, world: World, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        settings.SEAL_KEY, settings.PRODUCTION = "", True
        monkeypatch.setitem(job._seen, "unsigned_at", float("-inf"))

        assert codes() == ["history_sealed", "seals_unsigned"]
        world.run(world.accept())
        assert codes() == ["history_sealed"]


def run(*arguments: str) -> tuple[int, Any]:
    out = StringIO()
    code = 0
    try:
        call_command("verify_history", *arguments, "--json", stdout=out)
    except SystemExit as ended:
        code = int(str(ended.code))
    return code, json.loads(out.getvalue())


class TestCommand:
    def test_intact(self, world: World) -> None:
        last = seal()
        world.run(world.accept())

        code, said = run("--root", f"1:{last.root}")

        assert (code, said["verdict"], said["findings"], said["signatures_checked"]) == (0, "intact", [], True)
        assert said["not_covered"]["clearing_attempt"] == 4

    def test_tampered(self, world: World) -> None:
        seal()
        by_superuser("UPDATE clearing_attempt SET detail = 'well'")

        code, said = run()

        assert (code, said["verdict"], said["findings"][0]["table"]) == (1, "tampered", "clearing_attempt")
        out = StringIO()
        with pytest.raises(SystemExit):
            call_command("verify_history", stdout=out)
        assert "TAMPERED  seal 1: changed clearing_attempt ids" in out.getvalue()

    def test_restored_from_a_backup(self, world: World) -> None:
        seal()

        code, said = run("--root", f"2:{'0' * 64}")

        assert (code, said["verdict"]) == (3, "shorter")

    def test_another_root_than_was_told(self, world: World) -> None:
        seal()

        assert run("--root", f"1:{'0' * 64}")[0] == 1

    def test_a_public_key_from_a_file_is_enough(self, world: World, settings: Settings, tmp_path: Path) -> None:
        public = private_key(settings.SEAL_KEY).public_key()
        seal()
        settings.SEAL_KEY = ""
        file = tmp_path / "seal.pub.pem"
        file.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))

        assert run("--public-key", str(file))[1]["signatures_checked"]
        by_superuser("UPDATE base_seal SET signature = '\\x00'")
        assert run("--public-key", str(file))[0] == 1

    def test_no_key_is_told(self, world: World, tmp_path: Path) -> None:
        with pytest.raises(CommandError, match="can't be read") as raised:
            run("--public-key", str(tmp_path / "none"))

        assert raised.value.returncode == 2
