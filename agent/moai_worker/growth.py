"""How many connections a download uses: more of them, as long as more bring more bytes.

Some servers and networks limit each connection, and there sixteen are four times as fast as four; on
a thin line sixteen only get in each other's way. So a download begins with few, adds some, and looks
whether the rate followed: if it did not, they are given back. It looks again every few minutes,
because a transfer lasts hours and lines change.

Refuses to add connections where each brings little already. Pure; the caller passes the time.
"""

from typing import Optional, Tuple

_WINDOW_S = 2.0
_AGAIN_S = 300.0
#: Of the rate that added connections could bring, the share that makes them worth keeping.
_WORTH = 0.4
#: A connection slower than this is on a thin line, or stalls.
_THIN_BYTES_PER_S = 512 * 1024


class Growth:
    """The number of connections over time.

    Args:
        first, most: it begins with ``first`` and never exceeds ``most``; equal = fixed.
        now_s: the time, in seconds of any clock that only goes forward.
    """

    def __init__(self, first: int, most: int, now_s: float) -> None:
        self.wanted = first
        self._most = most
        self._mark: Tuple[float, int] = (now_s, 0)
        self._trial: Optional[Tuple[int, float]] = None  # (connections, rate) before the last addition
        self._rest_until_s = now_s

    def look(self, now_s: float, fetched_bytes: int, busy: int, more_to_do: bool) -> int:
        """How many connections are wanted now.

        Args:
            fetched_bytes: so far, over the network. busy: connections at work.
            more_to_do: there is work for another connection.
        """
        start_s, start_bytes = self._mark
        if now_s - start_s < _WINDOW_S:
            return self.wanted
        self._mark = (now_s, fetched_bytes)
        rate = (fetched_bytes - start_bytes) / (now_s - start_s)
        if busy < self.wanted or now_s < self._rest_until_s:
            return self.wanted
        if self._trial is not None:
            before, rate_before = self._trial
            self._trial = None
            if rate < rate_before * (1 + _WORTH * (self.wanted - before) / before):
                self.wanted, self._rest_until_s = before, now_s + _AGAIN_S
                return self.wanted
        if more_to_do and self.wanted < self._most and rate >= _THIN_BYTES_PER_S * self.wanted:
            self._trial = (self.wanted, rate)
            self.wanted = min(self._most, 2 * self.wanted)
        return self.wanted
