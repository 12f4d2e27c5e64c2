-- The database was restored from a backup: what it holds of unfinished orders may be behind what the counterparties did. Every operation that isn't
-- known to have ended becomes unknown, sent when its order was made, and the ones that follow it are opened so (clearing.restored). One batch, by
-- id, so that neither locks nor time depend on how many orders are unfinished. Returns how many were marked, and the last one's id (null: none left).
CREATE OR REPLACE FUNCTION clearing_mark_restored(p_after bigint, p_limit int) RETURNS TABLE (marked int, last_id bigint) LANGUAGE plpgsql AS $$
DECLARE
    c clearing_clearing;
    v_ids bigint[] := ARRAY(SELECT id FROM clearing_clearing WHERE state NOT IN ('cleared', 'voided') AND id > p_after ORDER BY id LIMIT p_limit);
BEGIN
    marked := 0;
    PERFORM clearing_lock_lanes(ARRAY(SELECT user_id FROM clearing_clearing WHERE id = ANY (v_ids)));
    FOR c IN UPDATE clearing_clearing SET restored = true WHERE id = ANY (v_ids) AND state NOT IN ('cleared', 'voided') RETURNING * LOOP
        UPDATE clearing_operation SET state = 'unknown', first_sent_at = coalesce(first_sent_at, clearing_moment(c.created_ms))
            WHERE clearing_id = c.id AND state IN ('planned', 'open', 'pending', 'unknown');
        marked := marked + 1;
    END LOOP;
    last_id := v_ids[array_upper(v_ids, 1)];
    RETURN NEXT;
END
$$;
