"""The list of ports: names that stay, drivers, adapters, RS-485; on recorded boards, and probed on a pseudo-terminal."""

import errno
import os
import pty

import pytest
import recorded

from mbcore.rpi import ports
from mbcore.rpi.ports import Port, list_ports, probe_rs485, table
from mbcore.server.rs485 import KernelMode

BY_PATH = "/dev/serial/by-path/platform-fd500000.pcie-pci-0000:01:00.0-usb-0:{}:1.0-port0"


def test_an_adapter_with_all_that_is_known_of_it(tmp_path):
    by_id = "/dev/serial/by-id/usb-FTDI_FT232R_USB_UART_A50285BI-if00-port0"
    assert list_ports(recorded.board("usb-ftdi", tmp_path)) == [
        Port(
            device="/dev/ttyUSB0",
            driver="ftdi_sio",
            bus="usb-serial",
            links=(by_id, BY_PATH.format("1.3")),
            stable=by_id,
            usb="0403:6001",
            product="FTDI FT232R USB UART",
            serial="A50285BI",
            socket="1-1.3",
            latency=16,
            rs485="adapter",
        )
    ]


def test_adapters_without_a_serial_number_go_by_their_socket(tmp_path):
    found = list_ports(recorded.board("usb-ch340", tmp_path))
    assert [(port.device, port.stable, port.serial) for port in found] == [
        ("/dev/ttyUSB0", BY_PATH.format("1.3"), ""),
        ("/dev/ttyUSB1", BY_PATH.format("1.4"), ""),
    ]


@pytest.mark.parametrize("serial", ["0001", "1", "0", "0123456789", "0123456789abcdef"])
def test_a_serial_number_of_the_factory_is_none(tmp_path, serial):
    file = next(line.split(" = ")[0] for line in (recorded.FOLDER / "usb-ftdi.txt").read_text().splitlines() if "/serial = " in line)
    port = list_ports(recorded.board("usb-ftdi", tmp_path, f"{file} = {serial}\\n"))[0]
    assert (port.serial, port.stable) == ("", BY_PATH.format("1.3"))


def test_an_adapter_that_has_one_name_only_keeps_it(tmp_path):
    machine = recorded.board("usb-ftdi", tmp_path)
    for name in machine.glob("/dev/serial/by-id/*") + machine.glob("/dev/serial/by-path/*"):
        machine.path(name).unlink()
    assert list_ports(machine)[0].stable == "/dev/ttyUSB0"


def test_ports_of_the_board_and_its_links(tmp_path):
    found = list_ports(recorded.board("5-trixie", tmp_path))
    assert [(port.device, port.links, port.driver, port.rs485) for port in found] == [
        ("/dev/ttyAMA0", (), "uart-pl011", "kernel"),
        ("/dev/ttyAMA10", ("/dev/serial0",), "uart-pl011", "kernel"),
    ]


def test_order_is_that_of_the_numbers(tmp_path):
    lines = [f"/sys/class/tty/ttyUSB{n}/device/driver -> /sys/bus/usb-serial/drivers/pl2303" for n in (10, 9, 0)]
    found = list_ports(recorded.unpack("\n".join(lines), tmp_path))
    assert [port.device for port in found] == ["/dev/ttyUSB0", "/dev/ttyUSB9", "/dev/ttyUSB10"]
    assert {port.rs485 for port in found} == {"unknown"}


def test_what_is_only_provided_for_is_no_port(tmp_path):
    lines = [f"/sys/class/tty/ttyS{n}/device/driver -> /sys/bus/platform/drivers/serial8250" for n in range(3)]
    lines += ["/sys/class/tty/ttyS0/type = 4\\n", "/sys/class/tty/ttyS1/type = 0\\n"]
    lines += ["/sys/class/tty/ttyS9/device/", "/sys/class/tty/tty1/"]
    assert [port.device for port in list_ports(recorded.unpack("\n".join(lines), tmp_path))] == ["/dev/ttyS0", "/dev/ttyS2"]


def test_probed_where_the_user_wants_it(tmp_path):
    found = list_ports(recorded.board("5-trixie", tmp_path), lambda device: f"asked {device}")
    assert [port.rs485 for port in found] == ["asked /dev/ttyAMA0", "asked /dev/ttyAMA10"]


@pytest.mark.parametrize(("mode", "said"), [(None, "none"), (KernelMode(0), "off"), (KernelMode(3), "on")])
def test_what_a_driver_says_of_its_mode(monkeypatch, mode, said):
    master, slave = pty.openpty()
    try:
        monkeypatch.setattr(ports.rs485, "read_mode", lambda descriptor: mode)
        assert probe_rs485(os.ttyname(slave)) == said
    finally:
        os.close(master)
        os.close(slave)


def test_a_port_that_does_not_open_or_goes_is_said_so(monkeypatch):
    assert probe_rs485("/dev/no-such-port") == "unknown: No such file or directory"

    def gone(descriptor):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(ports.rs485, "read_mode", gone)
    before = set(os.listdir("/proc/self/fd"))
    assert probe_rs485("/dev/null") == "unknown: Input/output error"
    assert set(os.listdir("/proc/self/fd")) == before


def test_the_table_for_people(tmp_path):
    assert table(list_ports(recorded.board("usb-ch340", tmp_path))) == f"""\
port          driver      RS-485   adapter
/dev/ttyUSB0  ch341-uart  adapter  1a86:7523 USB Serial
    {BY_PATH.format("1.3")}   <- use this name
/dev/ttyUSB1  ch341-uart  adapter  1a86:7523 USB Serial
    /dev/serial/by-id/usb-1a86_USB_Serial-if00-port0
    {BY_PATH.format("1.4")}   <- use this name"""
    assert table([]).startswith("There is no serial port.")
