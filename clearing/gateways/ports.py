"""The protocol of each counterparty's gateway, and the three together."""

from dataclasses import dataclass
from typing import Protocol

from clearing.gateways.types import Action, Adjusted, Done, Exchanged, Result, SigningClock, StoredRequest, Transferred


class CounterGateway(Protocol):
    def adjust(self, stored: StoredRequest, clock: SigningClock) -> Done[Adjusted]:
        """Sends the stored bytes once, within one total deadline. Raises a GatewayError, whose
        class is named by the reaction that it demands.
        """
        ...

    def status(self, stored: StoredRequest, clock: SigningClock) -> Done[Adjusted] | None:
        """Queries the status of the key. None: the counterparty doesn't know it, as of now.

        Raises Rejected, StillPending, Blocked or ClaimEnded, and UnknownOutcome when the query got
        no usable answer, whatever the reason.
        """
        ...


class FundGateway(Protocol):
    def transfer(self, stored: StoredRequest, clock: SigningClock) -> Done[Transferred]:
        """As CounterGateway.adjust."""
        ...

    def status(self, stored: StoredRequest, clock: SigningClock) -> Done[Transferred] | None:
        """As CounterGateway.status."""
        ...


class TradingGateway(Protocol):
    def exchange(self, stored: StoredRequest, clock: SigningClock) -> Done[Exchanged]:
        """As CounterGateway.adjust."""
        ...

    def status(self, stored: StoredRequest, clock: SigningClock) -> Done[Exchanged] | None:
        """As CounterGateway.status."""
        ...


@dataclass(frozen=True, slots=True)
class Gateways:
    """Every call of a clearing goes through here."""

    counter: CounterGateway
    fund: FundGateway
    trading: TradingGateway

    def perform(self, stored: StoredRequest, clock: SigningClock) -> Done[Result]:
        """Sends the stored bytes once to whom they are for. Raises a GatewayError."""
        match stored.action:
            case Action.ADJUST:
                return self.counter.adjust(stored, clock)
            case Action.TRANSFER:
                return self.fund.transfer(stored, clock)
            case Action.EXCHANGE:
                return self.trading.exchange(stored, clock)

    def query(self, stored: StoredRequest, clock: SigningClock) -> Done[Result] | None:
        """Queries the status of the key. None: the counterparty doesn't know it, as of now. Raises
        a GatewayError, but of the Retryable ones only Blocked.
        """
        match stored.action:
            case Action.ADJUST:
                return self.counter.status(stored, clock)
            case Action.TRANSFER:
                return self.fund.status(stored, clock)
            case Action.EXCHANGE:
                return self.trading.status(stored, clock)
