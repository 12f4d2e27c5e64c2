-- What a second operator's approval does: one function for each kind of intervention.

-- Ends an intervention that waits for approval. The caller has locked it, and seen that it waits.
CREATE OR REPLACE FUNCTION clearing_decide(p_intervention bigint, p_state text, p_person text, p_outcome text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE clearing_intervention SET state = p_state, decided_by = p_person, decided_at = service_now(), outcome = left(p_outcome, 500)
        WHERE id = p_intervention AND state = 'requested';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'intervention % does not wait for approval', p_intervention USING ERRCODE = 'assert_failure';
    END IF;
END
$$;

-- How each approval begins: takes the locks and checks that the order is still as it was at the
-- request. `problem` is empty, or the reason against it: decided, expired, same_person, changed
-- (expired and changed end the intervention). Who may not approve at all is the same_person, too:
-- the release before understands that; base_may_not_approve tells the rest.
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
    PERFORM base_hold_person(p_person_id);
    o := clearing_current(c.id, c.step);
    actor := i.asked_by || ', approved by ' || p_person;
    reason := i.reason;
    IF i.kind <> p_kind THEN
        RAISE EXCEPTION 'intervention % is a %, not a %', p_intervention, i.kind, p_kind USING ERRCODE = 'assert_failure';
    ELSIF i.state <> 'requested' THEN
        problem := 'decided';
    ELSIF i.expires_at <= service_now() THEN
        problem := 'expired';
        PERFORM clearing_decide(p_intervention, 'expired', '', 'nobody approved it in time');
    ELSIF i.asked_by = p_person OR i.asked_by_id = p_person_id OR base_may_not_approve(p_person_id) <> '' THEN
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

-- Releases a hold: the accepted contents are right. The order goes on if it is parked for the hold
-- alone; if there is another reason (a rejection, a partial execution) it stays parked for that. If
-- that reason is a bound of money, it is held for that now: nobody has decided about it yet.
-- `outcome` is waiting, parked, or the problem of clearing_begin.
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
    IF v_left = '' AND clearing_is_bound((b.c).error_code) AND (b.c).error_code <> (b.c).hold_code THEN
        v_left := (b.c).error_code;
    END IF;
    v_state := CASE WHEN v_left = '' AND (b.c).error_code = (b.c).hold_code AND (b.o).state NOT IN ('rejected', 'done') THEN 'waiting'
        ELSE 'parked' END;
    UPDATE clearing_clearing SET state = v_state, hold_code = v_left, held_at = CASE WHEN v_left <> '' THEN service_now() END,
            changed_at = service_now(),
            attempts = CASE v_state WHEN 'waiting' THEN 0 ELSE attempts END, tries = CASE v_state WHEN 'waiting' THEN 0 ELSE tries END,
            error_code = CASE WHEN v_state = 'waiting' THEN '' WHEN error_code <> hold_code THEN error_code WHEN v_left <> '' THEN v_left
                ELSE coalesce(nullif((b.o).error_code, ''), error_code) END
        WHERE id = (b.c).id AND state = 'parked' AND epoch = (b.c).epoch;
    PERFORM clearing_note((b.c).id, 'parked', v_state, (b.c).step, (b.c).epoch, b.reason, b.actor);
    PERFORM clearing_decide(p_intervention, 'executed', p_person,
        'the hold was released; the order ' || CASE v_state WHEN 'waiting' THEN 'goes on' ELSE 'stays parked for another reason' END);
    SELECT * INTO v_next FROM clearing_promote((b.c).user_id, b.actor, p_generation);
    RETURN QUERY SELECT v_state, NULL::timestamptz, v_next;
END
$$;

-- Two operators confirm that the current operation was done; p_response is an answer made of their
-- evidence. p_step to p_request describe the next operation. With a null key and no p_code there is
-- none, and a worker clears the order in its lane's turn; p_code parks it, and p_holds holds it as
-- well. `outcome` is waiting, parked, too_early, or the problem of clearing_begin.
CREATE OR REPLACE FUNCTION clearing_confirm_done(
    p_intervention bigint, p_person text, p_person_id bigint, p_claim_seconds float8, p_transit_seconds float8, p_response bytea, p_code text,
    p_holds boolean, p_step int, p_part int, p_counterparty text, p_action text, p_key text, p_request bytea, p_generation text
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
    -- an order whose steps are all done is cleared, whether it is held or not
    v_code := CASE WHEN p_code <> '' THEN p_code WHEN p_key IS NOT NULL THEN (b.c).hold_code ELSE '' END;
    v_state := CASE v_code WHEN '' THEN 'waiting' ELSE 'parked' END;
    UPDATE clearing_clearing SET state = v_state, error_code = v_code, step = coalesce(p_step, step), attempts = 0, tries = 0, due_at = NULL,
            hold_code = CASE WHEN p_holds AND hold_code = '' THEN p_code ELSE hold_code END,
            held_at = CASE WHEN p_holds AND hold_code = '' THEN service_now() ELSE held_at END,
            changed_at = service_now()
        WHERE id = (b.c).id AND state = 'parked' AND epoch = (b.c).epoch;
    UPDATE clearing_operation SET state = 'done', done_at = service_now(), response = p_response, error_code = '' WHERE id = (b.o).id;
    IF p_key IS NOT NULL THEN
        INSERT INTO clearing_operation (clearing_id, step, part, counterparty, action, key, request, state, first_sent_at)
            VALUES ((b.c).id, p_step, p_part, p_counterparty, p_action, p_key, p_request,
                CASE WHEN (b.c).restored THEN 'unknown' ELSE 'planned' END, CASE WHEN (b.c).restored THEN clearing_moment((b.c).created_ms) END);
    END IF;
    PERFORM clearing_note((b.c).id, 'parked', v_state, coalesce(p_step, (b.c).step), (b.c).epoch, b.reason, b.actor);
    PERFORM clearing_decide(p_intervention, 'executed', p_person, format('step %s was confirmed as done', (b.c).step));
    SELECT * INTO v_next FROM clearing_promote((b.c).user_id, b.actor, p_generation);
    RETURN QUERY SELECT v_state, NULL::timestamptz, v_next;
END
$$;

-- Two operators confirm that the current operation was not done and never will be: it counts as
-- rejected. The order stays parked; now a retry may raise the key's revision, or a void may be
-- requested. `outcome` is parked, too_early, says_done, or the problem of clearing_begin.
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

-- Voids the order: it is closed for ever. Refused while an operation is open, pending or unknown,
-- and while a request may be in flight. An order that was voided before a restore may have an
-- operation pending or unknown, since that void has settled it. p_bookings: what operators must book
-- by hand. `outcome` is voided, too_early, says_done, unfinished (an operation is), finished (all
-- are done), or the problem of clearing_begin.
CREATE OR REPLACE FUNCTION clearing_void(
    p_intervention bigint, p_person text, p_person_id bigint, p_claim_seconds float8, p_transit_seconds float8, p_last_step int,
    p_bookings jsonb, p_generation text
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
            WHEN (b.c).step = p_last_step AND (b.o).state = 'done' THEN 'finished'
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

-- Interventions that nobody approved in time.
CREATE OR REPLACE FUNCTION clearing_expire(p_limit int) RETURNS SETOF bigint LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY UPDATE clearing_intervention SET state = 'expired', decided_at = service_now(), outcome = 'nobody approved it in time'
        WHERE id IN (SELECT i.id FROM clearing_intervention i WHERE i.state = 'requested' AND i.expires_at <= (SELECT service_now())
            ORDER BY i.expires_at LIMIT p_limit FOR UPDATE SKIP LOCKED)
        RETURNING id;
END
$$;
