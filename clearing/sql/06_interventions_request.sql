-- What one operator does alone (a retry) or requests, and the facts that decide whether it is
-- possible.
--
-- All interventions lock the lane, then the clearing's row, then the intervention's. What the
-- operator saw (epoch, state, current operation and its state, the hold) is part of every condition:
-- if any of it has changed meanwhile, nothing is done.

-- The clearing's current operation.
CREATE OR REPLACE FUNCTION clearing_current(p_id bigint, p_step int) RETURNS clearing_operation LANGUAGE sql STABLE AS $$
    SELECT o FROM clearing_operation o WHERE o.clearing_id = p_id AND o.step = p_step ORDER BY o.part DESC, o.revision DESC LIMIT 1
$$;

-- Until when a request of an operation that isn't confirmed may still be in flight and be applied;
-- null: none is (design, rule 7).
-- 1. No worker signs after the end of its claim: at the latest p_claim_seconds after the attempt was
--    sent, or when its result was written.
-- 2. p_transit_seconds after that (the signature's validity, the clocks' difference, a call's
--    deadline) no counterparty accepts it any more.
-- 3. After a restore, the attempts of the forgotten time count as made at the restore.
CREATE OR REPLACE FUNCTION clearing_on_its_way_until(p_id bigint, p_claim_seconds float8, p_transit_seconds float8)
RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT p_transit_seconds * interval '1 second' + greatest(
        (SELECT max(greatest(a.answered_at, a.sent_at + p_claim_seconds * interval '1 second'))
            FROM clearing_attempt a JOIN clearing_operation o ON o.id = a.operation_id
            WHERE o.clearing_id = p_id AND o.state <> 'done' AND NOT a.asked AND a.outcome IN ('unknown', 'lost', 'pending', 'done')),
        (SELECT max(r.at) FROM clearing_restorepoint r WHERE EXISTS (
            SELECT FROM clearing_clearing c JOIN clearing_operation o ON o.clearing_id = c.id
            WHERE c.id = p_id AND c.restored AND o.state NOT IN ('done', 'planned'))))
$$;

-- Whether there is an answer "done" for an operation that isn't confirmed: a worker that had lost
-- its claim recorded it, after operators decided otherwise. Such evidence overrules them.
CREATE OR REPLACE FUNCTION clearing_says_done(p_id bigint) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM clearing_attempt a JOIN clearing_operation o ON o.id = a.operation_id
        WHERE o.clearing_id = p_id AND o.state <> 'done' AND a.outcome = 'done')
$$;

-- Whether two operators have confirmed since the last restore, if there was one, that the current
-- operation of a restored order was not done, under any key. Then neither it nor a later one was
-- done in the forgotten time, and a retry clears the order's mark of the restore.
CREATE OR REPLACE FUNCTION clearing_not_done_since_restore(p_id bigint) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN EXISTS (SELECT FROM clearing_clearing c JOIN clearing_intervention i ON i.clearing_id = c.id
        WHERE c.id = p_id AND c.restored AND i.kind = 'confirm_not_done' AND i.state = 'executed'
            AND i.operation_id = (clearing_current(c.id, c.step)).id AND i.decided_at > coalesce((SELECT max(r.at) FROM clearing_restorepoint r), '-infinity'));
END
$$;

-- Whether the order may have been retried in the time that a restore has forgotten, under a key that
-- we don't hold: the current operation has ended (rejected, or a part that leaves a rest). Only a
-- status query for the key that a retry would use next can tell.
CREATE OR REPLACE FUNCTION clearing_is_forgotten(p_id bigint) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
DECLARE
    c clearing_clearing;
    o clearing_operation;
BEGIN
    SELECT * INTO STRICT c FROM clearing_clearing WHERE id = p_id;
    o := clearing_current(p_id, c.step);
    RETURN c.restored AND (o.state = 'rejected' OR (o.state = 'done' AND ARRAY[o.error_code, c.error_code]::text[] && '{partial_execution,implausible_fill}'))
        AND NOT clearing_not_done_since_restore(p_id);
END
$$;

-- An operator's retry. A parked order goes back to waiting and its lane's next one is queued; a
-- retrying one is queued at once. p_part, p_revision, p_key and p_request describe an operation that
-- replaces the current one (a raised revision after a final rejection, a further part); a null key
-- keeps the current one. `outcome` is waiting, queued, changed or says_done.
CREATE OR REPLACE FUNCTION clearing_retry(
    p_id bigint, p_epoch int, p_state text, p_operation bigint, p_operation_state text, p_actor text, p_actor_id bigint, p_reason text,
    p_part int, p_revision int, p_key text, p_request bytea, p_generation text
) RETURNS TABLE (outcome text, ref clearing_ref) LANGUAGE plpgsql AS $$
DECLARE
    c clearing_clearing;
    v_now timestamptz;
    v_restored boolean; -- still to be reconciled before it is resent
BEGIN
    IF p_state IN ('parked', 'retrying') IS NOT TRUE THEN
        RAISE EXCEPTION 'a clearing that is % is not retried', p_state USING ERRCODE = 'assert_failure';
    END IF;
    PERFORM clearing_lock_lanes(ARRAY(SELECT user_id FROM clearing_clearing WHERE id = p_id));
    v_now := service_now();
    v_restored := NOT clearing_not_done_since_restore(p_id);
    IF p_key IS NOT NULL AND p_operation_state = 'rejected' AND clearing_says_done(p_id) THEN
        RETURN QUERY SELECT 'says_done', NULL::clearing_ref;
        RETURN;
    END IF;
    UPDATE clearing_clearing SET attempts = 0, tries = 0, error_code = '', due_at = NULL, changed_at = v_now,
            state = CASE p_state WHEN 'parked' THEN 'waiting' ELSE 'queued' END,
            epoch = CASE p_state WHEN 'parked' THEN epoch ELSE epoch + 1 END,
            queued_at = CASE p_state WHEN 'parked' THEN queued_at ELSE v_now END, sends = 0,
            broker_generation = p_generation, restored = restored AND v_restored
        WHERE id = p_id AND epoch = p_epoch AND state = p_state AND hold_code = ''
            AND EXISTS (SELECT FROM clearing_current(p_id, step) o WHERE o.id = p_operation AND o.state = p_operation_state)
        RETURNING * INTO c;
    IF NOT FOUND THEN
        IF NOT EXISTS (SELECT FROM clearing_operation o WHERE o.id = p_operation AND o.clearing_id = p_id) THEN
            RAISE EXCEPTION 'operation % is not one of clearing %', p_operation, p_id USING ERRCODE = 'assert_failure';
        END IF;
        RETURN QUERY SELECT 'changed', NULL::clearing_ref;
        RETURN;
    END IF;
    IF p_key IS NOT NULL THEN
        INSERT INTO clearing_operation (clearing_id, step, part, revision, counterparty, action, key, request, state, first_sent_at)
        SELECT c.id, c.step, p_part, p_revision, o.counterparty, o.action, p_key, p_request, CASE WHEN c.restored THEN 'unknown' ELSE 'planned' END,
            CASE WHEN c.restored THEN clearing_moment(c.created_ms) END
        FROM clearing_operation o WHERE o.id = p_operation;
    END IF;
    INSERT INTO clearing_intervention (clearing_id, kind, state, epoch, operation_id, operation_state, reason, asked_by, asked_by_id, expires_at,
            decided_at, outcome, bookings)
        VALUES (p_id, 'retry', 'executed', p_epoch, p_operation, p_operation_state, p_reason, p_actor, p_actor_id, v_now, v_now,
            CASE WHEN p_key IS NULL THEN 'goes on with the same key' ELSE 'goes on with the key ' || p_key END, '[]');
    IF p_state = 'parked' THEN
        PERFORM clearing_note(c.id, 'parked', 'waiting', c.step, c.epoch, p_reason, p_actor);
        RETURN QUERY SELECT 'waiting', p FROM clearing_promote(c.user_id, p_actor, p_generation) p;
        IF NOT FOUND THEN
            RETURN QUERY SELECT 'waiting', NULL::clearing_ref;
        END IF;
    ELSE
        PERFORM clearing_note(c.id, 'retrying', 'queued', c.step, c.epoch, p_reason, p_actor);
        RETURN QUERY SELECT 'queued', ROW(c.id, c.epoch, c.step, clearing_route(c.deaths, c.lane), clearing_ms(v_now))::clearing_ref;
    END IF;
END
$$;

-- An operator's retry that makes a status query only, for an order that may have been retried in the
-- time that a restore has forgotten: a hold parks the order before the next key is sent. A hold that
-- was set before stays. Returns what clearing_retry returns; also changed if nothing is forgotten.
CREATE OR REPLACE FUNCTION clearing_ask_next(
    p_id bigint, p_epoch int, p_state text, p_operation bigint, p_operation_state text, p_actor text, p_actor_id bigint, p_reason text,
    p_part int, p_revision int, p_key text, p_request bytea, p_generation text
) RETURNS TABLE (outcome text, ref clearing_ref) LANGUAGE plpgsql AS $$
DECLARE
    c clearing_clearing;
    r record;
BEGIN
    PERFORM clearing_lock_lanes(ARRAY(SELECT user_id FROM clearing_clearing WHERE id = p_id));
    SELECT * INTO STRICT c FROM clearing_clearing WHERE id = p_id FOR UPDATE;
    IF p_state <> 'parked' OR NOT clearing_is_forgotten(p_id) THEN
        RETURN QUERY SELECT 'changed', NULL::clearing_ref;
        RETURN;
    END IF;
    UPDATE clearing_clearing SET hold_code = '' WHERE id = p_id;
    SELECT * INTO r FROM clearing_retry(p_id, p_epoch, p_state, p_operation, p_operation_state, p_actor, p_actor_id, p_reason,
        p_part, p_revision, p_key, p_request, p_generation);
    UPDATE clearing_clearing SET hold_code = CASE WHEN c.hold_code <> '' OR r.outcome <> 'waiting' THEN c.hold_code ELSE 'only_asked' END,
            held_at = CASE WHEN c.hold_code <> '' OR r.outcome <> 'waiting' THEN c.held_at ELSE service_now() END
        WHERE id = p_id;
    RETURN QUERY SELECT r.outcome, r.ref;
END
$$;

-- Stores an operator's request, which another operator has to approve. An order that is pending or
-- unknown parks: otherwise status queries and sendings would go on, and the approval would never
-- find the state of the request. An earlier request that the order's changes have overtaken fails.
-- `outcome` is asked, changed or waiting (another one waits for approval).
CREATE OR REPLACE FUNCTION clearing_ask(
    p_id bigint, p_epoch int, p_state text, p_operation bigint, p_operation_state text, p_held_at timestamptz, p_kind text, p_reason text,
    p_reference text, p_amount numeric, p_bought numeric, p_min_lot numeric, p_document text, p_actor text, p_actor_id bigint,
    p_hours float8, p_generation text
) RETURNS TABLE (outcome text, intervention bigint, next clearing_ref) LANGUAGE plpgsql AS $$
DECLARE
    c clearing_clearing;
    o clearing_operation;
    v_now timestamptz;
    v_id bigint;
    v_next clearing_ref;
BEGIN
    PERFORM clearing_lock_lanes(ARRAY(SELECT user_id FROM clearing_clearing WHERE id = p_id));
    v_now := service_now();
    SELECT * INTO STRICT c FROM clearing_clearing WHERE id = p_id FOR UPDATE;
    o := clearing_current(p_id, c.step);
    IF (c.epoch, c.state, o.id, o.state) IS DISTINCT FROM (p_epoch, p_state, p_operation, p_operation_state)
            OR c.held_at IS DISTINCT FROM p_held_at OR c.state NOT IN ('parked', 'pending', 'unknown') THEN
        RETURN QUERY SELECT 'changed', NULL::bigint, NULL::clearing_ref;
        RETURN;
    END IF;
    UPDATE clearing_intervention i SET state = CASE WHEN expires_at <= v_now THEN 'expired' ELSE 'failed' END, decided_at = v_now,
            outcome = CASE WHEN expires_at <= v_now THEN 'nobody approved it in time' ELSE 'the order changed meanwhile' END
        WHERE i.clearing_id = p_id AND i.state = 'requested' AND (i.expires_at <= v_now
            OR (i.epoch, i.operation_id, i.operation_state) <> (c.epoch, o.id, o.state) OR i.held_at IS DISTINCT FROM c.held_at);
    INSERT INTO clearing_intervention (clearing_id, kind, state, epoch, operation_id, operation_state, held_at, reason, reference, amount, bought,
            min_lot, document, asked_by, asked_by_id, asked_at, expires_at, bookings)
        VALUES (p_id, p_kind, 'requested', c.epoch, o.id, o.state, c.held_at, p_reason, p_reference, p_amount, p_bought,
            p_min_lot, p_document, p_actor, p_actor_id, v_now, v_now + p_hours * interval '1 hour', '[]')
        ON CONFLICT (clearing_id) WHERE state = 'requested' DO NOTHING RETURNING id INTO v_id;
    IF v_id IS NULL THEN
        RETURN QUERY SELECT 'waiting', NULL::bigint, NULL::clearing_ref;
        RETURN;
    END IF;
    IF c.state IN ('pending', 'unknown') THEN
        UPDATE clearing_clearing SET state = 'parked', error_code = CASE error_code WHEN '' THEN c.state ELSE error_code END, due_at = NULL,
                changed_at = v_now
            WHERE id = p_id AND state = c.state AND epoch = c.epoch;
        PERFORM clearing_note(p_id, c.state, 'parked', c.step, c.epoch, p_reason, p_actor);
        SELECT * INTO v_next FROM clearing_promote(c.user_id, p_actor, p_generation);
    END IF;
    RETURN QUERY SELECT 'asked', v_id, v_next;
END
$$;
