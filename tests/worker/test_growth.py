"""How many connections a download uses: a line is played, the number read."""

import pytest
from moai_worker.growth import Growth

MB = 1000 * 1000


def play(rate_of, seconds, first=4, most=16, busy=None):
    """Connections after each second, when ``n`` of them bring ``rate_of(n)`` bytes a second."""
    growth, fetched, shown = Growth(first, most, 0.0), 0.0, []
    for second in range(1, seconds + 1):
        fetched += rate_of(growth.wanted)
        growth.look(float(second), int(fetched), growth.wanted if busy is None else busy, True)
        shown.append(growth.wanted)
    return shown


def test_where_each_connection_is_limited_their_number_doubles_up_to_the_most():
    shown = play(lambda n: n * 20 * MB, 12)
    assert shown == sorted(shown)
    assert (shown[0], shown[3], shown[-1]) == (4, 16, 16)


def test_where_the_line_is_full_the_added_ones_are_given_back_and_tried_again_minutes_later():
    shown = play(lambda n: 100 * MB, 320)
    assert max(shown) == 8 and shown[10] == shown[290] == 4
    assert 8 in shown[300:]


def test_a_thin_line_gets_no_more_connections():
    assert set(play(lambda n: 1 * MB, 60)) == {4}


def test_connections_without_work_are_no_reason_for_more():
    assert set(play(lambda n: n * 20 * MB, 60, busy=2)) == {4}


@pytest.mark.parametrize("number", [1, 7, 32])
def test_a_number_that_was_asked_for_stays(number):
    assert set(play(lambda n: n * 20 * MB, 60, first=number, most=number)) == {number}


def test_the_most_is_never_exceeded_and_half_a_gain_is_kept():
    assert play(lambda n: n * 20 * MB, 60, most=11)[-1] == 11
    shown = play(lambda n: 10 * MB * n**0.7, 60)
    assert shown[-1] == 16
