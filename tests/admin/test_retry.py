"""The retry in the admin: one operator, with a reason that is kept."""

import threading
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client

from base.models import Proposal
from clearing.admin import retry
from clearing.admin.bulk_retry import needs_second_person
from clearing.dispatch import broker
from clearing.dispatch.queues import lane_queue
from clearing.models import Clearing
from clearing.status import State
from tests.admin.conftest import person
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


@pytest.mark.django_db(transaction=True)
class TestMany:
    @pytest.fixture(autouse=True)
    def two_alone(self, settings: Any) -> None:
        settings.RETRIES_ALONE_MAX = 2

    def parked(self, world: World, count: int) -> list[Clearing]:
        made = [world.accept(str(2001 + number)) for number in range(count)]
        Clearing.objects.update(state=State.PARKED, error_code="insufficient_funds")
        return made

    def states(self) -> list[str]:
        return list(Clearing.objects.order_by("pk").values_list("state", flat=True))

    def retry(self, client: Client, chosen: list[Clearing], reason: str = REASON) -> None:
        client.post(PAGE, {"ids": ",".join(str(one.pk) for one in chosen), "reason": reason})

    def test_wait_for_a_second_person(self, operator: Client, world: World) -> None:
        self.retry(operator, self.parked(world, 3))
        assert self.states() == [State.PARKED] * 3

        approver, proposal = person("ben", "approve_intervention"), Proposal.objects.get()
        approver.post(f"/admin/base/proposal/{proposal.pk}/decide/", {"decision": "approve"})

        assert self.states() == [State.QUEUED] * 3
        assert Proposal.objects.get().outcome == "retried 3 of 3"
        assert {one.actor for one in Clearing.objects.earliest("pk").history.filter(from_state=State.PARKED)} == {"operator, approved by ben"}

    def test_split_into_few_at_a_time_they_wait_too(self, operator: Client, world: World) -> None:
        first, second, third = self.parked(world, 3)
        self.retry(operator, [first, second])
        self.retry(operator, [third])

        assert self.states() == [State.QUEUED, State.QUEUED, State.PARKED]
        assert Proposal.objects.get().contents["orders"][0][2] == third.order.order_id

    def test_whatever_the_reason_says(self, operator: Client, world: World) -> None:
        """Only the database knows which ones a second person approved."""
        first, second, third = self.parked(world, 3)
        self.retry(operator, [first, second], "[two people] " + REASON)
        self.retry(operator, [third], "[two people] " + REASON)

        assert self.states() == [State.QUEUED, State.QUEUED, State.PARKED]

    def test_those_that_a_second_person_approved_are_not_counted(self, operator: Client, world: World) -> None:
        *many, last = self.parked(world, 4)
        self.retry(operator, many)
        person("ben", "approve_intervention").post(f"/admin/base/proposal/{Proposal.objects.get().pk}/decide/", {"decision": "approve"})

        self.retry(operator, [last])

        assert self.states() == [State.QUEUED] * 4

    def test_requests_at_the_same_moment_are_counted_one_after_the_other(self, operator: Client, world: World, monkeypatch: Any) -> None:
        made, both_counted = self.parked(world, 4), threading.Barrier(2, timeout=30)

        def counted(*args: Any) -> bool:
            found = needs_second_person(*args)
            both_counted.wait()
            return found

        def post(chosen: list[Clearing]) -> None:
            client = Client()
            client.cookies = operator.cookies
            try:
                self.retry(client, chosen)
            finally:
                connection.close()

        monkeypatch.setattr(retry, "needs_second_person", counted)
        threads = [threading.Thread(target=post, args=[chosen]) for chosen in (made[:2], made[2:])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert sorted(self.states()) == [State.PARKED, State.PARKED, State.QUEUED, State.QUEUED]

    def test_who_asked_can_not_approve_them(self, operator: Client, world: World) -> None:
        self.retry(operator, self.parked(world, 3))
        User.objects.get(username="operator").user_permissions.add(Permission.objects.get(codename="view_proposal"))

        operator.post(f"/admin/base/proposal/{Proposal.objects.get().pk}/decide/", {"decision": "approve"})

        assert self.states() == [State.PARKED] * 3
