"""What nobody needs any more is deleted, and nothing else."""

from datetime import timedelta

import pytest
from django.contrib.sessions.models import Session
from django.utils import timezone
from pytest_django import Settings

from base.fence import TermOutdated, fence_of
from base.fence import current as current_term
from ops import tasks
from ops.recovery import tidy
from ops.recovery.tidy import run_tidy
from orders.models import Quarantined, QuarantinedMessage
from tests.orders.fakes import FakeClearings
from tests.orders.messages import message, read, row

pytestmark = pytest.mark.django_db(transaction=True)


def quarantined(*, days_ago: float | None) -> None:
    """Two rows of one message; `days_ago` is when they were replayed, None for never."""
    number = Quarantined.objects.count()
    FakeClearings().ingest(read(message(*(row(f"O{number + at}", asset="DOGE") for at in range(2)))))
    replayed_at = None if days_ago is None else timezone.now() - timedelta(days=days_ago)
    Quarantined.objects.filter(order_id__in=[f"O{number}", f"O{number + 1}"]).update(replayed_at=replayed_at)


class TestTidy:
    def test_deletes_what_was_replayed_long_ago_with_its_message(self, settings: Settings) -> None:
        settings.QUARANTINE_DAYS = 30
        for days_ago in (None, 29, 31):
            quarantined(days_ago=days_ago)
        QuarantinedMessage.objects.update(kept_at=timezone.now() - timedelta(days=100))

        assert run_tidy() == {"sessions": 0, "quarantined": 2, "messages": 1}
        assert sorted(Quarantined.objects.values_list("order_id", flat=True)) == ["O0", "O1", "O2", "O3"]
        assert QuarantinedMessage.objects.count() == 2

    def test_deletes_sessions_that_have_ended(self) -> None:
        for number, hours in enumerate((-1, 1)):
            Session.objects.create(session_key=f"k{number}", session_data="", expire_date=timezone.now() + timedelta(hours=hours))

        assert run_tidy()["sessions"] == 1
        assert Session.objects.get().session_key == "k1"

    def test_does_so_in_small_transactions_and_leaves_the_rest_to_the_next_run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tidy, "ROWS_MAX", 2)
        monkeypatch.setattr(tidy, "TRANSACTIONS_MAX", 2)
        for number in range(5):
            Session.objects.create(session_key=f"k{number}", session_data="", expire_date=timezone.now() - timedelta(hours=1))

        assert [run_tidy()["sessions"] for _ in range(2)] == [4, 1]

    def test_of_an_old_term_deletes_nothing(self) -> None:
        Session.objects.create(session_key="k", session_data="", expire_date=timezone.now() - timedelta(hours=1))

        with pytest.raises(TermOutdated):
            run_tidy(fence_of(current_term().term - 1))

        assert Session.objects.count() == 1

    def test_is_a_periodic_job(self) -> None:
        Session.objects.create(session_key="k", session_data="", expire_date=timezone.now() - timedelta(hours=1))

        tasks.tidy()

        assert Session.objects.count() == 0
