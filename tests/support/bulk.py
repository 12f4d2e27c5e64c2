"""Many realistic orders at once, by SQL: cleared ones with their four operations, attempts and
history, and a few in every other state.
"""

from django.db import connection, transaction

from tests.support.states import any_transition, rewritable

ORDERS_SQL = """
    INSERT INTO orders_syncorder (order_id, user_id, shard, sequence, contract_id, direction, asset, quantity, quoted_usdt, instrument, created_ms,
                                  source, topic, partition, "offset", canonical_hash)
    SELECT 'bulk-' || lpad(n::text, 8, '0'), (1000 + n %% %(users)s)::text, n %% 4, n, 'contract-' || n,
           CASE WHEN n %% 5 < 3 THEN 'OPEN' ELSE 'CLOSE' END, CASE WHEN n %% 3 = 0 THEN 'ETH' ELSE 'BTC' END,
           round((0.01 + (n %% 97) * 0.003)::numeric, 8), round((500 + (n %% 89) * 11.37)::numeric, 6),
           CASE WHEN n %% 3 = 0 THEN 'ETH-27NOV26-C' ELSE 'BTC-27NOV26-C' END,
           floor(extract(epoch FROM now()) * 1000) - (%(count)s - n) * 100,
           CASE WHEN n %% 400 = 0 THEN 'gap' ELSE 'kafka' END, 'counter.sync_order', n %% 4, n, md5(n::text)
    FROM generate_series(1, %(count)s) n
"""
# One of each forty is not cleared; the active ones have a user each (a unique index asks for it).
CLEARINGS_SQL = """
    INSERT INTO clearing_clearing (order_id, user_id, contract_id, created_ms, shard, sequence, flow, lane, state, step, epoch, claimed_by,
                                   claimed_until, due_at, queued_at, attempts, error_code, slippage_usdt, accepted_at, started_at,
                                   cleared_at, changed_at)
    SELECT id, user_id, contract_id, created_ms, shard, sequence, 1, id %% 16, state,
           CASE state WHEN 'cleared' THEN 4 WHEN 'waiting' THEN 1 ELSE 3 END,
           CASE state WHEN 'waiting' THEN 0 ELSE 1 END, CASE state WHEN 'running' THEN 'worker@bulk' ELSE '' END,
           CASE state WHEN 'running' THEN now() + interval '1 hour' END,
           CASE WHEN state IN ('retrying', 'pending', 'unknown') THEN now() + interval '1 hour' END, at, CASE state WHEN 'retrying' THEN 3 ELSE 0 END,
           CASE state WHEN 'parked' THEN (ARRAY['insufficient_funds', 'amount_invalid', 'contract_closed'])[1 + id %% 3]
                      WHEN 'retrying' THEN 'too_many_requests' WHEN 'unknown' THEN 'timeout' ELSE '' END,
           CASE state WHEN 'cleared' THEN round((sin(id) * 3)::numeric, 8) END, at + interval '8 ms', at + interval '10 ms',
           CASE state WHEN 'cleared' THEN at + interval '35 ms' END, at + interval '35 ms'
    FROM (SELECT *, to_timestamp(created_ms / 1000.0) AS at,
                 CASE WHEN row_number() OVER (PARTITION BY user_id ORDER BY id DESC) = 1
                      THEN (ARRAY['queued', 'running', 'retrying', 'pending', 'unknown', 'cleared', 'cleared', 'cleared'])[1 + id %% 8]
                      WHEN id %% 40 = 0 THEN 'parked' WHEN id %% 160 = 1 THEN 'waiting' ELSE 'cleared' END AS state
          FROM orders_syncorder WHERE order_id LIKE 'bulk-%%') o
    ORDER BY id
"""
OPERATIONS_SQL = """
    INSERT INTO clearing_operation (clearing_id, step, part, revision, counterparty, action, key, request, state, first_sent_at, done_at, response,
                                    error_code)
    SELECT c.id, n, 1, 0, (ARRAY['counter', 'fund', 'trading', 'fund'])[n], (ARRAY['adjust', 'transfer', 'exchange', 'transfer'])[n],
           o.order_id || ':' || n, convert_to(json_build_object('key', o.order_id || ':' || n, 'order_id', o.order_id, 'asset', o.asset,
                                                                'amount', o.quantity::text)::text, 'UTF8'),
           CASE WHEN n < c.step OR c.state = 'cleared' THEN 'done' WHEN c.state = 'running' THEN 'open'
                WHEN c.state = 'parked' THEN 'rejected' WHEN c.state IN ('pending', 'unknown') THEN c.state ELSE 'planned' END,
           c.started_at + n * interval '6 ms',
           CASE WHEN n < c.step OR c.state = 'cleared' THEN c.started_at + n * interval '6 ms' + interval '5 ms' END,
           CASE WHEN n < c.step OR c.state = 'cleared' THEN convert_to('{"state":"done","reference":"r-' || o.id || '"}', 'UTF8') END,
           CASE WHEN n = c.step THEN c.error_code ELSE '' END
    FROM clearing_clearing c JOIN orders_syncorder o ON o.id = c.order_id, generate_series(1, 4) n
    WHERE o.order_id LIKE 'bulk-%%' AND n <= c.step
"""
ATTEMPTS_SQL = """
    INSERT INTO clearing_attempt (operation_id, epoch, worker, sent_at, answered_at, outcome, code, detail, response)
    SELECT p.id, 1, 'worker@bulk', p.first_sent_at, p.first_sent_at + interval '5 ms',
           CASE p.state WHEN 'done' THEN 'done' WHEN 'rejected' THEN 'rejected' WHEN 'pending' THEN 'pending' WHEN 'planned' THEN 'retryable'
                        ELSE 'unknown' END, p.error_code, '', p.response
    FROM clearing_operation p JOIN clearing_clearing c ON c.id = p.clearing_id JOIN orders_syncorder o ON o.id = c.order_id
    WHERE o.order_id LIKE 'bulk-%%' AND c.state <> 'waiting'
"""
HISTORY_SQL = """
    INSERT INTO clearing_statuschange (clearing_id, from_state, to_state, step, epoch, actor, at)
    SELECT c.id, h.from_state, h.to_state, h.step, h.epoch, h.actor, c.accepted_at + h.ms * interval '1 ms'
    FROM clearing_clearing c JOIN orders_syncorder o ON o.id = c.order_id,
         (VALUES ('', 'waiting', 1, 0, 'intake', 0), ('waiting', 'queued', 1, 1, 'intake', 0), ('queued', 'running', 1, 1, 'worker@bulk', 2),
                 ('running', 'running', 2, 1, 'worker@bulk', 8), ('running', 'running', 3, 1, 'worker@bulk', 14),
                 ('running', 'running', 4, 1, 'worker@bulk', 20), ('running', 'cleared', 4, 1, 'worker@bulk', 26))
             AS h (from_state, to_state, step, epoch, actor, ms)
    WHERE o.order_id LIKE 'bulk-%%' AND (c.state = 'cleared' OR h.epoch = 0 OR (c.state <> 'waiting' AND h.step <= c.step))
"""
STATEMENTS = (ORDERS_SQL, CLEARINGS_SQL, OPERATIONS_SQL, ATTEMPTS_SQL, HISTORY_SQL)
TABLES = ("orders_syncorder", "clearing_clearing", "clearing_operation", "clearing_attempt", "clearing_statuschange")


def create_orders(count: int, *, users: int = 200) -> None:
    """Creates so many orders, spread over the last `count` tenths of a second, and tells the
    planner about them.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT set_config('statement_timeout', '0', true), set_config('transaction_timeout', '0', true)")
        with any_transition():
            for sql in STATEMENTS:
                cursor.execute(sql, {"count": count, "users": users})
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        for table in TABLES:
            cursor.execute(f"ANALYZE {table}")


def remove_orders() -> None:
    """Removes every order, so that others can be created in the same test."""
    with connection.cursor() as cursor, rewritable():
        cursor.execute(f"TRUNCATE {', '.join(TABLES)} CASCADE")
