-- Signatures that the processes of the release before still call, while both releases run.
--
-- The rule: a function that needs another argument gets it without a default, as a new signature; the
-- old one moves here and calls the new one. A function that returns other columns gets a new name. A
-- row type that changes is a new type with a number (clearing_work_3), made by a migration. The
-- release after removes what stands here, and drops it by a migration that names the signature.

-- Before the first operation's counterparty and action were arguments: flow 1.
CREATE OR REPLACE FUNCTION clearing_accept(
    p_orders bigint[], p_lanes int[], p_keys text[], p_requests bytea[], p_flow int, p_actor text, p_generation text, p_restored boolean
) RETURNS SETOF clearing_ref LANGUAGE sql AS $$
    SELECT * FROM clearing_accept(p_orders, p_lanes, array_fill('counter'::text, ARRAY[cardinality(p_orders)]),
        array_fill('adjust'::text, ARRAY[cardinality(p_orders)]), p_keys, p_requests, p_flow, p_actor, p_generation, p_restored,
        array_fill(false, ARRAY[cardinality(p_orders)]), 0, 518400)
$$;

-- Before the last step was an argument: 4, as in flow 1.
CREATE OR REPLACE FUNCTION clearing_finish(
    p_id bigint, p_epoch int, p_user text, p_worker text, p_operation bigint, p_asked boolean, p_sent_ms_ago float8, p_answered_ms_ago float8,
    p_response bytea, p_slippage numeric, p_generation text
) RETURNS TABLE (outcome text, hold_code text, now_ms bigint, next clearing_ref) LANGUAGE sql AS $$
    SELECT * FROM clearing_finish(p_id, p_epoch, 4, p_user, p_worker, p_operation, p_asked, p_sent_ms_ago, p_answered_ms_ago,
        p_response, p_slippage, NULL, NULL, p_generation)
$$;

CREATE OR REPLACE FUNCTION clearing_finish_confirmed(
    p_id bigint, p_epoch int, p_user text, p_worker text, p_slippage numeric, p_generation text
) RETURNS TABLE (outcome text, hold_code text, next clearing_ref) LANGUAGE sql AS $$
    SELECT * FROM clearing_finish_confirmed(p_id, p_epoch, 4, p_user, p_worker, p_slippage, NULL, NULL, p_generation)
$$;

CREATE OR REPLACE FUNCTION clearing_void(
    p_intervention bigint, p_person text, p_person_id bigint, p_claim_seconds float8, p_transit_seconds float8, p_bookings jsonb, p_generation text
) RETURNS TABLE (outcome text, not_before timestamptz, next clearing_ref) LANGUAGE sql AS $$
    SELECT * FROM clearing_void(p_intervention, p_person, p_person_id, p_claim_seconds, p_transit_seconds, 4, p_bookings, p_generation)
$$;

-- Before a fill could be held for two people, what an order leaves was stored in its own units, what
-- an order and a user may move had bounds, and the time for which keys are kept was an argument
-- (KEY_RETENTION_SECONDS, as it is shipped).
CREATE OR REPLACE FUNCTION clearing_accept(
    p_orders bigint[], p_lanes int[], p_counterparties text[], p_actions text[], p_keys text[], p_requests bytea[], p_flow int,
    p_actor text, p_generation text, p_restored boolean
) RETURNS SETOF clearing_ref LANGUAGE sql AS $$
    SELECT * FROM clearing_accept(p_orders, p_lanes, p_counterparties, p_actions, p_keys, p_requests, p_flow, p_actor, p_generation, p_restored,
        array_fill(false, ARRAY[cardinality(p_orders)]), 0, 518400)
$$;

CREATE OR REPLACE FUNCTION clearing_step_done(
    p_id bigint, p_epoch int, p_user text, p_worker text, p_operation bigint, p_asked boolean, p_sent_ms_ago float8, p_answered_ms_ago float8,
    p_response bytea, p_step int, p_part int, p_counterparty text, p_action text, p_key text, p_request bytea,
    p_in_place boolean, p_claim_seconds float8, p_generation text, p_parks text
) RETURNS TABLE (
    outcome text, operation_id bigint, now_ms bigint, claimed_until_ms bigint, sent_seconds_ago float8, ref clearing_ref, next clearing_ref
) LANGUAGE sql AS $$
    SELECT * FROM clearing_step_done(p_id, p_epoch, p_user, p_worker, p_operation, p_asked, p_sent_ms_ago, p_answered_ms_ago,
        p_response, p_step, p_part, p_counterparty, p_action, p_key, p_request, p_in_place, p_claim_seconds, p_generation, p_parks, false)
$$;

CREATE OR REPLACE FUNCTION clearing_finish(
    p_id bigint, p_epoch int, p_step int, p_user text, p_worker text, p_operation bigint, p_asked boolean, p_sent_ms_ago float8, p_answered_ms_ago float8,
    p_response bytea, p_slippage numeric, p_generation text
) RETURNS TABLE (outcome text, hold_code text, now_ms bigint, next clearing_ref) LANGUAGE sql AS $$
    SELECT * FROM clearing_finish(p_id, p_epoch, p_step, p_user, p_worker, p_operation, p_asked, p_sent_ms_ago, p_answered_ms_ago,
        p_response, p_slippage, NULL, NULL, p_generation)
$$;

CREATE OR REPLACE FUNCTION clearing_finish_confirmed(
    p_id bigint, p_epoch int, p_step int, p_user text, p_worker text, p_slippage numeric, p_generation text
) RETURNS TABLE (outcome text, hold_code text, next clearing_ref) LANGUAGE sql AS $$
    SELECT * FROM clearing_finish_confirmed(p_id, p_epoch, p_step, p_user, p_worker, p_slippage, NULL, NULL, p_generation)
$$;

CREATE OR REPLACE FUNCTION clearing_confirm_done(
    p_intervention bigint, p_person text, p_person_id bigint, p_claim_seconds float8, p_transit_seconds float8, p_response bytea, p_code text,
    p_step int, p_part int, p_counterparty text, p_action text, p_key text, p_request bytea, p_generation text
) RETURNS TABLE (outcome text, not_before timestamptz, next clearing_ref) LANGUAGE sql AS $$
    SELECT * FROM clearing_confirm_done(p_intervention, p_person, p_person_id, p_claim_seconds, p_transit_seconds, p_response, p_code,
        false, p_step, p_part, p_counterparty, p_action, p_key, p_request, p_generation)
$$;

-- Before a claim returned the order's row with the counter's MAC.
CREATE OR REPLACE FUNCTION clearing_claim(p_id bigint, p_epoch int, p_worker text, p_claim_seconds float8, p_alone boolean)
RETURNS SETOF clearing_work_2 LANGUAGE sql AS $$
    SELECT clearing_id, epoch, step, part, operation_id, operation_state, counterparty, action, key, request, sent_seconds_ago, attempts, tries,
        now_ms, claimed_until_ms, started_ms, order_id, user_id, contract_id, direction, asset, quantity, quoted_usdt, created_ms, flow, queued_ms,
        exchanges, hold_code, tried_seconds_ago
        FROM clearing_claim_3(p_id, p_epoch, p_worker, p_claim_seconds, p_alone)
$$;

CREATE OR REPLACE FUNCTION clearing_claim_again(p_id bigint, p_epoch int, p_worker text) RETURNS SETOF clearing_work_2 LANGUAGE sql STABLE AS $$
    SELECT clearing_id, epoch, step, part, operation_id, operation_state, counterparty, action, key, request, sent_seconds_ago, attempts, tries,
        now_ms, claimed_until_ms, started_ms, order_id, user_id, contract_id, direction, asset, quantity, quoted_usdt, created_ms, flow, queued_ms,
        exchanges, hold_code, tried_seconds_ago
        FROM clearing_claim_again_3(p_id, p_epoch, p_worker)
$$;
