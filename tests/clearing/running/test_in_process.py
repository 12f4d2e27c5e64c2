from clearing.running.in_process import UnderWay


class TestUnderWay:
    def test_one_is_the_first_until_it_is_done(self) -> None:
        under_way = UnderWay()

        with under_way.entered(7, 3) as first, under_way.entered(7, 3) as second, under_way.entered(7, 4) as other_epoch:
            assert (first, second, other_epoch) == (True, False, True)

        with under_way.entered(7, 3) as again:
            assert again

    def test_who_came_second_leaves_the_first_in_its_place(self) -> None:
        under_way = UnderWay()

        with under_way.entered(7, 3):
            with under_way.entered(7, 3):
                pass
            with under_way.entered(7, 3) as third:
                assert not third
