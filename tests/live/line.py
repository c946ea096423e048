"""A serial line without wires: two pseudo-terminals back to back."""

import os
import selectors
import threading
import tty


class Line:
    """What is written to one end is read at the other; `client_end` and `device_end` are paths to open as serial ports.

    The line keeps its ends open itself, so that either side may close and open its port again.
    """

    def __init__(self):
        self._client, client_port = os.openpty()
        self._device, device_port = os.openpty()
        self._ports = (client_port, device_port)
        for port in self._ports:
            tty.setraw(port)
        self.client_end, self.device_end = (os.ttyname(port) for port in self._ports)
        self._wake_reader, self._wake = os.pipe()
        self._thread = threading.Thread(target=self._carry)
        self._thread.start()

    def _carry(self):
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_reader, selectors.EVENT_READ)
            selector.register(self._client, selectors.EVENT_READ, self._device)
            selector.register(self._device, selectors.EVENT_READ, self._client)
            while True:
                for key, _ in selector.select():
                    if key.data is None:
                        return
                    os.write(key.data, os.read(key.fd, 4096))

    def close(self):
        os.close(self._wake)
        self._thread.join()
        for descriptor in (self._wake_reader, self._client, self._device, *self._ports):
            os.close(descriptor)


class Adapter:
    """A serial port under a name that stays, `name` in the folder `path`; `master` is the other end, while it is plugged in."""

    def __init__(self, path):
        self.name = path / "usb-X"
        self.master = None

    def plug(self):
        self.master, port = os.openpty()
        tty.setraw(port)
        self.name.symlink_to(os.ttyname(port))
        os.close(port)

    def unplug(self):
        self.name.unlink()
        os.close(self.master)
        self.master = None
