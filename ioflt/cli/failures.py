"""A failure as the user sees it: `ioflt: what happened`, `hint: what to do`, or one JSON object."""

from __future__ import annotations

import json
import sys
import traceback

import click

from ioflt.cli.exits import Exit, exit_code
from ioflt.cli.hints import hint_for
from ioflt.cli.render import printable
from ioflt.errors import DeniedError, IofltError

#: How a denial by a lacking privilege begins.
_DENIAL = "permission denied: "


def report(error: BaseException, *, as_json: bool, numbered: bool = False) -> int:
    """Tell the user of `error` on standard error, `numbered` with VDDK's name and number for it.

    Returns the exit code.
    """
    code = exit_code(error)
    if isinstance(error, BrokenPipeError):
        _forget_stdout()
        return code
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return code
    message, hint = _message(error), hint_for(error)
    vddk = _number(error) if numbered else None
    if as_json:
        failure = {
            "error": type(error).__name__,
            "message": message,
            "file": getattr(error, "file", getattr(error, "filename", None)),
            "hint": hint,
            "exit_code": code,
        }
        if numbered:
            failure["vddk"] = None if vddk is None else {"name": vddk[0], "number": vddk[1]}
        print(json.dumps(failure), file=sys.stderr)
        return code
    if isinstance(error, click.Abort) and sys.stderr.isatty():
        print(file=sys.stderr)  # behind the terminal's ^C
    if code == Exit.BUG:
        traceback.print_exception(error)
    told = "" if vddk is None else f" ({vddk[0]} {vddk[1]})"
    print(f"ioflt: {printable(message)}{told}", file=sys.stderr)
    if hint:
        print(f"hint: {printable(hint)}", file=sys.stderr)
    return code


def _number(error: BaseException) -> tuple[str, int] | None:
    from ioflt.backup.vddk import number_of

    return number_of(error)


def _message(error: BaseException) -> str:
    if isinstance(error, DeniedError) and error.message.startswith(_DENIAL):
        return error.message  # it names the VM; which file of it came first says nothing
    if isinstance(error, IofltError):
        return str(error)
    if isinstance(error, click.Abort | KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, click.ClickException):
        message = " ".join(error.format_message().split())  # click sets choices on lines of their own
        return (message[:1].lower() + message[1:]).removesuffix(".")
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return f"internal error: {type(error).__name__}: {error}"


def _forget_stdout() -> None:
    """Nobody reads any more: keep the interpreter from failing once more when it flushes at exit."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
