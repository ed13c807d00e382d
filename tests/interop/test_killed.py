"""Every command that rewrites, moves or removes a VM, killed and failed at the system calls of its process.

Whatever the call: the VM is as before, or under way and goes on by the next command on its datastore or by
the same command again. Then every byte is right, the datastore sound, and nothing clear was ever written.

`make calls` does it at each of them; `make test` at some of each command, at others every day.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.interop.rig import Operation, Point, Rig, Tally, hit, read_record
from tests.mounted.place import Place
from tests.unit.datastore.test_erase import Held, is_wiped

pytestmark = [pytest.mark.interop("strace"), pytest.mark.slow]

#: Most runs of a command in `make test`: of 200 to 600 points, at 1 to 2 s each.
SOME = 10


@pytest.fixture
def rig(place: Place) -> Iterator[Rig]:
    far = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="ioflt-far-"))  # another file system
    try:
        yield Rig(place, far)
    finally:
        shutil.rmtree(far)


def _rekeyed(rig: Rig) -> bool:
    record = read_record(rig.near / "web")
    return record.operation is None and set(record.keys).isdisjoint(rig.record.keys)


def _rewritten(rig: Rig) -> bool:
    record = read_record(rig.near / "web")
    return record.operation is None and record.generation > rig.record.generation


def _moved(top: Path) -> bool:
    return (top / "www").exists()


def _hides_nothing(top: Path) -> bool:
    hidden = top / ".ioflt.d"
    return not hidden.exists() or not any(hidden.iterdir())


def _clear(rig: Rig) -> tuple[str, ...] | None:
    record = read_record(rig.near / "web")
    return record.clear_files if record.operation is None else None


CLEAR = frozenset({"clear.vmdk", "clear-flat.vmdk"})
DISK = frozenset({"disk.vmdk", "disk-flat.vmdk"})


def _held(rig: Rig) -> Callable[[], None]:
    """The blocks of what opens a file are overwritten; a clear file has none."""
    held = Held(rig.near / "web")
    for name in CLEAR:
        del held.before[rig.near / "web" / name]

    def judge() -> None:
        assert is_wiped(held)
        held.close()

    return judge


OPERATIONS = [
    Operation("recrypt", lambda rig: ("vm", "recrypt", rig.near / "web"), _rekeyed),
    *(
        Operation(
            f"recrypt --deep --mode {mode}",
            lambda rig, mode=mode: ("vm", "recrypt", "--deep", "--mode", mode, rig.near / "web"),
            _rewritten,
            readable=mode == "copy",
        )
        for mode in ("copy", "journal")
    ),
    Operation(
        "move to another file system",
        lambda rig: ("vm", "move", rig.near / "web", rig.far / "www"),
        lambda rig: _moved(rig.far) and not (rig.near / "web").exists(),
    ),
    Operation(
        "move to another key",
        lambda rig: ("vm", "move", rig.near / "web", rig.other / "www", "--provider", "local"),
        lambda rig: _moved(rig.other) and not (rig.near / "web").exists(),
    ),
    Operation(
        "clone",
        lambda rig: ("vm", "clone", rig.near / "web", rig.other / "www"),
        lambda rig: _moved(rig.other),
    ),
    Operation(
        "clone --same-key",
        lambda rig: ("vm", "clone", "--same-key", rig.near / "web", rig.other / "www"),
        lambda rig: _moved(rig.other),
    ),
    Operation(
        "erase",
        lambda rig: ("vm", "erase", "--yes", rig.near / "web"),
        lambda rig: not (rig.near / "web").exists() and _hides_nothing(rig.near),
        watch=_held,
    ),
    Operation(
        "decrypt --disk",
        lambda rig: ("vm", "decrypt", rig.near / "web", "--disk", "disk.vmdk"),
        lambda rig: set(_clear(rig) or ()) == {*CLEAR, *DISK},
        clear=DISK,
    ),
    Operation(
        "encrypt --disk",
        lambda rig: ("vm", "encrypt", rig.near / "web", "--disk", "clear.vmdk"),
        lambda rig: _clear(rig) == (),
    ),
    Operation(
        "rename of a clear file",
        lambda rig: (Path(__file__).parent / "renamer.py", rig.near, "clear.vmdk", "renamed.vmdk"),
        lambda rig: set(_clear(rig) or ()) == {"renamed.vmdk", "clear-flat.vmdk"},
        renames=("clear.vmdk", "renamed.vmdk"),
    ),
]

each = pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)


@each
def test_some_calls(rig: Rig, operation: Operation, record_property) -> None:
    points = rig.points(operation.arguments(rig))
    step = -(-len(points) // SOME)
    _test(rig, operation, points[::step], len(points), record_property)


@pytest.mark.long
@each
def test_every_call(rig: Rig, operation: Operation, record_property) -> None:
    points = rig.points(operation.arguments(rig))
    _test(rig, operation, points, len(points), record_property)


def _test(
    rig: Rig,
    operation: Operation,
    points: list[Point],
    count: int,
    record_property: Callable[[str, object], None],
) -> None:
    assert count > 60
    tally = Tally(count)
    try:
        hit(rig, operation, points, tally)
    finally:
        record_property("figures", f"{operation.name}: {tally}")
    assert tally.missed <= tally.runs // 20
