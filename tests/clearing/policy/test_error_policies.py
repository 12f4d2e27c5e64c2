"""Policies: what people may decide about an error, and what nobody may."""

import time
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import OperationalError

from base import metrics
from base.clock import shift_clock
from clearing.dispatch import publish
from clearing.gateways import Action
from clearing.gateways.fake import Fault, FaultKind
from clearing.interventions.requests import retry_by_hand
from clearing.models import Clearing, ErrorPolicy
from clearing.policy import error_policies
from clearing.policy.error_policies import Policies, Policy, accepted, refusals
from clearing.policy.outcomes import MAY_BECOME, TABLE, outcomes_of
from clearing.status import OperationState, Outcome, State
from clearing.store import recovery
from tests.support.orders import World, interrupted, operation, outcomes

TIMEOUT = Fault(kind=FaultKind.APPLY_THEN_TIMEOUT)
UNREACHABLE = Fault(kind=FaultKind.UNREACHABLE)
ALARMS = "acceptance_alarms_total"


def policy(code: str, counterparty: str = "counter", **fields: Any) -> ErrorPolicy:
    """A row as somebody may write it past every form."""
    return ErrorPolicy.objects.create(counterparty=counterparty, code=code, reason="a test", **fields)


def so_much_later(world: World, clearing: Clearing, seconds: float) -> Clearing:
    """Due, and run, at that time."""
    shift_clock(seconds)
    world.counterparties.clock_ms = lambda: time.time_ns() // 1_000_000 + int(seconds * 1000)
    recovery.requeue(interrupted(), actor="test", generation=publish.generation())
    return world.run(clearing)


class TestNeverMoreCertain:
    @pytest.mark.parametrize("code", sorted({code for _, code in TABLE} | {"status_503", "a_code_of_next_year"}))
    @pytest.mark.parametrize("wanted", [Outcome.RETRYABLE, Outcome.REJECTED, Outcome.PENDING])
    def test_a_policy_never_makes_anything_of_what_is_not_known(self, code: str, wanted: Outcome) -> None:
        refused = bool(refusals(code, wanted, None, None, None, None))

        assert refused == (outcomes_of(code) != {wanted})

    @pytest.mark.parametrize("code", ["timeout", "connection_lost", "status_500", "unreadable_body"])
    def test_the_form_refuses_to_call_a_timeout_retryable(self, code: str) -> None:
        row = ErrorPolicy(counterparty="fund", code=code, outcome="retryable", reason="it always is")

        with pytest.raises(ValidationError, match="nothing but evidence"):
            row.clean()

    def test_a_row_that_went_past_the_form_is_not_obeyed_and_raises_an_alarm(self, world: World) -> None:
        policy("timeout", outcome="retryable", attempts_max=1)
        before = metrics.REGISTRY.get_sample_value(ALARMS, {"code": "policy_refused"}) or 0
        world.counterparties.script(Action.ADJUST, TIMEOUT)

        clearing = world.run(world.accept())

        assert (clearing.state, operation(clearing, 1).state) == (State.UNKNOWN, OperationState.UNKNOWN)
        world.when_due(clearing)
        assert world.keys_applied(clearing) == ["1", "2", "3", "4"]
        assert outcomes(clearing)[:2] == [(1, "unknown", "timeout"), (1, "?done", "")]
        assert metrics.REGISTRY.get_sample_value(ALARMS, {"code": "policy_refused"}) == before + 1

    @pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome in MAY_BECOME])
    @pytest.mark.parametrize("wanted", list(Outcome))
    def test_and_even_an_obeyed_one_could_not(self, outcome: Outcome, wanted: Outcome) -> None:
        softened = Policy(outcome=wanted).soften(outcome)

        assert softened in {outcome, Outcome.UNKNOWN}
        assert outcome != Outcome.DONE or softened == Outcome.DONE

    def test_numbers_that_would_park_everything_or_nothing_are_refused(self) -> None:
        assert set(refusals("timeout", "", 0, 0, 10**9, 0)) == {"attempts_max", "backoff_base_ms", "backoff_cap_ms", "deadline_seconds"}
        assert set(refusals("timeout", "", None, 1_000, 500, None)) == {"backoff_cap_ms"}
        assert set(refusals("timeout", "done", None, None, None, None)) == {"outcome"}

    def test_good_rows_beside_a_bad_one_hold(self) -> None:
        rows = [("fund", "timeout", "retryable", None, None, None, None), ("fund", "connection_refused", "", 7, None, None, None)]

        assert accepted(rows) == {("fund", "connection_refused"): Policy(attempts_max=7)}


class TestLessCertain:
    def test_a_refused_connection_that_is_not_trusted_is_reconciled_before_it_is_resent(self, world: World) -> None:
        policy("connection_refused", outcome="unknown")
        world.counterparties.script(Action.ADJUST, UNREACHABLE)

        clearing = world.run(world.accept())

        assert (clearing.state, clearing.attempts) == (State.UNKNOWN, 0)
        world.when_due(clearing)
        assert outcomes(clearing)[:3] == [(1, "unknown", "connection_refused"), (1, "?retryable", "unknown_key"), (1, "done", "")]

    def test_a_rejection_that_is_not_trusted_is_final_only_when_the_key_says_so(self, world: World) -> None:
        policy("insufficient_funds", "fund", outcome="unknown")
        world.counterparties.script(Action.TRANSFER, Fault(kind=FaultKind.STATUS, status=400, code="insufficient_funds"))

        clearing = world.run(world.accept())

        assert clearing.state == State.UNKNOWN
        world.when_due(clearing)
        assert clearing.state == State.CLEARED

    def test_of_another_counterparty_it_says_nothing(self, world: World) -> None:
        policy("connection_refused", "fund", outcome="unknown")
        world.counterparties.script(Action.ADJUST, UNREACHABLE, times=2)

        assert world.run(world.accept()).state == State.RETRYING


class TestNumbers:
    def test_attempts_used_up_park_sooner(self, world: World) -> None:
        policy("connection_refused", attempts_max=1)
        world.counterparties.script(Action.ADJUST, UNREACHABLE, times=2)

        clearing = world.run(world.accept())

        assert (clearing.state, clearing.error_code) == (State.PARKED, "connection_refused")

    def test_a_longer_backoff_is_kept(self, world: World) -> None:
        policy("timeout", backoff_base_ms=60_000, backoff_cap_ms=60_000)
        world.counterparties.script(Action.ADJUST, TIMEOUT)

        clearing = world.run(world.accept())

        assert clearing.due_at is not None
        assert 29 <= (clearing.due_at - clearing.changed_at).total_seconds() <= 61

    def test_a_deadline_parks_what_is_not_known_as_not_known(self, world: World) -> None:
        policy("connection_lost", deadline_seconds=60)
        world.counterparties.script(Action.ADJUST, Fault(kind=FaultKind.RESET), times=3)
        clearing = world.run(world.accept())

        so_much_later(world, clearing, 30)
        assert clearing.state == State.UNKNOWN
        so_much_later(world, clearing, 121)

        assert (clearing.state, clearing.error_code) == (State.PARKED, "connection_lost")
        assert operation(clearing, 1).state == OperationState.UNKNOWN

    def test_and_a_retry_after_it_reconciles_and_has_the_whole_time_again(self, world: World) -> None:
        policy("connection_lost", deadline_seconds=60)
        world.counterparties.script(Action.ADJUST, Fault(kind=FaultKind.APPLY_THEN_RESET))
        world.counterparties.script("status", Fault(kind=FaultKind.RESET), times=2)
        clearing = world.run(world.accept())
        so_much_later(world, clearing, 61)
        assert clearing.state == State.PARKED

        retry_by_hand(clearing.pk, actor="ann", reason="they are back")
        world.run(clearing)
        assert clearing.state == State.UNKNOWN
        so_much_later(world, clearing, 100)

        assert clearing.state == State.CLEARED
        assert world.keys_applied(clearing) == ["1", "2", "3", "4"]

    def test_a_deadline_parks_a_sure_failure_as_not_sent(self, world: World) -> None:
        policy("connection_refused", deadline_seconds=60)
        world.counterparties.script(Action.ADJUST, UNREACHABLE, times=3)
        clearing = world.run(world.accept())

        so_much_later(world, clearing, 61)

        assert (clearing.state, operation(clearing, 1).state) == (State.PARKED, OperationState.PLANNED)


class TestReading:
    def test_a_change_is_believed_within_seconds(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        known = Policies()
        assert known.of("fund", "timeout").deadline_seconds is None
        policy("timeout", "fund", deadline_seconds=5)
        assert known.of("fund", "timeout").deadline_seconds is None

        real = time.monotonic
        monkeypatch.setattr(error_policies, "monotonic", lambda: real() + error_policies.READ_SECONDS + 0.1)

        assert known.of("fund", "timeout").deadline_seconds == 5

    def test_while_the_database_is_away_what_was_known_holds(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        policy("timeout", "fund", deadline_seconds=5)
        known = Policies()
        known.of("fund", "timeout")

        def away(*_: object) -> list[Any]:
            raise OperationalError("connection refused")

        monkeypatch.setattr(error_policies, "call", away)
        monkeypatch.setattr(error_policies, "READ_SECONDS", 0)

        assert known.of("fund", "timeout").deadline_seconds == 5


@pytest.mark.django_db
class TestFirstRead:
    def test_that_fails_leaves_a_sure_failure_unknown(self, monkeypatch: pytest.MonkeyPatch) -> None:
        policies = error_policies.Policies()
        with monkeypatch.context() as patched:
            patched.setattr(error_policies, "call", lambda *_: (_ for _ in ()).throw(OperationalError("away")))
            before = policies.of("fund", "connection_refused")

        assert before.soften(Outcome.RETRYABLE) == Outcome.UNKNOWN
        assert policies.of("fund", "connection_refused").soften(Outcome.RETRYABLE) == Outcome.RETRYABLE
