from clearing.running.in_process import InFlight


class TestInFlight:
    def test_one_is_the_first_until_it_is_done(self) -> None:
        in_flight = InFlight()

        with in_flight.claim(7, 3) as first, in_flight.claim(7, 3) as second, in_flight.claim(7, 4) as other_epoch:
            assert (first, second, other_epoch) == (True, False, True)

        with in_flight.claim(7, 3) as again:
            assert again

    def test_who_came_second_leaves_the_first_in_its_place(self) -> None:
        in_flight = InFlight()

        with in_flight.claim(7, 3):
            with in_flight.claim(7, 3):
                pass
            with in_flight.claim(7, 3) as third:
                assert not third
