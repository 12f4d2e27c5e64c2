"""After a restore: the list of orders that operators had voided, from the log line of each to the
command that reads the list.
"""

import json
import threading
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from pytest_django import DjangoCaptureOnCommitCallbacks, Settings
from structlog.testing import capture_logs

from clearing.interventions.requests import approve
from clearing.models import Clearing, RestorePoint, VoidedBefore
from clearing.opening import hold, open_clearings
from clearing.store.claims import ClearingRef
from clearing.store.interventions import NotPossible
from ops.management.commands import mark_restored
from ops.recovery.voided import VoidReport
from orders.backfill.gap_pass import interface_origin
from orders.intake.classify import read_row
from orders.intake.ingest import AcceptedOrder, ingest
from orders.models import Source
from tests.clearing.people import ANN, REASON, K, asked
from tests.clearing.restored import HELD, ORDER_ID, now_ms, parked_at_2, tell, void
from tests.orders.messages import RULES, interface_row
from tests.support.beside import beside, until_somebody_waits_for_a_lock
from tests.support.orders import World


@pytest.mark.django_db(transaction=True)
class TestAnOrderThatComesAtTheSameMoment:
    def test_is_waited_for_and_held(self) -> None:
        inside, go_on = threading.Event(), threading.Event()
        columns = interface_row("O1")
        items = [read_row(columns, interface_origin("gap:", 2, columns), RULES)]

        def hesitate(accepted: Sequence[AcceptedOrder]) -> list[ClearingRef]:
            inside.set()
            go_on.wait(20)
            return open_clearings(accepted, restored=True)

        storing, _ = beside(lambda: ingest(items, source=Source.GAP, open_clearings=hesitate, hold=hold, publish=lambda _: True))
        assert inside.wait(20)
        telling, told = beside(lambda: tell("O1"))
        try:
            until_somebody_waits_for_a_lock()
        finally:
            go_on.set()
            storing.join(20)
            telling.join(20)

        assert told == [VoidReport(held=["O1"])]
        assert Clearing.objects.get().hold_code == HELD


class TestWhatPeopleDecide:
    def test_is_told_outside_the_database(
        self, world: World, settings: Settings, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
    ) -> None:
        clearing = parked_at_2(world, settings, now_ms())

        with capture_logs() as lines, django_capture_on_commit_callbacks(execute=True):
            done = void(clearing)

        (line,) = [line for line in lines if "told" in line]
        assert (line["told"], line["log_level"], line["order_id"]) == ("people_void", "warning", ORDER_ID)
        assert (line["asked_by"], line["approved_by"], line["reason"]) == ("ann", "ben", REASON)
        assert (line["bookings"], line["decided_at"]) == (done.bookings, done.decided_at)
        assert line["bookings"]

    def test_is_not_told_where_it_was_refused(
        self, world: World, settings: Settings, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
    ) -> None:
        clearing = parked_at_2(world, settings, now_ms())
        pk = asked(clearing, K.VOID)

        with capture_logs() as lines, django_capture_on_commit_callbacks(execute=True), pytest.raises(NotPossible):
            approve(pk, operator=ANN)

        assert [line for line in lines if "told" in line] == []


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else is connected."""
    monkeypatch.setattr(mark_restored, "_connected", set)


def said(*arguments: str) -> Any:
    out = StringIO()
    call_command("mark_restored", *arguments, "--json", stdout=out)
    return json.loads(out.getvalue())


@pytest.mark.usefixtures("alone", "world")
class TestTheCommand:
    def test_marks_and_takes_the_list(self, tmp_path: Path) -> None:
        listed = tmp_path / "voided.txt"
        listed.write_text("\ufeff# from the log of web-1\r\nO-1  # the fund is gone\r\n\r\n  O#2\nO-1\n", encoding="utf-8")

        found = said("--reason=test", f"--voided={listed}")

        assert found["voided"]["awaited"] == ["O-1", "O#2"]
        assert RestorePoint.objects.count() == 1
        assert sorted(VoidedBefore.objects.values_list("order_id", flat=True)) == ["O#2", "O-1"]

    def test_takes_further_ones_later_without_another_restore_point_while_others_work(self, monkeypatch: pytest.MonkeyPatch) -> None:
        said("--reason=test")
        monkeypatch.setattr(mark_restored, "_connected", lambda: {"web"})
        monkeypatch.setattr("sys.stdin", StringIO("O-3\n"))

        found = said("--voided=-")

        assert (found["voided"]["awaited"], RestorePoint.objects.count()) == (["O-3"], 1)

    def test_says_what_became_of_each(self, world: World, tmp_path: Path) -> None:
        (tmp_path / "voided.txt").write_text("O-1\n")
        out = StringIO()

        call_command("mark_restored", "--reason=test", f"--voided={tmp_path / 'voided.txt'}", stdout=out)

        assert "0 held, 1 held when they come" in out.getvalue()
        assert "O-1: not here yet" in out.getvalue()

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"O-1\nO 2\n", "line 2: 'O 2'"),
            (b"O-1\n\xff\n", "can't be read"),
            (b"O" * 65, "line 1"),
            (b"O-1,O-2\x00", "line 1"),
            (None, "can't be read"),
        ],
    )
    def test_changes_nothing_for_a_list_that_it_can_not_read(self, tmp_path: Path, content: bytes | None, message: str) -> None:
        listed = tmp_path / "voided.txt"
        if content is not None:
            listed.write_bytes(content)

        with pytest.raises(CommandError, match=message) as refused:
            said("--reason=test", f"--voided={listed}")

        assert refused.value.returncode == 2
        assert (RestorePoint.objects.count(), VoidedBefore.objects.count()) == (0, 0)

    @pytest.mark.parametrize(("arguments", "message"), [((), "say what happened"), (("--voided=-",), "no restore was said")])
    def test_refuses_a_list_without_a_restore(self, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str) -> None:
        monkeypatch.setattr("sys.stdin", StringIO("O-3\n"))

        with pytest.raises(CommandError, match=message):
            said(*arguments)

        assert VoidedBefore.objects.count() == 0
