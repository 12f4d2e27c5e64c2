-- The state of each counterparty, shared by all processes. A missing row is a closed breaker, so
-- each function inserts the row that it needs.

-- Moves a breaker that is in one of the states p_from. Returns its former state, and whether the
-- counterparty was known to refuse us; no row: it is in another state by now, and nothing changed.
-- After each failed trial the next probe waits longer, up to ten seconds.
CREATE OR REPLACE FUNCTION clearing_move_breaker(
    p_name text, p_from text[], p_to text, p_cause text, p_refuses boolean, p_probe_seconds float8, p_actor text
) RETURNS TABLE (was text, refused boolean) LANGUAGE plpgsql AS $$
DECLARE
    v_was text;
    v_refused boolean;
    v_now timestamptz := service_now();
BEGIN
    INSERT INTO clearing_standing (name) VALUES (p_name) ON CONFLICT (name) DO NOTHING;
    SELECT s.breaker, s.refuses INTO v_was, v_refused FROM clearing_standing s WHERE s.name = p_name FOR UPDATE;
    IF v_was = ANY (p_from) IS NOT TRUE THEN
        RETURN;
    END IF;
    UPDATE clearing_standing s SET breaker = p_to, changed_at = v_now,
            cause = CASE p_to WHEN 'closed' THEN '' WHEN 'open' THEN p_cause ELSE s.cause END,
            refuses = CASE p_to WHEN 'closed' THEN false WHEN 'open' THEN p_refuses ELSE s.refuses END,
            failures = CASE WHEN p_to = 'closed' THEN 0 WHEN p_to = 'open' AND v_was = 'half_open' THEN least(s.failures + 1, 10) ELSE s.failures END,
            probe_at = CASE WHEN p_to = 'open' THEN v_now + least(10, p_probe_seconds * 2 ^ CASE v_was WHEN 'half_open' THEN s.failures + 1 ELSE 0 END)
                * interval '1 second' END
        WHERE s.name = p_name;
    INSERT INTO clearing_standingchange (counterparty, change, reason, actor) VALUES (p_name, p_to, left(p_cause, 200), left(p_actor, 150));
    RETURN QUERY SELECT v_was, v_refused;
END
$$;

-- A time until which calls wait; null if it is further away than any wait lasts, since then the
-- clock was ahead when it was written. The longest wait is RETRY_AFTER_MS_MAX, five minutes.
CREATE OR REPLACE FUNCTION clearing_if_near(p_until timestamptz, p_now timestamptz) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN p_until <= p_now + interval '5 minutes' THEN p_until END
$$;

-- Notes for all processes that one of them found no free slot at the counterparty
-- (p_busy_seconds), or was sent a Retry-After (p_quiet_ms).
CREATE OR REPLACE FUNCTION clearing_standing_note(p_name text, p_busy_seconds float8, p_quiet_ms float8) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_now timestamptz := service_now();
BEGIN
    INSERT INTO clearing_standing AS s (name, busy_until, quiet_until)
        VALUES (p_name, v_now + p_busy_seconds * interval '1 second', v_now + p_quiet_ms * interval '1 millisecond')
        ON CONFLICT (name) DO UPDATE SET busy_until = greatest(clearing_if_near(s.busy_until, v_now), excluded.busy_until),
            quiet_until = greatest(clearing_if_near(s.quiet_until, v_now), excluded.quiet_until);
END
$$;

-- Takes tokens of a rate limit: p_wanted, or as many as there are. The bucket holds the tokens of
-- half a second. `wait_ms`: until there is one.
CREATE OR REPLACE FUNCTION clearing_lease_calls(p_name text, p_rate float8, p_wanted int) RETURNS TABLE (granted int, wait_ms float8)
LANGUAGE plpgsql AS $$
DECLARE
    v_now timestamptz;
    v_tokens float8;
BEGIN
    INSERT INTO clearing_standing (name) VALUES (p_name) ON CONFLICT (name) DO NOTHING;
    PERFORM FROM clearing_standing s WHERE s.name = p_name FOR UPDATE;
    v_now := service_now();
    -- a clock that was put back takes no tokens away
    SELECT least(greatest(1, p_rate / 2), greatest(s.tokens, 0) + greatest(coalesce(extract(epoch FROM v_now - s.tokens_at), 1e6), 0) * p_rate) INTO v_tokens
        FROM clearing_standing s WHERE s.name = p_name;
    granted := least(floor(v_tokens), p_wanted);
    wait_ms := CASE WHEN granted = 0 THEN (1 - v_tokens) / p_rate * 1000 ELSE 0 END;
    UPDATE clearing_standing s SET tokens = v_tokens - granted, tokens_at = v_now WHERE s.name = p_name;
    RETURN NEXT;
END
$$;

-- Sets or ends an operator's pause of a counterparty (p_step 0) or of one of its steps. False:
-- nothing changed, it was paused, or not paused, already.
CREATE OR REPLACE FUNCTION clearing_pause_set(p_name text, p_step int, p_paused boolean, p_reason text, p_actor text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF p_paused THEN
        INSERT INTO clearing_pause (counterparty, step, reason, actor) VALUES (p_name, p_step, left(p_reason, 200), left(p_actor, 150))
            ON CONFLICT (counterparty, step) DO NOTHING;
    ELSE
        DELETE FROM clearing_pause p WHERE p.counterparty = p_name AND p.step = p_step;
    END IF;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO clearing_standingchange (counterparty, step, change, reason, actor)
        VALUES (p_name, p_step, CASE WHEN p_paused THEN 'paused' ELSE 'resumed' END, left(p_reason, 200), left(p_actor, 150));
    RETURN true;
END
$$;
