"""What qemu's user emulation lacks of the kernel, in the Pythons of the emulated systems: imported there by a .pth file when they start.

qemu 7.2 answers every ioctl that it does not know with ENOSYS. A pseudo-terminal says ENOTTY to all of those that mbcore asks of a serial
port, but for TCGETS2: that is answered here with what TCGETS says.
"""

import errno
import fcntl
import re
import termios

TCGETS2, OUTPUT_SPEED = 0x802C542A, 10
SPEEDS = {getattr(termios, name): int(name[1:]) for name in dir(termios) if re.fullmatch(r"B\d+", name)}

_ioctl = fcntl.ioctl


def ioctl(fd, request, *arguments):
    try:
        return _ioctl(fd, request, *arguments)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        if request != TCGETS2:
            raise OSError(errno.ENOTTY, "qemu does not know this ioctl") from error
    try:
        speed = SPEEDS[termios.tcgetattr(fd)[5]]
    except termios.error as error:
        raise OSError(*error.args) from error
    memoryview(arguments[0]).cast("I")[OUTPUT_SPEED] = speed
    return 0


fcntl.ioctl = ioctl
