import threading
import time
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
import pytest

from base.http import AnswerLost, HttpAnswer, NotSent
from clearing.gateways import (
    Blocked,
    ClaimEnded,
    Counterparty,
    Gateways,
    KeyReused,
    Rejected,
    Retryable,
    StillPending,
    StoredRequest,
    UnknownOutcome,
)
from clearing.gateways.http import Limits, over
from clearing.gateways.types import Action
from clearing.policy.outcomes import TABLE, Health
from clearing.status import Outcome
from tests.gateways.sides import EndedClock, WallClock

STORED = StoredRequest(Counterparty.COUNTER, Action.ADJUST, "O1:1", b'{"key":"O1:1"}')
DONE = b'{"key":"O1:1","state":"done","reference":"r","done_at_ms":1}'
NOW = WallClock()


class Scripted:
    """A client that gives these answers in turn, and remembers what it was asked."""

    def __init__(self, *answers: HttpAnswer | Exception) -> None:
        self.answers = list(answers)
        self.requests: list[tuple[str, str, bytes]] = []
        self.deadlines_ms: list[int] = []

    def request(
        self,
        method: Literal["GET", "POST"],
        path: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        deadline_ms: int,
        timestamp_ms: int,
    ) -> HttpAnswer:
        self.requests.append((method, path, body))
        self.deadlines_ms.append(deadline_ms)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def gateways(client: Any, *, calls_max: int = 4, slot_wait_ms: int = 20) -> Gateways:
    return over(lambda _: client, Limits(deadline_ms=1_000, calls_max=calls_max, slot_wait_ms=slot_wait_ms))


def problem(status: int, code: str, *, retry_after_s: int | None = None, sent_twice: bool = False, scope: object = None) -> HttpAnswer:
    body = msgspec.json.encode({"type": "about:blank", "title": "", "status": status, "code": code, "detail": "so it is", "scope": scope})
    return HttpAnswer(status, "application/problem+json", retry_after_s, body, sent_twice=sent_twice)


def outcome_of(answer: HttpAnswer | Exception) -> Any:
    """What a call ends with."""
    with pytest.raises(Exception) as ended:  # noqa: PT011 - which one it is, the tests say
        gateways(Scripted(answer)).perform(STORED, NOW)
    return ended.value


class TestOutcome:
    @pytest.mark.parametrize(("status", "code"), [key for key, rule in TABLE.items() if rule.outcome == Outcome.REJECTED])
    def test_a_final_code_rejects(self, status: int, code: str) -> None:
        outcome = outcome_of(problem(status, code))

        assert isinstance(outcome, Rejected)
        assert outcome.code == code
        assert outcome.body == problem(status, code).body

    @pytest.mark.parametrize(("status", "code"), [(400, "account_unknown"), (404, "not_found"), (404, "unknown_key"), (410, "gone"), (402, "pay")])
    def test_any_other_code_is_no_evidence(self, status: int, code: str) -> None:
        outcome = outcome_of(problem(status, code))

        assert isinstance(outcome, UnknownOutcome)
        assert outcome.code == code

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 410, 422, 429])
    def test_a_refusal_by_someone_in_between_is_no_evidence(self, status: int) -> None:
        page = HttpAnswer(status, "text/html", 3, b"<html>Not here</html>")

        outcome = outcome_of(page)

        assert isinstance(outcome, UnknownOutcome)
        assert (outcome.code, outcome.retry_after_ms) == ("unreadable_body", 3_000)

    @pytest.mark.parametrize(
        "changed",
        [{"status": 500}, {"status": "404"}, {"code": ""}, {"code": "Account Unknown"}, {"code": "a\x00"}, {"code": None}, {"code": "x" * 65}],
    )
    def test_a_problem_that_contradicts_itself_is_no_evidence(self, changed: dict[str, Any]) -> None:
        fields = {"type": "about:blank", "status": 404, "code": "account_unknown", **changed}

        outcome = outcome_of(HttpAnswer(404, "application/problem+json", None, msgspec.json.encode(fields)))

        assert isinstance(outcome, UnknownOutcome)
        assert outcome.code == "unreadable_body"

    @pytest.mark.parametrize("status", [100, 201, 204, 206, 301, 307, 500, 502, 503, 504, 599])
    def test_a_status_that_the_contract_doesnt_have_is_no_evidence(self, status: int) -> None:
        outcome = outcome_of(HttpAnswer(status, "application/json", None, DONE))

        assert isinstance(outcome, UnknownOutcome)
        assert outcome.code == f"status_{status}"

    def test_an_unavailable_counterparty_may_say_for_how_long(self) -> None:
        outcome = outcome_of(problem(503, "unavailable", retry_after_s=5))

        assert isinstance(outcome, UnknownOutcome)
        assert outcome.retry_after_ms == 5_000

    def test_in_progress_is_pending(self) -> None:
        outcome = outcome_of(problem(409, "in_progress", retry_after_s=1))

        assert isinstance(outcome, StillPending)
        assert outcome.retry_after_ms == 1_000

    def test_an_acceptance_of_another_key_is_no_evidence(self) -> None:
        outcome = outcome_of(HttpAnswer(202, "application/json", None, b'{"key":"O2:1","state":"in_progress","retry_after_ms":1}'))

        assert isinstance(outcome, UnknownOutcome)

    @pytest.mark.parametrize(
        ("answer", "health"),
        [
            (NotSent("connection_refused"), Health.FAILING),
            (NotSent("request_unsendable"), Health.WELL),
            (AnswerLost("timeout"), Health.FAILING),
            (HttpAnswer(503, "text/html", None, b""), Health.FAILING),
            (problem(400, "insufficient_funds"), Health.WELL),
            (problem(401, "signature_invalid"), Health.FORBIDDING),
            (problem(403, "forbidden"), Health.FORBIDDING),
            (problem(429, "too_many_requests"), Health.LIMITING),
            (problem(429, "too_many_requests", scope="all"), Health.LIMITING_ALL),
            (problem(429, "too_many_requests", scope={"all": 1}), Health.LIMITING),
            (problem(400, "insufficient_funds", scope="all"), Health.WELL),
        ],
    )
    def test_an_answer_tells_of_the_counterparty_too(self, answer: HttpAnswer | Exception, health: Health) -> None:
        assert outcome_of(answer).health == health

    def test_a_reused_key_is_an_error_of_its_own(self) -> None:
        assert isinstance(outcome_of(problem(422, "key_reused")), KeyReused)

    def test_a_lost_answer_is_unknown(self) -> None:
        outcome = outcome_of(AnswerLost("timeout", "after 1000 ms"))

        assert isinstance(outcome, UnknownOutcome)
        assert (outcome.code, outcome.detail) == ("timeout", "after 1000 ms")

    def test_what_wasnt_sent_can_be_sent_later(self) -> None:
        outcome = outcome_of(NotSent("name_not_found"))

        assert isinstance(outcome, Retryable)
        assert (outcome.code, outcome.counted) == ("name_not_found", True)

    @pytest.mark.parametrize(
        ("status", "code"), [(401, "signature_invalid"), (401, "signature_stale"), (403, "forbidden"), (429, "too_many_requests")]
    )
    def test_an_answer_to_a_second_sending_is_no_evidence_of_the_first(self, status: int, code: str) -> None:
        outcome = outcome_of(problem(status, code, sent_twice=True))

        assert isinstance(outcome, UnknownOutcome)
        assert outcome.code == code


class TestStaleSignature:
    def test_is_made_anew_with_what_is_left_of_the_deadline(self) -> None:
        client = Scripted(problem(401, "signature_stale"), HttpAnswer(200, "application/json", None, DONE))

        done = gateways(client).perform(STORED, NOW)

        assert done.body == DONE
        assert client.requests == [("POST", "/v1/adjustments", STORED.body)] * 2
        assert client.deadlines_ms[1] <= client.deadlines_ms[0] == 1_000

    def test_that_is_refused_again_when_it_is_fresh_is_the_counterpartys_word(self) -> None:
        client = Scripted(problem(401, "signature_stale"), problem(401, "signature_stale"))

        with pytest.raises(Retryable) as refused:
            gateways(client).perform(STORED, NOW)

        assert (refused.value.health, refused.value.counted) == (Health.FORBIDDING, False)

    def test_of_a_call_that_has_no_time_left_says_nothing_of_the_counterparty(self) -> None:
        class Frozen(Scripted):
            def request(self, *arguments: Any, **named: Any) -> HttpAnswer:
                time.sleep(0.02)
                return super().request(*arguments, **named)

        with pytest.raises(Retryable) as stale:
            over(lambda _: Frozen(problem(401, "signature_stale")), Limits(deadline_ms=10, calls_max=1, slot_wait_ms=1)).perform(STORED, NOW)

        assert (stale.value.code, stale.value.health) == ("signature_stale", Health.WELL)

    def test_isnt_made_anew_once_the_claim_has_ended(self) -> None:
        client = Scripted(problem(401, "signature_stale"))

        with pytest.raises(ClaimEnded):
            gateways(client).perform(STORED, EndsAfterOne())

        assert len(client.requests) == 1

    def test_that_is_the_proxys_word_isnt_believed(self) -> None:
        outcome = outcome_of(HttpAnswer(401, "text/plain", None, b"signature_stale"))

        assert isinstance(outcome, UnknownOutcome)


class EndsAfterOne:
    def __init__(self) -> None:
        self._left = 1

    def timestamp_ms(self) -> int:
        self._left -= 1
        if self._left < 0:
            raise ClaimEnded
        return NOW.timestamp_ms()


class TestSlots:
    def test_who_finds_none_gives_up_soon_and_isnt_counted(self) -> None:
        client = Blocking()
        doors = gateways(client, calls_max=1)
        holder = threading.Thread(target=doors.perform, args=(STORED, NOW))
        holder.start()
        client.entered.wait(5)

        with pytest.raises(Blocked) as busy:
            doors.perform(STORED, EndedClock())
        with pytest.raises(Blocked) as unasked:
            doors.query(STORED, EndedClock())

        assert holder.is_alive()  # it has the slot still
        client.leave.set()
        holder.join()
        assert (busy.value.code, busy.value.counted) == ("counterparty_busy", False)
        assert unasked.value.code == "counterparty_busy"

    def test_are_given_back_after_every_end(self) -> None:
        ends: list[HttpAnswer | Exception] = [
            AnswerLost("timeout"),
            NotSent("connection_refused"),
            problem(400, "amount_invalid"),
            RuntimeError("a bug"),
        ]
        doors = gateways(Scripted(*ends, HttpAnswer(200, "application/json", None, DONE)), calls_max=1)
        for _ in ends:
            with pytest.raises(Exception):  # noqa: B017, PT011 - all of them
                doors.perform(STORED, NOW)

        assert doors.perform(STORED, NOW).body == DONE

    def test_of_one_counterparty_arent_the_others(self) -> None:
        client = Blocking()
        doors = gateways(client, calls_max=1)
        holder = threading.Thread(target=doors.perform, args=(STORED, NOW))
        holder.start()
        client.entered.wait(5)
        client.leave.set()

        with pytest.raises(UnknownOutcome, match="unreadable_body"):
            doors.perform(StoredRequest(Counterparty.FUND, Action.TRANSFER, "O1:2", b'{"asset":"USDT","amount":"1"}'), NOW)

        holder.join()


class Blocking:
    """A counterparty that answers only when it is let."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.leave = threading.Event()

    def request(self, *_: Any, **__: Any) -> HttpAnswer:
        self.entered.set()
        self.leave.wait(60)
        return HttpAnswer(200, "application/json", None, DONE)


class TestQuestion:
    @pytest.mark.parametrize(
        ("key", "in_path"),
        [
            ("O.1_2~3-4:3.2:r1", "O.1_2~3-4:3.2:r1"),  # as it is: nothing in between can spoil the signature by decoding it
            ("O/1:3", "O%2F1:3"),  # accepted by a release that took such ids
        ],
    )
    def test_names_the_key_as_it_is(self, key: str, in_path: str) -> None:
        client = Scripted(problem(404, "unknown_key"))

        assert gateways(client).query(StoredRequest(Counterparty.COUNTER, Action.ADJUST, key, b"{}"), NOW) is None
        assert client.requests == [("GET", f"/v1/operations/{in_path}", b"")]

    @pytest.mark.parametrize(
        "answer",
        [
            HttpAnswer(404, "text/html", None, b"<html>no such page</html>"),
            problem(404, "account_unknown"),
            problem(410, "unknown_key"),
            problem(400, "insufficient_funds"),
            problem(422, "key_reused"),
            HttpAnswer(202, "application/json", None, b'{"key":"O1:1","state":"in_progress","retry_after_ms":1}'),
            HttpAnswer(200, "application/json", None, DONE),
            HttpAnswer(200, "application/json", None, b'{"key":"O1:1","state":"rejected","status":400,"problem":{"code":"x","status":404}}'),
            HttpAnswer(200, "application/json", None, b'{"key":"O1:1","state":"done","result":{"key":"O2:1","state":"done"}}'),
        ],
    )
    def test_that_isnt_answered_by_the_contract_leaves_the_outcome_unknown(self, answer: HttpAnswer) -> None:
        with pytest.raises(UnknownOutcome):
            gateways(Scripted(answer)).query(STORED, NOW)

    def test_passes_on_retry_after_of_a_status_query(self) -> None:
        with pytest.raises(UnknownOutcome) as unknown:
            gateways(Scripted(problem(429, "too_many_requests", retry_after_s=2))).query(STORED, NOW)

        assert unknown.value.retry_after_ms == 2_000
