-- All that a worker needs to run a claimed clearing's current operation, as of p_now.
CREATE OR REPLACE FUNCTION clearing_work_3_of(c clearing_clearing, o clearing_operation, p_now timestamptz)
RETURNS clearing_work_3 LANGUAGE plpgsql STABLE AS $$
DECLARE
    s orders_syncorder;
    v_exchanges bytea[];
BEGIN
    SELECT array_agg(e.response ORDER BY e.step, e.part) INTO v_exchanges FROM clearing_operation e
        WHERE e.clearing_id = c.id AND e.action = 'exchange' AND e.state = 'done';
    SELECT * INTO STRICT s FROM orders_syncorder WHERE id = c.order_id;
    RETURN ROW(c.id, c.epoch, c.step, o.part, o.id, o.state, o.counterparty, o.action,
        o.key, o.request, extract(epoch FROM p_now - o.first_sent_at), c.attempts, c.tries, clearing_ms(p_now), clearing_ms(c.claimed_until),
        clearing_ms(c.started_at), s.order_id, s.user_id, s.contract_id, s.direction, s.asset, s.quantity, s.quoted_usdt, s.created_ms,
        c.flow, clearing_ms(c.queued_at), v_exchanges, c.hold_code,
        CASE WHEN c.tries > 0 THEN extract(epoch FROM p_now - c.tried_since) END,
        s.shard, s.sequence, s.instrument, s.kind, s.mac, s.mac_key_id)::clearing_work_3;
END
$$;

-- Takes the claim of a queued clearing and opens its current operation. Returns no row where
-- 1. another worker has it, or it is no longer queued under this epoch;
-- 2. it is a poison candidate, and the worker isn't the isolated one (p_alone);
-- 3. the worker's incarnation has ended: the next sweep would take the claim back from a process
--    that lives.
CREATE OR REPLACE FUNCTION clearing_claim_3(p_id bigint, p_epoch int, p_worker text, p_claim_seconds float8, p_alone boolean)
RETURNS SETOF clearing_work_3 LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    c clearing_clearing;
    o clearing_operation;
    v_now timestamptz := service_now();
BEGIN
    UPDATE clearing_clearing SET state = 'running', claimed_by = p_worker, claimed_until = v_now + p_claim_seconds * interval '1 second',
            started_at = coalesce(started_at, v_now), changed_at = v_now, due_at = NULL, waits_for = ''
        WHERE id = p_id AND state = 'queued' AND epoch = p_epoch AND (p_alone OR clearing_route(deaths, lane) >= 0)
            AND NOT EXISTS (SELECT FROM base_incarnation i WHERE i.name = p_worker AND i.ended_at IS NOT NULL)
        RETURNING * INTO c;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    SELECT * INTO STRICT o FROM clearing_operation
        WHERE clearing_id = c.id AND step = c.step ORDER BY part DESC, revision DESC LIMIT 1;
    IF o.state = 'planned' THEN
        UPDATE clearing_operation SET state = 'open' WHERE id = o.id;
    END IF;
    PERFORM clearing_note(c.id, 'queued', 'running', c.step, c.epoch, '', p_worker);
    RETURN NEXT clearing_work_3_of(c, o, v_now);
END
$$;

-- The claim that the worker took by a call whose answer was lost. Only for a caller that knows that
-- no other thread of its process runs this epoch: nothing else tells two threads apart. The operation
-- that the claim opened may have been sent, so it starts with a status query.
CREATE OR REPLACE FUNCTION clearing_claim_again_3(p_id bigint, p_epoch int, p_worker text) RETURNS SETOF clearing_work_3 LANGUAGE plpgsql STABLE SET enable_seqscan = off AS $$
DECLARE
    c clearing_clearing;
BEGIN
    SELECT * INTO c FROM clearing_clearing WHERE id = p_id AND state = 'running' AND epoch = p_epoch AND claimed_by = p_worker;
    IF FOUND THEN
        RETURN NEXT clearing_work_3_of(c, clearing_current(c.id, c.step), service_now());
    END IF;
END
$$;
