"""A process that sweeps when it is told to, a line on stdin each, and stands still once in the
middle of a sweep's transaction.

Orders to take back are made first: each of a user of its own, claimed by a worker that is dead.
Says `ready`, `between` (it stands, its second chunk written and not committed), and of each sweep
`swept` or `failed`.
"""

import os
import sys
from collections.abc import Sequence
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "acceptance_site.settings")
django.setup()

from base.fence import no_fence
from clearing.models import Clearing
from clearing.store import claims, recovery
from ops.recovery.sweep import sweep_exclusively
from tests.support.orders import World

ORDERS = 60  # of CHUNK_ROWS 25: three transactions
_passes = iter(range(1_000_000))
_requeue = recovery.requeue


def tell(word: str) -> None:
    """To the test."""
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def requeue(ids: Sequence[int], *, actor: str, generation: str) -> Any:
    """The real one; the second stands still until the test lets it go on, and with it its
    transaction.
    """
    done = _requeue(ids, actor=actor, generation=generation)
    if next(_passes) == 1:
        tell("between")
        sys.stdin.readline()
    return done


def make_orders() -> None:
    """Claimed by a worker that has died."""
    world = World()
    for number in range(ORDERS):
        clearing = world.accept(str(number + 1))
        assert claims.claim(clearing.pk, clearing.epoch, worker=lambda: "dead", gives_up=lambda: True)
    Clearing.objects.update(claimed_until="2020-01-01T00:00:00Z")


def main() -> None:
    """Until stdin ends."""
    make_orders()
    recovery.requeue = requeue
    tell("ready")
    for _ in sys.stdin:
        try:
            sweep_exclusively(no_fence)
        except Exception:
            tell("failed")
        else:
            tell("swept")


main()
