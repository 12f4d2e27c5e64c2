-- Step done, the next operation written down. With p_in_place the claim goes on to it (running -> running); without, the rest is queued for
-- the broker (running -> queued). With a hold set it parks before its next step. `outcome` is running, queued, parked or lost; a lost claim
-- changes nothing, its attempt is appended all the same.
CREATE OR REPLACE FUNCTION clearing_step_done(
    p_id bigint, p_epoch int, p_user text, p_worker text, p_operation bigint, p_asked boolean, p_sent_ms_ago float8, p_answered_ms_ago float8,
    p_response bytea, p_step int, p_part int, p_counterparty text, p_action text, p_key text, p_request bytea,
    p_in_place boolean, p_claim_seconds float8, p_generation text
) RETURNS TABLE (outcome text, operation_id bigint, now_ms bigint, claimed_until_ms bigint, ref clearing_ref, next clearing_ref) LANGUAGE plpgsql AS $$
DECLARE
    v_now timestamptz := service_now();
    v_hold text;
    v_state text := CASE WHEN p_in_place THEN 'running' ELSE 'queued' END;
    v_epoch int := CASE WHEN p_in_place THEN p_epoch ELSE p_epoch + 1 END;
    v_lane int;
    v_operation bigint;
    v_next clearing_ref;
BEGIN
    PERFORM clearing_record_attempt(p_operation, p_epoch, p_worker, p_asked, p_sent_ms_ago, p_answered_ms_ago, 'done', '', '', p_response);
    SELECT hold_code INTO v_hold FROM clearing_clearing WHERE id = p_id;
    IF v_hold <> '' THEN
        PERFORM clearing_lock_lanes(ARRAY[p_user]);
        v_state := 'parked';
        v_epoch := p_epoch;
    END IF;
    UPDATE clearing_clearing SET state = v_state, step = p_step, attempts = 0, epoch = v_epoch, changed_at = v_now,
            error_code = CASE WHEN v_state = 'parked' THEN v_hold ELSE '' END,
            claimed_until = CASE WHEN v_state = 'running' THEN v_now + p_claim_seconds * interval '1 second' END,
            claimed_by = CASE WHEN v_state = 'running' THEN claimed_by ELSE '' END,
            queued_at = CASE WHEN v_state = 'queued' THEN v_now ELSE queued_at END, sends = 0,
            broker_generation = CASE WHEN v_state = 'queued' THEN p_generation ELSE broker_generation END
        WHERE id = p_id AND state = 'running' AND epoch = p_epoch
        RETURNING lane INTO v_lane;
    IF NOT FOUND THEN
        RETURN QUERY SELECT 'lost', NULL::bigint, clearing_ms(v_now), NULL::bigint, NULL::clearing_ref, NULL::clearing_ref;
        RETURN;
    END IF;
    UPDATE clearing_operation o SET state = 'done', done_at = v_now, response = p_response, error_code = '',
            first_sent_at = coalesce(first_sent_at, CASE WHEN NOT p_asked THEN v_now - p_sent_ms_ago * interval '1 millisecond' END)
        WHERE o.id = p_operation;
    INSERT INTO clearing_operation (clearing_id, step, part, counterparty, action, key, request, state)
        VALUES (p_id, p_step, p_part, p_counterparty, p_action, p_key, p_request, CASE WHEN v_state = 'running' THEN 'open' ELSE 'planned' END)
        RETURNING id INTO v_operation;
    IF v_state = 'running' THEN
        PERFORM clearing_note(p_id, 'running', 'running', p_step, v_epoch, '', p_worker);
    ELSIF v_state = 'queued' THEN
        PERFORM clearing_note(p_id, 'running', 'queued', p_step, v_epoch, 'handed back', p_worker);
    ELSE
        PERFORM clearing_note(p_id, 'running', 'parked', p_step, v_epoch, v_hold, p_worker);
        SELECT * INTO v_next FROM clearing_promote(p_user, p_worker, p_generation);
    END IF;
    RETURN QUERY SELECT v_state, v_operation, clearing_ms(v_now), clearing_ms(v_now + p_claim_seconds * interval '1 second'),
        CASE WHEN v_state = 'queued' THEN ROW(p_id, v_epoch, p_step, v_lane, clearing_ms(v_now))::clearing_ref END, v_next;
END
$$;

-- The last operation is confirmed: the order is cleared and the user's next one queued, in one transaction under the lane's lock.
CREATE OR REPLACE FUNCTION clearing_finish(
    p_id bigint, p_epoch int, p_user text, p_worker text, p_operation bigint, p_asked boolean, p_sent_ms_ago float8, p_answered_ms_ago float8,
    p_response bytea, p_slippage numeric, p_generation text
) RETURNS TABLE (outcome text, hold_code text, now_ms bigint, next clearing_ref) LANGUAGE plpgsql AS $$
DECLARE
    v_now timestamptz;
    v_hold text;
    v_next clearing_ref;
BEGIN
    PERFORM clearing_lock_lanes(ARRAY[p_user]);
    v_now := service_now();
    PERFORM clearing_record_attempt(p_operation, p_epoch, p_worker, p_asked, p_sent_ms_ago, p_answered_ms_ago, 'done', '', '', p_response);
    UPDATE clearing_clearing c SET state = 'cleared', slippage_usdt = p_slippage, cleared_at = v_now, changed_at = v_now, claimed_until = NULL,
            claimed_by = '', error_code = '', attempts = 0
        WHERE c.id = p_id AND c.state = 'running' AND c.epoch = p_epoch
        RETURNING c.hold_code INTO v_hold;
    IF NOT FOUND THEN
        RETURN QUERY SELECT 'lost', '', clearing_ms(v_now), NULL::clearing_ref;
        RETURN;
    END IF;
    UPDATE clearing_operation SET state = 'done', done_at = v_now, response = p_response, error_code = '',
            first_sent_at = coalesce(first_sent_at, CASE WHEN NOT p_asked THEN v_now - p_sent_ms_ago * interval '1 millisecond' END)
        WHERE id = p_operation;
    PERFORM clearing_note(p_id, 'running', 'cleared', 4, p_epoch, '', p_worker);
    SELECT * INTO v_next FROM clearing_promote(p_user, p_worker, p_generation);
    RETURN QUERY SELECT 'cleared', v_hold, clearing_ms(v_now), v_next;
END
$$;

-- An attempt that didn't end in "done": the clearing becomes retrying, pending, unknown or parked. Evidence adds up: "retrying" needs every
-- attempt of the operation to have surely failed, otherwise it becomes unknown (design, rule 7). A parked order steps aside.
-- `outcome` is the state that it got, or lost.
CREATE OR REPLACE FUNCTION clearing_settle(
    p_id bigint, p_epoch int, p_user text, p_worker text, p_operation bigint, p_asked boolean, p_sent_ms_ago float8, p_answered_ms_ago float8,
    p_outcome text, p_code text, p_detail text, p_response bytea, p_state text, p_operation_state text, p_due_ms float8, p_counted int, p_generation text
) RETURNS TABLE (outcome text, next clearing_ref) LANGUAGE plpgsql AS $$
DECLARE
    v_now timestamptz;
    v_state text := p_state;
    v_operation_state text := p_operation_state;
    v_step int;
    v_next clearing_ref;
BEGIN
    IF p_state = 'parked' THEN
        PERFORM clearing_lock_lanes(ARRAY[p_user]);
    END IF;
    v_now := service_now();
    PERFORM clearing_record_attempt(p_operation, p_epoch, p_worker, p_asked, p_sent_ms_ago, p_answered_ms_ago, p_outcome, p_code, p_detail, p_response);
    IF v_operation_state = 'planned' AND EXISTS (
            SELECT FROM clearing_attempt a WHERE a.operation_id = p_operation AND NOT a.asked AND a.outcome IN ('unknown', 'lost', 'pending', 'done')) THEN
        v_operation_state := 'unknown';
        v_state := CASE WHEN p_state = 'retrying' THEN 'unknown' ELSE p_state END;
    END IF;
    UPDATE clearing_clearing SET state = v_state, error_code = p_code, changed_at = v_now, claimed_until = NULL, claimed_by = '',
            attempts = attempts + p_counted, due_at = CASE WHEN v_state = 'parked' THEN NULL ELSE v_now + p_due_ms * interval '1 millisecond' END
        WHERE id = p_id AND state = 'running' AND epoch = p_epoch
        RETURNING step INTO v_step;
    IF NOT FOUND THEN
        RETURN QUERY SELECT 'lost', NULL::clearing_ref;
        RETURN;
    END IF;
    UPDATE clearing_operation SET state = v_operation_state, error_code = p_code,
            response = CASE WHEN v_operation_state IN ('rejected', 'done') THEN p_response ELSE response END,
            done_at = CASE WHEN v_operation_state = 'done' THEN v_now END,
            first_sent_at = coalesce(first_sent_at, CASE WHEN NOT p_asked THEN v_now - p_sent_ms_ago * interval '1 millisecond' END)
        WHERE id = p_operation;
    PERFORM clearing_note(p_id, 'running', v_state, v_step, p_epoch, p_code, p_worker); -- to: retrying pending unknown parked
    IF v_state = 'parked' THEN
        SELECT * INTO v_next FROM clearing_promote(p_user, p_worker, p_generation);
    END IF;
    RETURN QUERY SELECT v_state, v_next;
END
$$;
