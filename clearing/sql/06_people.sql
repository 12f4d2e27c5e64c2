-- What people do to a clearing. All of these take the lane's lock, then the clearing's row, then
-- the intervention's; what a person saw (epoch, state, current operation and its state, the hold)
-- is part of every condition, so that what changed meanwhile wins. None of them names the
-- intervention's table but in a statement: it is made after the functions.

-- The clearing's current operation.
CREATE OR REPLACE FUNCTION clearing_current(p_id bigint, p_step int) RETURNS clearing_operation LANGUAGE sql STABLE AS $$
    SELECT o FROM clearing_operation o WHERE o.clearing_id = p_id AND o.step = p_step ORDER BY o.part DESC, o.revision DESC LIMIT 1
$$;

-- Until when a request of an operation that isn't confirmed may still be on its way and be applied:
-- nobody signs after the end of a claim, which ended at the latest p_claim_seconds after the
-- attempt was sent, or when its result was written; and p_transit_seconds (the signature's
-- validity, the clocks' difference, a call's deadline) later no counterparty takes it any more
-- (design, rule 7). Null: none is. After a restore, the attempts of the forgotten time count as
-- made at the restore.
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

-- Whether an answer has come that says "done" of an operation that isn't confirmed: from a worker
-- that had lost its claim, after people said otherwise. Such evidence stands against them.
CREATE OR REPLACE FUNCTION clearing_says_done(p_id bigint) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM clearing_attempt a JOIN clearing_operation o ON o.id = a.operation_id
        WHERE o.clearing_id = p_id AND o.state <> 'done' AND a.outcome = 'done')
$$;

-- Whether two people have confirmed since the last restore that the current operation of a restored
-- order was not done, under whatever key: then nothing of it or of what follows can be in the
-- forgotten time, and the mark of the restore ends with the retry.
CREATE OR REPLACE FUNCTION clearing_not_done_since_restore(p_id bigint) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN EXISTS (SELECT FROM clearing_clearing c JOIN clearing_intervention i ON i.clearing_id = c.id
        WHERE c.id = p_id AND c.restored AND i.kind = 'confirm_not_done' AND i.state = 'executed'
            AND i.operation_id = (clearing_current(c.id, c.step)).id AND i.decided_at > (SELECT max(r.at) FROM clearing_restorepoint r));
END
$$;

-- Whether a retry may have been done in the time that a restore has forgotten, under a key that we
-- don't hold: the current operation is at its end (rejected, or a part that leaves a rest), and
-- only the question for the key that a retry would use next can tell.
CREATE OR REPLACE FUNCTION clearing_is_forgotten(p_id bigint) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
DECLARE
    c clearing_clearing;
    o clearing_operation;
BEGIN
    SELECT * INTO STRICT c FROM clearing_clearing WHERE id = p_id;
    o := clearing_current(p_id, c.step);
    RETURN c.restored AND (o.state = 'rejected' OR (o.state = 'done' AND 'partial_execution' IN (o.error_code, c.error_code)))
        AND NOT clearing_not_done_since_restore(p_id);
END
$$;

-- A person's retry. A parked order goes back to waiting and its lane's next one is queued; a
-- retrying one is queued at once. p_key and the rest describe an operation that takes the current
-- one's place (a raised revision after a final rejection, a further part); null keeps it. `outcome`
-- is waiting, queued, changed or says_done.
CREATE OR REPLACE FUNCTION clearing_retry(
    p_id bigint, p_epoch int, p_state text, p_operation bigint, p_operation_state text, p_actor text, p_actor_id bigint, p_reason text,
    p_part int, p_revision int, p_key text, p_request bytea, p_generation text
) RETURNS TABLE (outcome text, ref clearing_ref) LANGUAGE plpgsql AS $$
DECLARE
    c clearing_clearing;
    v_now timestamptz;
    v_restored boolean; -- still to be asked for first
BEGIN
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
        WHERE id = p_id AND epoch = p_epoch AND state = p_state AND p_state IN ('parked', 'retrying') AND hold_code = ''
            AND EXISTS (SELECT FROM clearing_current(p_id, step) o WHERE o.id = p_operation AND o.state = p_operation_state)
        RETURNING * INTO c;
    IF NOT FOUND THEN
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

-- A person's retry that only asks, of an order that may have been retried in the time that a
-- restore has forgotten: the next key is asked for, and not sent, since a hold stands before it. A
-- hold that was there stays. Returns as clearing_retry does; changed also where nothing is
-- forgotten.
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

-- Writes down what a person asks for, to be approved by another one. What is pending or unknown
-- parks with it: otherwise it would go on being asked for and sent, and its state at the approval
-- would never be the one that it was asked for in. What waited for approval before, and was
-- overtaken, has failed. `outcome` is asked, changed or waiting (another one waits).
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
        PERFORM clearing_note(p_id, c.state, 'parked', c.step, c.epoch, p_reason, p_actor); -- from: pending unknown
        SELECT * INTO v_next FROM clearing_promote(c.user_id, p_actor, p_generation);
    END IF;
    RETURN QUERY SELECT 'asked', v_id, v_next;
END
$$;

-- Ends an intervention that waits for approval.
CREATE OR REPLACE FUNCTION clearing_decide(p_intervention bigint, p_state text, p_person text, p_outcome text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE clearing_intervention SET state = p_state, decided_by = p_person, decided_at = service_now(), outcome = left(p_outcome, 500)
        WHERE id = p_intervention AND state = 'requested';
END
$$;

-- What each approval begins with: the locks, and whether everything still is as it was asked for.
-- `problem` is empty, or says why not: decided, expired, same_person, changed (expired and changed
-- end the intervention).
CREATE OR REPLACE FUNCTION clearing_begin(
    p_intervention bigint, p_kind text, p_person text, p_person_id bigint,
    OUT problem text, OUT c clearing_clearing, OUT o clearing_operation, OUT actor text, OUT reason text
) LANGUAGE plpgsql AS $$
DECLARE
    i record;
BEGIN
    PERFORM clearing_lock_lanes(ARRAY(
        SELECT l.user_id FROM clearing_clearing l JOIN clearing_intervention n ON n.clearing_id = l.id WHERE n.id = p_intervention));
    SELECT l.* INTO c FROM clearing_clearing l
        WHERE l.id = (SELECT n.clearing_id FROM clearing_intervention n WHERE n.id = p_intervention) FOR UPDATE;
    SELECT n.* INTO STRICT i FROM clearing_intervention n WHERE n.id = p_intervention FOR UPDATE;
    o := clearing_current(c.id, c.step);
    actor := i.asked_by || ', approved by ' || p_person;
    reason := i.reason;
    IF i.state <> 'requested' OR i.kind <> p_kind THEN
        problem := 'decided';
    ELSIF i.expires_at <= service_now() THEN
        problem := 'expired';
        PERFORM clearing_decide(p_intervention, 'expired', '', 'nobody approved it in time');
    ELSIF i.asked_by = p_person OR i.asked_by_id = p_person_id THEN
        problem := 'same_person';
    ELSIF c.state <> 'parked' OR (i.epoch, i.operation_id, i.operation_state) IS DISTINCT FROM (c.epoch, o.id, o.state)
            OR i.held_at IS DISTINCT FROM c.held_at THEN
        problem := 'changed';
        PERFORM clearing_decide(p_intervention, 'failed', p_person, format('the order changed meanwhile: it is %s at step %s, its operation %s%s',
            c.state, c.step, o.state, CASE WHEN i.held_at IS DISTINCT FROM c.held_at THEN ', its hold another one' ELSE '' END));
    ELSE
        problem := '';
    END IF;
END
$$;

-- A hold is released: the contents that were accepted stand. The order goes on if it is parked for
-- the hold alone; where something else is the matter (a rejection, a partial execution) it stays
-- parked for that. `outcome` is waiting, parked, or begin's problem.
CREATE OR REPLACE FUNCTION clearing_release(
    p_intervention bigint, p_person text, p_person_id bigint, p_generation text
) RETURNS TABLE (outcome text, not_before timestamptz, next clearing_ref) LANGUAGE plpgsql AS $$
DECLARE
    b record;
    v_state text;
    v_left text := ''; -- the hold that comes to light behind this one
    v_next clearing_ref;
BEGIN
    b := clearing_begin(p_intervention, 'release_hold', p_person, p_person_id);
    IF b.problem <> '' THEN
        RETURN QUERY SELECT b.problem, NULL::timestamptz, NULL::clearing_ref;
        RETURN;
    END IF;
    IF (b.c).hold_code = 'voided_before_restore' THEN
        UPDATE clearing_voidedbefore m SET released_at = service_now() FROM orders_syncorder s WHERE s.id = (b.c).order_id AND m.order_id = s.order_id;
    ELSIF clearing_voided_before((b.c).id) THEN
        v_left := 'voided_before_restore';
    END IF;
    v_state := CASE WHEN v_left = '' AND (b.c).error_code = (b.c).hold_code AND (b.o).state NOT IN ('rejected', 'done') THEN 'waiting'
        ELSE 'parked' END;
    UPDATE clearing_clearing SET state = v_state, hold_code = v_left, held_at = CASE WHEN v_left <> '' THEN service_now() END,
            changed_at = service_now(),
            attempts = CASE v_state WHEN 'waiting' THEN 0 ELSE attempts END, tries = CASE v_state WHEN 'waiting' THEN 0 ELSE tries END,
            error_code = CASE WHEN v_state = 'waiting' THEN '' WHEN error_code <> hold_code THEN error_code WHEN v_left <> '' THEN v_left
                ELSE coalesce(nullif((b.o).error_code, ''), error_code) END
        WHERE id = (b.c).id AND state = 'parked' AND epoch = (b.c).epoch;
    PERFORM clearing_note((b.c).id, 'parked', v_state, (b.c).step, (b.c).epoch, b.reason, b.actor); -- to: waiting parked
    PERFORM clearing_decide(p_intervention, 'executed', p_person,
        'the hold was released; the order ' || CASE v_state WHEN 'waiting' THEN 'goes on' ELSE 'stays parked for another reason' END);
    SELECT * INTO v_next FROM clearing_promote((b.c).user_id, b.actor, p_generation);
    RETURN QUERY SELECT v_state, NULL::timestamptz, v_next;
END
$$;

-- The current operation was done, people say: p_response is an answer made of their evidence.
-- p_step and the rest are the operation that follows; with a null key and no p_code nothing does,
-- and a worker clears the order when its turn comes; p_code parks it. `outcome` is waiting, parked,
-- too_early or begin's problem.
CREATE OR REPLACE FUNCTION clearing_confirm_done(
    p_intervention bigint, p_person text, p_person_id bigint, p_claim_seconds float8, p_transit_seconds float8, p_response bytea, p_code text,
    p_step int, p_part int, p_counterparty text, p_action text, p_key text, p_request bytea, p_generation text
) RETURNS TABLE (outcome text, not_before timestamptz, next clearing_ref) LANGUAGE plpgsql AS $$
DECLARE
    b record;
    v_until timestamptz;
    v_code text;
    v_state text;
    v_next clearing_ref;
BEGIN
    b := clearing_begin(p_intervention, 'confirm_done', p_person, p_person_id);
    v_until := clearing_on_its_way_until((b.c).id, p_claim_seconds, p_transit_seconds);
    IF b.problem <> '' OR v_until > service_now() THEN
        RETURN QUERY SELECT CASE b.problem WHEN '' THEN 'too_early' ELSE b.problem END, v_until, NULL::clearing_ref;
        RETURN;
    END IF;
    -- what is done to the end clears, held or not
    v_code := CASE WHEN p_code <> '' THEN p_code WHEN p_key IS NOT NULL THEN (b.c).hold_code ELSE '' END;
    v_state := CASE v_code WHEN '' THEN 'waiting' ELSE 'parked' END;
    UPDATE clearing_clearing SET state = v_state, error_code = v_code, step = coalesce(p_step, step), attempts = 0, tries = 0, due_at = NULL,
            changed_at = service_now()
        WHERE id = (b.c).id AND state = 'parked' AND epoch = (b.c).epoch;
    UPDATE clearing_operation SET state = 'done', done_at = service_now(), response = p_response, error_code = '' WHERE id = (b.o).id;
    IF p_key IS NOT NULL THEN
        INSERT INTO clearing_operation (clearing_id, step, part, counterparty, action, key, request, state, first_sent_at)
            VALUES ((b.c).id, p_step, p_part, p_counterparty, p_action, p_key, p_request,
                CASE WHEN (b.c).restored THEN 'unknown' ELSE 'planned' END, CASE WHEN (b.c).restored THEN clearing_moment((b.c).created_ms) END);
    END IF;
    PERFORM clearing_note((b.c).id, 'parked', v_state, coalesce(p_step, (b.c).step), (b.c).epoch, b.reason, b.actor); -- to: waiting parked
    PERFORM clearing_decide(p_intervention, 'executed', p_person, format('step %s was confirmed as done', (b.c).step));
    SELECT * INTO v_next FROM clearing_promote((b.c).user_id, b.actor, p_generation);
    RETURN QUERY SELECT v_state, NULL::timestamptz, v_next;
END
$$;

-- The current operation was not done and never will be, people say: it counts as rejected. The
-- order stays parked; a retry may raise the key's revision now, or a void be asked for. `outcome`
-- is parked, too_early, says_done or begin's problem.
CREATE OR REPLACE FUNCTION clearing_confirm_not_done(
    p_intervention bigint, p_person text, p_person_id bigint, p_claim_seconds float8, p_transit_seconds float8, p_response bytea, p_code text
) RETURNS TABLE (outcome text, not_before timestamptz, next clearing_ref) LANGUAGE plpgsql AS $$
DECLARE
    b record;
    v_until timestamptz;
BEGIN
    b := clearing_begin(p_intervention, 'confirm_not_done', p_person, p_person_id);
    v_until := clearing_on_its_way_until((b.c).id, p_claim_seconds, p_transit_seconds);
    IF b.problem = '' AND (b.o).state NOT IN ('pending', 'unknown') THEN
        b.problem := 'changed';
        PERFORM clearing_decide(p_intervention, 'failed', p_person, 'its operation is ' || (b.o).state);
    ELSIF b.problem = '' AND clearing_says_done((b.c).id) THEN
        b.problem := 'says_done';
        PERFORM clearing_decide(p_intervention, 'failed', p_person, 'the counterparty has answered that it was done');
    ELSIF b.problem = '' AND v_until > service_now() THEN
        b.problem := 'too_early';
    END IF;
    IF b.problem <> '' THEN
        RETURN QUERY SELECT b.problem, v_until, NULL::clearing_ref;
        RETURN;
    END IF;
    UPDATE clearing_clearing SET error_code = CASE WHEN hold_code <> '' AND error_code = hold_code THEN error_code ELSE p_code END
        WHERE id = (b.c).id AND state = 'parked' AND epoch = (b.c).epoch;
    UPDATE clearing_operation SET state = 'rejected', response = p_response, error_code = p_code WHERE id = (b.o).id AND state = (b.o).state;
    PERFORM clearing_note((b.c).id, 'parked', 'parked', (b.c).step, (b.c).epoch, b.reason, b.actor);
    PERFORM clearing_decide(p_intervention, 'executed', p_person, format('step %s was confirmed as not done', (b.c).step));
    RETURN QUERY SELECT 'parked', NULL::timestamptz, NULL::clearing_ref;
END
$$;

-- The order is closed. Never while an operation is open, pending or unknown, and never while a
-- request may be on its way. p_bookings: what people must book by hand. One that was voided before
-- a restore may have an operation pending or unknown: that void has settled it. `outcome` is
-- voided, too_early, says_done, unfinished (an operation is), finished (all are done) or begin's
-- problem.
CREATE OR REPLACE FUNCTION clearing_void(
    p_intervention bigint, p_person text, p_person_id bigint, p_claim_seconds float8, p_transit_seconds float8, p_bookings jsonb, p_generation text
) RETURNS TABLE (outcome text, not_before timestamptz, next clearing_ref) LANGUAGE plpgsql AS $$
DECLARE
    b record;
    v_until timestamptz;
    v_next clearing_ref;
BEGIN
    b := clearing_begin(p_intervention, 'void', p_person, p_person_id);
    v_until := clearing_on_its_way_until((b.c).id, p_claim_seconds, p_transit_seconds);
    IF b.problem = '' THEN
        b.problem := CASE
            WHEN NOT clearing_is_settled((b.c).id)
                AND EXISTS (SELECT FROM clearing_operation WHERE clearing_id = (b.c).id AND state IN ('open', 'pending', 'unknown')) THEN 'unfinished'
            WHEN (b.c).step = 4 AND (b.o).state = 'done' THEN 'finished'
            WHEN clearing_says_done((b.c).id) THEN 'says_done'
            WHEN v_until > service_now() THEN 'too_early'
            ELSE '' END;
        IF b.problem IN ('unfinished', 'finished', 'says_done') THEN
            PERFORM clearing_decide(p_intervention, 'failed', p_person, CASE b.problem WHEN 'unfinished' THEN 'an operation is not finished'
                WHEN 'finished' THEN 'all its steps are done' ELSE 'the counterparty has answered that its operation was done' END);
        END IF;
    END IF;
    IF b.problem <> '' THEN
        RETURN QUERY SELECT b.problem, v_until, NULL::clearing_ref;
        RETURN;
    END IF;
    UPDATE clearing_clearing SET state = 'voided', due_at = NULL, changed_at = service_now()
        WHERE id = (b.c).id AND state = 'parked' AND epoch = (b.c).epoch;
    UPDATE clearing_intervention SET bookings = p_bookings WHERE id = p_intervention;
    PERFORM clearing_note((b.c).id, 'parked', 'voided', (b.c).step, (b.c).epoch, b.reason, b.actor);
    PERFORM clearing_decide(p_intervention, 'executed', p_person, CASE
        WHEN clearing_voided_before((b.c).id) THEN CASE jsonb_array_length(p_bookings)
            WHEN 0 THEN 'voided again; the void before the restore named its bookings, nothing is to be booked on top of them'
            ELSE 'voided again; these bookings, of what was done since the restore, come on top of those of the void before it' END
        WHEN jsonb_array_length(p_bookings) = 0 THEN 'voided; nothing was done, nothing is to be booked'
        ELSE 'voided; these bookings are to be made by hand' END);
    SELECT * INTO v_next FROM clearing_promote((b.c).user_id, b.actor, p_generation);
    RETURN QUERY SELECT 'voided', NULL::timestamptz, v_next;
END
$$;

-- The last operation was confirmed by people, and the claim has come to it: cleared, as by
-- clearing_finish, without an attempt that nobody made.
CREATE OR REPLACE FUNCTION clearing_finish_confirmed(
    p_id bigint, p_epoch int, p_user text, p_worker text, p_slippage numeric, p_generation text
) RETURNS TABLE (outcome text, hold_code text, next clearing_ref) LANGUAGE plpgsql AS $$
DECLARE
    v_now timestamptz;
    v_hold text;
    v_next clearing_ref;
BEGIN
    PERFORM clearing_lock_lanes(ARRAY[p_user]);
    v_now := service_now();
    UPDATE clearing_clearing c SET state = 'cleared', slippage_usdt = p_slippage, cleared_at = v_now, changed_at = v_now, claimed_until = NULL,
            claimed_by = '', error_code = '', attempts = 0, tries = 0
        WHERE c.id = p_id AND c.state = 'running' AND c.step = 4 AND c.epoch = p_epoch
            AND EXISTS (SELECT FROM clearing_current(p_id, 4) o WHERE o.state = 'done')
        RETURNING c.hold_code INTO v_hold;
    IF FOUND THEN
        PERFORM clearing_note(p_id, 'running', 'cleared', 4, p_epoch, '', p_worker);
        SELECT * INTO v_next FROM clearing_promote(p_user, p_worker, p_generation);
        RETURN QUERY SELECT 'cleared', v_hold, v_next;
        RETURN;
    END IF;
    SELECT c.hold_code INTO v_hold FROM clearing_clearing c WHERE c.id = p_id AND c.state = 'cleared' AND c.epoch = p_epoch;
    IF FOUND THEN -- the answer to our COMMIT was lost
        SELECT * INTO v_next FROM clearing_queued_of(p_user);
        RETURN QUERY SELECT 'cleared', v_hold, v_next;
    ELSE
        RETURN QUERY SELECT 'lost', '', NULL::clearing_ref;
    END IF;
END
$$;

-- A claim came to an operation that people confirmed, and a mistake of ours keeps it from being
-- cleared: it parks, since it would be claimed again and again. What is done stays done: a retry of
-- the mended release clears it. `outcome` is parked or lost.
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

-- Interventions that nobody approved in time.
CREATE OR REPLACE FUNCTION clearing_expire(p_limit int) RETURNS SETOF bigint LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY UPDATE clearing_intervention SET state = 'expired', decided_at = service_now(), outcome = 'nobody approved it in time'
        WHERE id IN (SELECT i.id FROM clearing_intervention i WHERE i.state = 'requested' AND i.expires_at <= (SELECT service_now())
            ORDER BY i.expires_at LIMIT p_limit FOR UPDATE SKIP LOCKED)
        RETURNING id;
END
$$;

-- Orders that have waited for a person for longer than p_seconds, and since the last reminder;
-- first a CLOSE, or an order that a CLOSE of its contract waits behind: a user isn't paid. Marks
-- them as reminded; two sweeps at once share them. Looks at the p_window that are due the longest,
-- so that its cost doesn't grow with what is parked.
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

-- Orders whose operation has been unknown or pending for longer than p_seconds, and since the last
-- reminder: they never park (rule 7), and hold their users' lanes. A CLOSE first. Marks them as
-- reminded; two sweeps at once share them. Looks at the p_window oldest of each state that weren't
-- reminded of, by an index; it passes over no more than were within p_seconds. One that is just
-- being asked for is left to a later pass.
CREATE OR REPLACE FUNCTION clearing_remind_unknown(p_seconds float8, p_limit int, p_window int)
RETURNS TABLE (order_id text, direction text, counterparty text, error_code text, step int, state text, unknown_seconds float8) LANGUAGE plpgsql AS $$
DECLARE
    v_now timestamptz := service_now();
    v_due timestamptz := v_now - p_seconds * interval '1 second';
BEGIN
    RETURN QUERY WITH due AS (
        (SELECT d.id, d.order_id FROM clearing_clearing d
            WHERE d.state = 'unknown' AND d.created_ms <= clearing_ms(v_due) AND (d.reminded_at IS NULL OR d.reminded_at <= v_due)
            ORDER BY d.created_ms LIMIT p_window)
        UNION ALL
        (SELECT d.id, d.order_id FROM clearing_clearing d
            WHERE d.state = 'pending' AND d.created_ms <= clearing_ms(v_due) AND (d.reminded_at IS NULL OR d.reminded_at <= v_due)
            ORDER BY d.created_ms LIMIT p_window)
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
