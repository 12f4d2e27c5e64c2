"""Probes of counterparties that aren't called any more: a signed question for a key that nobody has, which changes nothing there.

A probe that is answered by the contract opens the breaker half: then single orders try. So no order pays for finding out.
"""

from dataclasses import dataclass

import structlog
from django.conf import settings

from base.db import call
from base.fence import Fence, fenced, no_fence
from clearing import standing
from clearing.gateways import Action, Counterparty, GatewayError, Gateways, StoredRequest, gateways
from clearing.outcomes import Health
from clearing.standing import Probe

log = structlog.get_logger(__name__)
ACTOR = "probe"
KEY = "probe"  # no order's: order ids never stand alone in a key
ACTIONS = {Counterparty.COUNTER: Action.ADJUST, Counterparty.FUND: Action.TRANSFER, Counterparty.TRADING: Action.EXCHANGE}


@dataclass(frozen=True, slots=True)
class _Now:
    """The database's time; a probe is signed at once."""

    now_ms: int

    def timestamp_ms(self) -> int:
        return self.now_ms


def probe_all(doors: Gateways | None = None, fence: Fence = no_fence) -> int:
    """Probes every counterparty whose time has come. Returns how many answered. Two at once never probe the same one.

    What it takes and finds is written under the fence. Raises TermOutdated.
    """
    with fenced(fence):
        probes = standing.take_probes(settings.GATEWAY_DEADLINE_MS / 1000 + standing.PROBE_SECONDS)
    return sum(_probe(probe, doors or gateways(), fence) for probe in probes)


def _probe(probe: Probe, doors: Gateways, fence: Fence) -> bool:
    clock = _Now(call("SELECT clearing_ms(service_now())", [])[0][0])
    try:
        doors.ask(StoredRequest(probe.counterparty, ACTIONS[probe.counterparty], KEY, b""), clock)
    except GatewayError as error:
        if error.health in {Health.FAILING, Health.REFUSING}:
            log.info("probe", counterparty=probe.counterparty, code=error.code)
            with fenced(fence):
                standing.put_off(probe, error.code, refuses=error.health == Health.REFUSING)
            return False
    with fenced(fence):
        return standing.half_open(probe.counterparty, actor=ACTOR)
