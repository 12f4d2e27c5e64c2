-- Marks unfinished orders after the database was restored from a backup, which may be behind what
-- the counterparties did. Every operation that isn't known to have ended becomes unknown, first sent
-- when its order was made; later operations of a marked order are opened as unknown, too. One batch,
-- by id, so that locks and time don't depend on how many orders are unfinished. Returns how many
-- were marked, and the last one's id (null: none left).
CREATE OR REPLACE FUNCTION clearing_mark_restored(p_after bigint, p_limit int) RETURNS TABLE (marked int, last_id bigint) LANGUAGE plpgsql AS $$
DECLARE
    c clearing_clearing;
    v_ids bigint[] := ARRAY(SELECT id FROM clearing_clearing WHERE state <> ALL (clearing_final_states()) AND id > p_after ORDER BY id LIMIT p_limit);
BEGIN
    marked := 0;
    PERFORM clearing_lock_lanes(ARRAY(SELECT user_id FROM clearing_clearing WHERE id = ANY (v_ids)));
    FOR c IN UPDATE clearing_clearing SET restored = true WHERE id = ANY (v_ids) AND state <> ALL (clearing_final_states()) RETURNING * LOOP
        UPDATE clearing_operation SET state = 'unknown', first_sent_at = coalesce(first_sent_at, clearing_moment(c.created_ms))
            WHERE clearing_id = c.id AND state IN ('planned', 'open', 'pending', 'unknown');
        marked := marked + 1;
    END LOOP;
    last_id := v_ids[array_upper(v_ids, 1)];
    RETURN NEXT;
END
$$;

-- Whether an order counts as voided in the forgotten time: it is on the list of voided orders, and
-- was not released since. That void named the bookings of everything done until then.
CREATE OR REPLACE FUNCTION clearing_voided_before(p_id bigint) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN EXISTS (SELECT FROM clearing_voidedbefore m JOIN orders_syncorder o ON o.order_id = m.order_id JOIN clearing_clearing c ON c.order_id = o.id
        WHERE c.id = p_id AND m.released_at IS NULL);
END
$$;

-- Whether that void settles every open question of the order: whatever is unknown of its operations
-- happened before the restore, since nothing was sent after it.
CREATE OR REPLACE FUNCTION clearing_is_settled(p_id bigint) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN clearing_voided_before(p_id) AND NOT EXISTS (
        SELECT FROM clearing_operation o WHERE o.clearing_id = p_id AND (o.state = 'open' OR (o.state IN ('pending', 'unknown') AND EXISTS (
            SELECT FROM clearing_attempt a WHERE a.operation_id = o.id AND NOT a.asked AND a.sent_at > (SELECT max(r.at) FROM clearing_restorepoint r)))));
END
$$;

-- The operations that were done since the restore, whose bookings no void of the forgotten time can
-- have named: they were sent and answered since, or a status query since found their key unknown.
CREATE OR REPLACE FUNCTION clearing_done_since_restore(p_id bigint) RETURNS SETOF bigint LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN QUERY SELECT o.id FROM clearing_operation o WHERE o.clearing_id = p_id AND o.state = 'done' AND EXISTS (
        SELECT FROM clearing_attempt a WHERE a.operation_id = o.id AND a.sent_at > (SELECT max(r.at) FROM clearing_restorepoint r)
            AND CASE WHEN a.asked THEN a.code = 'unknown_key' ELSE a.outcome <> 'lost' END);
END
$$;

-- Stores which orders were voided in the forgotten time. An order that two operators released stays
-- released, unless the database was restored again since. The caller locks out inserts of orders
-- meanwhile (orders/intake/order_store.py), so that either clearing_accept sees an order's entry, or
-- clearing_hold_voided finds the order.
CREATE OR REPLACE FUNCTION clearing_remember_voided(p_orders text[], p_actor text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO clearing_voidedbefore (order_id, at, actor) SELECT DISTINCT v, service_now(), p_actor FROM unnest(p_orders) v ORDER BY v
        ON CONFLICT (order_id) DO UPDATE SET at = EXCLUDED.at, actor = EXCLUDED.actor, released_at = NULL
            WHERE clearing_voidedbefore.released_at <= (SELECT max(r.at) FROM clearing_restorepoint r);
END
$$;

-- Holds an order that was voided in the forgotten time, and parks it at once, even if its
-- operation's outcome is unknown, since its void has settled that. An order that a worker runs parks
-- before its next step. A hold that was set before stays, and this one replaces it when it is
-- released (clearing_release). `found_state`: its state before, held (by this already), released
-- (two operators said that it wasn't voided); no row: no such order yet.
CREATE OR REPLACE FUNCTION clearing_hold_voided(p_order text, p_actor text, p_generation text)
RETURNS TABLE (found_state text, next clearing_ref) LANGUAGE plpgsql AS $$
DECLARE
    c clearing_clearing;
    v_code text := 'voided_before_restore';
    v_now timestamptz;
    v_next clearing_ref;
BEGIN
    SELECT l.* INTO c FROM clearing_clearing l JOIN orders_syncorder o ON o.id = l.order_id WHERE o.order_id = p_order;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    PERFORM clearing_lock_lanes(ARRAY[c.user_id]);
    v_now := service_now();
    SELECT * INTO c FROM clearing_clearing WHERE id = c.id FOR UPDATE;
    IF c.state = ANY (clearing_final_states()) OR c.hold_code = v_code OR NOT clearing_voided_before(c.id) THEN
        RETURN QUERY SELECT CASE WHEN c.state = ANY (clearing_final_states()) THEN c.state WHEN c.hold_code = v_code THEN 'held' ELSE 'released' END::text,
            NULL::clearing_ref;
        RETURN;
    END IF;
    -- held_at: a request from before the order was listed must not be approved any more, above all
    -- a void, whose bookings would be wrong
    UPDATE clearing_clearing l SET hold_code = CASE l.hold_code WHEN '' THEN v_code ELSE l.hold_code END, held_at = v_now
        WHERE l.id = c.id AND (l.hold_code = '' OR l.held_at < (SELECT m.at FROM clearing_voidedbefore m WHERE m.order_id = p_order));
    IF c.state NOT IN ('running', 'parked') THEN
        UPDATE clearing_clearing l SET state = 'parked', error_code = l.hold_code, due_at = NULL, waits_for = '', changed_at = v_now WHERE l.id = c.id;
        PERFORM clearing_note(c.id, c.state, 'parked', c.step, c.epoch, v_code, p_actor);
        SELECT * INTO v_next FROM clearing_promote(c.user_id, p_actor, p_generation);
    END IF;
    RETURN QUERY SELECT c.state::text, v_next;
END
$$;
