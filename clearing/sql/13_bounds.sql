-- Bounds of what a user's orders of a day, and all orders of a minute, may move (design, rule 13).
-- That of one order needs nothing from the database: its caller knows the order.

-- Adds the orders to what their users' orders of this day move, but for those that the bound of one
-- order has parked (p_limited), and returns those that lie beyond the bound. A parked one counts as
-- well: somebody looks before that user moves more. The users' lanes are locked. An order that may
-- have been run before a restore isn't counted again.
CREATE OR REPLACE FUNCTION clearing_beyond_user_bound(p_orders bigint[], p_limited bigint[], p_max numeric) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    v_beyond text[];
    v_today date := (service_now() AT TIME ZONE 'UTC')::date;
    v_found bigint[];
BEGIN
    WITH kept AS (
        INSERT INTO clearing_userday AS d (user_id, day, usdt)
        SELECT o.user_id, v_today, sum(o.quoted_usdt) FROM orders_syncorder o JOIN clearing_clearing c ON c.order_id = o.id
            WHERE o.id = ANY (p_orders) AND o.id <> ALL (p_limited) AND NOT c.restored GROUP BY 1 ORDER BY 1
        ON CONFLICT (user_id) DO UPDATE SET usdt = CASE WHEN d.day = excluded.day THEN d.usdt ELSE 0 END + excluded.usdt, day = excluded.day
        RETURNING user_id, usdt
    )
    SELECT array_agg(user_id) FILTER (WHERE usdt > p_max) INTO v_beyond FROM kept;
    IF v_beyond IS NULL THEN
        RETURN '{}';
    END IF;
    -- in their lane's order, and backwards from the sum: the first ones may lie within
    SELECT array_agg(s.id) INTO v_found FROM (
        SELECT o.id, d.usdt - sum(o.quoted_usdt) OVER (PARTITION BY o.user_id ORDER BY o.created_ms DESC, o.shard DESC, o.sequence DESC, o.id DESC)
            + o.quoted_usdt AS reached
        FROM orders_syncorder o JOIN clearing_clearing c ON c.order_id = o.id JOIN clearing_userday d ON d.user_id = o.user_id
        WHERE o.id = ANY (p_orders) AND o.user_id = ANY (v_beyond) AND o.id <> ALL (p_limited) AND NOT c.restored) s
    WHERE s.reached > p_max;
    RETURN coalesce(v_found, '{}');
END
$$;

-- The leader's sum of what has begun within a minute, quoted USDT: orders whose first step was done
-- since the last pass, read from the history by its key, and what the passes of the last minute have
-- found. Beyond p_max the first step is paused, for everybody, and goes on when the sum has fallen; 0:
-- no bound. `changed` is paused, resumed or empty.
--
-- What committed within the last half second is left to the next pass: a smaller id may commit later.
CREATE OR REPLACE FUNCTION clearing_bound_minute(p_max numeric, p_counterparty text, p_actor text)
RETURNS TABLE (usdt numeric, changed text) LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    v_now timestamptz := service_now();
    v_code text := 'usdt_per_minute_exceeded';
    v_reason text;
    v_newest bigint;
    v_from bigint;
    v_through bigint;
    v_found numeric;
BEGIN
    usdt := 0;
    changed := '';
    IF p_max > 0 THEN
        v_newest := coalesce((SELECT max(id) FROM clearing_statuschange), 0);
        v_from := greatest(coalesce((SELECT max(s.through_id) FROM clearing_startedusdt s), v_newest), v_newest - 500000); -- nobody led for long
        SELECT coalesce(max(h.id), v_from), coalesce(sum(o.quoted_usdt) FILTER (WHERE h.step = 2 AND h.from_state = 'running'
                AND (h.to_state = 'running' OR h.reason = 'handed back') AND h.at > v_now - interval '1 minute'), 0)
            INTO v_through, v_found
            FROM clearing_statuschange h JOIN clearing_clearing c ON c.id = h.clearing_id JOIN orders_syncorder o ON o.id = c.order_id
            WHERE h.id > v_from AND h.at <= v_now - interval '0.5 second';
        DELETE FROM clearing_startedusdt s WHERE s.at <= v_now - interval '1 minute' OR s.at > v_now; -- or the clock was ahead
        INSERT INTO clearing_startedusdt (at, usdt, through_id) VALUES (v_now, v_found, v_through);
        usdt := (SELECT sum(s.usdt) FROM clearing_startedusdt s);
    END IF;
    IF usdt > p_max AND p_max > 0 THEN
        v_reason := format('%s USDT in a minute, and the bound is %s', trunc(usdt, 2), trim_scale(p_max));
        INSERT INTO clearing_pause (counterparty, step, code, reason, actor) VALUES (p_counterparty, 1, v_code, v_reason, left(p_actor, 150))
            ON CONFLICT (counterparty, step) DO NOTHING;
        changed := CASE WHEN FOUND THEN 'paused' ELSE '' END;
    ELSE
        v_reason := format('%s USDT in a minute', trunc(usdt, 2));
        DELETE FROM clearing_pause p WHERE p.code = v_code;
        changed := CASE WHEN FOUND THEN 'resumed' ELSE '' END;
    END IF;
    IF changed <> '' THEN
        INSERT INTO clearing_standingchange (counterparty, step, change, reason, actor) VALUES (p_counterparty, 1, changed, v_reason, left(p_actor, 150));
    END IF;
    RETURN NEXT;
END
$$;
