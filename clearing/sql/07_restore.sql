-- The database was restored from a backup: what it holds of unfinished orders may be behind what the counterparties did. Every operation that isn't
-- known to have ended becomes unknown, sent when its order was made, and the ones that follow it are opened so (clearing.restored). Orders made
-- up to p_through_ms that come in from now on are marked by clearing_accept. Returns how many clearings were marked.
CREATE OR REPLACE FUNCTION clearing_mark_restored(p_through_ms bigint, p_reason text, p_actor text) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    c clearing_clearing;
    v_marked int := 0;
BEGIN
    PERFORM clearing_lock_lanes(ARRAY(SELECT user_id FROM clearing_clearing WHERE state NOT IN ('cleared', 'voided')));
    FOR c IN UPDATE clearing_clearing SET restored = true WHERE state NOT IN ('cleared', 'voided') RETURNING * LOOP -- the lanes hold still
        UPDATE clearing_operation SET state = 'unknown', first_sent_at = coalesce(first_sent_at, clearing_moment(c.created_ms))
            WHERE clearing_id = c.id AND state IN ('planned', 'open', 'pending', 'unknown');
        v_marked := v_marked + 1;
    END LOOP;
    INSERT INTO clearing_restorepoint (through_ms, reason, actor, marked) VALUES (p_through_ms, left(p_reason, 200), left(p_actor, 150), v_marked);
    RETURN v_marked;
END
$$;
