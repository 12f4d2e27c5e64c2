"""A counter for the gap pass's figure, as a process: `python -m benchmarks.counter PORT ROWS`. One
shard of ROWS orders, one a millisecond, by HTTP.

It serves the two paths that a pass requests, in the contract's form, and checks no signature: what
is measured is our side, not a counterparty. `sql()` writes the same orders into our tables.
"""

import json
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

BASE_MS = 1_767_225_600_000  # 2026-01-01
QUANTITY, USDT = "0.05", "2500.25"


def row(n: int) -> str:
    """The n-th order as the interface gives it."""
    return (
        f'{{"id": "{n + 1}", "order_id": "G{n:09d}", "user_id": "{1_000_000 + n}", "shard": 0, "sequence": {n}, "kind": "EXCHANGE",'
        f' "contract_id": "C{n:09d}", "direction": "OPEN", "asset": "BTC", "quantity": "{QUANTITY}0000", "quoted_usdt": "{USDT}",'
        f' "instrument": "BTC-20260327-60000-C", "created_ms": {BASE_MS + n}}}'
    )


ORDERS_SQL = f"""
    INSERT INTO orders_syncorder (order_id, user_id, shard, sequence, contract_id, direction, asset, quantity, quoted_usdt, instrument, created_ms,
        source, topic, canonical_hash)
    SELECT order_id, user_id, 0, n, contract_id, 'OPEN', 'BTC', {QUANTITY}, {USDT}, 'BTC-20260327-60000-C', {BASE_MS} + n, 'kafka', '',
        encode(sha256(concat_ws(E'\\x1f', order_id, user_id, '0', n::text, contract_id, 'OPEN', 'BTC', '{QUANTITY}', '{USDT}', 'BTC-20260327-60000-C',
            ({BASE_MS} + n)::text)::bytea), 'hex')
    FROM (SELECT n, 'G' || lpad(n::text, 9, '0') AS order_id, (1000000 + n)::text AS user_id, 'C' || lpad(n::text, 9, '0') AS contract_id
        FROM generate_series(%s, %s) AS n) AS made
"""
CLEARINGS_SQL = """
    INSERT INTO clearing_clearing (order_id, user_id, contract_id, created_ms, shard, sequence, flow, lane, state, step, epoch, cleared_at)
    SELECT id, user_id, contract_id, created_ms, shard, sequence, 1, 0, 'cleared', 4, 1, received_at
    FROM orders_syncorder WHERE sequence BETWEEN %s AND %s
"""


class Handler(BaseHTTPRequestHandler):
    """Shards, and pages of sync orders."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet
    disable_nagle_algorithm = True
    rows = 0

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {name: int(values[0]) for name, values in parse_qs(parts.query).items()}
        body = self._page(**query) if query else json.dumps({"shards": [0], "now_ms": BASE_MS + self.rows})
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def _page(self, shard: int, after_ms: int, after_id: int, limit: int) -> str:
        """The rows after (after_ms, after_id): the n-th has BASE_MS + n and n + 1."""
        first = max(after_ms - BASE_MS, 0)
        first += after_id > first
        last = min(first + limit, self.rows)
        following = "null" if last >= self.rows else f'{{"ms": {BASE_MS + last - 1}, "id": {last}}}'
        rows = ", ".join(map(row, range(first, last)))
        return f'{{"now_ms": {BASE_MS + self.rows}, "rows": [{rows}], "next": {following}}}'

    def log_message(self, *arguments: object) -> None:
        """Logs nothing: that would be measured."""


def main() -> None:
    port, Handler.rows = int(sys.argv[1]), int(sys.argv[2])
    ThreadingHTTPServer.address_family = socket.AF_INET
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main()
