"""The names of the Celery queues. Pure names: `acceptance_site.celery` imports them before the app
registry is ready.
"""

from django.conf import settings

RESUME_QUEUE = "clearing.resume"
ISOLATED_QUEUE = "clearing.suspects"  # orders whose workers died: read by a worker of one slot
OPS_QUEUE = "ops"


def lane_queue(lane: int) -> str:
    """The name of a lane's queue."""
    return f"clearing.lane.{lane:02d}"


def clearing_queues() -> list[str]:
    """The queues that a clearing worker reads: what was handed back first, then every lane."""
    return [RESUME_QUEUE, *(lane_queue(lane) for lane in range(settings.CLEARING_LANES))]
