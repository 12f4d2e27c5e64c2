"""Leadership: of all candidates one at a time leads, under a term that the database gives
(design, section 9; docs/decisions/0009).

Whoever leads stops acting by its own clock before another can be elected; that this clock may be
wrong, or the process frozen at any line, is why every write is fenced as well (base/fence.py).
Leadership decides who sends the periodic jobs; the fence decides who writes.
"""

from django.conf import settings

from base.process_name import new_name
from ops.leadership.candidate import LeaderCandidate
from ops.leadership.lease import LeaseCandidate
from ops.leadership.zookeeper import ZooKeeperCandidate

__all__ = ["LeaderCandidate", "LeaseCandidate", "ZooKeeperCandidate", "make_candidate"]


def make_candidate(name: str = "", *, stall_seconds: float = float("inf")) -> LeaderCandidate:
    """A candidate as the settings say: at ZooKeeper, or in PostgreSQL. It does nothing before
    its `campaign`.
    """
    name = name or new_name()
    if settings.LEADERSHIP is None:
        return LeaseCandidate(name, seconds=settings.LEADER_LEASE_SECONDS, stall_seconds=stall_seconds)
    return ZooKeeperCandidate(name, settings.LEADERSHIP, stall_seconds=stall_seconds)
