"""Operator actions in the admin: offered only where they are possible, requested by one operator
and approved by another.
"""

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from base.clock import shift_clock
from base.desk.again import is_fresh
from base.desk.roles import APPROVER
from base.models import DeskEvent, Grant
from clearing.dispatch import broker
from clearing.dispatch.queues import lane_queue
from clearing.gateways import Action
from clearing.gateways.fake import Fault, FaultKind
from clearing.models import Clearing, Intervention
from clearing.status import State
from clearing.store import claims, recovery
from ops.recovery.voided import hold_all
from tests.admin.conftest import person
from tests.support.beside import beside
from tests.support.desk import member
from tests.support.orders import World
from tests.support.states import rewritable

LIST = "/admin/clearing/clearing/"
INTERVENTIONS = "/admin/clearing/intervention/"
REASON = "the counter's people say that ours is right"
PASSWORD = "a long password of the test"
SEES = ("view_clearing", "view_intervention", "view_syncorder")


@pytest.fixture
def asker(db: None) -> Client:
    return person("ann", *SEES, "add_intervention", "change_clearing")


@pytest.fixture
def approver(db: None) -> Client:
    return person("ben", *SEES, "approve_intervention")


@pytest.fixture
def held(world: World) -> Clearing:
    clearing = world.accept()
    claims.hold(clearing.order.order_id, "contents_differ", actor="test", generation="")
    clearing.refresh_from_db()
    return clearing


@pytest.fixture
def rejected(world: World) -> Clearing:
    world.counterparties.script(Action.TRANSFER, Fault(kind=FaultKind.REFUSE))
    return world.run(world.accept())


@pytest.fixture
def unknown(world: World) -> Clearing:
    world.counterparties.script(Action.EXCHANGE, Fault(kind=FaultKind.RESET))
    return world.run(world.accept())


def choices(client: Client, clearing: Clearing) -> list[str]:
    return [choice.title for choice in client.get(f"{LIST}{clearing.pk}/change/").context["resolution"].choices]


def ask(client: Client, clearing: Clearing, kind: str, **fields: str) -> Any:
    """A confirmation that money moved is compared first, and then asked for as it was compared."""
    answer = client.post(f"{LIST}{clearing.pk}/ask/{kind}/", {"reason": REASON, **fields}, follow=True)
    if answer.context and (seal := answer.context.get("seal")):
        answer = client.post(f"{LIST}{clearing.pk}/ask/{kind}/", {"reason": REASON, **fields, "seal": seal}, follow=True)
    return answer


def decide(client: Client, intervention: Intervention, decision: str, **fields: str) -> Any:
    return client.post(f"{INTERVENTIONS}{intervention.pk}/decide/", {"decision": decision, **fields}, follow=True)


def levels(answer: Any) -> list[str]:
    return [message.level_tag for message in answer.context["messages"]]


def forget_the_generation() -> None:
    """As in a process that has just started."""
    broker._known.value, broker._known.read_at = "", float("-inf")


def shown(answer: Any) -> str:
    return " ".join(str(message) for message in answer.context["messages"])


class TestAnOrderThatWasVoidedBeforeARestore:
    def test_says_what_to_do_and_names_no_bookings_twice(self, world: World, asker: Client) -> None:
        recovery.mark_restored(2_000_000_000_000, reason="test", actor="test")
        clearing = world.accept()
        plain = asker.get(f"{LIST}{clearing.pk}/change/").content.decode()

        hold_all([clearing.order.order_id], actor="operator")

        page = asker.get(f"{LIST}{clearing.pk}/change/").content.decode()
        assert "nothing is booked twice" in page
        assert "nothing is booked twice" not in plain
        assert choices(asker, clearing) == ["Release the hold", "Confirm the step as done", "Confirm that the step did not happen", "Void the order"]
        void = asker.get(f"{LIST}{clearing.pk}/ask/void/").content.decode()
        assert "none of them is made again" in void
        assert "goes on in its lane" in asker.get(f"{LIST}{clearing.pk}/ask/release_hold/").content.decode()
        assert "counts as never voided" in asker.get(f"{LIST}{clearing.pk}/ask/release_hold/").content.decode()


class TestWhatIsOffered:
    def test_of_a_held_order(self, asker: Client, held: Clearing) -> None:
        assert choices(asker, held) == ["Release the hold", "Confirm the step as done", "Void the order"]

    def test_of_a_rejected_one(self, asker: Client, rejected: Clearing) -> None:
        assert choices(asker, rejected) == ["Retry", "Confirm the step as done", "Void the order"]

    def test_of_one_whose_outcome_is_not_known(self, asker: Client, unknown: Clearing) -> None:
        assert choices(asker, unknown) == ["Confirm the step as done", "Confirm that the step did not happen"]

    def test_of_a_cleared_one_nothing(self, asker: Client, world: World) -> None:
        assert choices(asker, world.run(world.accept())) == []

    def test_to_who_may_only_look_nothing(self, viewer: Client, rejected: Clearing) -> None:
        assert choices(viewer, rejected) == []
        assert ask(viewer, rejected, "void").status_code == 403

    def test_on_the_sync_orders_page_too(self, asker: Client, held: Clearing) -> None:
        assert "Release the hold" in asker.get(f"/admin/orders/syncorder/{held.order_id}/change/").content.decode()


class TestAsking:
    @pytest.mark.parametrize(
        ("kind", "fields"),
        [
            ("release_hold", {"reason", "document"}),
            ("void", {"reason", "document"}),
            ("confirm_done", {"reference", "reason", "document"}),
        ],
    )
    def test_the_form_asks_for_what_it_needs(self, asker: Client, held: Clearing, kind: str, fields: set[str]) -> None:
        assert set(asker.get(f"{LIST}{held.pk}/ask/{kind}/").context["form"].fields) == fields

    def test_of_an_exchange_what_was_sold_and_bought(self, asker: Client, unknown: Clearing) -> None:
        answer = asker.get(f"{LIST}{unknown.pk}/ask/confirm_done/")

        assert list(answer.context["form"].fields) == ["reference", "amount", "bought", "min_lot", "reason", "document"]
        assert "an exchange of at most 3000 USDT into BTC" in answer.content.decode()

    def test_a_void_names_the_bookings_before_anybody_asks(self, asker: Client, rejected: Clearing) -> None:
        page = asker.get(f"{LIST}{rejected.pk}/ask/void/")

        assert [(one.account, one.asset, one.signed) for one in page.context["consequences"].bookings] == [
            ("counter", "BTC", "-0.05"),
            ("counter", "USDT", "3000"),
            ("system", "BTC", "0.05"),
            ("system", "USDT", "-3000"),
        ]

    def test_evidence_that_does_not_fit_is_told_and_nothing_is_asked_for(self, asker: Client, unknown: Clearing) -> None:
        answer = ask(asker, unknown, "confirm_done", reference="p-1", amount="3001", bought="0.05", document="a call")

        assert "at most 3000 USDT into BTC" in answer.content.decode()
        assert not Intervention.objects.exists()
        assert not LogEntry.objects.exists()

    @pytest.mark.parametrize("missing", ["reason", "reference", "document", "amount", "bought"])
    def test_nothing_that_it_needs_may_be_left_out(self, asker: Client, unknown: Clearing, missing: str) -> None:
        fields = {"reference": "p-1", "amount": "3000", "bought": "0.05", "document": "a call", missing: ""}

        answer = ask(asker, unknown, "confirm_done", **fields)

        assert missing in answer.context["form"].errors
        assert not Intervention.objects.exists()

    def test_looking_changes_nothing(self, asker: Client, held: Clearing) -> None:
        asker.get(f"{LIST}{held.pk}/ask/void/")

        assert not Intervention.objects.exists()

    @pytest.mark.parametrize("kind", ["retry", "clear", "release_hold/x"])
    def test_there_are_no_other_kinds(self, asker: Client, held: Clearing, kind: str) -> None:
        assert asker.get(f"{LIST}{held.pk}/ask/{kind}/").status_code in {302, 404}

    def test_it_stands_in_the_audit_log(self, asker: Client, held: Clearing) -> None:
        ask(asker, held, "release_hold")

        entry = LogEntry.objects.get()
        assert (entry.user.username, entry.object_id, entry.change_message) == ("ann", str(held.pk), f"Requested: Release the hold: {REASON}")


@pytest.mark.django_db(transaction=True)
class TestDeciding:
    @pytest.fixture
    def asked(self, asker: Client, held: Clearing) -> Intervention:
        ask(asker, held, "release_hold")
        return Intervention.objects.get()

    def test_a_second_person_approves_and_the_order_is_published(self, approver: Client, held: Clearing, asked: Intervention) -> None:
        answer = decide(approver, asked, "approve")

        held.refresh_from_db()
        assert "the order goes on" in shown(answer)
        assert (held.state, broker.length(lane_queue(held.lane))) == (State.QUEUED, 1)
        assert held.history.get(from_state=State.PARKED).actor == "ann, approved by ben"
        assert LogEntry.objects.filter(user__username="ben", change_message__startswith="Approved: Release the hold").count() == 1

    def test_the_order_is_queued_under_the_brokers_present_generation(self, approver: Client, held: Clearing, asked: Intervention) -> None:
        """Read before the transaction is opened: a process that has just started knows none yet,
        and the sweep would send the order's message once more.
        """
        forget_the_generation()

        decide(approver, asked, "approve")

        held.refresh_from_db()
        assert held.broker_generation == broker.read_generation() != ""

    def test_so_is_the_next_order_where_a_request_parks_the_one_before(self, world: World, asker: Client, unknown: Clearing) -> None:
        following = world.accept()
        forget_the_generation()

        ask(asker, unknown, "confirm_not_done", reference="p-1", document="a call")

        following.refresh_from_db()
        assert (following.state, following.broker_generation) == (State.QUEUED, broker.read_generation())

    def test_who_asked_is_not_offered_it_and_refused(self, asker: Client, held: Clearing, asked: Intervention) -> None:
        page = asker.get(f"{INTERVENTIONS}{asked.pk}/change/")

        assert not page.context["may_approve"]
        assert decide(asker, asked, "approve").status_code == 403

    @pytest.mark.parametrize("who", ["asker", "viewer"])
    def test_who_may_not_approve_and_tries_is_told_of(self, request: pytest.FixtureRequest, held: Clearing, asked: Intervention, who: str) -> None:
        assert decide(request.getfixturevalue(who), asked, "approve").status_code == 403

        event = DeskEvent.objects.get(kind="approval_refused", order_id=held.order.order_id)
        name, refused = ("ann", "same_person") if who == "asker" else ("viewer", "not_approver")
        assert (event.username, event.detail) == (name, {"intervention": asked.pk, "refused": refused})

    def test_not_even_with_the_permission(self, held: Clearing) -> None:
        """The release before had operators with both, and they go on for a while."""
        both = person("dora", *SEES, "add_intervention", "approve_intervention")
        with rewritable():
            Grant.objects.update(source=Grant.Source.UPGRADE, since=timezone.now())
        ask(both, held, "release_hold")
        intervention = Intervention.objects.get()

        assert not both.get(f"{INTERVENTIONS}{intervention.pk}/change/").context["may_approve"]
        assert "can't approve" in shown(decide(both, intervention, "approve"))
        assert DeskEvent.objects.get(kind="approval_refused", order_id=held.order.order_id).detail["refused"] == "same_person"
        held.refresh_from_db()
        assert held.state == State.PARKED

    def test_a_second_person_refuses_with_a_reason(self, approver: Client, held: Clearing, asked: Intervention) -> None:
        assert "give a reason" in shown(decide(approver, asked, "refuse", reason=""))

        answer = decide(approver, asked, "refuse", reason="theirs is right")

        assert levels(answer) == ["info"]
        assert shown(answer) == "Intervention refused. The order is unchanged."
        asked.refresh_from_db()
        held.refresh_from_db()
        assert (asked.state, asked.decided_by, asked.outcome, held.state) == ("refused", "ben", "theirs is right", State.PARKED)

    def test_who_asked_withdraws_it(self, asker: Client, asked: Intervention) -> None:
        answer = decide(asker, asked, "refuse", reason="entered for the wrong order")

        assert shown(answer) == "Intervention withdrawn. The order is unchanged."
        asked.refresh_from_db()
        assert (asked.state, asked.decided_by) == ("refused", "ann")

    def test_others_may_not_refuse(self, viewer: Client, asked: Intervention) -> None:
        assert decide(viewer, asked, "refuse", reason="I don't like it").status_code == 403

    def test_one_that_has_failed_says_so_and_is_kept_as_failed(self, approver: Client, held: Clearing, asked: Intervention) -> None:
        claims.hold(held.order.order_id, "contents_differ", actor="test", generation="")

        answer = decide(approver, asked, "approve")

        asked.refresh_from_db()
        assert "changed" in shown(answer)
        assert (asked.state, asked.decided_by) == ("failed", "ben")

    def test_looking_decides_nothing(self, approver: Client, asked: Intervention) -> None:
        assert approver.get(f"{INTERVENTIONS}{asked.pk}/decide/").status_code == 405

    def test_too_early_it_says_when(self, asker: Client, approver: Client, unknown: Clearing) -> None:
        ask(asker, unknown, "confirm_not_done", reference="p-1", document="a call")
        intervention = Intervention.objects.get(clearing=unknown)

        assert approver.get(f"{INTERVENTIONS}{intervention.pk}/change/").context["waits_until"] is not None
        assert "on its way: approve it after" in shown(decide(approver, intervention, "approve"))

    def test_the_approver_reads_what_a_confirmation_will_do(self, asker: Client, approver: Client, unknown: Clearing) -> None:
        ask(asker, unknown, "confirm_done", reference="p-1", amount="3000", bought="0.05", document="a call")
        intervention = Intervention.objects.get(clearing=unknown)

        page = approver.get(f"{INTERVENTIONS}{intervention.pk}/change/")

        assert page.context["consequences"].text == "Step 3 counts as done; the order goes on with step 4."


@pytest.mark.django_db(transaction=True)
class TestWhileOthersKeepItsLocks:
    """A worker, say, that was frozen in its transaction: the operator reads so, and the order is
    unchanged.
    """

    @pytest.fixture
    def asked(self, asker: Client, held: Clearing) -> Intervention:
        ask(asker, held, "release_hold")
        return Intervention.objects.get()

    def meanwhile(self, clearing: Clearing, act: Callable[[], Any]) -> Any:
        def impatient() -> Any:
            connection.cursor().execute("SET lock_timeout = '100ms'")
            return act()

        with transaction.atomic():
            connection.cursor().execute("SELECT clearing_lock_lanes(%s)", [[clearing.user_id]])
            list(Intervention.objects.select_for_update().filter(clearing=clearing))
            thread, found = beside(impatient)
            thread.join(30)
        return found[0]

    @pytest.mark.parametrize("decision", ["approve", "refuse"])
    def test_a_decision_leaves_the_intervention_as_it_was(self, approver: Client, held: Clearing, asked: Intervention, decision: str) -> None:
        answer = self.meanwhile(held, lambda: decide(approver, asked, decision, reason="theirs is right"))

        asked.refresh_from_db()
        held.refresh_from_db()
        assert "at this very moment" in shown(answer)
        assert (asked.state, held.state) == ("requested", State.PARKED)
        assert not LogEntry.objects.filter(user__username="ben").exists()

    def test_and_can_be_made_afterwards(self, approver: Client, held: Clearing, asked: Intervention) -> None:
        self.meanwhile(held, lambda: decide(approver, asked, "approve"))

        assert "the order goes on" in shown(decide(approver, asked, "approve"))

    def test_nothing_is_asked_for(self, asker: Client, held: Clearing) -> None:
        answer = self.meanwhile(held, lambda: ask(asker, held, "void"))

        assert "at this very moment" in answer.content.decode()
        assert not Intervention.objects.exists()

    def test_nothing_is_retried(self, asker: Client, rejected: Clearing) -> None:
        answer = self.meanwhile(rejected, lambda: asker.post(f"{LIST}retry/", {"ids": str(rejected.pk), "reason": REASON}, follow=True))

        rejected.refresh_from_db()
        assert "at this very moment" in shown(answer)
        assert rejected.state == State.PARKED


class TestOverview:
    def shown(self, client: Client) -> dict[str, str]:
        return {tile.title: tile.value for tile in client.get("/admin/").context["overview"].tiles}

    def test_the_front_page_counts_what_waits_for_approval(self, asker: Client, held: Clearing) -> None:
        assert self.shown(asker)["to be approved"] == "0"

        ask(asker, held, "void")

        assert self.shown(asker)["to be approved"] == "1"

    def test_but_not_what_has_expired(self, asker: Client, held: Clearing) -> None:
        ask(asker, held, "void")
        shift_clock(25 * 3600)

        assert self.shown(asker)["to be approved"] == "0"

    def test_it_leads_to_the_list(self, asker: Client, held: Clearing) -> None:
        ask(asker, held, "void")
        link = next(tile.link for tile in asker.get("/admin/").context["overview"].tiles if tile.title == "to be approved")

        assert [str(row.kind) for row in asker.get(link).context["cl"].result_list] == ["void"]

    @pytest.mark.parametrize("term", ["order", "ann"])
    def test_the_list_is_searched_by_order_and_by_who_asked(self, asker: Client, held: Clearing, term: str) -> None:
        ask(asker, held, "void")

        rows = asker.get(f"{INTERVENTIONS}?q={held.order.order_id if term == 'order' else term}").context["cl"].result_list

        assert len(rows) == 1


class TestCost:
    def test_pages_ask_the_same_however_much_was_done(self, asker: Client, approver: Client, world: World, held: Clearing) -> None:
        def queries(url: str) -> int:
            with CaptureQueriesContext(connection) as captured:
                assert asker.get(url).status_code == 200
            return len(captured)

        def ask_and_refuse(number: int) -> None:
            ask(asker, held, "void")
            decide(approver, Intervention.objects.latest("pk"), "refuse", reason=f"no {number}, for now")

        pages: list[Callable[[], str]] = [lambda: f"{LIST}{held.pk}/change/", lambda: INTERVENTIONS]
        ask_and_refuse(1)
        few = [queries(page()) for page in pages]
        for number in range(2, 12):
            ask_and_refuse(number)

        assert [queries(page()) for page in pages] == few


class TestAuthenticatingAgain:
    @pytest.fixture
    def stale(self, db: None) -> Client:
        """An approver who signed in some time ago."""
        client = Client()
        client.force_login(member("ben", APPROVER, password=PASSWORD))
        return client

    @pytest.mark.parametrize("given", ["", "a wrong one"])
    def test_without_the_password_nothing_is_approved(self, asker: Client, stale: Client, held: Clearing, given: str) -> None:
        ask(asker, held, "release_hold")

        answer = decide(stale, Intervention.objects.get(), "approve", password=given)

        assert "Not approved" in shown(answer)
        assert Intervention.objects.get().state == "requested"

    def test_with_it_he_approves_and_for_a_while_needs_it_no_more(self, asker: Client, stale: Client, held: Clearing, settings: Any) -> None:
        ask(asker, held, "release_hold")
        page = f"{INTERVENTIONS}{Intervention.objects.get().pk}/change/"
        assert 'name="password"' in stale.get(page).content.decode()

        decide(stale, Intervention.objects.get(), "approve", password=PASSWORD)

        assert Intervention.objects.get().state == "executed"
        assert is_fresh(stale.get(page).wsgi_request)
        settings.APPROVAL_FRESH_SECONDS = 0
        assert not is_fresh(stale.get(page).wsgi_request)


class TestLooking:
    def test_leaves_a_line_with_the_order(self, viewer: Client, held: Clearing) -> None:
        viewer.get(f"{LIST}{held.pk}/change/")
        viewer.get(f"/admin/orders/syncorder/{held.order_id}/change/")

        lines = DeskEvent.objects.filter(kind="looked", order_id=held.order.order_id, username="viewer")
        assert sorted(line.detail["page"] for line in lines) == ["clearing", "order"]
