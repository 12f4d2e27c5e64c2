"""The one door to the status table: every change of a clearing is one call of a database function,
one commit (sql/*.sql).

What people do is in `store_people.py`, what the sweep does in `store_recovery.py`: leaves of the
same door.

Nothing here knows of threads or tasks; `clearing/status.py` holds what may follow what, and a test
holds the SQL against it. Functions that end an order return whom to publish next. While PostgreSQL
is away a claim waits for it, and a result is recorded as soon as it is back, until the claim's end;
then django.db.OperationalError is raised, and the sweep finds what was under way.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from time import CLOCK_BOOTTIME, clock_gettime, sleep
from typing import Any

from django.conf import settings

from base.db import DATABASE_AWAY, Row, call
from clearing.flow.flows import CURRENT_FLOW, FLOWS, OrderFacts, Planned, plan
from clearing.gateways import Action, ClaimEnded, Counterparty, Exchanged, StoredRequest, read_result
from clearing.policy.backoff import Reaction
from clearing.status import OperationState, Outcome, State
from clearing.store.lanes import lane_of


@dataclass(frozen=True, slots=True)
class ClearingRef:
    """A queued clearing as its message names it. `queued_ms`: the database's time of the queueing,
    so that messages can be told apart in age.
    """

    id: int
    epoch: int
    step: int
    lane: int
    queued_ms: int


@dataclass(frozen=True, slots=True)
class ClaimClock:
    """The database's time, as measured at the claim and carried on by a clock that counts through a
    suspended machine.
    """

    now_ms: int
    measured_at: float
    claimed_until_ms: int

    def timestamp_ms(self) -> int:
        """The time to sign with, ms. Raises ClaimEnded at or after the claim's end: nobody signs
        then (design, rule 7).
        """
        now = self.now_ms + int((clock_gettime(CLOCK_BOOTTIME) - self.measured_at) * 1000)
        if now >= self.claimed_until_ms:
            raise ClaimEnded("the claim ended before the call was signed")
        return now

    def ended(self) -> bool:
        """Whether the claim is over."""
        return self.now_ms + (clock_gettime(CLOCK_BOOTTIME) - self.measured_at) * 1000 >= self.claimed_until_ms


@dataclass(frozen=True, slots=True)
class Claimed:
    """A claim, whatever its clearing's flow is."""

    clearing_id: int
    epoch: int
    step: int
    operation_id: int
    operation_state: OperationState
    clock: ClaimClock
    order: OrderFacts
    flow: int
    worker: str


class FlowUnknown(Exception):  # noqa: N818 - named by what it tells
    """A claim was taken, but a release that is newer than this process opened the clearing: its
    operation is nothing that we can read.
    """

    def __init__(self, claimed: Claimed) -> None:
        super().__init__(f"flow {claimed.flow}")
        self.claimed = claimed


@dataclass(frozen=True, slots=True)
class Work(Claimed):
    """A claimed clearing's current operation, with all that running it takes."""

    part: int
    stored: StoredRequest
    sent_seconds_ago: float | None
    attempts: int
    tries: int
    created_ms: int
    started_ms: int
    queued_ms: int
    exchanges: tuple[Exchanged, ...] = ()
    hold_code: str = ""  # set before the claim: what the counterparty doesn't know isn't sent again
    tried_seconds_ago: float | None = None  # when its first try was made, at the claim; none was yet

    def tried_seconds(self) -> float:
        """For how long it has been tried by now, since the last progress."""
        return 0 if self.tried_seconds_ago is None else self.tried_seconds_ago + clock_gettime(CLOCK_BOOTTIME) - self.clock.measured_at


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one try brought. Times on `CLOCK_BOOTTIME`, seconds; the database turns them into its
    own.
    """

    outcome: Outcome
    sent_at: float
    answered_at: float = field(default_factory=lambda: clock_gettime(CLOCK_BOOTTIME))
    asked: bool = False
    code: str = ""
    detail: str = ""
    response: bytes | None = None

    def ages(self) -> tuple[bool, float, float]:
        """(asked, ms since sent, ms since answered)."""
        now = clock_gettime(CLOCK_BOOTTIME)
        return self.asked, (now - self.sent_at) * 1000, (now - self.answered_at) * 1000


@dataclass(frozen=True, slots=True)
class Recorded:
    """What became of the clearing, and whom to publish: `ref` the clearing itself if it was queued,
    `next` the user's next order.
    """

    outcome: str  # a State, or "lost": the claim was gone and nothing changed but the evidence
    ref: ClearingRef | None = None
    next: ClearingRef | None = None
    work: Work | None = None  # the next operation, when the claim goes on to it
    hold_code: str = ""


AWAY_SECONDS = 0.2  # between two tries while PostgreSQL is away
REF = "({0}).id, ({0}).epoch, ({0}).step, ({0}).lane, ({0}).queued_ms"


def read_ref(row: Sequence[Any]) -> ClearingRef | None:
    """A row's columns of REF; None where there is none."""
    return None if row[0] is None else ClearingRef(*row[:5])


def read_refs(rows: Sequence[Row]) -> list[ClearingRef]:
    return [ref for row in rows if (ref := read_ref(row))]


def accept(orders: Sequence[tuple[int, OrderFacts]], *, actor: str, generation: str, restored: bool = False) -> list[ClearingRef]:
    """Opens a clearing for each (sync order's primary key, facts), in the open transaction. Returns
    the heads of lanes, to be published.

    `restored`: each may have been run before the database was restored from a backup, and is asked
    for first; orders up to the latest restore point are without it.
    """
    if not orders:
        return []
    firsts = [plan(CURRENT_FLOW, facts, 1) for _, facts in orders]
    return read_refs(
        call(
            "SELECT * FROM clearing_accept(%s, %s, %s, %s::bytea[], %s, %s, %s, %s)",
            [
                [pk for pk, _ in orders],
                [lane_of(facts.user_id) for _, facts in orders],
                [first.key for first in firsts],
                [first.request for first in firsts],
                CURRENT_FLOW,
                actor,
                generation,
                restored,
            ],
        )
    )


def hold(order_id: str, code: str, *, actor: str, generation: str) -> tuple[State | None, ClearingRef | None]:
    """Sets a hold. Returns the state that the clearing was in (None: no such order) and whom to
    publish next.
    """
    rows = call(f"SELECT found_state, {REF.format('next')} FROM clearing_hold(%s, %s, %s, %s)", [order_id, code, actor, generation])
    return (State(rows[0][0]), read_ref(rows[0][1:])) if rows else (None, None)


def claim(
    ref_id: int,
    epoch: int,
    *,
    worker: Callable[[], str],
    gives_up: Callable[[], bool],
    alone: bool = False,
    sole: bool = False,
    outlived: Callable[[str], bool] = lambda _name: False,
) -> Work | None:
    """Takes the claim. None: somebody else has it, or the clearing is elsewhere by now; or it is a
    suspect, which only a worker that is `alone` may run. `sole`: no other thread of this process is
    at it, so a claim that is ours after a lost answer is this call's. Raises FlowUnknown.

    Nobody claims under the name of an incarnation that has ended; a worker that has `outlived` it
    claims again under its new one. Waits while PostgreSQL is away, unless `gives_up`: a message
    that is let go then is gone from the broker, and thousands of them would be.
    """
    unanswered = False
    while True:
        asked_at = clock_gettime(CLOCK_BOOTTIME)
        try:
            name = worker()
            rows = call("SELECT * FROM clearing_claim(%s, %s, %s, %s, %s)", [ref_id, epoch, name, settings.CLEARING_CLAIM_SECONDS, alone])
            if not rows and sole and unanswered:
                rows = call("SELECT * FROM clearing_claim_again(%s, %s, %s)", [ref_id, epoch, name])
            if not rows and outlived(name):
                continue
        except DATABASE_AWAY:
            if gives_up():
                raise
            unanswered = True
            sleep(AWAY_SECONDS)
        else:
            return _work(rows[0], name, asked_at) if rows else None


def _work(row: Row, worker: str, asked_at: float) -> Work:
    (clearing_id, epoch, step, part, operation_id, operation_state, counterparty, action, key, request) = row[:10]
    (sent_seconds_ago, attempts, tries, now_ms, until_ms, started_ms, order_id, user_id, contract_id, direction, asset) = row[10:21]
    (quantity, quoted_usdt, created_ms, flow, queued_ms, exchanges, hold_code, tried_seconds_ago) = row[21:]
    state, clock = OperationState(operation_state), ClaimClock(now_ms, asked_at, until_ms)
    order = OrderFacts(order_id, user_id, contract_id, direction, asset, quantity, quoted_usdt)
    if flow not in FLOWS:
        raise FlowUnknown(Claimed(clearing_id, epoch, step, operation_id, state, clock, order, flow, worker))
    return Work(
        clearing_id=clearing_id,
        epoch=epoch,
        step=step,
        part=part,
        operation_id=operation_id,
        operation_state=state,
        stored=StoredRequest(Counterparty(counterparty), Action(action), key, bytes(request)),
        sent_seconds_ago=sent_seconds_ago,
        attempts=attempts,
        tries=tries,
        clock=clock,
        order=order,
        created_ms=created_ms,
        started_ms=started_ms,
        queued_ms=queued_ms,
        flow=flow,
        worker=worker,
        exchanges=tuple(_exchanged(bytes(body)) for body in exchanges or ()),
        hold_code=hold_code,
        tried_seconds_ago=tried_seconds_ago,
    )


def _exchanged(body: bytes) -> Exchanged:
    result = read_result(Action.EXCHANGE, body)
    assert isinstance(result, Exchanged)
    return result


def record_attempt(work: Work, evidence: Evidence) -> None:
    """Appends an attempt's evidence and changes nothing else."""
    recorded(
        "SELECT clearing_record_try(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        work,
        lambda: [
            *(work.operation_id, work.epoch, work.worker, *evidence.ages()),
            *(evidence.outcome, evidence.code, evidence.detail, evidence.response),
        ],
    )


def recorded(sql: str, work: Claimed, params: Callable[[], Sequence[object]]) -> Row:
    """One event of a claimed clearing. Repeated while the connection breaks and the claim lasts;
    the functions know their own commits again.
    """
    while True:
        try:
            return call(sql, params())[0]
        except DATABASE_AWAY:
            if work.clock.ended():
                raise
            sleep(AWAY_SECONDS)


def _head(work: Work, evidence: Evidence) -> list[object]:
    return [work.clearing_id, work.epoch, work.order.user_id, work.worker, work.operation_id, *evidence.ages()]


def step_done(work: Work, evidence: Evidence, following: Planned, *, exchanges: tuple[Exchanged, ...], in_place: bool, generation: str) -> Recorded:
    """The operation is confirmed and the next one written down; with `in_place` the claim goes on
    to it, otherwise it is queued.
    """
    asked_at = clock_gettime(CLOCK_BOOTTIME)
    row = recorded(
        f"SELECT outcome, operation_id, now_ms, claimed_until_ms, sent_seconds_ago, {REF.format('ref')}, {REF.format('next')}"
        " FROM clearing_step_done(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        work,
        lambda: [
            *(*_head(work, evidence), evidence.response),
            *(following.step, following.part, following.counterparty, following.action, following.key, following.request),
            *(in_place, settings.CLEARING_CLAIM_SECONDS, generation, following.parks),
        ],
    )
    outcome, operation_id, now_ms, until_ms, sent_seconds_ago = row[:5]
    if outcome != State.RUNNING:
        return Recorded(outcome, read_ref(row[5:10]), read_ref(row[10:]))
    following_work = Work(
        clearing_id=work.clearing_id,
        epoch=work.epoch,
        step=following.step,
        part=following.part,
        operation_id=operation_id,
        operation_state=OperationState.PLANNED if sent_seconds_ago is None else OperationState.UNKNOWN,
        stored=StoredRequest(following.counterparty, following.action, following.key, following.request),
        sent_seconds_ago=sent_seconds_ago,
        attempts=0,
        tries=0,
        clock=ClaimClock(now_ms, asked_at, until_ms),
        order=work.order,
        created_ms=work.created_ms,
        started_ms=work.started_ms,
        queued_ms=work.queued_ms,
        flow=work.flow,
        worker=work.worker,
        exchanges=exchanges,
    )
    return Recorded(outcome, work=following_work)


def finish(work: Work, evidence: Evidence, slippage_usdt: Decimal, *, generation: str) -> Recorded:
    """The last operation is confirmed: cleared, and the user's next order queued."""
    row = recorded(
        f"SELECT outcome, hold_code, {REF.format('next')} FROM clearing_finish(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        work,
        lambda: [*_head(work, evidence), evidence.response, slippage_usdt, generation],
    )
    return Recorded(row[0], next=read_ref(row[2:]), hold_code=row[1])


def settle(work: Work, evidence: Evidence, reaction: Reaction, *, counted: bool, generation: str) -> Recorded:
    """The attempt wasn't the end of its step: the clearing becomes what the reaction says, or
    unknown where the evidence demands it.
    """
    row = recorded(
        f"SELECT outcome, {REF.format('next')} FROM clearing_settle(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        work,
        lambda: [
            *(*_head(work, evidence), evidence.outcome, evidence.code, evidence.detail, evidence.response),
            *(reaction.state, reaction.operation_state, reaction.delay_ms, int(counted), generation),
        ],
    )
    return Recorded(row[0], next=read_ref(row[1:]))


def step_aside(work: Claimed, code: str, reaction: Reaction, *, generation: str) -> Recorded:
    """Nothing was tried, since something stands in the way (`code`): the clearing waits, no attempt
    is appended and nothing counted.
    """
    row = recorded(
        "SELECT outcome FROM clearing_settle(%s, %s, %s, %s, %s, true, 0, 0, NULL, %s, '', NULL, %s, %s, %s, 0, %s)",
        work,
        lambda: [
            *(work.clearing_id, work.epoch, work.order.user_id, work.worker, work.operation_id, code),
            *(reaction.state, reaction.operation_state, reaction.delay_ms, generation),
        ],
    )
    return Recorded(row[0])
