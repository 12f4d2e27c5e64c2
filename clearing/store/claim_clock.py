"""The clock that a worker signs by under a claim."""

from dataclasses import dataclass
from time import CLOCK_BOOTTIME, clock_gettime

from clearing.gateways import ClaimEnded


@dataclass(frozen=True, slots=True)
class ClaimClock:
    """The database's time, as measured at the claim and carried on by a clock that counts through a
    suspended machine.
    """

    now_ms: int
    measured_at: float
    claimed_until_ms: int

    def timestamp_ms(self) -> int:
        """The time to sign with, ms. Raises ClaimEnded at or after the claim's end: nobody signs
        then (design, rule 7).
        """
        now = self.now_ms + int((clock_gettime(CLOCK_BOOTTIME) - self.measured_at) * 1000)
        if now >= self.claimed_until_ms:
            raise ClaimEnded("the claim ended before the call was signed")
        return now

    def ended(self) -> bool:
        """Whether the claim is over."""
        return self.now_ms + (clock_gettime(CLOCK_BOOTTIME) - self.measured_at) * 1000 >= self.claimed_until_ms
