"""No sequence of events may leave a clearing as it must not be: Hypothesis looks for one.

Claimed work stays in hand, as in a worker that was suspended: each piece may go on at any time,
also after its claim was lost.

In `make test` the examples are the same each time, so that its result says something of the code
alone. `make state-machine EXAMPLES=500` takes others each time; when it fails, it names the seed
that repeats them (`SEED=`).
"""

import os
import random
import sys
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from django.db import transaction
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from base.clock import shift_clock
from clearing.dispatch import broker, publish
from clearing.gateways.fake import Fault, FaultKind
from clearing.interventions.requests import retry_by_hand
from clearing.models import Clearing, StatusChange
from clearing.status import ACTIVE, TRANSITIONS, State
from clearing.store import claims, recovery
from clearing.store.claims import Work
from clearing.store.interventions import NotPossible
from ops.audit.facts import Effect
from tests.support.orders import RECENT_MS, World, interrupted

USERS = ("1001", "1002")
CONTRACTS = ("C-a", "C-b", "C-c")
LATE = {FaultKind.LATENCY}  # it would sleep
FAULTS = [None, *(Fault(kind=kind, status=400 if kind == FaultKind.REFUSE else 503) for kind in FaultKind if kind not in LATE)]
PICK = st.integers(min_value=0, max_value=9)


class Clearings(RuleBasedStateMachine):
    """Two users, a few orders, workers that come and go."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.works: list[Work] = []
        self.example = transaction.atomic()  # one each: a transaction may not last long
        self.example.__enter__()

    def teardown(self) -> None:
        shift_clock(0)
        transaction.set_rollback(True)
        self.example.__exit__(None, None, None)

    @rule(user=st.sampled_from(USERS), contract=st.sampled_from(CONTRACTS), direction=st.sampled_from(["OPEN", "CLOSE"]), age=st.integers(0, 3))
    def accept(self, user: str, contract: str, direction: str, age: int) -> None:
        """An order comes in, perhaps later than younger ones."""
        created_ms = RECENT_MS + Clearing.objects.count() - 2 * age
        self.world.accept(user, contract_id=contract, direction=direction, created_ms=created_ms)

    @rule(pick=PICK, behind=st.integers(0, 2))
    def claim(self, pick: int, behind: int) -> None:
        """A message is delivered: the current one, or an older one once more."""
        clearing = self._one(pick)
        if clearing is None:
            return
        work = claims.claim(clearing.pk, clearing.epoch - behind, worker=lambda: f"worker-{pick % 3}", gives_up=lambda: True)
        assert (work is not None) == (clearing.state == State.QUEUED and not behind)
        if work is not None:
            self.works.append(work)

    @precondition(lambda self: self.works)
    @rule(pick=PICK, fault=st.sampled_from(FAULTS), plain=st.booleans())
    def go_on(self, pick: int, fault: Fault | None, plain: bool) -> None:
        """A worker makes its call and records what came of it; it may have lost its claim long
        ago.
        """
        work = self.works[pick % len(self.works)]
        if fault is not None:
            self.world.counterparties.script("*", fault, match=work.order.order_id)
        runner = self.world.runner()
        if plain:
            runner = replace(runner, stopping=lambda: True)
        recorded = runner._run_operation(work)
        if recorded.work is not None:
            self.works.append(recorded.work)

    @rule(seconds=st.sampled_from([0, 1, 20, 400]))
    def sweep(self, seconds: int) -> None:
        """So much later the sweep takes back what has expired and queues what is due."""
        shift_clock(seconds)
        recovery.requeue(interrupted(), actor="sweep", generation=publish.generation())
        shift_clock(0)

    @rule(pick=PICK)
    def hold(self, pick: int) -> None:
        """The order changed at the counter."""
        clearing = self._one(pick)
        if clearing is not None and pick > 7:
            claims.hold(clearing.order.order_id, "contents_differ", actor="intake", generation=publish.generation())

    @rule(pick=PICK)
    def retry(self, pick: int) -> None:
        """A person lets it go on."""
        clearing = self._one(pick)
        if clearing is not None and clearing.state in {State.PARKED, State.RETRYING}:
            try:
                retry_by_hand(clearing.pk, actor="person", reason="looked at it")
            except NotPossible:
                return

    def _one(self, pick: int) -> Clearing | None:
        found = list(Clearing.objects.select_related("order").order_by("pk"))
        return found[pick % len(found)] if found else None

    @invariant()
    def only_allowed_changes_were_made(self) -> None:
        changes = set(StatusChange.objects.exclude(from_state="").values_list("from_state", "to_state"))
        assert all(State(after) in TRANSITIONS[State(before)] for before, after in changes), changes

    @invariant()
    def a_user_has_one_active_order_at_most_and_none_waits_for_nothing(self) -> None:
        active = Counter(Clearing.objects.filter(state__in=ACTIVE).values_list("user_id", flat=True))
        assert not [user for user, count in active.items() if count > 1]
        assert recovery.stalled_lanes("", 10) == ([], "")

    @invariant()
    def no_step_was_done_twice_and_none_before_the_one_before_it(self) -> None:
        done: dict[str, list[tuple[int, int]]] = {}
        for one in self.world.counterparties.applied:
            place = Effect(one.order_id, "", one.key).place
            assert place is not None
            done.setdefault(one.order_id, []).append(place)
        for places in done.values():
            assert len(set(places)) == len(places), done
            assert places == sorted(places), done
            assert {step for step, _ in places} == set(range(1, places[-1][0] + 1)), done

    @invariant()
    def what_is_cleared_was_done(self) -> None:
        steps: dict[str, set[int]] = {}
        for one in self.world.counterparties.applied:
            steps.setdefault(one.order_id, set()).add(int(one.key.split(":")[1][0]))
        for order_id in Clearing.objects.filter(state=State.CLEARED).values_list("order__order_id", flat=True):
            assert steps[order_id] == {1, 2, 3, 4}


def number_in(variable: str, default: int) -> int:
    """The whole number in a variable of `make state-machine`."""
    text = os.environ.get(variable) or str(default)
    if not text.isascii() or not text.isdigit():
        pytest.exit(f"{variable} is {text!r}: set it to a whole number", returncode=2)
    return int(text)


EXAMPLES = number_in("STATE_MACHINE_EXAMPLES", 0)  # 0: the quick run's
QUICK = settings(max_examples=20, stateful_step_count=30, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
LONG = settings(QUICK, max_examples=max(EXAMPLES, 1), derandomize=False, print_blob=True)


@pytest.mark.timeout(300 + 5 * EXAMPLES)
def test_no_sequence_of_events_breaks_a_clearing(transactional_db: None, settings: Any) -> None:
    settings.RETRY_BASE_MS = 1
    broker.client().flushdb()
    if not EXAMPLES:
        run_state_machine_as_test(Clearings, settings=QUICK)
        return
    number = number_in("STATE_MACHINE_SEED", random.randrange(2**32))
    again = f"make state-machine EXAMPLES={EXAMPLES} SEED={number}"
    sys.stdout.write(f"\nRepeat it by: {again}\n")
    try:
        run_state_machine_as_test(seed(number)(Clearings), settings=LONG)
    except BaseException as error:
        error.add_note(f"Repeat it by: {again}")
        raise
