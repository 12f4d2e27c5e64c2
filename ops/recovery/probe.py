"""Probes of counterparties that aren't called any more, or that refused one order: a signed
question for a key that nobody has, which changes nothing there.

A probe that is answered by the contract opens the breaker half: then single orders try. So no order
pays for finding out. One that is refused, after an order's call was, shows that all of us are.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import structlog
from django.conf import settings
from django.db import connection

from base.db import call
from base.fence import Fence, TermOutdated, fenced, no_fence
from clearing.gateways import Action, Counterparty, GatewayError, Gateways, StoredRequest, counterparty_state, gateways
from clearing.gateways.counterparty_state import DueProbe
from clearing.policy.outcomes import Health

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


Start = Callable[[Callable[[], bool]], bool]


def at_once(probe: Callable[[], bool]) -> bool:
    """Makes the probe, and says whether it was answered."""
    return probe()


def in_background(probe: Callable[[], bool]) -> bool:
    """Makes the probe in a thread of its own: a counterparty that hangs keeps nobody waiting.
    Returns False: nothing is known yet.

    They are few: a counterparty is probed again only after its probe's deadline.
    """
    threading.Thread(target=_make, args=(probe,), name="probe", daemon=True).start()
    return False


def _make(probe: Callable[[], bool]) -> None:
    try:
        probe()
    except TermOutdated as error:
        log.info("probe left: another leads by now", why=str(error))
    except Exception:
        log.exception("a probe failed", fix="nothing: it is made again")
    finally:
        connection.close()


def probe_all(answering: Gateways | None = None, fence: Fence = no_fence, start: Start = at_once) -> int:
    """Probes every counterparty whose time has come. Returns how many answered, as far as is known.
    Two at once never probe the same one.

    Every write is under the fence. Raises TermOutdated, and what the last probe that failed raised.
    """
    with fenced(fence):
        probes = counterparty_state.take_probes(settings.GATEWAY_DEADLINE_MS / 1000 + counterparty_state.PROBE_SECONDS)
    answered, failed = 0, None
    for probe in probes:
        try:
            answered += start(partial(_probe, probe, answering or gateways(), fence))
        except TermOutdated:
            raise
        except Exception as error:
            log.exception("a probe failed", counterparty=probe.counterparty, fix="nothing: it is made again")
            failed = error
    if failed is not None:
        raise failed
    return answered


def question(counterparty: Counterparty) -> StoredRequest:
    """A question that changes nothing, for a key that nobody has."""
    return StoredRequest(counterparty, ACTIONS[counterparty], KEY, b"")


def _probe(probe: DueProbe, answering: Gateways, fence: Fence) -> bool:
    clock = _Now(call("SELECT clearing_ms(service_now())", [])[0][0])
    try:
        answering.query(question(probe.counterparty), clock)
    except GatewayError as error:
        if error.health in {Health.FAILING, Health.FORBIDDING}:
            log.info("probe", counterparty=probe.counterparty, code=error.code)
            with fenced(fence):
                counterparty_state.failed(probe, error.code, refuses=error.health == Health.FORBIDDING, actor=ACTOR)
            return False
    with fenced(fence):
        return counterparty_state.passed(probe, actor=ACTOR)
