-- The sandbox's one database. Amounts are decimal TEXT, times are milliseconds since the epoch,
-- user ids TEXT (BIGINT UNSIGNED doesn't fit).

-- Idempotency keys, each with the exact bytes of its request and of its answer.
CREATE TABLE IF NOT EXISTS idempotency_key (
    counterparty TEXT NOT NULL,
    key TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('in_progress', 'done', 'rejected')),
    request BLOB NOT NULL,
    status INTEGER NOT NULL,
    response BLOB NOT NULL,
    created_at_ms INTEGER NOT NULL,
    due_at_ms INTEGER,
    fraction TEXT,
    PRIMARY KEY (counterparty, key)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS idempotency_key_created ON idempotency_key (created_at_ms);
CREATE INDEX IF NOT EXISTS idempotency_key_due ON idempotency_key (due_at_ms) WHERE state = 'in_progress';

-- Every applied effect, kept for ever: the audit looks for doubles here.
CREATE TABLE IF NOT EXISTS effect (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    counterparty TEXT NOT NULL,
    operation TEXT NOT NULL,
    key TEXT NOT NULL,
    order_id TEXT NOT NULL,
    applied_at_ms INTEGER NOT NULL,
    request BLOB NOT NULL,
    result BLOB NOT NULL
);

-- The double-entry ledger, and its running sums by account.
CREATE TABLE IF NOT EXISTS posting (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    account TEXT NOT NULL,
    asset TEXT NOT NULL,
    amount TEXT NOT NULL,
    order_id TEXT,
    key TEXT,
    at_ms INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS posting_order ON posting (order_id);
CREATE TABLE IF NOT EXISTS balance (
    account TEXT NOT NULL,
    asset TEXT NOT NULL,
    amount TEXT NOT NULL,
    PRIMARY KEY (account, asset)
) WITHOUT ROWID;

-- The counter: its contracts, its own order table, and the sync-order table that is written beside
-- it.
CREATE TABLE IF NOT EXISTS contract (
    contract_id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL,
    asset TEXT NOT NULL,
    quantity TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('OPEN', 'CLOSED')),
    opened_at_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS contract_open ON contract (user_id, asset, opened_at_ms, contract_id) WHERE state = 'OPEN';
CREATE TABLE IF NOT EXISTS placed_order (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    order_id TEXT NOT NULL UNIQUE,
    user_id TEXT NOT NULL,
    shard INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    direction TEXT NOT NULL,
    asset TEXT NOT NULL,
    quantity TEXT NOT NULL,
    quoted_usdt TEXT NOT NULL,
    contract_id TEXT NOT NULL,
    created_ms INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS placed_order_sequence ON placed_order (shard, sequence);
CREATE INDEX IF NOT EXISTS placed_order_position ON placed_order (shard, created_ms, id);
CREATE TABLE IF NOT EXISTS sync_order (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    order_id TEXT NOT NULL UNIQUE,
    user_id TEXT NOT NULL,
    shard INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    kind TEXT NOT NULL,
    direction TEXT,
    asset TEXT,
    quantity TEXT,
    quoted_usdt TEXT,
    instrument TEXT,
    contract_id TEXT,
    status TEXT NOT NULL,
    created_ms INTEGER NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS sync_order_sequence ON sync_order (shard, sequence);
CREATE INDEX IF NOT EXISTS sync_order_position ON sync_order (shard, created_ms, id);

-- The sync-order table's changes in commit order: what a database would keep as its binlog. `rows`
-- and `old` are JSON lists.
CREATE TABLE IF NOT EXISTS change (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    type TEXT NOT NULL,
    rows TEXT,
    old TEXT,
    sql TEXT NOT NULL,
    at_ms INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS publisher (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    position INTEGER NOT NULL
);
INSERT OR IGNORE INTO publisher VALUES (1, 0);
