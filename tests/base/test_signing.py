import pytest

from base.signing import sign


class TestSign:
    def test_covers_method_target_time_and_body(self) -> None:
        # printf 'POST\n/fund/v1/transfers\n1700000000000\n{"key":"a:2"}' | openssl dgst -sha256
        # -hmac secret
        signature = sign("secret", "POST", "/fund/v1/transfers", 1_700_000_000_000, b'{"key":"a:2"}')

        assert signature == "f1ed9d30e9b078b5e4ee76e9df5d6070a526b50b8841f6f06171435f146d9668"

    @pytest.mark.parametrize(
        "changed",
        [
            ("other", "POST", "/v1/transfers", 1, b"{}"),
            ("secret", "GET", "/v1/transfers", 1, b"{}"),
            ("secret", "POST", "/v1/transfers?a=1", 1, b"{}"),
            ("secret", "POST", "/v1/transfers", 2, b"{}"),
            ("secret", "POST", "/v1/transfers", 1, b"{ }"),
        ],
    )
    def test_changes_with_each_of_them(self, changed: tuple[str, str, str, int, bytes]) -> None:
        assert sign(*changed) != sign("secret", "POST", "/v1/transfers", 1, b"{}")
