"""The plan of an endurance run: reproducible by its seed, with the given shares of faults."""

from tests.endurance.channel import Channel, Statement, statements


def plan(seed: int, orders: int = 20_000) -> list[Statement]:
    return list(statements(seed, orders, Channel()))


def test_the_same_seed_makes_the_same_orders_and_fates() -> None:
    assert plan(7, 500) == plan(7, 500)
    assert plan(7, 500) != plan(8, 500)


def test_so_many_messages_are_lost_repeated_and_delayed() -> None:
    messages = plan(1)

    shares = {
        "dropped": sum(message.dropped for message in messages) / len(messages),
        "repeated": sum(len(message.sendings) > 1 for message in messages) / len(messages),
        "delayed": sum(message.delayed for message in messages) / len(messages),
    }

    assert 0.015 < shares["dropped"] < 0.025
    assert 0.08 < shares["repeated"] < 0.12
    assert 0.005 < shares["delayed"] < 0.015
    assert 50 < max(sending.after_seconds for message in messages for sending in message.sendings) < 61


def test_every_order_comes_once_and_of_a_user_of_its_own() -> None:
    drafts = [draft for statement in plan(1, 1_000) for draft in statement.drafts]

    assert len(drafts) == len({draft.order_id for draft in drafts}) == len({draft.user_id for draft in drafts}) == 1_000


def test_messages_of_one_user_s_neighbours_go_to_every_partition() -> None:
    assert {sending.partition for statement in plan(1, 200) for sending in statement.sendings} == {0, 1, 2, 3}
