import pytest

from fairlead.testing import FakeClock


def test_time_passes_only_when_told(clock: FakeClock) -> None:
    before = clock.now()
    assert clock.now() == before
    assert (clock.advance(90) - before).total_seconds() == 90
    assert clock.monotonic_s() == 90


def test_a_jump_of_the_wall_clock_lets_no_time_pass(clock: FakeClock) -> None:
    before = clock.now()
    assert (clock.jump(-3600) - before).total_seconds() == -3600
    assert clock.monotonic_s() == 0


def test_time_does_not_run_backwards(clock: FakeClock) -> None:
    with pytest.raises(ValueError, match="backwards"):
        clock.advance(-1)
