"""What stands behind the name of a serial port, as sysfs tells it. Opens nothing."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

SYSFS = Path("/sys/class/tty")
# Since Linux 6.5 two devices of the serial core stand between a port and its hardware.
_BETWEEN = 2
_MINI_UART = re.compile("bcm2835-?aux")


class Hardware(NamedTuple):
    """What serves a port; made by :func:`find_hardware`. Empty words and no folder: sysfs knows nothing."""

    driver: str = ""  # "uart-pl011", "ftdi_sio"
    bus: str = ""  # "amba", "usb-serial"
    compatible: str = ""  # of the device tree: "arm,pl011 arm,primecell"
    folder: Path | None = None  # of the device that the driver serves

    @property
    def mini_uart(self) -> bool:
        """Whether it is a Pi's UART without parity and with one stop bit."""
        return bool(_MINI_UART.search(self.driver) or _MINI_UART.search(self.compatible))


def find_hardware(device: str, sysfs: Path | None = None) -> Hardware:
    """What serves a serial port.

    :param device: its name in /dev, or a link to that
    :param sysfs: the folder that has a folder per port; None is :data:`SYSFS`
    """
    place = (Path(SYSFS if sysfs is None else sysfs) / os.path.basename(os.path.realpath(device)) / "device").resolve()
    folders = (place, *place.parents[:_BETWEEN])
    for above in folders:
        driver = (above / "driver").resolve()
        if driver.is_dir() and "/serial-base/" not in str(driver):
            return Hardware(driver.name, driver.parents[1].name, _compatible(above), above)
    return next((Hardware("", "", compatible, above) for above in folders if (compatible := _compatible(above))), Hardware())


def _compatible(folder: Path) -> str:
    try:
        return (folder / "of_node" / "compatible").read_text(errors="replace").replace("\0", " ").strip()
    except OSError:
        return ""
