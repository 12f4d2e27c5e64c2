"""Guards of the service, broken on purpose, each in every process: an explorer that finds nothing then is blind."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any, Final

from base import db
from clearing import calls, pipeline, steps, store, store_recovery
from clearing.status import OperationState
from tests.crashpoints.process import MUTATION

_FORGET: Final = "UPDATE clearing_operation SET state = 'planned' WHERE state = 'open' AND clearing_id = ANY (%s) RETURNING id"


def _replace(module: ModuleType, name: str, function: Callable[..., Any]) -> None:
    assert hasattr(module, name), f"{module.__name__} has no {name} any more: break the guard where it is now"
    setattr(module, name, function)


def no_lost_attempt() -> None:
    """The sweep takes claims back without saying that the dead worker may have sent the operation."""
    real = store_recovery.requeue

    def requeue(ids: Sequence[int], *, actor: str, generation: str) -> Any:
        db.call(_FORGET, [list(ids)])
        return real(ids, actor=actor, generation=generation)

    _replace(store_recovery, "requeue", requeue)


def never_asks() -> None:
    """What may have been sent is sent again without a question."""
    real = calls.make_call

    def make_call(work: store.Work, *others: Any) -> Any:
        return real(replace(work, operation_state=OperationState.PLANNED), *others)

    _replace(steps, "make_call", make_call)


def another_key_after_a_death() -> None:
    """An operation that may have been sent gets a key of its own, as one who doesn't know keys would do it."""
    real = calls.make_call

    def make_call(work: store.Work, *others: Any) -> Any:
        if work.operation_state != OperationState.PLANNED:
            key = f"{work.stored.key}:r1"
            body = work.stored.body.replace(work.stored.key.encode(), key.encode())
            work = replace(work, operation_state=OperationState.PLANNED, stored=replace(work.stored, key=key, body=body))
        return real(work, *others)

    _replace(steps, "make_call", make_call)


def never_sends_again() -> None:
    """The sweep never looks for gone messages."""
    _replace(store_recovery, "unclaimed", lambda *_, **__: [])


def publishes_in_the_transaction() -> None:
    """Intake publishes before its commit."""
    real = store.accept

    def accept(*args: Any, **kwargs: Any) -> Any:
        refs = real(*args, **kwargs)
        pipeline.publish(refs)
        return refs

    _replace(store, "accept", accept)


MUTATIONS: Final[dict[str, Callable[[], None]]] = {
    mutate.__name__: mutate for mutate in (no_lost_attempt, never_asks, another_key_after_a_death, never_sends_again, publishes_in_the_transaction)
}


def apply(name: str) -> None:
    """Every process breaks this guard when it begins."""
    if name not in MUTATIONS:
        raise SystemExit(f"no mutation is named {name!r}: there are {', '.join(MUTATIONS)}")
    MUTATION.append(MUTATIONS[name])
