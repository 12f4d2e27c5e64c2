-- What a worker does with an order whose last operation was confirmed by two operators.

-- Clears an order whose last operation was confirmed by operators, as clearing_finish does, but
-- without an attempt, since no call was made.
CREATE OR REPLACE FUNCTION clearing_finish_confirmed(
    p_id bigint, p_epoch int, p_step int, p_user text, p_worker text, p_slippage numeric, p_surplus numeric, p_dust numeric,
    p_generation text
) RETURNS TABLE (outcome text, hold_code text, next clearing_ref) LANGUAGE plpgsql AS $$
DECLARE
    v_now timestamptz;
    v_hold text;
    v_next clearing_ref;
BEGIN
    PERFORM clearing_lock_lanes(ARRAY[p_user]);
    v_now := service_now();
    UPDATE clearing_clearing c SET state = 'cleared', slippage_usdt = p_slippage, surplus = p_surplus, dust = p_dust, cleared_at = v_now, changed_at = v_now,
            claimed_until = NULL, claimed_by = '', error_code = '', attempts = 0, tries = 0
        WHERE c.id = p_id AND c.state = 'running' AND c.step = p_step AND c.epoch = p_epoch
            AND EXISTS (SELECT FROM clearing_current(p_id, p_step) o WHERE o.state = 'done')
        RETURNING c.hold_code INTO v_hold;
    IF FOUND THEN
        PERFORM clearing_note(p_id, 'running', 'cleared', p_step, p_epoch, '', p_worker);
        SELECT * INTO v_next FROM clearing_promote(p_user, p_worker, p_generation);
        RETURN QUERY SELECT 'cleared', v_hold, v_next;
        RETURN;
    END IF;
    SELECT c.hold_code INTO v_hold FROM clearing_clearing c WHERE c.id = p_id AND c.state = 'cleared' AND c.epoch = p_epoch;
    IF FOUND THEN -- the answer to our COMMIT was lost
        SELECT * INTO v_next FROM clearing_queued_of(p_user);
        RETURN QUERY SELECT 'cleared', v_hold, v_next;
    ELSIF EXISTS (SELECT FROM clearing_clearing c
            WHERE c.id = p_id AND c.state = 'running' AND c.step = p_step AND c.epoch = p_epoch AND c.claimed_by = p_worker) THEN
        RAISE EXCEPTION 'the operation of step % of clearing % was not confirmed', p_step, p_id USING ERRCODE = 'assert_failure';
    ELSE
        RETURN QUERY SELECT 'lost', '', NULL::clearing_ref;
    END IF;
END
$$;

-- Parks an order whose last operation was confirmed by operators, when an internal error keeps it
-- from being cleared: otherwise it would be claimed again and again. The operation stays done, and a
-- retry by a mended release clears the order. `outcome` is parked or lost.
CREATE OR REPLACE FUNCTION clearing_park_confirmed(
    p_id bigint, p_epoch int, p_user text, p_worker text, p_code text, p_generation text
) RETURNS TABLE (outcome text, next clearing_ref) LANGUAGE plpgsql AS $$
DECLARE
    v_step int;
    v_next clearing_ref;
BEGIN
    PERFORM clearing_lock_lanes(ARRAY[p_user]);
    UPDATE clearing_clearing c SET state = 'parked', error_code = p_code, changed_at = service_now(), claimed_until = NULL, claimed_by = '',
            due_at = NULL, deaths = 0 -- its worker lives
        WHERE c.id = p_id AND c.state = 'running' AND c.epoch = p_epoch
            AND EXISTS (SELECT FROM clearing_current(p_id, c.step) o WHERE o.state = 'done')
        RETURNING c.step INTO v_step;
    IF FOUND THEN
        PERFORM clearing_note(p_id, 'running', 'parked', v_step, p_epoch, p_code, p_worker);
        SELECT * INTO v_next FROM clearing_promote(p_user, p_worker, p_generation);
        RETURN QUERY SELECT 'parked', v_next;
        RETURN;
    END IF;
    PERFORM FROM clearing_clearing c WHERE c.id = p_id AND clearing_left_as(p_id, p_epoch, c.step, p_worker, '{parked}') IS NOT NULL;
    IF FOUND THEN -- the answer to our COMMIT was lost
        SELECT * INTO v_next FROM clearing_queued_of(p_user);
        RETURN QUERY SELECT 'parked', v_next;
    ELSE
        RETURN QUERY SELECT 'lost', NULL::clearing_ref;
    END IF;
END
$$;
