"""Parts of the reports that mounts and commands send to keyd's event log, cut to what a report takes."""

from __future__ import annotations

from ioflt.errors import IntegrityError
from ioflt.wire import failure
from ioflt.wire.keyd.requests import Report, ReportedChange, ReportedThing
from ioflt.wire.keyd.values import MAX_REPORT_TEXT


def text(words: str) -> str:
    """Fit for a report: valid UTF-8, and not too long."""
    shown = failure.shown(words)
    return shown if len(shown) <= MAX_REPORT_TEXT else shown[: MAX_REPORT_TEXT - 1] + "…"


def change(path: str, before: str | None, after: str | None) -> ReportedChange:
    """One value; None before it was added, or after it was deleted."""
    return ReportedChange(text(path), _or_none(before), _or_none(after))


def damage(
    error: IntegrityError, about: ReportedThing | None, datastore: ReportedThing | None, *, file: str
) -> Report:
    """Sectors of that file did not verify, or its tags are not there. `file`: its path in the datastore."""
    changes = [change("file", None, file)]
    if error.sectors:
        changes.append(change("sectors", None, runs(error.sectors)))
    reason = text(f"{error.reason}: {error.detail}" if error.detail else error.reason)
    return Report("integrity failure", about, datastore, tuple(changes), "failed", reason)


def runs(sectors: tuple[tuple[int, int], ...]) -> str:
    """Runs (first, number) as `3-5, 9`."""
    return ", ".join(str(first) if count == 1 else f"{first}-{first + count - 1}" for first, count in sectors)


def _or_none(words: str | None) -> str | None:
    return None if words is None else text(words)
