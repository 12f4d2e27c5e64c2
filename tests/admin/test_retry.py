"""The retry in the admin: one operator, with a reason that is kept."""

from decimal import Decimal

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client

from clearing.dispatch import broker
from clearing.dispatch.queues import lane_queue
from clearing.models import Clearing
from clearing.status import State
from tests.support.orders import World

LIST = "/admin/clearing/clearing/"
PAGE = "/admin/clearing/clearing/retry/"
REASON = "the fund had no money; it was topped up"


@pytest.fixture
def parked(world: World) -> Clearing:
    """Parked after a final rejection at step 2."""
    clearing = world.accept()
    Clearing.objects.filter(pk=clearing.pk).update(state=State.PARKED, error_code="insufficient_funds")
    clearing.refresh_from_db()
    return clearing


class TestAsking:
    def test_the_list_s_action_leads_to_the_page_with_what_was_chosen(self, operator: Client, parked: Clearing) -> None:
        answer = operator.post(LIST, {"action": "retry_selected", "_selected_action": [parked.pk]}, follow=True)

        assert parked.order.order_id in answer.content.decode()
        assert 'name="reason"' in answer.content.decode()

    def test_so_does_the_button_on_its_page(self, operator: Client, parked: Clearing) -> None:
        assert "retry-this" in operator.get(f"{LIST}{parked.pk}/change/").content.decode()

        answer = operator.get(f"{LIST}{parked.pk}/retry-this/", follow=True)

        assert answer.context["chosen"] == [parked]

    def test_an_order_in_flight_does_not_offer_it(self, operator: Client, world: World) -> None:
        queued = world.accept()

        assert "retry-this" not in operator.get(f"{LIST}{queued.pk}/change/").content.decode()

    @pytest.mark.parametrize(("error", "hold"), [("key_expired", ""), ("key_reused", ""), ("contents_differ", "contents_differ")])
    def test_nor_does_one_whose_situation_forbids_it_and_the_page_says_why(self, operator: Client, parked: Clearing, error: str, hold: str) -> None:
        Clearing.objects.filter(pk=parked.pk).update(error_code=error, hold_code=hold)

        assert "retry-this" not in operator.get(f"{LIST}{parked.pk}/change/").content.decode()
        [(clearing, reason)] = operator.get(f"{PAGE}?ids={parked.pk}").context["refused"]
        assert (clearing, "confirm first" in reason or "released, not retried" in reason) == (parked, True)

    def test_looking_changes_nothing(self, operator: Client, parked: Clearing) -> None:
        operator.get(f"{PAGE}?ids={parked.pk}")

        assert Clearing.objects.get(pk=parked.pk).state == State.PARKED

    def test_of_a_slipped_price_the_page_says_what_was_bought(self, operator: Client, world: World) -> None:
        world.counterparties.prices["BTC"] = Decimal(66_000)
        slipped = world.run(world.accept())

        page = operator.get(f"{PAGE}?ids={slipped.pk}").content.decode()

        assert "3000 USDT sold, 0.04545454 BTC bought; -0.00454546 BTC against what is owed; slippage -272.7276 USDT, -909.1 bps" in page

    def test_without_a_reason_nothing_is_retried(self, operator: Client, parked: Clearing) -> None:
        answer = operator.post(PAGE, {"ids": str(parked.pk), "reason": "   "})

        assert answer.status_code == 200
        assert answer.context["form"].errors
        assert Clearing.objects.get(pk=parked.pk).state == State.PARKED

    def test_ids_that_are_none_are_ignored(self, operator: Client) -> None:
        assert operator.get(f"{PAGE}?ids=x,-1,999999").context["chosen"] == []


class TestPermission:
    def test_who_may_only_look_is_refused(self, viewer: Client, parked: Clearing) -> None:
        answers = [viewer.get(f"{PAGE}?ids={parked.pk}"), viewer.post(PAGE, {"ids": str(parked.pk), "reason": REASON})]

        assert [answer.status_code for answer in answers] == [403, 403]
        assert Clearing.objects.get(pk=parked.pk).state == State.PARKED

    def test_and_is_not_offered_it(self, viewer: Client, parked: Clearing) -> None:
        pages = viewer.get(LIST).content.decode() + viewer.get(f"{LIST}{parked.pk}/change/").content.decode()

        assert "retry_selected" not in pages
        assert "retry-this" not in pages

    def test_nobody_without_a_login_gets_there(self, client: Client, parked: Clearing) -> None:
        answer = client.post(PAGE, {"ids": str(parked.pk), "reason": REASON})

        assert answer.status_code == 302
        assert "/login/" in answer["Location"]

    def test_a_form_of_another_site_is_refused(self, operator: Client, parked: Clearing) -> None:
        strict = Client(enforce_csrf_checks=True)
        strict.cookies = operator.cookies

        answer = strict.post(PAGE, {"ids": str(parked.pk), "reason": REASON})

        assert answer.status_code == 403
        assert Clearing.objects.get(pk=parked.pk).state == State.PARKED


@pytest.mark.django_db(transaction=True)
class TestRetrying:
    def test_it_goes_on_in_its_lane_and_is_published(self, operator: Client, parked: Clearing) -> None:
        operator.post(PAGE, {"ids": str(parked.pk), "reason": REASON})

        assert Clearing.objects.get(pk=parked.pk).state == State.QUEUED
        assert broker.length(lane_queue(parked.lane)) == 1

    def test_the_reason_stands_in_its_history_and_in_the_audit_log(self, operator: Client, parked: Clearing) -> None:
        operator.post(PAGE, {"ids": str(parked.pk), "reason": REASON})

        change = parked.history.get(from_state=State.PARKED)
        entry = LogEntry.objects.get(object_id=str(parked.pk))
        assert (change.actor, change.reason) == ("operator", REASON)
        assert (entry.user.username, entry.change_message) == ("operator", f"Retry: {REASON}")

    def test_one_that_can_not_be_retried_is_told_and_not_logged(self, operator: Client, world: World, parked: Clearing) -> None:
        queued = world.accept("1002")

        answer = operator.post(PAGE, {"ids": f"{parked.pk},{queued.pk}", "reason": REASON}, follow=True)

        texts = [str(message) for message in answer.context["messages"]]
        assert any(queued.order.order_id in text and "only parked and retrying" in text for text in texts)
        assert any("Retried 1 of 2" in text for text in texts)
        assert LogEntry.objects.filter(object_id=str(queued.pk)).count() == 0
