"""The users and groups of this host, as principals."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Iterable

from ioflt.access import principals
from ioflt.access.principals import Caller, Kind, Principal
from ioflt.transport.unix import Peer


def exists(uid: int) -> bool:
    """Whether an account of this host has that uid."""
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def user(uid: int) -> Principal:
    """By name; by number where it has none."""
    try:
        return principals.user(pwd.getpwuid(uid).pw_name)
    except KeyError:
        return principals.user(str(uid))


def group(gid: int) -> Principal:
    """By name; by number where it has none."""
    try:
        return principals.group(grp.getgrgid(gid).gr_name)
    except KeyError:
        return principals.group(str(gid))


def caller(peer: Peer) -> Caller:
    """Who is at the other end of a connection, with the groups that the kernel knows."""
    return Caller(user(peer.uid), frozenset(map(group, peer.groups)), trusted=peer.uid == 0)


def caller_named(principal: Principal) -> Caller:
    """A user with the groups that a login would give him; others have none."""
    if principal.kind is not Kind.USER:
        return Caller(principal)
    try:
        entry = pwd.getpwnam(principal.name)
    except KeyError:
        return Caller(principal)
    return Caller(principal, frozenset(map(group, os.getgrouplist(entry.pw_name, entry.pw_gid))))


def members(of: Iterable[Principal]) -> list[Caller]:
    """All users of these groups whom this host can name."""
    found: set[str] = set()
    for each in of:
        try:
            entry = grp.getgrnam(each.name)
        except KeyError:
            continue
        found.update(entry.gr_mem)
        found.update(account.pw_name for account in pwd.getpwall() if account.pw_gid == entry.gr_gid)
    return [caller_named(principals.user(name)) for name in sorted(found)]
