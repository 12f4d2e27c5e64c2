"""What a person may do to a clearing: for now the plain retry. Every way out that needs evidence or a second person comes with its own issue."""

from django.db import transaction

from clearing import pipeline, store
from clearing.calls import KEY_EXPIRED
from clearing.flows import EXCHANGE_STEP, OrderFacts, Planned, plan, unsold
from clearing.gateways import Action, Exchanged, read_result
from clearing.models import Clearing, Operation
from clearing.outcomes import KEY_REUSED
from clearing.status import OperationState, State

RETRYABLE_STATES = (State.PARKED, State.RETRYING)


class NotRetryable(Exception):  # noqa: N818 - an answer to a person
    """The clearing can't be retried like this; `code` and the message say why and what to do."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def retry_by_hand(clearing_id: int, *, actor: str, reason: str) -> None:
    """Lets a parked or retrying clearing go on, in its lane's order, and publishes it. The reason and the actor stand in its history.

    After a final rejection the operation's key gets the next revision; a partial execution gets a further part. Raises NotRetryable.
    """
    if not reason.strip():
        raise NotRetryable("no_reason", "a retry needs a reason: it stands in the audit log")
    clearing = Clearing.objects.select_related("order").get(pk=clearing_id)
    operation = clearing.operations.filter(step=clearing.step).order_by("-part", "-revision").first()
    assert operation is not None
    _check(clearing)
    following, revision = _following(clearing, operation)
    outcome, ref = store.retry(
        clearing.pk, clearing.epoch, State(clearing.state), following, revision=revision, actor=actor, reason=reason, generation=pipeline.generation()
    )
    if outcome == "changed":
        raise NotRetryable("changed", "it changed while you looked: load the page again")
    if ref is not None:
        transaction.on_commit(lambda: pipeline.publish([ref]))


def _check(clearing: Clearing) -> None:
    if clearing.state not in RETRYABLE_STATES:
        raise NotRetryable("wrong_state", f"it is {clearing.state}: only parked and retrying orders are retried by hand")
    if clearing.hold_code:
        raise NotRetryable("held", f"it is held ({clearing.hold_code}): the order's contents changed at the counter; a hold isn't ended by a retry")
    if clearing.error_code == KEY_REUSED:
        raise NotRetryable(KEY_REUSED, "the counterparty knows its key with other bytes than ours: its people have to say what they did under it")
    if clearing.error_code == KEY_EXPIRED:
        raise NotRetryable(KEY_EXPIRED, "its key is older than the counterparty keeps keys: sending again could do it twice")


def _following(clearing: Clearing, operation: Operation) -> tuple[Planned | None, int]:
    """The operation that takes the current one's place, with its revision; none where the same bytes are sent again."""
    if operation.state == OperationState.REJECTED:
        part, revision = operation.part, operation.revision + 1
    elif operation.state == OperationState.DONE and clearing.step == EXCHANGE_STEP:
        part, revision = operation.part + 1, 0
    else:
        return None, operation.revision
    facts = facts_of(clearing)
    exchanges = exchanges_of(clearing)
    if clearing.step == EXCHANGE_STEP and unsold(facts, exchanges) <= 0:
        raise NotRetryable("nothing_left", "all of it was sold, and nothing bought for it: this needs the trading service's people")
    return plan(clearing.flow, facts, clearing.step, exchanges, part=part, revision=revision), revision


def facts_of(clearing: Clearing) -> OrderFacts:
    """The clearing's order as the flows see it."""
    order = clearing.order
    return OrderFacts(order.order_id, order.user_id, order.contract_id, order.direction, order.asset, order.quantity, order.quoted_usdt)


def exchanges_of(clearing: Clearing) -> list[Exchanged]:
    """What its step 3 has exchanged so far, part by part."""
    done = clearing.operations.filter(step=EXCHANGE_STEP, state=OperationState.DONE).order_by("part")
    results = (read_result(Action.EXCHANGE, bytes(operation.response or b"")) for operation in done)
    return [result for result in results if isinstance(result, Exchanged)]
