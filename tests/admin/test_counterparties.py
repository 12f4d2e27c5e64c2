"""The counterparties' page, its switch, and the policies' form."""

from typing import Any, ClassVar

import pytest
from django.contrib.admin import site
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.urls import reverse

from base.models import DeskEvent, Proposal
from clearing.admin.counterparties import CounterpartyAdmin
from clearing.gateways import counterparty_state
from clearing.models import CounterpartyState, ErrorPolicy, Pause
from tests.admin.conftest import person
from tests.support.orders import World

LIST = reverse("admin:clearing_counterpartystate_changelist")
PAUSE = reverse("admin:clearing_counterpartystate_pause", args=["trading"])
RESUME = reverse("admin:clearing_counterpartystate_resume", args=["trading"])
POLICY = reverse("admin:clearing_errorpolicy_add")
PAUSED_STEP = {"step": "3", "reason": "their release of 18:00"}


@pytest.fixture
def switcher(db: None) -> Client:
    """An operator who may pause counterparties."""
    return person("switcher", "view_standing", "change_standing", "view_standingchange")


@pytest.fixture
def onlooker(db: None) -> Client:
    """An operator who may only look."""
    return person("onlooker", "view_standing")


@pytest.fixture
def governor(db: None) -> Client:
    """An operator who may edit error policies."""
    return person("governor", "view_errorpolicy", "add_errorpolicy", "change_errorpolicy")


def test_the_front_page_tells_who_is_not_called(viewer: Client) -> None:
    def stopped() -> Any:
        return next(tile for tile in viewer.get("/admin/").context["overview"].tiles if tile.title == "counterparties stopped")

    assert (stopped().value, stopped().danger) == ("0", False)

    counterparty_state.open_breaker("fund", "timeout", refuses=False, actor="w1")
    counterparty_state.set_pause("trading", 3, paused=True, reason="an auction", actor="ann")

    assert (stopped().value, stopped().hint, stopped().danger) == ("2", "fund open, trading step 3 paused", True)


def test_a_breaker_that_never_moved_has_no_time(onlooker: Client) -> None:
    counterparty_state.open_breaker("fund", "timeout", refuses=False, actor="w1")

    rows = onlooker.get(LIST).context["cl"].result_list

    admin = CounterpartyAdmin(CounterpartyState, site)
    assert [(row.name, admin.changed(row) == "-") for row in rows] == [("counter", True), ("fund", False), ("trading", True)]


class TestPage:
    def test_lists_all_three_even_when_nothing_was_ever_wrong(self, world: World, onlooker: Client) -> None:
        page = onlooker.get(LIST).content.decode()

        assert all(f">{name}<" in page or name in page for name in ("counter", "fund", "trading"))
        assert page.count("0 of 0 slots") == 3

    def test_tells_what_is_wrong_and_since_when(self, world: World, onlooker: Client) -> None:
        counterparty_state.open_breaker("fund", "connection_refused", refuses=False, actor="w1")
        counterparty_state.set_pause("trading", 3, paused=True, reason="their release", actor="ann")

        page = onlooker.get(LIST).content.decode()

        assert "connection_refused" in page
        assert "step 3 by ann: their release" in page

    def test_of_one_shows_its_history(self, world: World, onlooker: Client) -> None:
        counterparty_state.open_breaker("fund", "connection_refused", refuses=False, actor="w1")

        page = onlooker.get(reverse("admin:clearing_counterpartystate_change", args=["fund"])).content.decode()

        assert "connection_refused" in page
        assert "w1" in page


class TestSwitch:
    def test_pauses_one_step_with_a_reason_and_says_who(self, world: World, switcher: Client) -> None:
        assert switcher.get(PAUSE).status_code == 200

        switcher.post(PAUSE, PAUSED_STEP)

        pause = Pause.objects.get()
        assert (pause.counterparty, pause.step, pause.actor, pause.reason) == ("trading", 3, "switcher", PAUSED_STEP["reason"])
        entry = LogEntry.objects.get()
        assert (entry.user.username, entry.object_id) == ("switcher", "trading")
        assert PAUSED_STEP["reason"] in entry.get_change_message()

    def test_and_ends_it(self, world: World, switcher: Client) -> None:
        switcher.post(PAUSE, PAUSED_STEP)

        switcher.post(RESUME, {"step": "3", "reason": "they are done"})

        assert Pause.objects.count() == 0
        assert LogEntry.objects.count() == 2

    def test_says_so_where_nothing_changed(self, world: World, switcher: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        """Two operators press at once: the second one finds it paused."""
        monkeypatch.setattr(counterparty_state, "set_pause", lambda *_, **__: False)

        [message] = switcher.post(PAUSE, PAUSED_STEP, follow=True).context["messages"]

        assert (str(message), message.level_tag) == ("Already paused; no change.", "info")
        assert LogEntry.objects.count() == 0

    @pytest.mark.parametrize("wrong", [{"step": "2"}, {"step": "x"}, {"reason": "no"}])
    def test_wants_a_step_of_its_own_and_a_reason(self, world: World, switcher: Client, wrong: dict[str, str]) -> None:
        assert switcher.post(PAUSE, {**PAUSED_STEP, **wrong}).status_code == 200
        assert Pause.objects.count() == 0

    def test_is_not_for_everybody(self, world: World, onlooker: Client) -> None:
        assert onlooker.post(PAUSE, PAUSED_STEP).status_code == 403
        assert onlooker.get(PAUSE).status_code == 403
        assert Pause.objects.count() == 0

    def test_knows_no_other_counterparties(self, world: World, switcher: Client) -> None:
        assert switcher.post(reverse("admin:clearing_counterpartystate_pause", args=["bank"]), PAUSED_STEP).status_code == 403


def decide(approver: Client) -> None:
    """Approves what was proposed last."""
    approver.post(f"/admin/base/proposal/{Proposal.objects.latest('pk').pk}/decide/", {"decision": "approve"})


class TestPolicies:
    GOOD: ClassVar[dict[str, str]] = {"counterparty": "fund", "code": "timeout", "outcome": "", "deadline_seconds": "900", "reason": "their SLA"}

    def test_one_person_alone_changes_nothing(self, world: World, governor: Client) -> None:
        answer = governor.post(POLICY, self.GOOD)

        proposal = Proposal.objects.get()
        assert (ErrorPolicy.objects.count(), proposal.contents["new"]["deadline_seconds"]) == (0, 900)
        assert answer["Location"] == f"/admin/base/proposal/{proposal.pk}/change/"
        governor.post(f"/admin/base/proposal/{proposal.pk}/decide/", {"decision": "approve"})
        assert ErrorPolicy.objects.count() == 0

    def test_a_second_one_approves_and_the_record_has_old_and_new(self, world: World, governor: Client) -> None:
        approver = person("ben", "approve_intervention")
        governor.post(POLICY, self.GOOD)
        decide(approver)
        policy = ErrorPolicy.objects.get()

        governor.post(f"/admin/clearing/errorpolicy/{policy.pk}/change/", {**self.GOOD, "deadline_seconds": "90000"})
        assert ErrorPolicy.objects.get().deadline_seconds == 900
        decide(approver)

        assert ErrorPolicy.objects.get().deadline_seconds == 90_000
        detail = DeskEvent.objects.filter(kind="error_policy_changed").latest("pk").detail
        assert (detail["old"]["deadline_seconds"], detail["new"]["deadline_seconds"], detail["asked_by"]) == (900, 90_000, "governor")

    def test_its_end_needs_a_second_one_too(self, world: World) -> None:
        governor, approver = person("governor", "view_errorpolicy", "delete_errorpolicy"), person("ben", "approve_intervention")
        policy = ErrorPolicy.objects.create(counterparty="fund", code="timeout", deadline_seconds=900, reason="their SLA")

        governor.post(f"/admin/clearing/errorpolicy/{policy.pk}/delete/", {"post": "yes"})
        assert ErrorPolicy.objects.count() == 1
        decide(approver)

        assert ErrorPolicy.objects.count() == 0

    def test_one_that_calls_a_timeout_retryable_is_refused_with_the_reason(self, world: World, governor: Client) -> None:
        answer = governor.post(POLICY, {"counterparty": "fund", "code": "timeout", "outcome": "retryable", "reason": "it always is"})

        assert answer.status_code == 200
        assert "nothing but evidence does that" in answer.content.decode()
        assert ErrorPolicy.objects.count() == 0
