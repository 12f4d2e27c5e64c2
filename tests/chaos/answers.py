"""Faulty answers of the counterparties all the while, and how many there were of each kind."""

import http.client
import json
import threading
from collections import Counter
from contextlib import suppress
from typing import Any, Final
from urllib.parse import urlsplit

POLL_SECONDS: Final = 0.5
ANSWER_SECONDS_MAX: Final = 2.0
LATENCY_MS: Final = 150  # of every call: orders are in flight for long enough to be hit
EVERYWHERE: Final = {"counterparty": "*", "operation": "*"}
FAULTY: Final[dict[str, dict[str, Any]]] = {
    "slow": {"kind": "latency", "latency_ms": 2_000},
    "status_500": {"kind": "status", "status": 500},
    "status_503": {"kind": "status", "status": 503},
    "status_429": {"kind": "status", "status": 429, "latency_ms": 1_000},
    "effect_then_timeout": {"kind": "apply_then_timeout", "latency_ms": 8_000},
    "effect_then_reset": {"kind": "apply_then_reset"},
    "effect_then_5xx": {"kind": "apply_then_5xx", "status": 502},
    "reset": {"kind": "reset"},
    "garbage": {"kind": "garbage"},
    "drip": {"kind": "drip", "latency_ms": 100},
    "in_progress": {"kind": "in_progress", "latency_ms": 1_000},
    "stale": {"kind": "stale"},
}
PLAIN: Final = [
    {"kind": "latency", "latency_ms": LATENCY_MS, "counterparty": counterparty, "operation": operation}
    for counterparty, operation in (("counter", "adjust"), ("fund", "transfer"), ("trading", "exchange"))
]


class FaultyAnswers:
    """Keeps the sandbox's board filled, also after the sandbox was killed, and counts. What was hit
    since the last look before a kill is lost.
    """

    def __init__(self, sandbox_url: str, share: float) -> None:
        self._address = urlsplit(sandbox_url).netloc
        self._probability = share / len(FAULTY)
        self._names: dict[str, str] = {}
        self._seen: Counter[str] = Counter()
        self._before: Counter[str] = Counter()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._keep_up, name="answers", daemon=True)

    @property
    def counts(self) -> dict[str, int]:
        """Faulty answers by kind, so far."""
        return dict(sorted((self._before + self._seen).items()))

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> None:
        """From now on every answer is as it should be."""
        self._stopped.set()
        self._thread.join()
        self._look()
        self._send("DELETE", "/sandbox/faults")

    def _keep_up(self) -> None:
        while not self._stopped.is_set():
            with suppress(OSError, http.client.HTTPException, ValueError):  # it is away just now
                self._look()
            self._stopped.wait(POLL_SECONDS)

    def _look(self) -> None:
        board = {fault["id"]: fault["hits"] for fault in self._send("GET", "/sandbox/faults")["faults"]}
        if len(board) < len(FAULTY) + len(PLAIN):
            self._before, self._seen = self._before + self._seen, Counter()
            self._send("DELETE", "/sandbox/faults")
            self._fill()
        else:
            self._seen = Counter({name: board[number] for number, name in self._names.items()})

    def _fill(self) -> None:
        faulty = {name: self._set({**EVERYWHERE, **fields, "probability": self._probability}) for name, fields in FAULTY.items()}
        for fields in PLAIN:  # last: the first fault that fits a call is played
            self._set(fields)
        self._names = {number: name for name, number in faulty.items()}

    def _set(self, fields: dict[str, Any]) -> str:
        return str(self._send("POST", "/sandbox/faults", fields)["id"])

    def _send(self, method: str, path: str, fields: dict[str, Any] | None = None) -> Any:
        connection = http.client.HTTPConnection(self._address, timeout=ANSWER_SECONDS_MAX)
        try:
            connection.request(method, path, json.dumps(fields) if fields else None, {"Content-Type": "application/json"})
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()
