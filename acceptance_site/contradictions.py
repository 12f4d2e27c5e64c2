"""Settings that are right each for itself and wrong together. Where one of them is wrong by itself,
that alone is reported.
"""

from collections.abc import Mapping
from typing import Any, Final

from acceptance_site.configuration import Configuration

TERM_MARGIN_MS: Final = 500  # ops/leadership/terms.py waits so much longer than FENCE_MS_MAX


def check(config: Configuration, settings: Mapping[str, Any]) -> None:
    """Notes every contradiction between the values of settings.py."""
    _claims_and_calls(config, settings)
    _database(config, settings)
    _intake(config, settings)
    _money(config, settings)
    _sweep(config, settings)
    _alarms(config, settings)
    _desk(config, settings)


def _claims_and_calls(config: Configuration, settings: Mapping[str, Any]) -> None:
    deadline, deadline_name = settings["GATEWAY_DEADLINE_MS"] / 1000, "GATEWAY_DEADLINE_MS"
    claim, validity = settings["CLEARING_CLAIM_SECONDS"], settings["SIGNATURE_VALIDITY_SECONDS"]
    skew, transit = settings["CLOCK_SKEW_SECONDS_MAX"], settings["REQUEST_TRANSIT_SECONDS"]
    config.at_least(
        "CLEARING_CLAIM_SECONDS", claim, 2 * deadline, "a step may take two calls of GATEWAY_DEADLINE_MS: a status query and its own", deadline_name
    )
    config.at_least(
        "BREAKER_WINDOW_SECONDS", settings["BREAKER_WINDOW_SECONDS"], deadline, "GATEWAY_DEADLINE_MS, so that timeouts add up", deadline_name
    )
    config.at_most(
        "GATEWAY_SLOT_WAIT_MS", settings["GATEWAY_SLOT_WAIT_MS"], deadline * 1000, "GATEWAY_DEADLINE_MS: a claim must last longer", deadline_name
    )
    config.at_least(
        "SIGNATURE_VALIDITY_SECONDS", validity, deadline, "GATEWAY_DEADLINE_MS: a call must not be refused as stale while it is made", deadline_name
    )
    config.at_most(
        "CLOCK_SKEW_SECONDS_MAX",
        skew,
        validity,
        "SIGNATURE_VALIDITY_SECONDS: with clocks further apart every call is stale",
        "SIGNATURE_VALIDITY_SECONDS",
    )
    config.at_least(
        "KEY_RETENTION_SECONDS",
        settings["KEY_RETENTION_SECONDS"],
        claim + transit,
        "CLEARING_CLAIM_SECONDS and the time that a request may be on its way",
        "CLEARING_CLAIM_SECONDS",
        "SIGNATURE_VALIDITY_SECONDS",
        "CLOCK_SKEW_SECONDS_MAX",
        deadline_name,
    )
    config.at_least("RETRY_CAP_MS", settings["RETRY_CAP_MS"], settings["RETRY_BASE_MS"], "RETRY_BASE_MS", "RETRY_BASE_MS")


def _database(config: Configuration, settings: Mapping[str, Any]) -> None:
    """DATABASE_STATEMENT_MS_MAX=0 is for migrations: no limit, and nothing to contradict."""
    name, statement_ms = "DATABASE_STATEMENT_MS_MAX", settings["DATABASE_STATEMENT_MS_MAX"]
    config.at_least(
        "CONSUMER_STALL_SECONDS_MAX",
        settings["CONSUMER_STALL_SECONDS_MAX"],
        2 * statement_ms / 1000 + 10,
        "10 s more than a transaction, which takes up to twice DATABASE_STATEMENT_MS_MAX",
        name,
    )
    if statement_ms:
        config.at_most(
            "FENCE_MS_MAX",
            settings["FENCE_MS_MAX"],
            statement_ms - TERM_MARGIN_MS,
            "the next leader waits for it in one statement of at most DATABASE_STATEMENT_MS_MAX",
            name,
        )
        config.at_most(
            "DATABASE_LOCK_MS_MAX",
            settings["DATABASE_SESSION"]["lock_timeout"],
            statement_ms,
            "DATABASE_STATEMENT_MS_MAX ends the statement before",
            name,
        )


def _intake(config: Configuration, settings: Mapping[str, Any]) -> None:
    hours, settle_ms = settings["RECONCILE_HOURS"], settings["RECONCILE_SETTLE_MS"]
    config.at_least(
        "RECONCILE_HOURS",
        hours,
        (settings["RECONCILE_SECONDS"] + settle_ms / 1000) / 3600,
        "RECONCILE_SECONDS and RECONCILE_SETTLE_MS: otherwise orders between two runs are never compared",
        "RECONCILE_SECONDS",
        "RECONCILE_SETTLE_MS",
    )


def _money(config: Configuration, settings: Mapping[str, Any]) -> None:
    config.at_most(
        "CLEARING_MAX_SLIPPAGE_BPS",
        settings["CLEARING_MAX_SLIPPAGE_BPS"],
        settings["CLEARING_HARD_SLIPPAGE_BPS"],
        "CLEARING_HARD_SLIPPAGE_BPS: a fill beyond it isn't believed before",
        "CLEARING_HARD_SLIPPAGE_BPS",
    )
    order, user = settings["CLEARING_ORDER_USDT_MAX"], settings["CLEARING_USER_USDT_PER_DAY_MAX"]
    if user:
        config.at_least(
            "CLEARING_USER_USDT_PER_DAY_MAX",
            user,
            order,
            "CLEARING_ORDER_USDT_MAX: otherwise one order that is allowed parks",
            "CLEARING_ORDER_USDT_MAX",
        )


def _sweep(config: Configuration, settings: Mapping[str, Any]) -> None:
    config.at_most(
        "SWEEP_SECONDS",
        settings["SWEEP_SECONDS"],
        settings["CLEARING_CLAIM_SECONDS"],
        "CLEARING_CLAIM_SECONDS: an interrupted order waits for both",
        "CLEARING_CLAIM_SECONDS",
    )
    config.at_least(
        "PARKED_REMINDER_SECONDS", settings["PARKED_REMINDER_SECONDS"], settings["SWEEP_SECONDS"], "SWEEP_SECONDS: the sweep reminds", "SWEEP_SECONDS"
    )


def _alarms(config: Configuration, settings: Mapping[str, Any]) -> None:
    url, key = settings["ALARM_WEBHOOK_URL"], settings["ALARM_WEBHOOK_KEY"]
    if url and not key:
        config.problem(
            "ALARM_WEBHOOK_KEY", "ALARM_WEBHOOK_KEY is not set: set it to the secret that the receiver of ALARM_WEBHOOK_URL checks alarms with"
        )
    if url:
        config.at_most(
            "ALARM_REPEAT_SECONDS",
            settings["ALARM_REPEAT_SECONDS"],
            settings["PARKED_REMINDER_SECONDS"],
            "PARKED_REMINDER_SECONDS: otherwise reminders aren't posted",
            "PARKED_REMINDER_SECONDS",
        )


def _desk(config: Configuration, settings: Mapping[str, Any]) -> None:
    if settings["PRODUCTION"] and not settings["SECOND_FACTOR"]:
        config.problem("SECOND_FACTOR", "SECOND_FACTOR is off: unset it; in production a password alone doesn't let anybody move money")
