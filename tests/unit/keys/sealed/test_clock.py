"""Time by which keys expire: it goes on whatever is done to the host's clock."""

from hypothesis import given
from hypothesis import strategies as st

from ioflt.keys.sealed.clock import LatestTime


class Host:
    """A host's two clocks: the one that people set, and the one since its start."""

    def __init__(self, wall=1_000_000, running=0):
        self.wall = wall
        self.running = running

    def clock(self):
        return LatestTime(lambda: self.wall, lambda: self.running)

    def passes(self, seconds):
        self.wall += seconds
        self.running += seconds


def test_it_is_the_hosts_clock():
    host = Host()
    clock = host.clock()
    host.passes(100)
    assert clock.now() == 1_000_100


def test_set_back_it_counts_on():
    host = Host()
    clock = host.clock()
    host.wall = 5
    assert clock.now() == 1_000_000
    host.passes(100)
    assert clock.now() == 1_000_100


def test_set_ahead_it_follows():
    host = Host()
    clock = host.clock()
    host.wall = 2_000_000
    assert clock.now() == 2_000_000
    host.wall = 1_000_000
    assert clock.now() == 2_000_000


def test_what_an_earlier_process_saw():
    host = Host(wall=5)  # as a machine without a battery starts
    clock = host.clock()
    clock.not_before(900_000)
    host.passes(100)
    assert clock.now() == 900_100
    clock.not_before(3)
    assert clock.now() == 900_100
    host.wall = 1_000_000  # the network told it
    assert clock.now() == 1_000_000


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**5))))
def test_it_never_goes_back_nor_stands_still(steps):
    host = Host()
    clock = host.clock()
    for wall, passes in steps:
        before = clock.now()
        host.wall = wall
        host.passes(passes)
        assert clock.now() >= before + passes
        assert clock.now() >= host.wall
