-- Where nothing matches, these functions return no row or 'lost' if another session may have been
-- quicker. If no session can bring that about, the caller is wrong, and they RAISE assert_failure
-- (docs/decisions/0015): it is an internal error, and never taken for an outage.

-- The lane's lock: advisory, held to the end of the transaction. Every function below takes locks
-- in one order: lane locks sorted by their key, then clearing rows (design, rule 6).
CREATE OR REPLACE FUNCTION clearing_lane_key(p_user text) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT hashtextextended(p_user, 7077)
$$;

CREATE OR REPLACE FUNCTION clearing_lock_lanes(p_users text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_key bigint;
BEGIN
    FOR v_key IN SELECT DISTINCT clearing_lane_key(u) FROM unnest(p_users) u ORDER BY 1 LOOP
        PERFORM pg_advisory_xact_lock(v_key);
    END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION clearing_note(
    p_id bigint, p_from text, p_to text, p_step int, p_epoch int, p_reason text, p_actor text
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO clearing_statuschange (clearing_id, from_state, to_state, step, epoch, reason, actor)
    VALUES (p_id, p_from, p_to, p_step, p_epoch, left(p_reason, 200), left(p_actor, 330));
END
$$;

CREATE OR REPLACE FUNCTION clearing_ms(p_at timestamptz) RETURNS bigint LANGUAGE sql STABLE AS $$ -- as extract() is: only so it is inlined
    SELECT floor(extract(epoch FROM p_at) * 1000)::bigint
$$;

CREATE OR REPLACE FUNCTION clearing_moment(p_ms bigint) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS $$
    SELECT timestamptz 'epoch' + p_ms * interval '1 millisecond'
$$;

-- The queue of a clearing: its lane's, or -1 for a poison candidate, which runs isolated.
CREATE OR REPLACE FUNCTION clearing_route(p_deaths int, p_lane int) RETURNS int LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN p_deaths >= clearing_isolated_after_deaths() THEN -1 ELSE p_lane END
$$;

-- Whether so many deaths are the order's own doing.
CREATE OR REPLACE FUNCTION clearing_is_poison(p_deaths int) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT p_deaths >= clearing_poison_after_deaths()
$$;

-- Whether an order parks under this code because a bound of money was exceeded (design, rule 13).
-- Such a code stays its error code whatever else comes, so that it isn't let pass together with
-- another hold.
CREATE OR REPLACE FUNCTION clearing_is_bound(p_code text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT p_code IN ('limit_exceeded', 'slippage_exceeded', 'implausible_fill')
$$;

-- Queues the user's next order if none is active: the oldest waiting one (counter's time, shard,
-- sequence) whose contract isn't blocked by a parked order. The lane's lock must be held.
CREATE OR REPLACE FUNCTION clearing_promote(p_user text, p_actor text, p_generation text) RETURNS SETOF clearing_ref LANGUAGE plpgsql AS $$
DECLARE
    v clearing_clearing;
    v_now timestamptz := service_now();
BEGIN
    PERFORM 1 FROM clearing_clearing WHERE user_id = p_user AND state = ANY (clearing_active_states());
    IF FOUND THEN
        RETURN;
    END IF;
    SELECT * INTO v FROM clearing_clearing c
        WHERE c.user_id = p_user AND c.state = 'waiting' AND NOT EXISTS (
            SELECT FROM clearing_clearing p
            WHERE p.user_id = c.user_id AND p.contract_id = c.contract_id AND p.state = 'parked'
                AND (p.started_at IS NOT NULL OR (p.created_ms, p.shard, p.sequence) < (c.created_ms, c.shard, c.sequence)))
        ORDER BY c.created_ms, c.shard, c.sequence, c.id LIMIT 1;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    UPDATE clearing_clearing SET state = 'queued', epoch = epoch + 1, queued_at = v_now, sends = 0, changed_at = v_now, broker_generation = p_generation
        WHERE id = v.id AND state = 'waiting';
    IF NOT FOUND THEN -- only who holds the lane's lock changes what is waiting in it
        RAISE EXCEPTION 'clearing % was changed while its lane was promoted without the lane''s lock', v.id USING ERRCODE = 'assert_failure';
    END IF;
    PERFORM clearing_note(v.id, 'waiting', 'queued', v.step, v.epoch + 1, '', p_actor);
    RETURN NEXT ROW(v.id, v.epoch + 1, v.step, clearing_route(v.deaths, v.lane), clearing_ms(v_now))::clearing_ref;
END
$$;

-- Appends an attempt's evidence; nothing ever refuses it, a lost claim least of all. Times come as
-- milliseconds that have passed since, so that no worker's clock decides anything.
CREATE OR REPLACE FUNCTION clearing_record_attempt(
    p_operation bigint, p_epoch int, p_worker text, p_asked boolean, p_sent_ms_ago float8, p_answered_ms_ago float8,
    p_outcome text, p_code text, p_detail text, p_response bytea
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_now timestamptz := service_now();
BEGIN
    INSERT INTO clearing_attempt (operation_id, epoch, worker, asked, sent_at, answered_at, outcome, code, detail, response)
    VALUES (p_operation, p_epoch, p_worker, p_asked, v_now - p_sent_ms_ago * interval '1 millisecond',
            v_now - p_answered_ms_ago * interval '1 millisecond', p_outcome, left(p_code, 64), left(p_detail, 2000), p_response);
END
$$;

-- The same for an attempt that isn't the end of its step: its operation keeps its state, and
-- remembers when it was first sent.
CREATE OR REPLACE FUNCTION clearing_record_try(
    p_operation bigint, p_epoch int, p_worker text, p_asked boolean, p_sent_ms_ago float8, p_answered_ms_ago float8,
    p_outcome text, p_code text, p_detail text, p_response bytea
) RETURNS void LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    PERFORM clearing_record_attempt(p_operation, p_epoch, p_worker, p_asked, p_sent_ms_ago, p_answered_ms_ago, p_outcome, p_code, p_detail, p_response);
    UPDATE clearing_operation SET first_sent_at = service_now() - p_sent_ms_ago * interval '1 millisecond'
        WHERE id = p_operation AND first_sent_at IS NULL AND NOT p_asked;
END
$$;
