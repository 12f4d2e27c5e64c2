-- Opens a clearing for each accepted order, with its first operation written down, and queues the heads of the lanes.
-- Runs in the transaction that inserted the orders. Returns what is to be published after the commit.
-- Where the database was restored from a backup, an order from before that may have been run already, whatever brings it now (p_restored: the
-- caller knows it for each of these): it is marked, and its operations are written down as unknown, sent when the order was made: they are asked for first.
CREATE OR REPLACE FUNCTION clearing_accept(
    p_orders bigint[], p_lanes int[], p_keys text[], p_requests bytea[], p_flow int, p_actor text, p_generation text, p_restored boolean
) RETURNS SETOF clearing_ref LANGUAGE plpgsql AS $$
DECLARE
    v_users text[];
    v_user text;
    v_ids bigint[];
    v_restored_through bigint := (SELECT max(through_ms) FROM clearing_restorepoint);
BEGIN
    SELECT array_agg(DISTINCT o.user_id) INTO v_users FROM orders_syncorder o WHERE o.id = ANY (p_orders);
    PERFORM clearing_lock_lanes(v_users);
    WITH opened AS (
        INSERT INTO clearing_clearing (order_id, user_id, contract_id, created_ms, shard, sequence, flow, lane, restored)
        SELECT o.id, o.user_id, o.contract_id, o.created_ms, o.shard, o.sequence, p_flow, a.lane,
            p_restored OR coalesce(o.created_ms <= v_restored_through, false)
        FROM unnest(p_orders, p_lanes) AS a (id, lane) JOIN orders_syncorder o ON o.id = a.id
        RETURNING id, order_id, created_ms, restored
    ), planned AS (
        INSERT INTO clearing_operation (clearing_id, step, counterparty, action, key, request, state, first_sent_at)
        SELECT c.id, 1, 'counter', 'adjust', a.key, a.request, CASE WHEN c.restored THEN 'unknown' ELSE 'planned' END,
            CASE WHEN c.restored THEN clearing_moment(c.created_ms) END
        FROM unnest(p_orders, p_keys, p_requests) AS a (id, key, request) JOIN opened c ON c.order_id = a.id
    ), noted AS (
        INSERT INTO clearing_statuschange (clearing_id, from_state, to_state, step, epoch, actor)
        SELECT id, '', 'waiting', 1, 0, p_actor FROM opened
    )
    SELECT array_agg(id) INTO v_ids FROM opened;
    -- late: older than an order of its user that has already started
    UPDATE orders_syncorder o SET late = true FROM clearing_clearing c
        WHERE o.id = ANY (p_orders) AND c.order_id = o.id AND EXISTS (
            SELECT FROM clearing_clearing s
            WHERE s.user_id = c.user_id AND s.created_ms >= c.created_ms AND s.started_at IS NOT NULL
                AND (s.created_ms, s.shard, s.sequence) > (c.created_ms, c.shard, c.sequence));
    FOREACH v_user IN ARRAY v_users LOOP
        RETURN QUERY SELECT * FROM clearing_promote(v_user, p_actor, p_generation);
    END LOOP;
END
$$;

-- Sets a hold on the clearing of an order, known by the counter's id. Waiting, queued and retrying ones park at once; what may be under way
-- parks before its next step. Returns the state that it was found in (null: no such order), and whom to publish next.
CREATE OR REPLACE FUNCTION clearing_hold(p_order text, p_code text, p_actor text, p_generation text)
RETURNS TABLE (found_state text, next clearing_ref) LANGUAGE plpgsql AS $$
DECLARE
    v clearing_clearing;
    v_now timestamptz := service_now();
    v_next clearing_ref;
BEGIN
    SELECT c.* INTO v FROM clearing_clearing c JOIN orders_syncorder o ON o.id = c.order_id WHERE o.order_id = p_order;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    PERFORM clearing_lock_lanes(ARRAY[v.user_id]);
    SELECT * INTO v FROM clearing_clearing WHERE id = v.id FOR UPDATE;
    UPDATE clearing_clearing SET hold_code = p_code, held_at = v_now, -- changed_at of a running one is when its operation began
            error_code = CASE WHEN state = 'parked' AND error_code = hold_code THEN p_code ELSE error_code END
        WHERE id = v.id;
    IF v.state IN ('waiting', 'queued', 'retrying') AND (SELECT o.state = 'planned' FROM clearing_operation o
            WHERE o.clearing_id = v.id AND o.step = v.step ORDER BY o.part DESC, o.revision DESC LIMIT 1) THEN
        UPDATE clearing_clearing SET state = 'parked', error_code = p_code, due_at = NULL, changed_at = v_now WHERE id = v.id;
        PERFORM clearing_note(v.id, v.state, 'parked', v.step, v.epoch, p_code, p_actor); -- from: waiting queued retrying
        SELECT * INTO v_next FROM clearing_promote(v.user_id, p_actor, p_generation);
    END IF;
    RETURN QUERY SELECT v.state::text, v_next;
END
$$;
