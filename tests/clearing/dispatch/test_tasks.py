"""The step tasks: what they take off the chain, and the events of the steps that run in place."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
from celery.worker import state

from clearing import tasks
from clearing.dispatch import broker
from clearing.dispatch.queues import RESUME_QUEUE
from clearing.status import State
from tests.support.orders import World


@dataclass
class Dispatcher:
    """Stands for the worker's event dispatcher."""

    enabled: bool = True
    sent: list[tuple[str, str, str]] = field(default_factory=list)

    def send(self, kind: str, *, uuid: str, name: str, **_: object) -> None:
        self.sent.append((kind, uuid, name))


def links(*steps: int) -> list[dict[str, Any]]:
    """The rest of a chain as Celery hands it over: the next one is last."""
    return [{"task": f"clearing.step_{n}", "kwargs": {}, "options": {"task_id": f"id-{n}"}} for n in reversed(steps)]


def task(chain: list[dict[str, Any]]) -> Any:
    return cast("Any", SimpleNamespace(request=SimpleNamespace(chain=chain, queued_ms=5, delivery_info={})))


@pytest.fixture
def dispatcher(monkeypatch: pytest.MonkeyPatch) -> Dispatcher:
    found = Dispatcher()
    monkeypatch.setattr(tasks, "_dispatchers", [found])
    return found


@pytest.fixture
def at(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """Tasks that call the world's counterparties."""
    monkeypatch.setattr(tasks, "gateways", world.counterparties.gateways)
    monkeypatch.setattr(tasks, "registration", lambda: SimpleNamespace(name="w", outlived=lambda _: False))
    return world


class TestChain:
    def test_what_ran_in_place_is_taken_off_so_that_celery_does_not_publish_it(self, at: World) -> None:
        clearing, first = at.accept(), task(links(2, 3, 4))

        tasks.run_chain(first, 1, clearing.pk, clearing.epoch)

        clearing.refresh_from_db()
        assert (clearing.state, first.request.chain) == (State.CLEARED, None)

    def test_a_stopping_worker_claims_nothing_and_passes_the_message_on(self, at: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(state, "should_stop", 0)
        clearing = at.accept()

        tasks.run_chain(task(links(2, 3, 4)), 1, clearing.pk, clearing.epoch)

        clearing.refresh_from_db()
        assert (clearing.state, broker.length(RESUME_QUEUE), broker.oldest_queued_ms(RESUME_QUEUE)) == (State.QUEUED, 1, 5)


class TestStepEvents:
    def test_every_step_that_runs_in_place_has_its_own(self, at: World, dispatcher: Dispatcher) -> None:
        clearing = at.accept()

        tasks.run_chain(task(links(2, 3, 4)), 1, clearing.pk, clearing.epoch)

        kinds = ("task-received", "task-started", "task-succeeded")
        assert dispatcher.sent == [(kind, f"id-{n}", f"clearing.step_{n}") for n in (2, 3, 4) for kind in kinds]

    def test_a_worker_that_sends_no_events_sends_none(self, at: World, dispatcher: Dispatcher) -> None:
        dispatcher.enabled = False
        clearing = at.accept()

        tasks.run_chain(task(links(2, 3, 4)), 1, clearing.pk, clearing.epoch)

        assert dispatcher.sent == []
