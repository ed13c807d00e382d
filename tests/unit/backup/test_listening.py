"""Addresses on which exports listen: IP addresses and ports, and nothing that has to be looked up."""

import pytest

from ioflt.backup.listening import Address
from ioflt.errors import UsageError


@pytest.mark.parametrize(
    ("text", "shown", "local"),
    [
        ("127.0.0.1:0", "127.0.0.1:0", True),
        ("127.9.9.9:65535", "127.9.9.9:65535", True),
        ("[::1]:10809", "[::1]:10809", True),
        ("0.0.0.0:10809", "0.0.0.0:10809", False),
        ("[fe80:0::1]:1", "[fe80::1]:1", False),
        ("192.0.2.1:1", "192.0.2.1:1", False),
    ],
)
def test_an_address_and_a_port(text: str, shown: str, local: bool) -> None:
    address = Address.parse(text)
    assert (str(address), address.local) == (shown, local)


@pytest.mark.parametrize(
    "text", ["", ":", "10809", "localhost:1", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:-1",
             "127.0.0.1:٣", "127.0.0.1: 1", "127.0.0.1:1_0", "127.1:1", "::1"],
)  # fmt: skip
def test_what_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Address.parse(text)
