"""The boundary to the counterparties: every call goes through here.

`errors` draws the tree of what a call may end with, `ports` has the protocol of each counterparty,
`http` calls the real ones, and `fake` keeps them in memory. `gateways()` returns the process's own.
"""

import os
from typing import Final

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from clearing.gateways import http
from clearing.gateways.answers import read_answer, read_result
from clearing.gateways.errors import Blocked, ClaimEnded, GatewayError, KeyReused, Rejected, Retryable, StillPending, UnknownOutcome
from clearing.gateways.ports import CounterGateway, FundGateway, Gateways, TradingGateway
from clearing.gateways.types import (
    Action,
    Adjusted,
    Adjustment,
    Counterparty,
    Done,
    Exchange,
    Exchanged,
    Result,
    SigningClock,
    StoredRequest,
    Transfer,
    Transferred,
)

__all__ = [
    "Action",
    "Adjusted",
    "Adjustment",
    "Blocked",
    "ClaimEnded",
    "CounterGateway",
    "Counterparty",
    "Done",
    "Exchange",
    "Exchanged",
    "FundGateway",
    "GatewayError",
    "Gateways",
    "KeyReused",
    "Rejected",
    "Result",
    "Retryable",
    "SigningClock",
    "StillPending",
    "StoredRequest",
    "TradingGateway",
    "Transfer",
    "Transferred",
    "UnknownOutcome",
    "gateways",
    "read_answer",
    "read_result",
]

_of_process: Final[dict[int, Gateways]] = {}  # by pid: a fork must not share its parent's count of calls in flight


def gateways() -> Gateways:
    """The process's gateways, built from the settings at the first call. Raises
    ImproperlyConfigured when GATEWAY_KIND names none.
    """
    pid = os.getpid()
    built = _of_process.get(pid)
    return built if built is not None else _of_process.setdefault(pid, _build())


def _build() -> Gateways:
    if settings.GATEWAY_KIND == "http":
        return http.from_settings()
    try:
        factory = import_string(settings.GATEWAY_KIND)
    except ImportError as error:
        raise ImproperlyConfigured(f"GATEWAY_KIND is {settings.GATEWAY_KIND!r}: set it to http or to the dotted path of a factory") from error
    built = factory()
    if not isinstance(built, Gateways):
        raise ImproperlyConfigured(f"GATEWAY_KIND: {settings.GATEWAY_KIND} must return clearing.gateways.Gateways, not {type(built).__name__}")
    return built
