"""What every test lives under.

- Markers name what a test needs; where the machine lacks it, the test is skipped with the reason.
  `--require=fuse,root` turns such a skip into a failure; so is then any skip that no marker explains.
- A log record of WARNING or above that the test did not announce (`allow_log`) fails it.
- A mount or process that is still there at the end fails the session.
- Levels run quick ones first; of mounts and other programs the longest files, so that workers end together.
  `async def` tests run under trio, with the clock fixture they ask for.
"""

from __future__ import annotations

import inspect
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import trio
import trio.testing

from tests import forked
from tests.daemons import end_keyd

LEVELS = ("unit", "machines", "vectors", "contracts", "operations", "cli", "golden", "mounted", "interop")

#: Files that take a minute and more, longest first.
LONGEST = (
    "mounted/test_who_may.py",
    "interop/test_killed.py",
    "mounted/test_who_keeps_keys.py",
    "mounted/test_who_administers.py",
    "mounted/test_who_mounts.py",
    "mounted/test_no_cryptography.py",
    "mounted/test_clear_disks.py",
    "mounted/test_kill.py",
    "mounted/test_lock.py",
    "mounted/test_two_mounts.py",
    "mounted/test_posix.py",
    "mounted/test_fio.py",
    "mounted/test_power_cut.py",
    "mounted/test_stress.py",
    "interop/test_migration.py",
    "interop/test_testbed.py",
    "interop/test_backup_tools.py",
)

#: Files whose tests go to whichever worker is free, one by one: they take long, and share little or nothing.
APART = ("mounted/test_who_may.py", "interop/test_killed.py", "unit/datastore/deep/test_deep_crash.py")

#: In the environment of every process that a test starts: tells what is left over from the rest.
SESSION_MARK = "IOFLT_TEST_SESSION"

hypothesis.settings.register_profile("dev", max_examples=50, deadline=None)
hypothesis.settings.register_profile("ci", max_examples=300, deadline=None, derandomize=True)
hypothesis.settings.register_profile("long", max_examples=5000, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


# Capabilities: marker name → why not, or None


def _no_fuse(_programs: tuple[str, ...]) -> str | None:
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse cannot be opened"
    return _no_programs(("fusermount3",))


def _no_root(_programs: tuple[str, ...]) -> str | None:
    return None if os.geteuid() == 0 else "needs root"


def _no_loop(_programs: tuple[str, ...]) -> str | None:
    return None if os.access("/dev/loop-control", os.R_OK | os.W_OK) else "/dev/loop-control cannot be opened"


def _no_programs(programs: tuple[str, ...]) -> str | None:
    absent = [name for name in programs if shutil.which(name) is None]
    return f"not installed: {', '.join(absent)}" if absent else None


def _no_qemu(_programs: tuple[str, ...]) -> str | None:
    return _no_programs(("qemu-system-x86_64",))


def _no_interop(programs: tuple[str, ...]) -> str | None:
    return _no_programs(programs or ("qemu-img", "qemu-io", "cryptsetup"))


CAPABILITIES: dict[str, Callable[[tuple[str, ...]], str | None]] = {
    "fuse": _no_fuse,
    "root": _no_root,
    "loop": _no_loop,
    "qemu": _no_qemu,
    "interop": _no_interop,
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require",
        default="",
        metavar="NAMES",
        help=f"comma-separated capabilities whose absence is a failure: {', '.join(CAPABILITIES)}",
    )
    parser.addoption("--long", action="store_true", help="run the long tests too (hours)")
    parser.addoption("--update-cli", action="store_true", help="rewrite the output in tests/cli/*.txt")
    parser.addoption("--pure", action="store_true", help="expect the C files not to be built")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "allow_log(pattern): log records of WARNING+ that match are expected")
    config.addinivalue_line("markers", "long: takes minutes to hours; run by --long only")
    unknown = _required(config) - CAPABILITIES.keys()
    if unknown:
        raise pytest.UsageError(f"--require: unknown {', '.join(sorted(unknown))}")
    if config.getoption("--pure"):
        config.addinivalue_line("filterwarnings", "ignore::RuntimeWarning:ioflt")
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup has it ignored, by all that tests start, too
    os.environ[SESSION_MARK] = f"{os.getpid()}-{time.time_ns()}"
    beside = Path(tempfile.gettempdir()).parent if hasattr(config, "workerinput") else None
    base = Path(tempfile.mkdtemp(prefix="ioflt-", dir=beside))  # a worker's not below its starter's
    config.stash[_base] = base
    if config.option.basetemp is None:
        config.option.basetemp = str(base / "t")
    tempfile.tempdir = os.environ["TMPDIR"] = str(base)
    os.environ["IOFLT_HOME"] = str(base / "h")  # no test writes what belongs to the machine


_base = pytest.StashKey[Path]()  # holds everything that the tests of this session put on disk
_lacking = pytest.StashKey[bool]()
_left = pytest.StashKey[bool]()


def _required(config: pytest.Config) -> set[str]:
    return {name for name in str(config.getoption("--require")).split(",") if name}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    here, last = Path(__file__).parent, LEVELS.index("mounted")

    def turn(item: pytest.Item) -> tuple[int, int, int]:
        path = item.path.relative_to(here)
        level = LEVELS.index(path.parts[0]) if path.parts[0] in LEVELS else len(LEVELS)
        length = LONGEST.index(str(path)) if str(path) in LONGEST else len(LONGEST)
        return min(level, last), length, level

    items.sort(key=turn)
    if not config.getoption("--long"):
        long = [item for item in items if item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


def pytest_runtest_setup(item: pytest.Item) -> None:
    required = _required(item.config)
    for name, why_not in CAPABILITIES.items():
        for marker in item.iter_markers(name):
            reason = why_not(marker.args)
            if reason and name in required:
                pytest.fail(f"required, but {reason}", pytrace=False)
            if reason:
                item.stash[_lacking] = True
                pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    explained = item.stash.get(_lacking, False) or hasattr(report, "wasxfail")
    if report.skipped and not explained and _required(item.config):
        report.outcome = "failed"
        report.longrepr = f"skipped under --require: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if report.skipped and _required(collector.config):
        report.outcome = "failed"
        report.longrepr = f"skipped under --require: {report.longrepr}"
    return report


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """`--dist loadfile`, in the order of the tests, and with the files that are `APART`."""
    from xdist.scheduler import LoadFileScheduling

    class Files(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return nodeid if file.endswith(APART) else file

    if config.getoption("dist") != "loadfile":
        return None
    config.option.loadscopereorder = False  # else by the number of tests: few long ones come last
    return Files(config, log)


# Async tests


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    """A clock that jumps ahead when every task waits: timeouts cost no time."""
    return trio.testing.MockClock(autojump_threshold=0)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    function = pyfuncitem.obj
    if not inspect.iscoroutinefunction(function):
        return None
    wanted = inspect.signature(function).parameters
    arguments = {name: value for name, value in pyfuncitem.funcargs.items() if name in wanted}
    clock = next((value for value in arguments.values() if isinstance(value, trio.abc.Clock)), None)

    async def run() -> None:
        await function(**arguments)

    trio.run(run, clock=clock)
    return True


# What every test gets


@pytest.fixture(autouse=True)
def _no_unexpected_log(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    allowed = [re.compile(marker.args[0]) for marker in request.node.iter_markers("allow_log")]
    unexpected = [
        f"{record.levelname} {record.name}: {record.getMessage()}"
        for phase in ("setup", "call")
        for record in caplog.get_records(phase)
        if record.levelno >= logging.WARNING
        and not any(pattern.search(record.getMessage()) for pattern in allowed)
    ]
    assert not unexpected, "unexpected log records:\n" + "\n".join(unexpected)


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """A temporary directory whose path is short enough for the address of a unix socket."""
    path = Path(tempfile.mkdtemp(prefix=""))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def ioflt_home(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """$IOFLT_HOME of its own for this test: state and sockets lie below it. Its keyd is ended with it."""
    home = short_tmp / "home"
    home.mkdir(mode=0o700)
    monkeypatch.setenv("IOFLT_HOME", str(home))
    yield home
    end_keyd()


# What is left over


def _fuse_mounts() -> Iterator[str]:
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        fields, _, tail = line.partition(" - ")
        if tail.split(" ", 1)[0].startswith("fuse") and not tail.startswith("fusectl"):
            yield fields.split(" ")[4].encode(errors="surrogateescape").decode("unicode_escape")


def _leftover_processes() -> Iterator[tuple[int, str]]:
    mark = f"{SESSION_MARK}={os.environ[SESSION_MARK]}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
            command = (entry / "cmdline").read_bytes()
        except OSError:  # gone, or not ours to look at
            continue
        if mark in environment and command:
            test = next((one for one in environment if one.startswith(b"PYTEST_CURRENT_TEST=")), b"")
            shown = command.replace(b"\0", b" ") + b" started by " + test.partition(b"=")[2]
            yield int(entry.name), shown.decode(errors="replace")


def pytest_sessionfinish(session: pytest.Session) -> None:
    base = session.config.stash[_base]
    forked.end()
    if session.config.pluginmanager.hasplugin("dsession"):  # the tests ran in workers, which looked
        if session.config.stash.get(_left, False) and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
    elif _anything_left(base):
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["left"] = True
        if session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
    if session.exitstatus == pytest.ExitCode.OK:
        shutil.rmtree(base)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A worker of pytest-xdist has ended."""
    if getattr(node, "workeroutput", {}).get("left", False):
        node.config.stash[_left] = True


def _anything_left(base: Path) -> bool:
    """Name and end what tests left running or mounted; pytest puts the test's name in the environment."""
    deadline = time.monotonic() + 5
    while (processes := dict(_leftover_processes())) and time.monotonic() < deadline:
        time.sleep(0.05)
    mounts = [path for path in _fuse_mounts() if path.startswith(f"{base}/")]
    for pid, command in processes.items():
        print(f"\nleft running: {pid} {command}", file=sys.stderr)
        os.kill(pid, signal.SIGKILL)
    for path in mounts:
        print(f"\nleft mounted: {path}", file=sys.stderr)
        subprocess.run(["fusermount3", "-u", "-z", path], check=False)
    return bool(processes or mounts)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Figures that tests told by `record_property("figures", …)`."""
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for name, value in report.user_properties:
                if name == "figures":
                    terminalreporter.write_line(f"{outcome}: {value}")


def pytest_sessionstart(session: pytest.Session) -> None:
    if session.config.getoption("--pure"):
        from ioflt.crypto import xts

        if xts.NATIVE:
            raise pytest.UsageError("--pure: the C files are built here")
