"""`status.py` as database functions, installed before the others at every `migrate`: the states,
what may follow what, and the limits of a poison candidate have one source.

An order's transition that a later release no longer allows stays in the table for one release more,
since the release before still makes it.
"""

from collections.abc import Iterable

from clearing.status import ACTIVE, DUE, FINAL, INITIAL, ISOLATED_AFTER_DEATHS, POISON_AFTER_DEATHS, TRANSITIONS


def generated_functions() -> list[str]:
    """One script, of functions that PostgreSQL folds into constants where they are called."""
    pairs = sorted(f"{source}>{target}" for source, targets in TRANSITIONS.items() for target in targets)
    return [
        "\n".join(
            [
                _constant("clearing_active_states", "text[]", _texts(ACTIVE)),
                _constant("clearing_due_states", "text[]", _texts(DUE)),
                _constant("clearing_final_states", "text[]", _texts(FINAL)),
                _constant("clearing_isolated_after_deaths", "int", str(ISOLATED_AFTER_DEATHS)),
                _constant("clearing_poison_after_deaths", "int", str(POISON_AFTER_DEATHS)),
                _function("clearing_may_begin", "p_state text", "boolean", f"p_state = ANY ({_texts(INITIAL)})"),
                _function("clearing_may_follow", "p_from text, p_to text", "boolean", f"p_from || '>' || p_to = ANY ({_texts(pairs)})"),
            ]
        )
    ]


def _constant(name: str, kind: str, value: str) -> str:
    return _function(name, "", kind, value)


def _function(name: str, parameters: str, kind: str, expression: str) -> str:
    return f"CREATE OR REPLACE FUNCTION {name}({parameters}) RETURNS {kind} LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT {expression} $$;"


def _texts(values: Iterable[str]) -> str:
    quoted = ", ".join(f"'{value!s}'" for value in values)
    return f"ARRAY[{quoted}]::text[]"
