-- Opens a clearing for each accepted order, with its first operation written down, and queues the
-- heads of the lanes. Runs in the transaction that inserted the orders. Returns what is to be
-- published after the commit. The arrays have one element an order.
--
-- Reconcile before resend: where the database was restored from a backup, an order from before the
-- restore may have been run already (p_restored: the caller knows that each of these may have been).
-- So may one that is older, when it comes, than the counterparties surely keep keys: no other
-- evidence tells that this is the first database that it comes to (design, rule 15). Such an order
-- is marked, and its operations are written down as unknown, sent when the order was made, so that
-- each step starts with a status query, and nothing is sent under a key that may be forgotten.
--
-- Bounds (design, rule 13): what the caller finds beyond the bound of one order (p_limited), and what
-- takes its user's orders of this day beyond p_user_usdt_max (0: no bound), is held as
-- `limit_exceeded` before its first step. Such orders are returned, too, with epoch 0.
CREATE OR REPLACE FUNCTION clearing_accept(
    p_orders bigint[], p_lanes int[], p_counterparties text[], p_actions text[], p_keys text[], p_requests bytea[], p_flow int,
    p_actor text, p_generation text, p_restored boolean, p_limited boolean[], p_user_usdt_max numeric, p_key_retention_seconds float8
) RETURNS SETOF clearing_ref LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    v_limited bigint[];
    v_user text;
    v_behind text[];
    v_queued clearing_ref[];
    v_now timestamptz;
    v_order text;
    v_in_doubt_through bigint; -- the counter's time: orders up to then may have been run already
BEGIN
    PERFORM clearing_lock_lanes(ARRAY(SELECT user_id FROM orders_syncorder WHERE id = ANY (p_orders)));
    v_now := service_now();
    v_in_doubt_through := greatest(
        (SELECT max(through_ms) FROM clearing_restorepoint), clearing_ms(v_now - p_key_retention_seconds * interval '1 second'));
    -- Of a lane where nothing is unfinished the oldest new order is written down as queued, as
    -- clearing_promote would have it: one version of its row instead of two, which is most of what
    -- accepting costs. Each question is a subquery of its own: whatever the statistics were when
    -- this was planned, it is answered from its partial index.
    WITH found AS (
        SELECT o.*, a.lane, a.counterparty, a.action, a.key, a.request, p_restored OR o.created_ms <= v_in_doubt_through AS restored,
            (SELECT true FROM clearing_clearing c
                WHERE c.user_id = o.user_id AND c.state = ANY (clearing_active_states()) LIMIT 1) IS NOT NULL AS is_active,
            (SELECT true FROM clearing_clearing c WHERE c.user_id = o.user_id AND c.state = 'waiting' LIMIT 1) IS NOT NULL
                OR (SELECT true FROM clearing_clearing c WHERE c.user_id = o.user_id AND c.state = 'parked' LIMIT 1) IS NOT NULL AS is_behind
        FROM unnest(p_orders, p_lanes, p_counterparties, p_actions, p_keys, p_requests) AS a (id, lane, counterparty, action, key, request)
            JOIN orders_syncorder o ON o.id = a.id
    ), placed AS (
        SELECT *, NOT is_active AND NOT is_behind AND row_number() OVER (PARTITION BY user_id ORDER BY created_ms, shard, sequence, id) = 1 AS is_head
        FROM found
    ), opened AS (
        INSERT INTO clearing_clearing (order_id, user_id, contract_id, created_ms, shard, sequence, flow, lane, restored,
            state, epoch, queued_at, broker_generation)
        SELECT id, user_id, contract_id, created_ms, shard, sequence, p_flow, lane, restored,
            CASE WHEN is_head THEN 'queued' ELSE 'waiting' END, is_head::int, CASE WHEN is_head THEN v_now END, CASE WHEN is_head THEN p_generation ELSE '' END
        FROM placed ORDER BY id
        RETURNING id, order_id, created_ms, restored, state, epoch, step, lane
    ), planned AS (
        INSERT INTO clearing_operation (clearing_id, step, counterparty, action, key, request, state, first_sent_at)
        SELECT c.id, c.step, a.counterparty, a.action, a.key, a.request, CASE WHEN c.restored THEN 'unknown' ELSE 'planned' END,
            CASE WHEN c.restored THEN clearing_moment(c.created_ms) END
        FROM opened c JOIN found a ON a.id = c.order_id
    ), noted AS (
        INSERT INTO clearing_statuschange (clearing_id, from_state, to_state, step, epoch, actor)
        SELECT id, '', 'waiting', step, 0, p_actor FROM opened
            UNION ALL SELECT id, 'waiting', 'queued', step, 1, p_actor FROM opened WHERE state = 'queued'
    )
    SELECT (SELECT array_agg(ROW(id, epoch, step, lane, clearing_ms(v_now))::clearing_ref) FROM opened WHERE state = 'queued'),
        ARRAY(SELECT DISTINCT user_id FROM placed WHERE is_behind AND NOT is_active ORDER BY user_id)
        INTO v_queued, v_behind;
    -- late: older than an order of its user that has already started
    UPDATE orders_syncorder o SET late = true FROM clearing_clearing c
        WHERE o.id = ANY (p_orders) AND c.order_id = o.id AND EXISTS (
            SELECT FROM clearing_clearing s
            WHERE s.user_id = c.user_id AND s.created_ms >= c.created_ms AND s.started_at IS NOT NULL
                AND (s.created_ms, s.shard, s.sequence) > (c.created_ms, c.shard, c.sequence));
    RETURN QUERY SELECT * FROM unnest(v_queued);
    FOREACH v_user IN ARRAY v_behind LOOP
        RETURN QUERY SELECT * FROM clearing_promote(v_user, p_actor, p_generation);
    END LOOP;
    v_limited := ARRAY(SELECT l.id FROM unnest(p_orders, p_limited) AS l (id, is_limited) WHERE l.is_limited);
    IF p_user_usdt_max > 0 AND NOT p_restored THEN
        v_limited := v_limited || clearing_beyond_user_bound(p_orders, v_limited, p_user_usdt_max);
    END IF;
    IF v_limited <> '{}' THEN
        FOR v_order IN SELECT o.order_id FROM orders_syncorder o WHERE o.id = ANY (v_limited) ORDER BY o.id LOOP
            RETURN QUERY SELECT (h.next).* FROM clearing_hold(v_order, 'limit_exceeded', p_actor, p_generation) h WHERE (h.next).id IS NOT NULL;
        END LOOP;
        RETURN QUERY SELECT c.id, 0, c.step::int, c.lane::int, clearing_ms(v_now) FROM clearing_clearing c WHERE c.order_id = ANY (v_limited);
    END IF;
    -- those that people voided before the restore: what was returned above for such a one is a hint
    -- that nobody can claim any more
    IF EXISTS (SELECT FROM clearing_voidedbefore) THEN
        FOR v_order IN SELECT o.order_id FROM orders_syncorder o JOIN clearing_voidedbefore m ON m.order_id = o.order_id
                WHERE o.id = ANY (p_orders) AND m.released_at IS NULL ORDER BY o.id LOOP
            RETURN QUERY SELECT (h.next).* FROM clearing_hold_voided(v_order, p_actor, p_generation) h WHERE (h.next).id IS NOT NULL;
        END LOOP;
    END IF;
END
$$;

-- Sets a hold on the clearing of an order, given by the counter's id. A waiting, queued or retrying
-- one parks at once; one whose operation may have been sent parks before its next step. Returns the
-- state before the hold (no row: no such order), and what to publish next.
CREATE OR REPLACE FUNCTION clearing_hold(p_order text, p_code text, p_actor text, p_generation text)
RETURNS TABLE (found_state text, next clearing_ref) LANGUAGE plpgsql SET enable_seqscan = off AS $$
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
            error_code = CASE WHEN state = 'parked' AND error_code = hold_code AND NOT clearing_is_bound(error_code) THEN p_code ELSE error_code END
        WHERE id = v.id;
    IF v.state IN ('waiting', 'queued', 'retrying') AND (SELECT o.state = 'planned' FROM clearing_operation o
            WHERE o.clearing_id = v.id AND o.step = v.step ORDER BY o.part DESC, o.revision DESC LIMIT 1) THEN
        UPDATE clearing_clearing SET state = 'parked', error_code = p_code, due_at = NULL, changed_at = v_now WHERE id = v.id;
        PERFORM clearing_note(v.id, v.state, 'parked', v.step, v.epoch, p_code, p_actor);
        SELECT * INTO v_next FROM clearing_promote(v.user_id, p_actor, p_generation);
    END IF;
    RETURN QUERY SELECT v.state::text, v_next;
END
$$;
