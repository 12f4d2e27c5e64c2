"""What one running sandbox is told: where its data lies, who may call, where its changes go."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from sandbox.proof import Proof, no_proof, prover

COUNTERPARTIES = ("counter", "fund", "trading")
KEY_RETENTION_MS = 7 * 24 * 3600 * 1000  # docs/contracts/README.md, clause 3.6
BINLOG_RETENTION_MS = 24 * 3600 * 1000  # published changes older than this are dropped, as a database expires its binlog


def wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, kw_only=True)
class SandboxConfig:
    """Settings of a sandbox; `keys` are the counterparties' secrets, an empty `kafka_bootstrap`
    means that nothing is published.
    """

    data: Path
    keys: Mapping[str, str]
    intake_key: tuple[str, str] | None = None  # id and secret: rows carry a MAC by it (docs/contracts/README.md, clause 6.8)
    kafka_bootstrap: str = ""
    kafka_topic: str = "counter.sync_order"
    kafka_partitions: int = 4
    seed: int | None = None
    spread_bps: Decimal = Decimal(20)
    volatility_bps: Decimal = Decimal(2)
    signature_validity_ms: int = 30_000
    clock_ms: Callable[[], int] = wall_clock_ms

    @property
    def proof(self) -> Proof:
        """How rows are shown to be the counter's."""
        return prover(*self.intake_key) if self.intake_key else no_proof

    @property
    def database(self) -> Path:
        return self.data / "sandbox.sqlite3"
