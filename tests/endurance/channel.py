"""What a seed makes: the orders of a run, in statements as the counter commits them, and what the
pipeline does to each one's message. Pure.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Final

PARTITIONS: Final = 4
STATEMENT_ROWS: Final = (1, 1, 1, 1, 1, 1, 1, 2, 3, 5)  # rows of one statement, and so of one message
LATE_SHARE: Final = 0.01  # of the statements: committed later than their rows' own time says
LATE_SECONDS_MAX: Final = 2.0
DECIMALS: Final = (0, 2, 3, 6, 8)


@dataclass(frozen=True, slots=True)
class Draft:
    """An order as a user wants it; its place and time come with the commit."""

    number: int
    order_id: str
    user_id: str
    direction: str
    asset: str
    quantity: str
    quoted_usdt: str


@dataclass(frozen=True, slots=True)
class Sending:
    """One copy of a message: so long after the commit, to this partition."""

    after_seconds: float
    partition: int


@dataclass(frozen=True, slots=True)
class Statement:
    """Orders that are committed together. Without a sending their message is lost."""

    drafts: tuple[Draft, ...]
    late_seconds: float
    sendings: tuple[Sending, ...]

    @property
    def dropped(self) -> bool:
        """Whether only the counter's interface has these orders."""
        return not self.sendings

    @property
    def delayed(self) -> bool:
        """Whether the first copy comes later than a gap pass does."""
        return bool(self.sendings) and min(sending.after_seconds for sending in self.sendings) > Channel.jitter_seconds


@dataclass(frozen=True, slots=True)
class Channel:
    """A pipeline between the counter and us, and how bad it is: shares are of messages."""

    drop: float = 0.02
    repeat: float = 0.10
    delay: float = 0.01
    delay_seconds_max: float = 60.0
    jitter_seconds = 0.25  # any message may be overtaken by those of the next quarter of a second, on any partition

    def sendings(self, random: Random) -> tuple[Sending, ...]:
        """The copies of one message: none of a lost one."""
        lost, repeated, delayed = (random.random() < share for share in (self.drop, self.repeat, self.delay))
        first = self._sending(random, self._delay(random) if delayed else 0.0)
        again = self._sending(random, random.uniform(0, self.delay_seconds_max / 6))
        return () if lost else (first, again) if repeated else (first,)

    def _delay(self, random: Random) -> float:
        """From a tenth of the longest one on: beyond the jitter, so that a delayed message can be
        distinguished from another.
        """
        return self.delay_seconds_max * random.uniform(0.1, 1.0)

    def _sending(self, random: Random, after_seconds: float) -> Sending:
        return Sending(after_seconds + random.uniform(0, self.jitter_seconds), random.randrange(PARTITIONS))


def statements(seed: int, orders: int, channel: Channel) -> Iterator[Statement]:
    """So many orders, each of a user of its own; the same seed gives the same ones, and the same
    fates.
    """
    random = Random(seed)
    number = 0
    while number < orders:
        rows = min(random.choice(STATEMENT_ROWS), orders - number)
        drafts = tuple(_draft(random, seed, number + row) for row in range(rows))
        late = random.uniform(0.1, LATE_SECONDS_MAX) if random.random() < LATE_SHARE else 0.0
        yield Statement(drafts, late, channel.sendings(random))
        number += rows


def _draft(random: Random, seed: int, number: int) -> Draft:
    return Draft(
        number=number,
        order_id=f"E{seed}-{number:07d}",
        user_id=str(10_000_000 + number),
        direction=random.choice(("OPEN", "CLOSE")),
        asset=random.choice(("BTC", "ETH")),
        quantity=f"{random.uniform(1, 9):.{random.choice(DECIMALS)}f}",
        quoted_usdt=f"{random.uniform(500, 90_000):.{random.choice((0, 2, 6))}f}",
    )
