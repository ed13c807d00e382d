"""Arithmetic of sectors, against counting bytes one by one."""

from hypothesis import given
from hypothesis import strategies as st

from ioflt.sectors import cover, inner, round_down, round_up
from ioflt.types import SECTOR_SIZE

near = st.builds(
    lambda sector, delta: max(0, sector * SECTOR_SIZE + delta), st.integers(0, 4), st.integers(-2, 2)
)
offsets = st.one_of(near, st.integers(0, 5 * SECTOR_SIZE), st.integers(0, 2**63))
lengths = st.one_of(near, st.integers(0, 3 * SECTOR_SIZE))


@given(offsets)
def test_rounding(length):
    assert round_down(length) <= length <= round_up(length)
    assert round_up(length) - round_down(length) in (0, SECTOR_SIZE)
    assert round_up(length) % SECTOR_SIZE == round_down(length) % SECTOR_SIZE == 0
    assert (round_up(length) == length) == (round_down(length) == length) == (length % SECTOR_SIZE == 0)


@given(offsets, lengths)
def test_cover_is_the_smallest_run_of_sectors(offset, length):
    span = cover(offset, length)
    assert span.start % SECTOR_SIZE == span.end % SECTOR_SIZE == 0
    assert span.start + span.head == offset
    assert span.end - span.tail == offset + length
    assert 0 <= span.head < SECTOR_SIZE
    assert 0 <= span.tail < SECTOR_SIZE
    assert span.size == span.end - span.start == span.head + length + span.tail
    assert span.aligned == (offset % SECTOR_SIZE == 0 and length % SECTOR_SIZE == 0)


@given(offsets, lengths)
def test_inner_is_the_largest_run_of_sectors(offset, length):
    start, end = inner(offset, length)
    assert start % SECTOR_SIZE == end % SECTOR_SIZE == 0
    assert start <= end
    if start < end:
        assert offset <= start < offset + SECTOR_SIZE
        assert offset + length - SECTOR_SIZE < end <= offset + length
    else:  # no sector fits
        first = -(-offset // SECTOR_SIZE) * SECTOR_SIZE
        assert first + SECTOR_SIZE > offset + length


def test_beyond_32_bits():
    """Sector numbers of files beyond 2 TiB are not cut (LUKS 2.2.1 did)."""
    far = 2**41 + 5
    assert cover(far, 10).start == 2**41
    assert cover(far, 10).start // SECTOR_SIZE == 2**29
