"""What keyd warns of is shown however the command ends, and never in place of why it failed."""

from __future__ import annotations

import pytest

from ioflt import errors
from ioflt.cli.session import connect_keys
from ioflt.keys.client import KeyClient


class Client:
    """Stands in for a keyd that warns, or that is gone by then."""

    def __init__(self, failure: Exception | None = None) -> None:
        self._failure = failure

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held."""

    def warnings(self) -> list[str]:
        if self._failure is not None:
            raise self._failure
        return ["take care"]


def connected(monkeypatch: pytest.MonkeyPatch, client: Client) -> None:
    monkeypatch.setattr(KeyClient, "connect", lambda **_: client)


def test_after_success(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    connected(monkeypatch, Client())
    with connect_keys():
        assert capsys.readouterr().err == ""
    assert capsys.readouterr().err == "ioflt: warning: take care\n"


def test_after_failure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    connected(monkeypatch, Client())
    with pytest.raises(errors.BusyError), connect_keys():
        raise errors.BusyError("open")
    assert capsys.readouterr().err == "ioflt: warning: take care\n"


@pytest.mark.parametrize("failure", [errors.PeerError("keyd is gone"), ConnectionResetError()], ids=repr)
def test_no_failure_is_masked(monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    connected(monkeypatch, Client(failure))
    with pytest.raises(errors.BusyError), connect_keys():
        raise errors.BusyError("open")
