"""Runs Python under what a unit file allows, as far as that needs no systemd: `as_unit.py UNIT ARGUMENTS…`.

Limits and capabilities first, then, by `--confine` in a second run of this file, address families, system
calls, and memory that is written and run. What the unit says of the file system is not here.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NoReturn

_PR_SET_NO_NEW_PRIVS = 38  # linux/prctl.h
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000  # seccomp.h
_EQUAL, _MASKED_EQUAL = 4, 7
_FAMILIES = 64  # more than Linux has
_WRITE, _RUN = 2, 4  # PROT_WRITE, PROT_EXEC
_LIMITS = {
    "LimitCORE": resource.RLIMIT_CORE,
    "LimitMEMLOCK": resource.RLIMIT_MEMLOCK,
    "LimitNOFILE": resource.RLIMIT_NOFILE,
}


class _Compare(ctypes.Structure):
    """struct scmp_arg_cmp."""

    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


def _settings(unit: Path) -> dict[str, list[str]]:
    """The words of each setting, of all its lines."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            words = value.split()
            if words[0].startswith("~"):  # it holds for the whole line
                words = [f"~{word.removeprefix('~')}" for word in words]
            found.setdefault(name, []).extend(words)
    return found


def _limit(unit: dict[str, list[str]], *arguments: str) -> NoReturn:
    for name, limit in _LIMITS.items():
        value = resource.RLIM_INFINITY if unit[name] == ["infinity"] else int(unit[name][0])
        with contextlib.suppress(ValueError):  # a container may not raise them
            resource.setrlimit(limit, (value, value))
    kept = [name.removeprefix("CAP_").lower() for name in unit["CapabilityBoundingSet"]]
    capabilities = ",".join(["-all", *(f"+{name}" for name in kept)])
    run = ["setpriv", "--bounding-set", capabilities, "--inh-caps", "-all", sys.executable, "-P", __file__]
    os.execvp(run[0], [*run, "--confine", *arguments])


def _confine(unit: dict[str, list[str]], *arguments: str) -> NoReturn:
    os.umask(int(unit["UMask"][0], 8))
    calls = _system_calls(unit["SystemCallFilter"])
    for name in ("NoNewPrivileges", "MemoryDenyWriteExecute"):
        assert unit[name] == ["yes"]
    assert ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    allowed = {getattr(socket, name) for name in unit["RestrictAddressFamilies"]}
    foreign = [_Compare(0, _EQUAL, family, 0) for family in range(_FAMILIES) if family not in allowed]
    refusals = _Filter(_ALLOW)
    refusals.rules(_ERRNO | errno.EAFNOSUPPORT, ["socket"], foreign)
    refusals.rules(_ERRNO | errno.EPERM, ["mmap"], [_Compare(2, _MASKED_EQUAL, _WRITE | _RUN, _WRITE | _RUN)])
    refusals.rules(_ERRNO | errno.EPERM, ["mprotect"], [_Compare(2, _MASKED_EQUAL, _RUN, _RUN)])
    allow_list = _Filter(_ERRNO | errno.EPERM)
    allow_list.rules(_ALLOW, calls)
    refusals.load()
    allow_list.load()
    os.execv(sys.executable, [sys.executable, *arguments])


def _system_calls(words: Iterable[str]) -> set[str]:
    """What is allowed after all lines, as systemd takes them: one after the other."""
    allowed: set[str] = set()
    for word in words:
        members = set(_members(word.removeprefix("~")))
        allowed = allowed - members if word.startswith("~") else allowed | members
    return allowed | set(_members("@default"))


def _members(name: str) -> Iterator[str]:
    if not name.startswith("@"):
        yield name
        return
    asked = ["systemd-analyze", "syscall-filter", name]
    shown = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    for line in shown.splitlines()[1:]:
        if line.strip() and not line.strip().startswith("#"):
            yield from _members(line.strip())


class _Filter:
    """A seccomp filter: what is done with a call that no rule is for, then the rules."""

    def __init__(self, otherwise: int) -> None:
        self._library = ctypes.CDLL("libseccomp.so.2")
        self._library.seccomp_init.restype = ctypes.c_void_p
        self._filter = ctypes.c_void_p(self._library.seccomp_init(ctypes.c_uint32(otherwise)))

    def rules(self, action: int, calls: Iterable[str], conditions: Iterable[_Compare] = ()) -> None:
        """One rule for each call, or for each condition of it."""
        for name in calls:
            number = self._library.seccomp_syscall_resolve_name(name.encode())
            if number < 0:  # of another architecture, or younger than this libseccomp
                continue
            for one in [[condition] for condition in conditions] or [[]]:
                array = (_Compare * len(one))(*one)
                added = self._library.seccomp_rule_add_array(
                    self._filter, ctypes.c_uint32(action), number, len(one), array
                )
                assert added == 0, f"{name}: {os.strerror(-added)}"

    def load(self) -> None:
        assert self._library.seccomp_load(self._filter) == 0


if __name__ == "__main__":
    if sys.argv[1] == "--confine":
        _confine(_settings(Path(sys.argv[2])), *sys.argv[3:])
    _limit(_settings(Path(sys.argv[1])), *sys.argv[1:])
