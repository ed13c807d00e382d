"""What a library logs while a command runs is one more warning of the command's."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import click
import pytest

from ioflt.cli import logs

LOG = logging.getLogger("ioflt.datastore.deep.home")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    log = logging.getLogger("ioflt")
    before = list(log.handlers)
    logs.show_warnings()
    yield
    log.handlers[:] = before


@pytest.mark.allow_log("resumed|bug")
def test_warnings_have_the_form_of_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    LOG.info("nobody wants to know")
    LOG.warning("an interrupted deep recrypt cannot be resumed now: %s", "a\x1b: no space")
    assert capsys.readouterr().err == (
        "ioflt: warning: an interrupted deep recrypt cannot be resumed now: a\\x1b: no space\n"
    )


@pytest.mark.allow_log("resumed|bug")
def test_each_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    with click.Context(click.Command("vm")):
        for _ in range(2):
            LOG.warning("it cannot be resumed now")
    assert capsys.readouterr().err == "ioflt: warning: it cannot be resumed now\n"


@pytest.mark.allow_log("resumed|bug")
def test_a_bug_shows_where(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise KeyError("missing")
    except KeyError:
        LOG.exception("a bug")
    told = capsys.readouterr().err
    assert "Traceback" in told
    assert told.endswith("ioflt: warning: a bug\n")
