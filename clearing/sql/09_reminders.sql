-- Orders that operators are reminded of. Each pass marks the orders that it returns as reminded, so
-- that two sweeps at once return different ones, and reads at most p_window rows, so that its cost
-- doesn't grow with the table.

-- Orders that have been parked for more than p_seconds, counted from the last reminder. First a
-- CLOSE, or an order that a CLOSE of its contract waits for, since a user isn't paid. Reads the
-- p_window orders that have been due the longest.
CREATE OR REPLACE FUNCTION clearing_remind(p_seconds float8, p_limit int, p_window int)
RETURNS TABLE (order_id text, direction text, error_code text, step int, waiting_seconds float8) LANGUAGE plpgsql AS $$
DECLARE
    v_now timestamptz := service_now();
    v_due timestamptz := v_now - p_seconds * interval '1 second';
BEGIN
    RETURN QUERY WITH due AS (
        SELECT d.id, d.order_id, d.user_id, d.contract_id, d.changed_at FROM clearing_clearing d
        WHERE d.state = 'parked' AND d.changed_at <= v_due AND (d.reminded_at IS NULL OR d.reminded_at <= v_due)
        ORDER BY d.reminded_at NULLS FIRST LIMIT p_window
    ), first AS (
        SELECT due.id FROM due JOIN orders_syncorder s ON s.id = due.order_id
        ORDER BY s.direction = 'CLOSE' OR EXISTS (
            SELECT FROM clearing_clearing b JOIN orders_syncorder t ON t.id = b.order_id
            WHERE b.user_id = due.user_id AND b.contract_id = due.contract_id AND b.state = 'waiting' AND t.direction = 'CLOSE') DESC, due.changed_at
        LIMIT p_limit
    ), mine AS (
        SELECT l.id FROM clearing_clearing l JOIN first ON first.id = l.id
        WHERE l.state = 'parked' AND (l.reminded_at IS NULL OR l.reminded_at <= v_due)
        ORDER BY l.id FOR UPDATE OF l SKIP LOCKED
    ), reminded AS (
        UPDATE clearing_clearing r SET reminded_at = v_now FROM mine WHERE r.id = mine.id
        RETURNING r.order_id, r.error_code, r.step, r.changed_at
    )
    SELECT s.order_id::text, s.direction::text, r.error_code::text, r.step::int, extract(epoch FROM v_now - r.changed_at)::float8
    FROM reminded r JOIN orders_syncorder s ON s.id = r.order_id ORDER BY s.direction = 'CLOSE' DESC, r.changed_at;
END
$$;

-- Orders whose operation has been unknown or pending for more than p_seconds, counted from its first
-- sending and from the last reminder: they never park for their age (design, rule 7), and keep their
-- users' lanes. A CLOSE first. Reads the p_window oldest of each state by an index, and skips at
-- most those that were reminded of within p_seconds. An order that is dated in the future is read as
-- well: an earlier release accepted such orders. One that a worker runs at the moment is left to a
-- later pass.
CREATE OR REPLACE FUNCTION clearing_remind_unknown(p_seconds float8, p_limit int, p_window int)
RETURNS TABLE (order_id text, direction text, counterparty text, error_code text, step int, state text, unknown_seconds float8) LANGUAGE plpgsql AS $$
DECLARE
    v_now timestamptz := service_now();
    v_due timestamptz := v_now - p_seconds * interval '1 second';
BEGIN
    RETURN QUERY WITH due AS (
        SELECT d.id, d.order_id FROM unnest('{unknown,pending}'::text[]) AS s (state), LATERAL (
            (SELECT c.id, c.order_id FROM clearing_clearing c
                WHERE c.state = s.state AND c.state <> 'cleared' AND c.created_ms <= clearing_ms(v_due)
                    AND (c.reminded_at IS NULL OR c.reminded_at <= v_due)
                ORDER BY c.created_ms LIMIT p_window)
            UNION ALL
            (SELECT c.id, c.order_id FROM clearing_clearing c
                WHERE c.state = s.state AND c.state <> 'cleared' AND c.created_ms > clearing_ms(v_now)
                    AND (c.reminded_at IS NULL OR c.reminded_at <= v_due)
                ORDER BY c.created_ms LIMIT p_window)) d
    ), first AS (
        SELECT due.id, o.counterparty, o.first_sent_at
        FROM due JOIN orders_syncorder s ON s.id = due.order_id
            JOIN clearing_operation o ON o.clearing_id = due.id AND o.state IN ('pending', 'unknown') AND o.first_sent_at <= v_due
        ORDER BY s.direction = 'CLOSE' DESC, o.first_sent_at LIMIT p_limit
    ), mine AS (
        SELECT l.id, first.counterparty, first.first_sent_at FROM clearing_clearing l JOIN first ON first.id = l.id
        WHERE l.state IN ('pending', 'unknown') AND (l.reminded_at IS NULL OR l.reminded_at <= v_due)
        ORDER BY l.id FOR UPDATE OF l SKIP LOCKED
    ), reminded AS (
        UPDATE clearing_clearing r SET reminded_at = v_now FROM mine WHERE r.id = mine.id
        RETURNING r.order_id, mine.counterparty, r.error_code, r.step, r.state, mine.first_sent_at
    )
    SELECT s.order_id::text, s.direction::text, r.counterparty::text, r.error_code::text, r.step::int, r.state::text,
        extract(epoch FROM v_now - r.first_sent_at)::float8
    FROM reminded r JOIN orders_syncorder s ON s.id = r.order_id ORDER BY s.direction = 'CLOSE' DESC, r.first_sent_at;
END
$$;
