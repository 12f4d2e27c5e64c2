-- Each of these three may be repeated when the answer to its COMMIT was lost: where the conditional
-- UPDATE finds nothing they look whether they did it themselves. What only a claim can do tells it
-- by the row (an epoch has one claim: its next operation while it runs, and its end); a parked or
-- waiting one by its history: under the claim's epoch a sweep parks poison, too, and people confirm
-- a step.

-- As which of the states given the worker itself left it at that step, when its claim ended so;
-- null: it didn't. p_epoch is the one that it left behind.
CREATE OR REPLACE FUNCTION clearing_left_as(p_id bigint, p_epoch int, p_step int, p_worker text, p_states text[]) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT h.to_state FROM clearing_statuschange h
    WHERE h.clearing_id = p_id AND h.epoch = p_epoch AND h.step = p_step AND h.actor = left(p_worker, 330)
        AND h.from_state = 'running' AND h.to_state = ANY (p_states)
$$;

-- Step done, the next operation written down. With p_in_place the claim goes on to it (running ->
-- running); without, the rest is queued for the broker (running -> queued). With a hold set, or
-- with p_parks, it parks before its next step; with p_holds two people have to let it go on.
-- `outcome` is running, queued, parked or lost; a lost claim changes nothing, its attempt is
-- appended all the same.
CREATE OR REPLACE FUNCTION clearing_step_done(
    p_id bigint, p_epoch int, p_user text, p_worker text, p_operation bigint, p_asked boolean, p_sent_ms_ago float8, p_answered_ms_ago float8,
    p_response bytea, p_step int, p_part int, p_counterparty text, p_action text, p_key text, p_request bytea,
    p_in_place boolean, p_claim_seconds float8, p_generation text, p_parks text, p_holds boolean
) RETURNS TABLE (
    outcome text, operation_id bigint, now_ms bigint, claimed_until_ms bigint, sent_seconds_ago float8, ref clearing_ref, next clearing_ref
) LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    c clearing_clearing;
    v_now timestamptz;
    v_sent timestamptz; -- of an order that may have been run before a restore: its next operation, too
    v_state text;
    v_operation bigint;
    v_owner bigint;
    v_next clearing_ref;
BEGIN
    LOOP
        SELECT * INTO STRICT c FROM clearing_clearing WHERE id = p_id;
        SELECT o.id, o.clearing_id INTO v_operation, v_owner FROM clearing_operation o WHERE o.key = p_key;
        IF v_owner <> p_id THEN -- its bytes would be taken for ours
            RAISE EXCEPTION 'the key % belongs to clearing %, not to clearing %', p_key, v_owner, p_id USING ERRCODE = 'assert_failure';
        END IF;
        IF v_operation IS NOT NULL AND c.state = 'running' AND c.epoch = p_epoch THEN
            v_sent := CASE WHEN c.restored THEN clearing_moment(c.created_ms) END;
            RETURN QUERY SELECT 'running', v_operation, clearing_ms(service_now()), clearing_ms(c.claimed_until),
                extract(epoch FROM service_now() - v_sent)::float8, NULL::clearing_ref, NULL::clearing_ref;
            RETURN;
        END IF;
        IF v_operation IS NOT NULL AND clearing_left_as(p_id, p_epoch, p_step, p_worker, '{parked}') IS NOT NULL THEN
            SELECT * INTO v_next FROM clearing_queued_of(p_user);
            RETURN QUERY SELECT 'parked', v_operation, clearing_ms(service_now()), NULL::bigint, NULL::float8, NULL::clearing_ref, v_next;
            RETURN;
        END IF;
        IF v_operation IS NOT NULL AND clearing_left_as(p_id, p_epoch + 1, p_step, p_worker, '{queued}') IS NOT NULL THEN
            SELECT * INTO v_next FROM clearing_queued_of(p_user) q WHERE q.id = p_id;
            RETURN QUERY SELECT 'queued', v_operation, clearing_ms(service_now()), NULL::bigint, NULL::float8, v_next, NULL::clearing_ref;
            RETURN;
        END IF;
        IF v_operation IS NOT NULL OR c.state <> 'running' OR c.epoch <> p_epoch THEN
            PERFORM clearing_record_attempt(p_operation, p_epoch, p_worker, p_asked, p_sent_ms_ago, p_answered_ms_ago, 'done', '', '', p_response);
            RETURN QUERY SELECT 'lost', NULL::bigint, clearing_ms(service_now()), NULL::bigint, NULL::float8, NULL::clearing_ref, NULL::clearing_ref;
            RETURN;
        END IF;
        v_state := CASE WHEN c.hold_code <> '' OR p_parks <> '' THEN 'parked' WHEN p_in_place THEN 'running' ELSE 'queued' END;
        IF v_state = 'parked' THEN
            PERFORM clearing_lock_lanes(ARRAY[p_user]);
        END IF;
        v_now := service_now();
        UPDATE clearing_clearing SET state = v_state, step = p_step, attempts = 0, tries = 0, deaths = 0, changed_at = v_now, sends = 0,
                epoch = CASE WHEN v_state = 'queued' THEN p_epoch + 1 ELSE p_epoch END,
                error_code = CASE WHEN v_state = 'parked' THEN coalesce(nullif(p_parks, ''), hold_code) ELSE '' END,
                hold_code = CASE WHEN p_holds AND hold_code = '' THEN p_parks ELSE hold_code END,
                held_at = CASE WHEN p_holds AND hold_code = '' THEN v_now ELSE held_at END,
                claimed_until = CASE WHEN v_state = 'running' THEN v_now + p_claim_seconds * interval '1 second' END,
                claimed_by = CASE WHEN v_state = 'running' THEN claimed_by ELSE '' END,
                queued_at = CASE WHEN v_state = 'queued' THEN v_now ELSE queued_at END,
                broker_generation = CASE WHEN v_state = 'queued' THEN p_generation ELSE broker_generation END
            WHERE id = p_id AND state = 'running' AND step = c.step AND epoch = p_epoch AND hold_code = c.hold_code
            RETURNING * INTO c;
        EXIT WHEN FOUND;
        -- A hold or a take-over came in between. The row that the UPDATE waited for is locked by
        -- now, and a lane's lock mustn't be waited for under it (design, rule 6): where a hold asks
        -- for one, all is rolled back, and the caller, who takes this for an outage, calls again.
        IF v_state <> 'parked' AND EXISTS (
                SELECT FROM clearing_clearing WHERE id = p_id AND state = 'running' AND epoch = p_epoch AND hold_code <> '') THEN
            RAISE EXCEPTION 'a hold was set meanwhile' USING ERRCODE = 'serialization_failure';
        END IF;
    END LOOP;
    PERFORM clearing_record_attempt(p_operation, p_epoch, p_worker, p_asked, p_sent_ms_ago, p_answered_ms_ago, 'done', '', '', p_response);
    UPDATE clearing_operation o SET state = 'done', done_at = v_now, response = p_response, error_code = '',
            first_sent_at = coalesce(first_sent_at, CASE WHEN NOT p_asked THEN v_now - p_sent_ms_ago * interval '1 millisecond' END)
        WHERE o.id = p_operation AND o.clearing_id = p_id;
    IF NOT FOUND THEN -- the claim is ours, as the UPDATE above has shown
        RAISE EXCEPTION 'operation % is not one of clearing %', p_operation, p_id USING ERRCODE = 'assert_failure';
    END IF;
    v_sent := CASE WHEN c.restored THEN clearing_moment(c.created_ms) END;
    INSERT INTO clearing_operation (clearing_id, step, part, counterparty, action, key, request, state, first_sent_at)
        VALUES (p_id, p_step, p_part, p_counterparty, p_action, p_key, p_request,
            CASE WHEN c.restored THEN 'unknown' WHEN v_state = 'running' THEN 'open' ELSE 'planned' END, v_sent)
        RETURNING id INTO v_operation;
    IF v_state = 'running' THEN
        PERFORM clearing_note(p_id, 'running', 'running', p_step, c.epoch, '', p_worker);
    ELSIF v_state = 'queued' THEN
        PERFORM clearing_note(p_id, 'running', 'queued', p_step, c.epoch, 'handed back', p_worker);
    ELSE
        PERFORM clearing_note(p_id, 'running', 'parked', p_step, c.epoch, c.error_code, p_worker);
        SELECT * INTO v_next FROM clearing_promote(p_user, p_worker, p_generation);
    END IF;
    RETURN QUERY SELECT v_state, v_operation, clearing_ms(v_now), clearing_ms(c.claimed_until), extract(epoch FROM v_now - v_sent)::float8,
        CASE WHEN v_state = 'queued' THEN ROW(p_id, c.epoch, p_step, c.lane, clearing_ms(v_now))::clearing_ref END, v_next;
END
$$;

-- Whom a transaction of ours, whose answer was lost, has queued for the user: publishing it once
-- more is harmless.
CREATE OR REPLACE FUNCTION clearing_queued_of(p_user text) RETURNS SETOF clearing_ref LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN QUERY SELECT c.id, c.epoch, c.step::int, clearing_route(c.deaths, c.lane), clearing_ms(c.queued_at)
        FROM clearing_clearing c WHERE c.user_id = p_user AND c.state = 'queued';
END
$$;

-- The operation of p_step, the flow's last, is confirmed: the order is cleared and the user's next
-- one queued, in one transaction under the lane's lock.
CREATE OR REPLACE FUNCTION clearing_finish(
    p_id bigint, p_epoch int, p_step int, p_user text, p_worker text, p_operation bigint, p_asked boolean, p_sent_ms_ago float8, p_answered_ms_ago float8,
    p_response bytea, p_slippage numeric, p_surplus numeric, p_dust numeric, p_generation text
) RETURNS TABLE (outcome text, hold_code text, now_ms bigint, next clearing_ref) LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    v_now timestamptz;
    v_hold text;
    v_next clearing_ref;
BEGIN
    PERFORM clearing_lock_lanes(ARRAY[p_user]);
    v_now := service_now();
    UPDATE clearing_clearing c SET state = 'cleared', slippage_usdt = p_slippage, surplus = p_surplus, dust = p_dust, cleared_at = v_now, changed_at = v_now,
            claimed_until = NULL, claimed_by = '', error_code = '', attempts = 0, tries = 0, deaths = 0
        WHERE c.id = p_id AND c.state = 'running' AND c.step = p_step AND c.epoch = p_epoch
        RETURNING c.hold_code INTO v_hold;
    IF NOT FOUND THEN
        SELECT c.hold_code INTO v_hold FROM clearing_clearing c WHERE c.id = p_id AND c.state = 'cleared' AND c.epoch = p_epoch;
        IF FOUND THEN
            SELECT * INTO v_next FROM clearing_queued_of(p_user);
            RETURN QUERY SELECT 'cleared', v_hold, clearing_ms(v_now), v_next;
        ELSE
            PERFORM clearing_record_attempt(p_operation, p_epoch, p_worker, p_asked, p_sent_ms_ago, p_answered_ms_ago, 'done', '', '', p_response);
            RETURN QUERY SELECT 'lost', '', clearing_ms(v_now), NULL::clearing_ref;
        END IF;
        RETURN;
    END IF;
    PERFORM clearing_record_attempt(p_operation, p_epoch, p_worker, p_asked, p_sent_ms_ago, p_answered_ms_ago, 'done', '', '', p_response);
    UPDATE clearing_operation SET state = 'done', done_at = v_now, response = p_response, error_code = '',
            first_sent_at = coalesce(first_sent_at, CASE WHEN NOT p_asked THEN v_now - p_sent_ms_ago * interval '1 millisecond' END)
        WHERE id = p_operation AND clearing_id = p_id AND step = p_step;
    IF NOT FOUND THEN -- the claim is ours, as the UPDATE above has shown
        RAISE EXCEPTION 'operation % is not the one of step % of clearing %', p_operation, p_step, p_id USING ERRCODE = 'assert_failure';
    END IF;
    PERFORM clearing_note(p_id, 'running', 'cleared', p_step, p_epoch, '', p_worker);
    SELECT * INTO v_next FROM clearing_promote(p_user, p_worker, p_generation);
    RETURN QUERY SELECT 'cleared', v_hold, clearing_ms(v_now), v_next;
END
$$;

-- An attempt that didn't end in "done": the clearing becomes retrying, pending, unknown or parked.
-- Evidence adds up: "retrying" needs every attempt of the operation to have surely failed,
-- otherwise it becomes unknown (design, rule 7). A parked order steps aside. `outcome` is the state
-- that it got, or lost. Without p_outcome nothing was tried, since something stood in the way
-- (p_code): no attempt is appended and nothing counted.
CREATE OR REPLACE FUNCTION clearing_settle(
    p_id bigint, p_epoch int, p_user text, p_worker text, p_operation bigint, p_asked boolean, p_sent_ms_ago float8, p_answered_ms_ago float8,
    p_outcome text, p_code text, p_detail text, p_response bytea, p_state text, p_operation_state text, p_due_ms float8, p_counted int, p_generation text
) RETURNS TABLE (outcome text, next clearing_ref) LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    v_now timestamptz;
    v_state text := p_state;
    v_operation_state text := p_operation_state;
    c clearing_clearing;
    v_next clearing_ref;
BEGIN
    IF p_state IN ('retrying', 'pending', 'unknown', 'parked') IS NOT TRUE THEN
        RAISE EXCEPTION 'an attempt does not leave a clearing %', p_state USING ERRCODE = 'assert_failure';
    END IF;
    IF p_state = 'parked' THEN
        PERFORM clearing_lock_lanes(ARRAY[p_user]);
    END IF;
    v_now := service_now();
    IF v_operation_state = 'planned' AND EXISTS (
            SELECT FROM clearing_attempt a WHERE a.operation_id = p_operation AND NOT a.asked AND a.outcome IN ('unknown', 'lost', 'pending', 'done')) THEN
        v_operation_state := 'unknown';
        v_state := CASE WHEN p_state = 'retrying' THEN 'unknown' ELSE p_state END;
    END IF;
    UPDATE clearing_clearing SET state = v_state, error_code = p_code, changed_at = v_now, claimed_until = NULL, claimed_by = '',
            -- a fill that nobody believes: two people let it go on
            hold_code = CASE WHEN p_code = 'implausible_fill' AND hold_code = '' THEN p_code ELSE hold_code END,
            held_at = CASE WHEN p_code = 'implausible_fill' AND hold_code = '' THEN v_now ELSE held_at END,
            attempts = attempts + p_counted, tries = tries + (p_outcome IS NOT NULL)::int,
            tried_since = CASE WHEN tries > 0 OR p_outcome IS NULL THEN tried_since ELSE v_now - p_sent_ms_ago * interval '1 millisecond' END,
            deaths = CASE WHEN p_outcome IS NULL THEN deaths ELSE 0 END, -- its worker lives
            waits_for = CASE WHEN v_state = 'parked' THEN '' ELSE (SELECT o.counterparty || ':' || o.step FROM clearing_operation o WHERE o.id = p_operation) END,
            due_at = CASE WHEN v_state = 'parked' THEN NULL ELSE v_now + p_due_ms * interval '1 millisecond' END
        WHERE id = p_id AND state = 'running' AND epoch = p_epoch
            AND EXISTS ( -- its step still, and not one that this claim has already confirmed
                SELECT FROM clearing_operation o WHERE o.id = p_operation AND o.clearing_id = p_id AND o.step = clearing_clearing.step AND o.state <> 'done')
        RETURNING * INTO c;
    IF NOT FOUND THEN
        SELECT clearing_left_as(p_id, p_epoch, o.step, p_worker, '{retrying,pending,unknown,parked}') INTO v_state
            FROM clearing_operation o WHERE o.id = p_operation AND o.clearing_id = p_id;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'operation % is not one of clearing %', p_operation, p_id USING ERRCODE = 'assert_failure';
        END IF;
        IF v_state IS NOT NULL AND (p_outcome IS NULL OR EXISTS ( -- otherwise it was another call of ours that gave the claim up
                SELECT FROM clearing_attempt a WHERE a.operation_id = p_operation AND a.epoch = p_epoch AND a.worker = p_worker
                    AND a.asked = p_asked AND a.outcome = p_outcome AND a.code = left(p_code, 64))) THEN
            SELECT * INTO v_next FROM clearing_queued_of(p_user);
            RETURN QUERY SELECT v_state, v_next;
        ELSE
            IF p_outcome IS NOT NULL THEN
                PERFORM clearing_record_attempt(p_operation, p_epoch, p_worker, p_asked, p_sent_ms_ago, p_answered_ms_ago,
                    p_outcome, p_code, p_detail, p_response);
            END IF;
            RETURN QUERY SELECT 'lost', NULL::clearing_ref;
        END IF;
        RETURN;
    END IF;
    IF p_outcome IS NOT NULL THEN
        PERFORM clearing_record_attempt(p_operation, p_epoch, p_worker, p_asked, p_sent_ms_ago, p_answered_ms_ago,
            p_outcome, p_code, p_detail, p_response);
    END IF;
    UPDATE clearing_operation SET state = v_operation_state, error_code = p_code,
            response = CASE WHEN v_operation_state IN ('rejected', 'done') THEN p_response ELSE response END,
            done_at = CASE WHEN v_operation_state = 'done' THEN v_now END,
            first_sent_at = coalesce(first_sent_at, CASE WHEN NOT p_asked AND p_outcome IS NOT NULL THEN v_now - p_sent_ms_ago * interval '1 millisecond' END)
        WHERE id = p_operation;
    PERFORM clearing_note(p_id, 'running', v_state, c.step, p_epoch, p_code, p_worker);
    IF v_state = 'parked' THEN
        SELECT * INTO v_next FROM clearing_promote(p_user, p_worker, p_generation);
    END IF;
    RETURN QUERY SELECT v_state, v_next;
END
$$;
