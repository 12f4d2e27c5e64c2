-- The fence: holds the row of the current term to the end of the transaction, so that no next
-- leader takes over in between; false when p_term is no longer, or not yet, the current one. It
-- comes before every other lock (design, rule 6). From here on the transaction has p_ms, and half
-- of that for being idle or for waiting: a holder that is frozen delays the next leader no longer.
CREATE OR REPLACE FUNCTION base_fence(p_term bigint, p_ms int) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('transaction_timeout', '0', true); -- a running one isn't shortened by a new value alone
    PERFORM set_config('transaction_timeout', p_ms::text, true), set_config('statement_timeout', p_ms::text, true),
        set_config('idle_in_transaction_session_timeout', (p_ms / 2)::text, true), set_config('lock_timeout', (p_ms / 2)::text, true);
    PERFORM FROM base_leaderterm WHERE term = p_term FOR SHARE;
    RETURN FOUND;
END
$$;

-- Takes the next term, if the current one is still p_seen. Waits for those who hold the current
-- one, p_ms at most. Returns the new term, or null.
CREATE OR REPLACE FUNCTION base_take_term(p_seen bigint, p_leader text, p_reason text, p_ms int) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    v_term bigint;
BEGIN
    PERFORM set_config('lock_timeout', p_ms::text, true), set_config('statement_timeout', (2 * p_ms)::text, true);
    INSERT INTO base_leaderterm AS t (id, term, leader, reason) VALUES (1, p_seen + 1, p_leader, p_reason)
        ON CONFLICT (id) DO UPDATE SET term = t.term + 1, leader = p_leader, previous = t.leader, since = service_now(), reason = p_reason
        WHERE t.term = p_seen
        RETURNING term INTO v_term;
    RETURN v_term;
END
$$;
