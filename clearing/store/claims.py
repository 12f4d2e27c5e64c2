"""The status table: every change of a clearing is one call of a database function, one commit
(`sql/*.sql`).

Operator commands are in `interventions.py`, the sweep's in `recovery.py`, the text of the calls in
`statements.py`. Nothing here knows of threads or tasks. What may follow what is in
`clearing/status.py`, and the database enforces it. Functions that end an order return what to
publish next. While PostgreSQL is unavailable a claim waits for it, and a result is recorded as soon
as it is back, until the claim's end; then django.db.OperationalError is raised, and the sweep takes
over.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import CLOCK_BOOTTIME, clock_gettime, sleep
from typing import Any

from django.conf import settings

from base import metrics
from base.db import DATABASE_UNAVAILABLE, Row, call
from clearing.flow.fills import Residue
from clearing.flow.flows import CURRENT_FLOW, FLOWS, OrderFacts, Planned, plan
from clearing.gateways import Action, Counterparty, Exchanged, StoredRequest, read_result
from clearing.policy.backoff import Reaction
from clearing.status import OperationState, Outcome, State
from clearing.store import bounds, statements
from clearing.store.claim_clock import ClaimClock
from clearing.store.lanes import lane_of
from orders.intake.mapping import NewOrder


@dataclass(frozen=True, slots=True)
class ClearingRef:
    """A queued clearing as its message names it. `queued_ms`: the database's time of the queueing,
    so that messages can be told apart in age. `isolated`: a poison candidate, which runs in a queue
    of one slot, whatever its lane.
    """

    id: int
    epoch: int
    step: int
    lane: int
    queued_ms: int
    isolated: bool = False


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
    planned_here: bool = False  # by this claim: its request is no other process's
    row: NewOrder | None = None  # the order's, as the claim found it; None of an operation that the claim planned itself

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


RETRY_SECONDS = 0.2  # between two tries while PostgreSQL is unavailable
ISOLATED_LANE = -1  # what SQL answers instead of the lane of an order that runs isolated (clearing_route)


def read_ref(row: Row, name: str = "") -> ClearingRef | None:
    """The clearing in a row's columns: of a composite column (`statements.ref_columns`), or of a
    row that is a `clearing_ref` itself. None where it is null.
    """
    prefix = f"{name}_" if name else ""
    pk, epoch, step, lane, queued_ms = (getattr(row, prefix + column) for column in ("id", "epoch", "step", "lane", "queued_ms"))
    return None if pk is None else ClearingRef(pk, epoch, step, lane, queued_ms, isolated=lane == ISOLATED_LANE)


def read_refs(rows: Sequence[Row]) -> list[ClearingRef]:
    """The clearings of rows that are `clearing_ref`."""
    return [ref for row in rows if (ref := read_ref(row))]


def accept(orders: Sequence[tuple[int, OrderFacts]], *, actor: str, generation: str, restored: bool = False) -> list[ClearingRef]:
    """Opens a clearing for each (sync order's primary key, facts), in the open transaction. Returns
    the heads of lanes, to be published. What is beyond the bound of an order, or takes its user's
    day beyond that of a user, is held before its first step, as `limit_exceeded`.

    `restored`: each may have been run before the database was restored from a backup, and is
    reconciled before it is sent; orders up to the latest restore point are without it, and so are
    those that are older by now than the counterparties keep keys (design, rule 15).
    """
    if not orders:
        return []
    firsts = [plan(CURRENT_FLOW, facts, 1) for _, facts in orders]
    bound = settings.CLEARING_ORDER_USDT_MAX
    refs = read_refs(
        call(
            statements.ACCEPT,
            {
                "orders": [pk for pk, _ in orders],
                "lanes": [lane_of(facts.user_id) for _, facts in orders],
                "counterparties": [first.counterparty for first in firsts],
                "actions": [first.action for first in firsts],
                "keys": [first.key for first in firsts],
                "requests": [first.request for first in firsts],
                "flow": CURRENT_FLOW,
                "actor": actor,
                "generation": generation,
                "restored": restored,
                "limited": [0 < bound < facts.quoted_usdt for _, facts in orders],
                "user_usdt_max": settings.CLEARING_USER_USDT_PER_DAY_MAX,
                "key_retention_seconds": settings.KEY_RETENTION_SECONDS,
            },
        )
    )
    limited = [ref.id for ref in refs if not ref.epoch]
    if limited:
        bounds.tell_limited(limited)
    return [ref for ref in refs if ref.epoch]


def hold(order_id: str, code: str, *, actor: str, generation: str) -> tuple[State | None, ClearingRef | None]:
    """Sets a hold. Returns the state that the clearing was in (None: no such order) and whom to
    publish next.
    """
    rows = call(statements.HOLD, {"order": order_id, "code": code, "actor": actor, "generation": generation})
    return (State(rows[0].found_state), read_ref(rows[0], "next")) if rows else (None, None)


def claim(
    ref_id: int,
    epoch: int,
    *,
    worker: Callable[[], str],
    gives_up: Callable[[], bool],
    isolated: bool = False,
    sole: bool = False,
    outlived: Callable[[str], bool] = lambda _name: False,
) -> Work | None:
    """Takes the claim. None: another worker has it, or the clearing is no longer queued; or it is a
    poison candidate, which only an `isolated` worker may run. `sole`: no other thread of this
    process runs this epoch, so that a claim found after a lost answer must be this call's. Raises
    FlowUnknown.

    Blocks while PostgreSQL is unavailable, unless `gives_up`, because an acknowledged message
    would be lost and a backlog of thousands would need the sweep. A worker whose incarnation has
    ended (`outlived`) registers anew and retries.
    """
    unanswered = False
    while True:
        asked_at = clock_gettime(CLOCK_BOOTTIME)
        try:
            name = worker()
            own = {"id": ref_id, "epoch": epoch, "worker": name}
            rows = call(statements.CLAIM, {**own, "claim_seconds": settings.CLEARING_CLAIM_SECONDS, "alone": isolated})
            if not rows and sole and unanswered:
                rows = call(statements.CLAIM_AGAIN, own)
            if not rows and outlived(name):
                continue
        except DATABASE_UNAVAILABLE:
            if gives_up():
                raise
            unanswered = True
            sleep(RETRY_SECONDS)
        else:
            return _work(rows[0], name, asked_at) if rows else None


def _work(row: Row, worker: str, asked_at: float) -> Work:
    claimed: dict[str, Any] = {
        "clearing_id": row.clearing_id,
        "epoch": row.epoch,
        "step": row.step,
        "operation_id": row.operation_id,
        "operation_state": OperationState(row.operation_state),
        "clock": ClaimClock(row.now_ms, asked_at, row.claimed_until_ms),
        "order": OrderFacts(row.order_id, row.user_id, row.contract_id, row.direction, row.asset, row.quantity, row.quoted_usdt),
        "flow": row.flow,
        "worker": worker,
    }
    if row.flow not in FLOWS:
        raise FlowUnknown(Claimed(**claimed))
    return Work(
        **claimed,
        part=row.part,
        stored=StoredRequest(Counterparty(row.counterparty), Action(row.action), row.key, bytes(row.request)),
        sent_seconds_ago=row.sent_seconds_ago,
        attempts=row.attempts,
        tries=row.tries,
        created_ms=row.created_ms,
        started_ms=row.started_ms,
        queued_ms=row.queued_ms,
        exchanges=tuple(_exchanged(bytes(body)) for body in row.exchanges or ()),
        hold_code=row.hold_code,
        tried_seconds_ago=row.tried_seconds_ago,
        row=NewOrder(**{name: getattr(row, name) for name in NewOrder.__struct_fields__}),
    )


def _exchanged(body: bytes) -> Exchanged:
    result = read_result(Action.EXCHANGE, body)
    assert isinstance(result, Exchanged)
    return result


def record_attempt(work: Work, evidence: Evidence) -> None:
    """Appends an attempt's evidence and changes nothing else."""
    _recorded_attempt(statements.RECORD_TRY, work, evidence, dict)


def _recorded_attempt(sql: str, work: Work, evidence: Evidence, arguments: Callable[[], Mapping[str, object]]) -> Row:
    """Writes an event that appends an attempt, whatever else it does, and counts the attempt:
    nothing else here appends one.
    """
    row = recorded(sql, work, lambda: {**_attempt(work, evidence), **arguments()})
    metrics.observe_attempt(work, evidence)
    return row


def recorded(sql: str, work: Claimed, arguments: Callable[[], Mapping[str, object]]) -> Row:
    """Writes one event of a claimed clearing. Repeated while the database is unavailable and the
    claim lasts: the functions recognise their own commits.
    """
    while True:
        try:
            return call(sql, arguments())[0]
        except DATABASE_UNAVAILABLE:
            if work.clock.ended():
                raise
            sleep(RETRY_SECONDS)


def of_claim(work: Claimed) -> dict[str, object]:
    """The arguments that name a claim."""
    return {"id": work.clearing_id, "epoch": work.epoch, "user": work.order.user_id, "worker": work.worker}


def _attempt(work: Claimed, evidence: Evidence) -> dict[str, object]:
    asked, sent_ms_ago, answered_ms_ago = evidence.ages()
    times = {"asked": asked, "sent_ms_ago": sent_ms_ago, "answered_ms_ago": answered_ms_ago}
    answer = {"outcome": evidence.outcome, "code": evidence.code, "detail": evidence.detail, "response": evidence.response}
    return {**of_claim(work), "operation": work.operation_id, **times, **answer}


def _reacted(reaction: Reaction) -> dict[str, object]:
    return {"state": reaction.state, "operation_state": reaction.operation_state, "due_ms": reaction.delay_ms}


def step_done(work: Work, evidence: Evidence, following: Planned, *, exchanges: tuple[Exchanged, ...], in_place: bool, generation: str) -> Recorded:
    """The operation is confirmed and the next one written down; with `in_place` the claim goes on
    to it, otherwise it is queued.
    """
    asked_at = clock_gettime(CLOCK_BOOTTIME)
    row = _recorded_attempt(
        statements.STEP_DONE,
        work,
        evidence,
        lambda: {
            **of_planned(following),
            "in_place": in_place,
            "claim_seconds": settings.CLEARING_CLAIM_SECONDS,
            "generation": generation,
            "parks": following.parks,
            "holds": following.holds,
        },
    )
    if row.outcome != State.RUNNING:
        return Recorded(row.outcome, read_ref(row, "ref"), read_ref(row, "next"))
    following_work = Work(
        clearing_id=work.clearing_id,
        epoch=work.epoch,
        step=following.step,
        part=following.part,
        operation_id=row.operation_id,
        operation_state=OperationState.PLANNED if row.sent_seconds_ago is None else OperationState.UNKNOWN,
        stored=StoredRequest(following.counterparty, following.action, following.key, following.request),
        sent_seconds_ago=row.sent_seconds_ago,
        attempts=0,
        tries=0,
        clock=ClaimClock(row.now_ms, asked_at, row.claimed_until_ms),
        order=work.order,
        created_ms=work.created_ms,
        started_ms=work.started_ms,
        queued_ms=work.queued_ms,
        flow=work.flow,
        worker=work.worker,
        exchanges=exchanges,
        planned_here=True,
    )
    return Recorded(row.outcome, work=following_work)


def of_planned(planned: Planned) -> dict[str, object]:
    """The arguments that write an operation down."""
    return {
        "step": planned.step,
        "part": planned.part,
        "counterparty": planned.counterparty,
        "action": planned.action,
        "key": planned.key,
        "request": planned.request,
    }


def of_residue(residue: Residue) -> dict[str, object]:
    """The arguments that write down what an order leaves."""
    return {"slippage": residue.slippage_usdt, "surplus": residue.surplus, "dust": residue.dust}


def finish(work: Work, evidence: Evidence, residue: Residue, *, generation: str) -> Recorded:
    """The last operation is confirmed: cleared, and the user's next order queued."""
    more = {"step": work.step, **of_residue(residue), "generation": generation}
    row = _recorded_attempt(statements.FINISH, work, evidence, lambda: more)
    return Recorded(row.outcome, next=read_ref(row, "next"), hold_code=row.hold_code)


def settle(work: Work, evidence: Evidence, reaction: Reaction, *, counted: bool, generation: str) -> Recorded:
    """The attempt wasn't the end of its step: the clearing becomes what the reaction says, or
    unknown where the evidence demands it.
    """
    row = _recorded_attempt(statements.SETTLE, work, evidence, lambda: {**_reacted(reaction), "counted": int(counted), "generation": generation})
    return Recorded(row.outcome, next=read_ref(row, "next"))


def defer_blocked(work: Claimed, code: str, reaction: Reaction, *, generation: str) -> Recorded:
    """No call was made, since something stands in the way (`code`): the clearing waits, or parks,
    as the reaction says; no attempt is appended and nothing counted.
    """
    nothing = {"asked": True, "sent_ms_ago": 0, "answered_ms_ago": 0, "outcome": None, "detail": "", "response": None, "counted": 0}
    row = recorded(
        statements.SETTLE,
        work,
        lambda: {**of_claim(work), "operation": work.operation_id, **nothing, "code": code, **_reacted(reaction), "generation": generation},
    )
    return Recorded(row.outcome, next=read_ref(row, "next"))
