"""The four step tasks. Each is thin: it hands (clearing id, epoch) to a `Runner`.

A task whose step is done continues with the next one in place. It takes what it runs itself, or
hands back, off `request.chain`: Celery's tracer would publish that after the body returns.
"""

import os
from typing import Any, cast

from celery import Task, shared_task, signals
from celery.worker import state as worker_state

from base.incarnation import registration
from clearing.dispatch import publish
from clearing.dispatch.broker import QUEUED_MS_HEADER
from clearing.dispatch.queues import ISOLATED_QUEUE, RESUME_QUEUE
from clearing.gateways import gateways
from clearing.gateways.circuit_breaker import Guard
from clearing.running.in_process import InFlight
from clearing.running.runner import Runner
from clearing.store.claims import ClearingRef

_dispatchers: list[Any] = []  # the running consumer's event dispatcher; empty until the worker is ready


@signals.worker_ready.connect(weak=False)
def remember_dispatcher(sender: Any, **_: object) -> None:
    """Steps that run in place send task events of their own through the worker's dispatcher."""
    _dispatchers[:] = [sender.event_dispatcher]


guard = Guard(lambda: registration("worker").name)  # of this process, as is:
in_flight = InFlight()


def stopping() -> bool:
    """Whether this worker is shutting down; `should_stop` becomes 0, which is falsy, on a warm
    shutdown.
    """
    return any(flag is not None and flag is not False for flag in (worker_state.should_stop, worker_state.should_terminate))


class StepEvents:
    """Task events for the steps that run in place, so that Flower shows all four; silent unless the
    worker sends events (`-E`).
    """

    def __init__(self, chain: list[dict[str, Any]]) -> None:
        self.links = list(chain)  # the next one is last
        self.running: dict[str, Any] | None = None

    def __call__(self, step: int) -> None:
        """The step begins; the one before it, if it ran in place, has succeeded."""
        self.finish()
        if self.links and self.links[-1]["task"] == publish.step_task(step):
            self.running = self.links.pop()
            self._send("task-received", args="()", kwargs=repr(self.running["kwargs"]), retries=0)
            self._send("task-started")

    def finish(self) -> None:
        """The last one that ran in place has succeeded."""
        if self.running is not None:
            self._send("task-succeeded", result="None", runtime=0.0)
            self.running = None

    def _send(self, kind: str, **fields: object) -> None:
        for dispatcher in _dispatchers:
            if dispatcher is not None and dispatcher.enabled and self.running is not None:
                dispatcher.send(kind, uuid=self.running["options"]["task_id"], name=self.running["task"], pid=os.getpid(), **fields)


def run_chain(task: "Task[Any, Any]", step: int, clearing_id: int, epoch: int) -> None:
    """The body of every step task."""
    events = StepEvents(cast("list[dict[str, Any]]", task.request.chain or []))
    task.request.chain = None
    isolated = (task.request.delivery_info or {}).get("routing_key") == ISOLATED_QUEUE
    if stopping():
        queued_ms = int(getattr(task.request, QUEUED_MS_HEADER, 0) or 0)
        ref = ClearingRef(clearing_id, epoch, step, lane=0, queued_ms=queued_ms, isolated=isolated)
        publish.publish([ref], queue=RESUME_QUEUE)
        return
    Runner(lambda: registration().name, gateways(), stopping, guard, isolated, events, in_flight, registration().outlived).run(clearing_id, epoch)
    events.finish()


# Arguments that the next release may add are ignored: a message is a hint, and the row decides.
@shared_task(name="clearing.step_1", bind=True)
def step_1(self: "Task[Any, Any]", /, *, clearing_id: int, epoch: int, **_: object) -> None:
    """Counter: adjust the system account."""
    run_chain(self, 1, clearing_id, epoch)


@shared_task(name="clearing.step_2", bind=True)
def step_2(self: "Task[Any, Any]", /, *, clearing_id: int, epoch: int, **_: object) -> None:
    """Fund: transfer from system to fund."""
    run_chain(self, 2, clearing_id, epoch)


@shared_task(name="clearing.step_3", bind=True)
def step_3(self: "Task[Any, Any]", /, *, clearing_id: int, epoch: int, **_: object) -> None:
    """Trading: exchange at the market."""
    run_chain(self, 3, clearing_id, epoch)


@shared_task(name="clearing.step_4", bind=True)
def step_4(self: "Task[Any, Any]", /, *, clearing_id: int, epoch: int, **_: object) -> None:
    """Fund: transfer from fund to where it belongs."""
    run_chain(self, 4, clearing_id, epoch)
