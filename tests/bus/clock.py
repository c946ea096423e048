"""Time that passes when it is told to: what is to happen is done in its order, and nobody waits."""

import heapq
from itertools import count


class Clock:
    """`now` is seconds from the start; `at` puts down what is to be done when."""

    def __init__(self):
        self.now = 0.0
        self._order = count()
        self._due = []

    def at(self, time, call, *arguments):
        """Do `call(*arguments)` at `time`, or now where that has passed; of what is due at the same time, first what was asked first."""
        heapq.heappush(self._due, (max(time, self.now), next(self._order), call, arguments))

    def after(self, seconds, call, *arguments):
        self.at(self.now + seconds, call, *arguments)

    def next(self):
        """When something is due, None where nothing is."""
        return self._due[0][0] if self._due else None

    def step(self):
        """Do what is due next."""
        self.now, _, call, arguments = heapq.heappop(self._due)
        call(*arguments)

    def run(self, over):
        """Go on until `over()` is true, asked after each thing done, or nothing is left to do."""
        while self._due and not over():
            self.step()
