"""A serial line with more than two ends: what is written to one is read at all others. Without wires, and without a speed."""

import os
import selectors
import threading
import tty


class PartyLine:
    """`ends` are paths to open as serial ports; the line keeps them open itself, so that each may be closed and opened again.

    :param names: one for each end; it becomes an attribute that holds the path
    """

    def __init__(self, *names):
        pairs = [os.openpty() for _ in names]
        self._masters, self._ports = ([pair[side] for pair in pairs] for side in (0, 1))
        for name, port in zip(names, self._ports, strict=True):
            tty.setraw(port)
            setattr(self, name, os.ttyname(port))
        self._wake_reader, self._wake = os.pipe()
        self._thread = threading.Thread(target=self._carry)
        self._thread.start()

    def _carry(self):
        with selectors.DefaultSelector() as selector:
            for descriptor in (self._wake_reader, *self._masters):
                selector.register(descriptor, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fd == self._wake_reader:
                        return
                    data = os.read(key.fd, 4096)
                    for other in self._masters:
                        if other != key.fd:
                            os.write(other, data)

    def close(self):
        os.close(self._wake)
        self._thread.join()
        for descriptor in (self._wake_reader, *self._masters, *self._ports):
            os.close(descriptor)
