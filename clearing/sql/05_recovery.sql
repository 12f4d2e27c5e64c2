-- Makes orders due now whose backoff has outlasted their counterparty's outage: those that got no
-- answer before its breaker closed, a moment ago. Takes no lane's lock, since only the time changes,
-- and skips rows that another session has locked.
CREATE OR REPLACE FUNCTION clearing_bring_forward(p_ids bigint[]) RETURNS SETOF bigint LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    RETURN QUERY
    WITH waiting AS (
        SELECT c.id FROM clearing_clearing c WHERE c.id = ANY (p_ids) AND c.state IN ('retrying', 'unknown') FOR UPDATE SKIP LOCKED
    )
    UPDATE clearing_clearing c SET due_at = least(c.due_at, service_now()) FROM waiting WHERE c.id = waiting.id RETURNING c.id;
END
$$;

-- What the sweep does to each of the candidates, which the caller picked without locks. Lane locks
-- come first, then each row's conditional UPDATE.
-- 1. An expired claim, or one whose worker's incarnation has ended, is taken back: queued again.
-- 2. What is retrying, pending or unknown and due is queued again.
-- 3. A clock that ran ahead and was put back leaves times in the future: a claim from a minute and
--    more from now, and whatever waits since a future time, counts as expired, or due.
-- 4. An operation that is taken over may have been sent by the dead worker: an attempt `lost` says
--    so, the operation becomes unknown, and the next worker starts with a status query.
-- 5. A death of the worker counts against the clearing that it was running. After
--    clearing_isolated_after_deaths() it is a poison candidate and runs isolated; after
--    clearing_poison_after_deaths() it parks as poison: one death there may be the worker's own.
-- 6. What is held parks instead, unless something of it may still be in flight.
-- Returns the state that each was in, and what to publish; for one that parks, its order and why.
CREATE OR REPLACE FUNCTION clearing_redispatch(p_ids bigint[], p_actor text, p_generation text)
RETURNS TABLE (found_state text, parked_order text, parked_as text, ref clearing_ref) LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    v_id bigint;
    c clearing_clearing;
    o clearing_operation;
    v_now timestamptz;
    v_next clearing_ref;
    v_died boolean; -- its worker, and not by our hand: it never beat again
    v_parks text;
    v_deaths int;
BEGIN
    PERFORM clearing_lock_lanes(ARRAY(SELECT user_id FROM clearing_clearing WHERE id = ANY (p_ids)));
    FOR v_id IN SELECT id FROM clearing_clearing WHERE id = ANY (p_ids) ORDER BY id LOOP
        -- Locked before anything is read of it: a worker that was taken for dead may be about to
        -- commit a step, and the next one would be in doubt then.
        SELECT * INTO STRICT c FROM clearing_clearing WHERE id = v_id FOR UPDATE;
        v_now := service_now();
        SELECT * INTO STRICT o FROM clearing_operation
            WHERE clearing_id = c.id AND step = c.step ORDER BY part DESC, revision DESC LIMIT 1;
        v_died := c.state = 'running' AND EXISTS (SELECT FROM base_incarnation i WHERE i.name = c.claimed_by AND i."end" = 'dead');
        v_parks := CASE WHEN c.hold_code <> '' AND c.state = 'retrying' AND o.state = 'planned' THEN c.hold_code
            WHEN v_died AND clearing_is_poison(c.deaths + 1) THEN 'poison' ELSE '' END;
        v_deaths := c.deaths + v_died::int;
        UPDATE clearing_clearing SET changed_at = v_now, claimed_until = NULL, claimed_by = '', due_at = NULL, deaths = v_deaths,
                state = CASE WHEN v_parks <> '' THEN 'parked' ELSE 'queued' END,
                error_code = CASE WHEN v_parks <> '' THEN v_parks ELSE error_code END,
                waits_for = CASE WHEN v_parks <> '' THEN '' ELSE waits_for END,
                epoch = CASE WHEN v_parks <> '' THEN epoch ELSE epoch + 1 END,
                queued_at = CASE WHEN v_parks <> '' THEN queued_at ELSE v_now END, sends = 0,
                broker_generation = CASE WHEN v_parks <> '' THEN broker_generation ELSE p_generation END
            WHERE id = c.id AND epoch = c.epoch AND state = c.state
                AND ((state = 'running' AND (claimed_until < v_now OR changed_at > v_now + interval '1 minute' OR EXISTS (
                        SELECT FROM base_incarnation i WHERE i.name = claimed_by AND i.ended_at IS NOT NULL)))
                    OR (state = ANY (clearing_due_states()) AND (due_at <= v_now OR changed_at > v_now)));
        CONTINUE WHEN NOT FOUND;
        IF c.state = 'running' AND o.state IN ('open', 'pending', 'unknown') THEN
            -- sent, if it was, at any time since the claim or the last step; the earliest counts
            -- for how long the key is kept
            PERFORM clearing_record_try(o.id, c.epoch, c.claimed_by, false, greatest(extract(epoch FROM v_now - c.changed_at), 0) * 1000, 0,
                'lost', 'claim_lost', '', NULL);
            UPDATE clearing_operation SET state = 'unknown' WHERE id = o.id AND state IN ('open', 'pending', 'unknown');
        END IF;
        IF v_parks <> '' THEN
            PERFORM clearing_note(c.id, c.state, 'parked', c.step, c.epoch, v_parks, p_actor);
            SELECT * INTO v_next FROM clearing_promote(c.user_id, p_actor, p_generation);
            RETURN QUERY SELECT c.state::text, s.order_id::text, v_parks, v_next FROM orders_syncorder s WHERE s.id = c.order_id;
            CONTINUE;
        END IF;
        PERFORM clearing_note(c.id, c.state, 'queued', c.step, c.epoch + 1,
            CASE WHEN c.state <> 'running' THEN 'due' WHEN v_died THEN 'worker died' ELSE 'claim lost' END, p_actor);
        RETURN QUERY SELECT c.state::text, '', '', ROW(c.id, c.epoch + 1, c.step, clearing_route(v_deaths, c.lane), clearing_ms(v_now))::clearing_ref;
    END LOOP;
END
$$;

-- Marks queued clearings whose message is gone as sent again, under the same epoch. The caller picks
-- the candidates, and waits longer each time.
CREATE OR REPLACE FUNCTION clearing_resend(p_ids bigint[], p_epochs int[], p_generation text) RETURNS SETOF clearing_ref LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    RETURN QUERY
    WITH gone AS ( -- locked in one order, so that two sweeps at once don't wait for each other
        SELECT c.id FROM clearing_clearing c JOIN unnest(p_ids, p_epochs) AS a (id, epoch) ON c.id = a.id AND c.epoch = a.epoch
        WHERE c.state = 'queued' ORDER BY c.id FOR UPDATE OF c
    )
    UPDATE clearing_clearing c SET queued_at = service_now(), sends = least(c.sends + 1, 30), broker_generation = p_generation
    FROM gone WHERE c.id = gone.id
    RETURNING c.id, c.epoch, c.step::int, clearing_route(c.deaths, c.lane), clearing_ms(c.queued_at);
END
$$;

-- Queues the next order of each lane that has waiting orders and no active one. No transaction
-- should leave such a lane, since each one that ends an order promotes the next.
CREATE OR REPLACE FUNCTION clearing_promote_lanes(p_users text[], p_actor text, p_generation text) RETURNS SETOF clearing_ref LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    v_user text;
BEGIN
    PERFORM clearing_lock_lanes(p_users);
    FOREACH v_user IN ARRAY p_users LOOP
        RETURN QUERY SELECT * FROM clearing_promote(v_user, p_actor, p_generation);
    END LOOP;
END
$$;
