"""The Celery application: JSON only, no results, early acknowledgement, no ETA tasks.

Redelivery is the sweep's work, never the broker's: a message is a hint to look at a row
(docs/architecture.md). So:

* `ack_emulation` off: the Redis transport's bookkeeping of unacknowledged messages costs a third of
  the CPU and hides a dead worker's messages for an hour.
* `priority_steps` [0]: otherwise every BRPOP names four keys a lane.
* the default exchange "": its routing survives FLUSHALL, and publishing to a named one costs ten
  times as much.
* `socket_timeout`: without it a frozen broker hangs who publishes. `retry_on_timeout` stays unset:
  with it kombu publishes one by one.
* `CELERY_DB_REUSE_MAX`: otherwise Celery's Django fixup closes the database connection before and
  after each task.
"""

import os
from typing import Any

from celery import Celery, signals
from celery.schedules import schedule
from kombu import Exchange, Queue

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "acceptance_site.settings")

from django.conf import settings

from base import metrics
from base.incarnation import registration
from base.notify import ready
from clearing.dispatch.queues import ISOLATED_QUEUE, OPS_QUEUE, clearing_queues


def _queue(name: str) -> Queue:
    return Queue(name, exchange=Exchange(""), routing_key=name)


def beat_entry(task: str, seconds: float) -> dict[str, Any]:
    """A beat entry. Without an expiry: it would compare the clocks of two machines, and drop every
    sweep where they differ.
    """
    return {"task": task, "schedule": schedule(seconds), "options": {"queue": OPS_QUEUE}}


app = Celery("acceptance")
app.conf.update(
    broker_url=settings.BROKER_URL,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,  # otherwise a worker ends at the hundredth
    worker_consumer="acceptance_site.consumer:Consumer",
    broker_transport_options={
        "ack_emulation": False,
        "priority_steps": [0],
        "socket_timeout": 5,
        "socket_connect_timeout": 2,
        "health_check_interval": 10,
        # of kombu's connecting: otherwise a publish to a broker that is away takes 6 s
        "max_retries": 1,
        "interval_start": 0.1,
        "interval_step": 0.1,
        "interval_max": 0.2,
    },
    accept_content=["json"],
    task_serializer="json",
    result_backend=None,
    task_ignore_result=True,
    task_store_errors_even_if_ignored=False,
    task_acks_late=False,
    task_queues=[_queue(name) for name in [*clearing_queues(), ISOLATED_QUEUE, OPS_QUEUE]],
    task_default_queue=OPS_QUEUE,
    task_default_exchange="",
    task_default_routing_key=OPS_QUEUE,
    task_create_missing_queues=False,
    task_send_sent_event=False,
    worker_prefetch_multiplier=1,
    worker_enable_remote_control=False,  # who writes to the broker can't stop, starve or throttle workers
    worker_hijack_root_logger=False,
    worker_send_task_events=False,  # `celery worker -E` turns them on for Flower, which shows tasks; its buttons do nothing here
    beat_scheduler="ops.beat:LeaderScheduler",  # of all beats the leader alone sends
    enable_utc=True,
    timezone="UTC",
    beat_schedule={
        "sweep": beat_entry("ops.sweep", settings.SWEEP_SECONDS),
        "probe": beat_entry("ops.probe", settings.SWEEP_SECONDS),
        "gap-pass": beat_entry("ops.gap_pass", settings.GAP_PASS_SECONDS),
        "reconcile": beat_entry("ops.reconcile", settings.RECONCILE_SECONDS),
        "tidy": beat_entry("ops.tidy", settings.TIDY_SECONDS),
        "seal": beat_entry("ops.seal", 60.0),  # as long as a rewritten past may stay unnoticed
    },
    CELERY_DB_REUSE_MAX=2**62,
)
app.autodiscover_tasks()


@signals.worker_ready.connect(weak=False)
def register_worker(**_: object) -> None:
    """Not before: the pool has forked, where it forks, and the worker takes messages."""
    registration("worker").start()
    ready()


@signals.worker_shutdown.connect(weak=False)
def end_registration(**_: object) -> None:
    """What a stopping worker couldn't hand back is taken back at once."""
    registration("worker").end()


@signals.beat_init.connect(weak=False)
def register_beat(**_: object) -> None:
    """A beat registers as every process does."""
    registration("beat").start()
    ready()


@signals.worker_init.connect(weak=False)
def refuse_sandbox(**_: object) -> None:
    """In production no worker starts beside a toy."""
    from ops.recovery.counterparties import refuse_sandbox as refuse  # noqa: PLC0415 - needs the apps to be ready

    refuse()


@signals.worker_init.connect(weak=False)
@signals.beat_init.connect(weak=False)
def show_metrics(**_: object) -> None:
    """Worker and beat serve no HTTP of their own: METRICS_PORT, where it is set, shows that they
    live and what they count.
    """
    metrics.serve_if_configured()


@signals.setup_logging.connect(weak=False)
def keep_our_logging(**_: object) -> None:
    """Logging is Django's (base/logs.py); Celery leaves it alone when this signal has a
    receiver.
    """
