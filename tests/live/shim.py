"""The system-call boundary of one serial port: a library loaded before libc that is the port's driver and records what it is asked, when.

A pseudo-terminal stands for the port, since it carries the bytes; the library answers what a pseudo-terminal can't: RTS, RS-485 mode,
"transmitter empty", counters, and a GPIO chip that exists only there. Python, pyserial and our compiled code all call libc and so are seen.

    def test_of_something(shim):                                # the fixture: shim(script="", **words) -> Shim
        line = Line()
        watched = shim(DRIVERS["ftdi_sio"], device=line.device_end, busy=2)
        done = watched.run("import sys, serial; serial.Serial(sys.argv[1])", line.device_end)
        # or, for a process of your own: subprocess.Popen(..., env=watched.environment)
        assert [call.name for call in watched.calls("TIOCMBIS", "write", "TIOCMBIC")] == ["TIOCMBIS", "write", "TIOCMBIC"]
        up, = watched.calls("TIOCMBIS")                         # call.begin, .end: seconds of CLOCK_MONOTONIC, time.monotonic() in a test
        assert (up.target, up.argument, up.result) == ("port", "RTS", 0)

The script is words of the form NAME=VALUE; without any, the driver does everything.

    CALL=ERROR          this call fails, e.g. TIOCSRS485=ENOTTY, write=EIO; CALL=ERROR@3 from the third one on. Names as in the record,
                        and open_chip for the chip's
    drop=FLAG,FLAG      flags of the RS-485 mode that the driver does not know and drops: ENABLED, RTS_ON_SEND, RTS_AFTER_SEND,
                        RX_DURING_TX, TERMINATE_BUS
    mode=FLAG,FLAG      the mode before anybody sets one, as from a device tree
    longest_delay=MS    delays above are shortened to it (100)
    delay_after=ERROR   refuses a mode with a delay after sending
    busy=N              after each write the first N TIOCSERGETLSR say "not empty"
    character_time=S    and so do those before the last byte written has had its S seconds
    lines=N             of the GPIO chip (28)
    frame= overrun= parity= brk=    what TIOCGICOUNT counts

Of a call the record keeps, in `argument`: of read and write the bytes in hexadecimal; of RTS the signals, "RTS", "DTR|RTS"; of the mode its
flags and delays in milliseconds, "ENABLED|RTS_ON_SEND,1,0"; of TIOCSERGETLSR "empty" or "busy"; of GPIO_V2_GET_LINE the line, its flags and
the consumer, "17,OUTPUT|ACTIVE_LOW,mbcore"; of GPIO_V2_LINE_SET_VALUES "1" to send and "0"; of sleeps "for:SECONDS", "until:SECONDS" or
"for:forever". `result` is a number, or the name of an error. Sleeps, ppoll and timerfd_settime are recorded of the whole process, `thread`
tells whose; ppoll's target is the port where it waits for it.

Not seen: readv and writev, poll, select and epoll_wait, and what libc does inside itself, such as the ioctls of tcsetattr; on a 32-bit
system whose programs have 64-bit times nothing is, since they call other names.
"""

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from adu import ENVIRONMENT

from .programs import need

CHIP = "/dev/gpiochip-of-the-shim"

# As the drivers of Linux behave.
DRIVERS = {
    "uart-pl011": "",
    "sc16is7xx": "drop=RTS_ON_SEND,RX_DURING_TX,TERMINATE_BUS delay_after=EINVAL TIOCSERGETLSR=ENOTTY",
    "ftdi_sio": "TIOCSRS485=ENOTTY TIOCGRS485=ENOTTY",
    "cp210x": "TIOCSRS485=ENOTTY TIOCGRS485=ENOTTY TIOCSERGETLSR=ENOTTY",
    "pty": "TIOCSRS485=ENOTTY TIOCGRS485=ENOTTY TIOCSERGETLSR=ENOTTY TIOCMGET=ENOTTY TIOCMSET=ENOTTY TIOCMBIS=ENOTTY TIOCMBIC=ENOTTY"
    " TIOCGICOUNT=ENOTTY TIOCGSERIAL=ENOTTY TIOCSSERIAL=ENOTTY",
}


class Call(NamedTuple):
    """A recorded call."""

    begin: float
    end: float
    thread: int
    name: str
    target: str
    argument: str
    result: int | str

    @property
    def data(self) -> bytes:
        """The bytes read or written."""
        return b"" if self.argument == "-" else bytes.fromhex(self.argument)


def compile_shim(folder):
    """The library, compiled into `folder`."""
    library = Path(folder) / "shim.so"
    source = Path(__file__).with_name("shim.c")
    flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([need("cc", "build-essential"), *flags, "-o", library, source, "-ldl", "-lpthread"], check=True)
    return library


class Shim:
    """What surrounds a process whose calls are recorded in `record`."""

    def __init__(self, library, record, script="", *, device=None, **words):
        self._record = Path(record)
        self._record.touch()
        self.environment = {
            **ENVIRONMENT,
            "LD_PRELOAD": str(library),
            "MBCORE_SHIM_RECORD": str(record),
            "MBCORE_SHIM_SCRIPT": " ".join([script, *(f"{name}={value}" for name, value in words.items())]),
            "MBCORE_SHIM_CHIP": CHIP,
        }
        if device is not None:
            self.environment["MBCORE_SHIM_DEVICE"] = device

    def run(self, program, *arguments):
        """What the Python program prints; it must end well."""
        command = [sys.executable, "-P", "-c", program, *map(str, arguments)]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def calls(self, *names):
        """The calls of these names, or all, in the order of their beginnings."""
        found = []
        for line in self._record.read_text().splitlines():
            begin, end, thread, name, target, rest = line.split(" ", 5)
            argument, result = rest.rsplit(" ", 1)
            outcome = int(result) if result.isdigit() else result
            found.append(Call(float(begin), float(end), int(thread), name, target, argument, outcome))
        return sorted((call for call in found if not names or call.name in names), key=lambda call: (call.begin, call.end))
