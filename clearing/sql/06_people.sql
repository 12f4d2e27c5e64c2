-- A person's retry. A parked order goes back to waiting and its lane's next one is queued; a retrying one is queued at once. p_key and the
-- rest describe an operation that takes the current one's place (a raised revision after a final rejection, a further part); null keeps it.
-- The caller's expectations (epoch) are part of the conditional UPDATE. `outcome` is waiting, queued or changed.
CREATE OR REPLACE FUNCTION clearing_retry(
    p_id bigint, p_epoch int, p_state text, p_actor text, p_reason text, p_part int, p_revision int, p_key text, p_request bytea, p_generation text
) RETURNS TABLE (outcome text, ref clearing_ref) LANGUAGE plpgsql AS $$
DECLARE
    c clearing_clearing;
    v_now timestamptz;
BEGIN
    PERFORM clearing_lock_lanes(ARRAY(SELECT user_id FROM clearing_clearing WHERE id = p_id));
    v_now := service_now();
    UPDATE clearing_clearing SET attempts = 0, tries = 0, error_code = '', due_at = NULL, changed_at = v_now,
            state = CASE p_state WHEN 'parked' THEN 'waiting' ELSE 'queued' END,
            epoch = CASE p_state WHEN 'parked' THEN epoch ELSE epoch + 1 END,
            queued_at = CASE p_state WHEN 'parked' THEN queued_at ELSE v_now END, sends = 0,
            broker_generation = p_generation
        WHERE id = p_id AND epoch = p_epoch AND state = p_state AND p_state IN ('parked', 'retrying') AND hold_code = ''
        RETURNING * INTO c;
    IF NOT FOUND THEN
        RETURN QUERY SELECT 'changed', NULL::clearing_ref;
        RETURN;
    END IF;
    IF p_key IS NOT NULL THEN
        INSERT INTO clearing_operation (clearing_id, step, part, revision, counterparty, action, key, request, state, first_sent_at)
        SELECT c.id, c.step, p_part, p_revision, o.counterparty, o.action, p_key, p_request, CASE WHEN c.restored THEN 'unknown' ELSE 'planned' END,
            CASE WHEN c.restored THEN clearing_moment(c.created_ms) END
        FROM clearing_operation o WHERE o.clearing_id = c.id AND o.step = c.step ORDER BY o.part DESC, o.revision DESC LIMIT 1;
    END IF;
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
