"""The next term: the one act by which somebody who was elected becomes leader."""

from django.conf import settings

from base import fence, metrics
from base.db import call

WAIT_MARGIN_MS = 500  # beyond what a write under the current term may take


def take_next(seen: fence.Current, name: str, reason: str) -> int | None:
    """Takes the term after the one that was seen, as soon as every write under that one has ended.

    None: somebody else took it. A commit whose answer was lost is known again, since the row then
    names us. Raises OperationalError.
    """
    found: int | None = call("SELECT base_take_term(%s, %s, %s, %s)", [seen.term, name, reason, settings.FENCE_MS_MAX + WAIT_MARGIN_MS])[0][0]
    if found is not None:
        metrics.HANDOVERS.labels(reason).inc()
    return found
