"""The replay of quarantined messages: chosen, confirmed, reported, and kept in the audit log."""

from collections.abc import Iterator

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from pytest_django import Settings

from clearing import opening as clearing_intake
from clearing.dispatch import broker
from clearing.models import Clearing
from ops.wiring import ingest_from_kafka
from orders.models import Quarantined, SyncOrder
from tests.orders.messages import message, read, row

pytestmark = pytest.mark.django_db(transaction=True)
LIST = "/admin/orders/quarantined/"
PAGE = f"{LIST}replay/"


@pytest.fixture(autouse=True)
def empty_broker() -> Iterator[None]:
    broker.client().flushdb()
    yield
    broker.client().flushdb()


@pytest.fixture
def refused() -> Quarantined:
    """An order for a coin that we didn't know."""
    ingest_from_kafka(read(message(row("O1", asset="DOGE"))))
    return Quarantined.objects.get(order_id="O1")


@pytest.fixture
def unreadable() -> Quarantined:
    ingest_from_kafka(read(b"no message"))
    return Quarantined.objects.get(reason="unreadable")


@pytest.fixture
def mended(settings: Settings) -> None:
    settings.ASSET_SCALES = {**settings.ASSET_SCALES, "DOGE": 8}


class TestTheList:
    def test_is_grouped_by_reason_with_counts(self, viewer: Client, refused: Quarantined, unreadable: Quarantined) -> None:
        text = viewer.get(LIST).content.decode()

        assert "refused:unknown_asset (1)" in text
        assert "unreadable (1)" in text

    def test_tells_what_went_in_from_what_waits(self, viewer: Client, refused: Quarantined, unreadable: Quarantined) -> None:
        Quarantined.objects.filter(pk=refused.pk).update(replayed_at=refused.quarantined_at)

        waiting = viewer.get(f"{LIST}?replayed=no").context["cl"].result_list

        assert [found.pk for found in waiting] == [unreadable.pk]


class TestAsking:
    def test_leads_from_the_list_to_the_page_with_what_was_chosen(self, replayer: Client, refused: Quarantined) -> None:
        answer = replayer.post(LIST, {"action": "replay_selected", "_selected_action": [refused.pk]}, follow=True)

        assert "refused:unknown_asset" in answer.content.decode()
        assert "is still refused" in answer.content.decode()

    def test_leads_from_its_own_page_too(self, replayer: Client, refused: Quarantined) -> None:
        assert "replay-this" in replayer.get(f"{LIST}{refused.pk}/change/").content.decode()

        answer = replayer.get(f"{LIST}{refused.pk}/replay-this/", follow=True)

        assert answer.context["ids"] == str(refused.pk)

    @pytest.mark.usefixtures("mended")
    def test_changes_nothing(self, replayer: Client, refused: Quarantined) -> None:
        replayer.get(f"{PAGE}?ids={refused.pk},x,,-1,99999999999999999999")

        assert (SyncOrder.objects.count(), LogEntry.objects.count()) == (0, 0)


class TestReplaying:
    @pytest.mark.usefixtures("mended")
    def test_lets_in_what_was_mended_and_tells_of_each(self, replayer: Client, refused: Quarantined, unreadable: Quarantined) -> None:
        answer = replayer.post(PAGE, {"ids": f"{refused.pk},{unreadable.pk}"}, follow=True)

        texts = [str(found) for found in answer.context["messages"]]
        assert [text.partition(": ")[2] for text in texts] == [
            "refused:unknown_asset is a new order",
            "unreadable is still refused: fix the cause first",
        ]
        assert SyncOrder.objects.get().source == "replay"
        assert Clearing.objects.count() == 1
        assert set(Quarantined.objects.exclude(replayed_at=None)) == {refused}

    @pytest.mark.usefixtures("mended")
    def test_says_so_where_an_internal_error_stops_it(self, replayer: Client, refused: Quarantined, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(clearing_intake, "_facts", None)

        answer = replayer.post(PAGE, {"ids": str(refused.pk)}, follow=True)

        assert "could not be replayed because of an internal error: TypeError" in answer.content.decode()
        assert LogEntry.objects.get().change_message.startswith("Replay: could not be replayed because of an internal error")

    @pytest.mark.usefixtures("mended")
    def test_stands_in_the_audit_log(self, replayer: Client, refused: Quarantined) -> None:
        replayer.post(PAGE, {"ids": str(refused.pk)})

        entry = LogEntry.objects.get()
        assert (entry.user.username, entry.object_id, entry.change_message) == ("replayer", str(refused.pk), "Replay: is a new order")


class TestPermission:
    def test_who_may_only_look_is_refused_and_not_offered_it(self, viewer: Client, refused: Quarantined) -> None:
        answers = [viewer.get(f"{PAGE}?ids={refused.pk}"), viewer.post(PAGE, {"ids": str(refused.pk)})]
        pages = viewer.get(LIST).content.decode() + viewer.get(f"{LIST}{refused.pk}/change/").content.decode()

        assert [answer.status_code for answer in answers] == [403, 403]
        assert "replay_selected" not in pages
        assert "replay-this" not in pages

    def test_a_form_of_another_site_is_refused(self, replayer: Client, refused: Quarantined) -> None:
        strict = Client(enforce_csrf_checks=True)
        strict.cookies = replayer.cookies

        assert strict.post(PAGE, {"ids": str(refused.pk)}).status_code == 403


def test_a_row_of_a_long_message_shows_itself_and_the_beginning_of_the_whole(replayer: Client) -> None:
    rows = [row(f"O{number}", user_id=str(number), asset="DOGE") for number in range(300)]
    ingest_from_kafka(read(message(*rows)))
    found = Quarantined.objects.get(order_id="O299")

    text = replayer.get(f"/admin/orders/quarantined/{found.pk}/change/").content.decode()

    assert text.count("O299") > 0
    assert "O0&quot;" in text
    assert "characters more" in text
