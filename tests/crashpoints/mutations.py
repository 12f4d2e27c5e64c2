"""Guards of the service, broken on purpose, each in every process: an explorer that finds nothing
then is blind.

Each names the scenario in which it must be found, `--mutations` tries them all, and a new family of
scenarios gets one of its own.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any, Final

from django.db import transaction

from base import db, fence
from base.clock import ServiceNow
from clearing.dispatch.publish import publish as publish_now
from clearing.flow import amounts, flows
from clearing.gateways import Blocked, Rejected, UnknownOutcome, counterparty_state, http
from clearing.policy.backoff import Reaction
from clearing.policy.outcomes import LOST, UNSENT, Rule, rule_of
from clearing.running import calls, runner
from clearing.running.next_action import WORKER_STOPPING, Defer
from clearing.status import OperationState, State
from clearing.store import claims, interventions, recovery
from ops import wiring
from ops.jobs import run
from ops.liveness import heartbeats
from ops.management.commands import replay as replay_command
from orders.backfill import gap_pass
from orders.models import Quarantined
from tests.crashpoints.clock import clock
from tests.support.states import rewritable

Planted = Callable[[], None]
_ANEW: Final = (
    "WITH old AS (UPDATE clearing_operation SET state = 'rejected' WHERE state = 'pending' AND clearing_id = ANY (%s) RETURNING *)"
    " INSERT INTO clearing_operation (clearing_id, step, part, revision, counterparty, action, key, request)"
    " SELECT clearing_id, step, part, revision + 1, counterparty, action, key || ':r1',"
    " convert_to(replace(convert_from(request, 'UTF8'), key, key || ':r1'), 'UTF8') FROM old RETURNING id"
)
_TURN_ROUND: Final = "UPDATE clearing_clearing SET created_ms = -created_ms WHERE user_id = %s RETURNING id"
_REWRITE: Final = (
    "UPDATE clearing_attempt SET detail = 'all is well' FROM clearing_operation o"
    " WHERE o.id = operation_id AND o.clearing_id = ANY (%s) RETURNING clearing_attempt.id"
)
_FORGET: Final = "UPDATE clearing_operation SET state = 'planned' WHERE state = 'open' AND clearing_id = ANY (%s) RETURNING id"


@dataclass(frozen=True, slots=True)
class Mutation:
    """`plant` breaks the guard in the process that calls it; the group of `scenario` finds
    violations then.
    """

    plant: Planted
    scenario: str


MUTATIONS: Final[dict[str, Mutation]] = {}


def _found_in(scenario: str) -> Callable[[Planted], Planted]:
    def register(plant: Planted) -> Planted:
        MUTATIONS[plant.__name__] = Mutation(plant, scenario)
        return plant

    return register


def _replace(module: ModuleType | type, name: str, function: Callable[..., Any]) -> None:
    assert hasattr(module, name), f"{module.__name__} has no {name} any more: break the guard where it is now"
    setattr(module, name, function)


def _before_each_take_back(statement: str, guards: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
    """The sweep runs this on the clearings that it takes back, or queues, before it does; `guards`
    lets it past the database's.
    """
    real = recovery.requeue

    def requeue(ids: Sequence[int], *, actor: str, generation: str) -> Any:
        with guards():
            db.call(statement, [list(ids)])
        return real(ids, actor=actor, generation=generation)

    _replace(recovery, "requeue", requeue)


@_found_in("steps/close/done@1")
def no_lost_attempt() -> None:
    """The sweep takes claims back without saying that the dead worker may have sent the
    operation.
    """
    _before_each_take_back(_FORGET)


@_found_in("steps/close/done@1")
def never_asks() -> None:
    """What may have been sent is sent again without a question."""
    real = calls.make_call

    def make_call(work: claims.Work, *others: Any) -> Any:
        return real(replace(work, operation_state=OperationState.PLANNED), *others)

    _replace(runner, "make_call", make_call)


@_found_in("steps/close/done@1")
def another_key_after_a_death() -> None:
    """An operation that may have been sent gets a key of its own, as one who doesn't know keys
    would do it.
    """
    real = calls.make_call

    def make_call(work: claims.Work, *others: Any) -> Any:
        if work.operation_state != OperationState.PLANNED:
            key = f"{work.stored.key}:r1"
            body = work.stored.body.replace(work.stored.key.encode(), key.encode())
            work = replace(work, operation_state=OperationState.PLANNED, stored=replace(work.stored, key=key, body=body))
        return real(work, *others)

    _replace(runner, "make_call", make_call)


@_found_in("ingest/gap/done@1")
def never_sends_again() -> None:
    """The sweep never looks for gone messages."""
    _replace(recovery, "unclaimed", lambda *_, **__: [])


@_found_in("ingest/consumer/done@1")
def publishes_in_the_transaction() -> None:
    """Intake publishes before its commit."""
    real = claims.accept

    def accept(*args: Any, **kwargs: Any) -> Any:
        refs = real(*args, **kwargs)
        publish_now(refs)
        return refs

    _replace(claims, "accept", accept)


@_found_in("ingest/gap_job/done@1")
def gap_position_first() -> None:
    """A gap pass moves its position before it has taken anything in."""
    real = gap_pass.GapPass._read

    def read(self: gap_pass.GapPass, shard: int, start_ms: int, result: gap_pass.GapResult, pages_max: int | None) -> Any:
        self._write(gap_pass._MOVE, {"shard": shard, "now_ms": clock.now_ms(), "overlap_ms": self.overlap_ms, "skew_ms": 0})
        return real(self, shard, start_ms, result, pages_max)

    _replace(gap_pass.GapPass, "_read", read)


@_found_in("ingest/reconcile/done@1")
def clearings_after_the_commit() -> None:
    """Intake opens the clearings of what it stored in a transaction of their own."""
    real = vars(wiring)["ingest"]

    def ingest(items: Any, *, open_clearings: Any, publish: Any, **others: Any) -> Any:
        stored: list[Any] = []

        def keep(orders: Sequence[Any]) -> list[Any]:
            stored.extend(orders)
            return []

        result = real(items, open_clearings=keep, publish=publish, **others)
        with transaction.atomic():
            refs = open_clearings(stored)
        publish(refs)
        return result

    _replace(wiring, "ingest", ingest)


@_found_in("replay/quarantine/done@1")
def replayed_before_it_is_in() -> None:
    """A quarantined message is marked as replayed first."""
    real = vars(replay_command)["replay_quarantined"]

    def replay_quarantined(row: Quarantined, *others: Any) -> Any:
        Quarantined.objects.filter(pk=row.pk).update(replayed_at=ServiceNow())
        return real(row, *others)

    _replace(replay_command, "replay_quarantined", replay_quarantined)


@_found_in("restore/replay/done@1")
def restored_as_new() -> None:
    """What is replayed after a restore is taken in as if it had never been run."""
    _replace(replay_command, "ingest_from_restore", wiring.ingest_from_replay)


@_found_in("hold/running/done@2")
def goes_on_though_held() -> None:
    """A running order goes on to its next step, whatever hold was set meanwhile."""
    real = claims.step_done

    def step_done(work: claims.Work, *others: Any, **more: Any) -> Any:
        db.call("UPDATE clearing_clearing SET hold_code = '' WHERE id = %s RETURNING id", [work.clearing_id])
        return real(work, *others, **more)

    _replace(claims, "step_done", step_done)


@_found_in("people/retry_poison/done@1")
def nobody_died() -> None:
    """Whoever goes silent counts as stopped: no order is ever a suspect."""
    real = heartbeats.mark_dead

    def mark_dead(name: str, *others: Any) -> bool:
        marked = real(name, *others)
        db.call("UPDATE base_incarnation SET \"end\" = 'stopped' WHERE name = %s RETURNING name", [name])
        return marked

    _replace(heartbeats, "mark_dead", mark_dead)


@_found_in("people/expired/done@1")
def nothing_expires() -> None:
    """Interventions wait for approval for ever."""
    _replace(interventions, "expire", lambda _limit: 0)


@_found_in("sweep/reminder/done@1")
def nobody_is_reminded() -> None:
    """An order that waits for people is told of once."""
    _replace(interventions, "remind", lambda **_: [])


@_found_in("breaker/probed/done@1")
def nobody_probes() -> None:
    """No process ever takes the right to probe a counterparty."""
    _replace(counterparty_state, "take_probes", lambda _seconds: [])


@_found_in("pause/by_people/done@1")
def blocked_for_ever() -> None:
    """The sweep leaves alone what once found the way barred."""
    real = recovery.due

    def due(*args: Any, **kwargs: Any) -> list[int]:
        ids = real(*args, **kwargs)
        return [pk for (pk,) in db.call("SELECT id FROM clearing_clearing WHERE id = ANY (%s) AND waits_for = ''", [list(ids)])]

    _replace(recovery, "due", due)


@_found_in("lead/take_over/done@1")
def a_fence_without_a_term() -> None:
    """Whatever was the leader's job once is let through."""
    _replace(run, "fence_of", lambda _term: fence.no_fence)


@_found_in("handover/in_place/done@1")
def the_newest_is_next() -> None:
    """A user's lane is handed over to the newest order."""
    real = claims.finish

    def finish(work: claims.Work, *others: Any, **more: Any) -> Any:
        with transaction.atomic():
            db.call(_TURN_ROUND, [work.order.user_id])
            recorded = real(work, *others, **more)
            db.call(_TURN_ROUND, [work.order.user_id])
        return recorded

    _replace(claims, "finish", finish)


@_found_in("retry/due/timeout@2")
def unanswered_is_unsent() -> None:
    """A call whose answer was lost counts as one that never left, and is tried again as that is."""

    def mistaken(came: int | str, code: str) -> Rule:
        return rule_of(UNSENT, "connect_timeout") if came == LOST else rule_of(came, code)

    _replace(http, "rule_of", mistaken)


@_found_in("unknown/silent/done@3")
def silence_is_a_no() -> None:
    """A status query without a usable answer counts as an unknown key."""
    real = calls.query

    def query(*args: Any) -> Any:
        call = real(*args)
        return replace(call, answer=None) if isinstance(call.answer, UnknownOutcome) else call

    _replace(calls, "query", query)


@_found_in("unknown/nothing/rejected@2")
def any_rejection_is_final() -> None:
    """A rejection is the end of its operation, though an earlier sending may still be on its
    way.
    """
    real = runner._reaction

    def reaction(work: claims.Work, error: Any, *others: Any, **more: Any) -> Reaction:
        if isinstance(error, Rejected):
            return Reaction(State.PARKED, OperationState.REJECTED)
        return real(work, error, *others, **more)

    _replace(runner, "_reaction", reaction)


@_found_in("pending/due/done@2")
def pending_is_given_up() -> None:
    """What was still in flight when its time had come is done anew, under the next revision of its
    key.
    """
    _before_each_take_back(_ANEW)


@_found_in("handback/mid_step/done@1")
def handed_back_as_untried() -> None:
    """A worker that is told to stop during a call hands the order back without what the call
    brought.
    """
    real = calls.make_call

    def make_call(work: claims.Work, *others: Any) -> Any:
        brought = real(work, *others)
        if others[-1]():
            return Defer(Blocked(WORKER_STOPPING))
        return brought

    _replace(runner, "make_call", make_call)


@_found_in("steps/in_place/partial@3")
def only_the_first_part_is_paid_out() -> None:
    """What the exchange bought with the remainder isn't moved on (rule 12)."""
    _replace(flows, "bought", lambda parts: amounts.cut(parts[0].bought, parts[0].buy_asset))


@_found_in("sweep/expired_claim/done@1")
def evidence_is_rewritten() -> None:
    """The sweep changes attempts that were written down."""
    _before_each_take_back(_REWRITE, rewritable)
