#!/usr/bin/python3
"""The only program of an emulated board, its /init: installs mbcore as a user does and serves a unit on /dev/ttyAMA0.

Runs on the board alone. What it says and hears is on the console, a line each: `board: WORD TEXT`, and an order's WORD, which is answered
by the same word.
"""

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

PORT = "/dev/ttyAMA0"
HOME = Path("/opt/mbcore")
WHEELS = "/wheels"
PATIENCE = 60  # seconds
# asm-generic/ioctls.h, linux/reboot.h
TIOCGRS485 = 0x542E
TIOCVHANGUP = 0x5437
POWER_OFF = 0x4321FEDC


def say(word, text=""):
    sys.stdout.write(f"board: {word} {text}\n")
    sys.stdout.flush()


def install():
    """The kernel's file systems, and mbcore into a virtual environment, from the wheels alone."""
    for kind, where in (("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/tmp")):
        os.makedirs(where, exist_ok=True)
        subprocess.run(["mount", "-t", kind, kind, where], check=True)
    say("kernel", f"{os.uname().release}, {model()}, Python {sys.version.split()[0]}")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", HOME], check=True)
    pip = [sys.executable, "-m", "pip", "--python", HOME / "bin" / "python", "--quiet", "--no-cache-dir", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--no-index", "--find-links", WHEELS, "--no-compile", "mbcore"], check=True)
    said = subprocess.run([HOME / "bin" / "mbcore", "--version"], check=True, capture_output=True, text=True).stdout
    say("version", said.strip())


def model():
    node = Path("/proc/device-tree/model")
    return node.read_text().strip("\0") if node.exists() else "a board without a name"


class Unit:
    """The unit on the line; its values are those that `rpi/pi-in-the-loop` expects."""

    def __init__(self):
        from mbcore import ModbusDeviceIdentification, ModbusSequentialDataBlock, ModbusServerContext, ModbusSlaveContext

        class Broken(ModbusSequentialDataBlock):
            """Input registers whose last one cannot be read."""

            def getValues(self, address, count=1):  # noqa: N802
                if address + count > 100:
                    raise OSError("the sensor does not answer")
                return super().getValues(address, count)

        slave = ModbusSlaveContext(
            co=ModbusSequentialDataBlock(0, [0] * 200),
            di=ModbusSequentialDataBlock(0, [number % 3 == 0 for number in range(200)]),
            hr=ModbusSequentialDataBlock(0, [0] * 200),
            ir=Broken(0, [257 * number & 0xFFFF for number in range(101)]),
            zero_mode=True,
        )
        self._context = ModbusServerContext(slaves={1: slave}, single=False)
        self._identity = ModbusDeviceIdentification(info_name={"VendorName": "mbcore", "ProductCode": "loop", "MajorMinorRevision": "1"})
        self.server = None

    def start(self, **keywords):
        from mbcore.server import StartSerialServer

        keywords = {"framer": "rtu", "port": PORT, "baudrate": 19200, "parity": "E", "direction": "kernel"} | keywords
        self.server = StartSerialServer(self._context, identity=self._identity, defer_reactor_run=True, **keywords)

    def refusal(self):
        """What the server says where the driver makes something else of what it is asked for."""
        from mbcore.errors import ConfigurationError

        try:
            self.start(delay_before=0.5)
        except ConfigurationError as error:
            return str(error)
        return "nothing: it serves with another delay than it was given"

    def state(self):
        """What the server says of its line, and what the kernel says of it to somebody else."""
        line = self.server.line
        return {"state": line.state, "openings": line.openings, "losses": line.losses, "rs485": rs485_flags(), "counters": line.counters()}


@contextmanager
def opened():
    """The port, by a descriptor that is not the server's."""
    fd = os.open(PORT, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        yield fd
    finally:
        os.close(fd)


def rs485_flags():
    from fcntl import ioctl

    with opened() as fd:
        return int.from_bytes(ioctl(fd, TIOCGRS485, bytes(32))[:4], sys.byteorder)


def wait_until(condition, what):
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {PATIENCE} s")
        time.sleep(0.01)


def hang_up(unit):
    """Cut the port off from its server, as the kernel does where a device goes; the server opens it again."""
    from fcntl import ioctl

    openings = unit.server.line.openings
    with opened() as fd:
        ioctl(fd, TIOCVHANGUP)
    wait_until(lambda: unit.server.line.state == "open" and unit.server.line.openings > openings, "the server opens its port again")


def restart(unit):
    """Stop the server and start it again, in the same process."""
    from twisted.internet import reactor, threads

    threads.blockingCallFromThread(reactor, unit.server.stop)
    threads.blockingCallFromThread(reactor, unit.start)
    wait_until(lambda: unit.server.line.state == "open", "the server opens its port")


ORDERS = {"state": lambda unit: None, "hang_up": hang_up, "restart": restart}


def obey(unit):
    """Orders from the console, till the board is switched off."""
    try:
        for line in sys.stdin:
            order = line.strip()
            if order == "off":
                switch_off()
            ORDERS[order](unit)
            say(order, json.dumps(unit.state()))
    except BaseException as error:
        say("failed", repr(error))
        switch_off()


def serve():
    from threading import Thread

    from twisted.internet import reactor

    unit = Unit()
    say("refusal", unit.refusal())
    say("flags", str(rs485_flags()))
    unit.start()
    reactor.callWhenRunning(Thread(target=obey, args=[unit], daemon=True).start)
    reactor.callWhenRunning(say, "serving")
    reactor.run(installSignalHandlers=False)


def switch_off():
    import ctypes

    ctypes.CDLL(None).reboot(POWER_OFF)


if __name__ == "__main__":
    try:
        if sys.prefix == sys.base_prefix:
            install()
            os.execv(HOME / "bin" / "python", [HOME / "bin" / "python", __file__])
        serve()
    except BaseException as error:
        say("failed", repr(error))
        switch_off()
