"""Counterparties that are down or refuse us, and workers' guards that have noticed, as the tests of
both need them.
"""

import pytest

from base import metrics
from clearing.gateways import Blocked, Retryable, counterparty_state
from clearing.gateways.circuit_breaker import Guard
from clearing.gateways.fake import Fault, FaultKind
from clearing.models import Clearing, CounterpartyState
from clearing.policy.outcomes import Health

UNREACHABLE = Fault(kind=FaultKind.UNREACHABLE)
FORBIDDEN = Fault(kind=FaultKind.STATUS, status=403, code="forbidden")
UNAUTHORIZED = Fault(kind=FaultKind.STATUS, status=401, code="unauthorized")
ALARMS = "acceptance_alarms_total"


def a_worker(name: str = "w") -> Guard:
    return Guard(lambda: name)


def refused() -> Retryable:
    error = Retryable("connection_refused")
    error.health = Health.FAILING
    return error


def fail(worker: Guard, counterparty: str = "fund", times: int = 5) -> None:
    for number in range(times):
        answered(worker, refused(), f"O{number}:2", counterparty=counterparty)


def answered(worker: Guard, answer: object, key: str = "O:2", *, counterparty: str = "fund") -> None:
    """A call that the worker makes, and its answer."""
    with worker.admit(counterparty, 2, key) as permit:
        permit.record(answer)


def breaker(counterparty: str = "fund") -> str:
    return CounterpartyState.objects.filter(pk=counterparty).values_list("breaker", flat=True).first() or "closed"


def blocked_by(worker: Guard, counterparty: str = "fund", step: int = 2) -> str:
    """What stands in the way of a call; empty: nothing."""
    try:
        with worker.admit(counterparty, step, "O:2"):
            return ""
    except Blocked as blocked:
        return blocked.code


def alarms(code: str) -> float:
    return metrics.REGISTRY.get_sample_value(ALARMS, {"code": code}) or 0


def probe_is_due(counterparty: str = "fund") -> None:
    CounterpartyState.objects.filter(pk=counterparty).update(probe_at="2020-01-01T00:00:00Z")


def counted(monkeypatch: pytest.MonkeyPatch, name: str) -> list[object]:
    """Each call, from now on, of a function of `counterparty_state`."""
    calls: list[object] = []
    real = getattr(counterparty_state, name)

    def counting(*arguments: object) -> object:
        calls.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(counterparty_state, name, counting)
    return calls


def make_due(*clearings: Clearing) -> None:
    """So that the sweep would dispatch them now, if nothing stood in the way."""
    Clearing.objects.filter(pk__in=[clearing.pk for clearing in clearings]).update(due_at="2020-01-01T00:00:00Z")
