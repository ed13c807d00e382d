"""Advice for who may not, and for roles, permissions, folders and services. See `advice`."""

from __future__ import annotations

import shlex

from ioflt import errors
from ioflt.cli.key_advice import Row

ACCESS: tuple[Row, ...] = (
    (
        errors.MalformedError,
        "does not say who may what",
        lambda _: (
            "put a sound one there, or move it away: keyd's owner is the only administrator then; either way"
            " the next keyd reads it: ioflt keyd stop"
        ),
    ),
    (
        errors.DeniedError,
        "the last user with",
        lambda _: "give it to another first: ioflt permission grant WHO ROLE everything",
    ),
    (
        errors.DeniedError,
        "duties are separate",
        lambda _: "nothing was changed; see who has what: ioflt permission list",
    ),
    (
        errors.UsageError,
        "no such privilege",
        lambda _: "see them all: ioflt role show administrator",
    ),
    (
        errors.NotFoundError,
        "no such role",
        lambda _: "see the roles that are here: ioflt role list",
    ),
    (
        errors.UsageError,
        "the role .* is in use",
        lambda _: "take it from them first: ioflt permission revoke WHO OBJECT",
    ),
    (
        errors.UsageError,
        "a built-in role stays",
        lambda _: "make one that has less: ioflt role create ROLE --privilege ID",
    ),
    (
        errors.NotFoundError,
        "no such folder",
        lambda _: "see the folders that are here: ioflt folder list",
    ),
    (
        errors.NotFoundError,
        "no event log of a folder",
        lambda error: (
            "a folder has one from then on:"
            f" ioflt folder set {shlex.quote(error.message.rpartition(' ')[2])} --events"
        ),
    ),
    (
        errors.NotFoundError,
        "no such service",
        lambda _: "see the services that are here: ioflt service list; make one: ioflt service create NAME",
    ),
    (
        errors.NotFoundError,
        "has no permission on",
        lambda _: "see who has what on which object: ioflt permission list",
    ),
    (
        errors.ExistsError,
        "is in the folder",
        lambda error: (
            "it is in one folder at most; take it out:"
            f" ioflt folder remove {shlex.quote(error.message.rpartition(' ')[2])} OBJECT"
        ),
    ),
    (
        errors.DeniedError,
        "only root does that with the key providers",
        lambda _: "run it as root: sudo ioflt …; to see them: ioflt keyd status",
    ),
    (
        errors.DeniedError,
        "root makes the mounts of this machine",
        lambda _: (
            "sudo ioflt mount DIR MOUNTPOINT --as USER; that user alone sees it, and what his roles allow"
        ),
    ),
    (
        errors.DeniedError,
        r"^permission denied: Authorization\.ModifyPermissions on (?!everything$|folder:)",
        lambda _: (
            "who has it on a datastore or a folder gives there; on a single VM once a folder lists that VM"
            " itself: ioflt folder add NAME DIR/VM"
        ),
    ),
    (
        errors.DeniedError,
        "^permission denied: .*, which has the key of .* as well$",
        lambda _: (
            "who reads one has the key of both, also where one was erased; a key of its own ends that:"
            " ioflt vm recrypt DIR/VM"
        ),
    ),
    (
        errors.DeniedError,
        "^permission denied: ",
        lambda _: (
            "who administers it may give you a role that has it: ioflt permission grant WHO ROLE OBJECT"
        ),
    ),
)
