"""Profiles: the table holds to its schema and to what a server takes, and every board means the right thing on the right machine."""

import json
from contextlib import ExitStack
from dataclasses import fields

import pytest
import recorded

from mbcore.errors import ConfigurationError, LineError
from mbcore.rpi import hats
from mbcore.rpi.hats import Hat, find_hat, gpio_chip, hold_pins, load
from mbcore.rpi.machine import FAMILIES
from mbcore.server.options import LINE_KEYWORDS
from mbcore.server.rs485 import check_direction
from mbcore.server.settings import ECHOES

UARTS, HATS = load()
each_hat = pytest.mark.parametrize("hat", HATS.values(), ids=HATS)
MODELS = {
    "zero": "Zero Rev 1.3",
    "zero-w": "Zero W Rev 1.1",
    "zero-2-w": "Zero 2 W Rev 1.0",
    "1": "Model B Rev 2",
    "2": "2 Model B Rev 1.1",
    "3": "3 Model B Rev 1.2",
    "cm3": "Compute Module 3 Rev 1.0",
    "4": "4 Model B Rev 1.4",
    "5": "5 Model B Rev 1.0",
}


def family(tmp_path, name, *lines):
    """The Machine of a bare board of a family."""
    model = f"Raspberry Pi {MODELS[name]}" if name in MODELS else "PC"
    machine = recorded.unpack("\n".join([f"/sys/firmware/devicetree/base/model = {model}\\0", *lines]), tmp_path / name)
    assert machine.family == name
    return machine


def config_lines(hat):
    config = hat.config.values() if isinstance(hat.config, dict) else [hat.config]
    rows = [row for part in config for row in part]
    return [line for row in rows for line in (row["lines"] if isinstance(row, dict) else [row])]


# ---- the table ----


def test_every_family_has_its_uart():
    assert set(UARTS) == set(FAMILIES)
    assert all(uart.device == "/dev/ttyAMA0" for uart in UARTS.values())


@each_hat
def test_a_profile_holds_to_the_schema(hat):
    assert {field.name for field in fields(Hat)} >= vars(hat).keys()
    assert hat.title
    assert not hat.title.endswith(".")
    assert hat.verified == "docs"
    assert set(hat.families) <= set(FAMILIES)
    devices = [name for names in (hat.device.values() if isinstance(hat.device, dict) else [hat.device]) for name in names]
    assert all(name.startswith("/dev/tty") for name in (*devices, *hat.ports))
    assert not (devices and hat.driver)
    for mapping in (hat.device, hat.config):
        assert not isinstance(mapping, dict) or set(mapping) >= set(hat.families or FAMILIES)
    for line in config_lines(hat):
        assert all("=" in part and part == part.strip() for part in line.split(" or "))
    assert all(pin.keys() == {"line", "level"} and pin["level"] in ("high", "low") for pin in hat.hold)
    assert hat.line == {} or hat.line.keys() == {"baudrate", "mode"}
    variants = [row["kernel"] for row in hat.config if isinstance(row, dict)]
    assert variants == sorted(variants)
    assert not variants or variants[0] == "0"
    assert all(note and not note.endswith(".") for note in hat.notes)


@each_hat
def test_a_profile_is_what_a_server_takes(hat):
    assert {"direction", "direction_chip", "direction_line", "direction_active", "echo"} <= LINE_KEYWORDS
    assert hat.echo in ECHOES
    named = {name: getattr(hat, name) for name in ("direction_chip", "direction_line", "direction_active")}
    given = {name: value for name, value in named.items() if value is not None}
    if hat.direction == "gpio":
        given.setdefault("direction_line", 4)
    assert check_direction(direction=hat.direction, **given).kind == hat.direction


def test_no_field_of_the_table_is_unknown():
    with pytest.raises(TypeError, match="colour"):
        Hat(name="x", title="X", direction="auto", verified="docs", colour="red")


# ---- on a machine ----


@each_hat
@pytest.mark.parametrize("name", FAMILIES)
def test_every_board_says_something_sensible_on_every_machine(hat, name, tmp_path):
    machine = family(tmp_path, name, "/proc/sys/kernel/osrelease = 6.12.40")
    text = hats.sheet(machine, hat.name)
    assert text.startswith(f"{hat.name}: {hat.title}\n")
    assert text.endswith(f"Check it:  mbcore doctor --hat {hat.name}")
    assert all(isinstance(line, str) for line in hat.wanted_config(machine))
    said = hats.as_json(machine, hat.name)
    said = json.loads(json.dumps(said))
    assert said["name"] == hat.name
    assert said["config_here"] == hat.wanted_config(machine)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("zero", ["enable_uart=1"]),
        ("zero-w", ["enable_uart=1", "dtoverlay=disable-bt or dtoverlay=miniuart-bt"]),
        ("2", ["enable_uart=1"]),
        ("3", ["enable_uart=1", "dtoverlay=disable-bt or dtoverlay=miniuart-bt"]),
        ("4", ["enable_uart=1", "dtoverlay=disable-bt or dtoverlay=miniuart-bt"]),
        ("5", ["dtparam=uart0=on or dtoverlay=uart0-pi5 or dtparam=uart0_console=on"]),
        ("other", []),
    ],
)
def test_the_headers_uart_by_family(tmp_path, name, wanted):
    assert find_hat("waveshare-rs485-can").wanted_config(family(tmp_path, name)) == wanted


@pytest.mark.parametrize(
    ("kernel", "overlay"),
    [
        ("6.6.51+rpt", "sc16is752-spi1,int_pin=24"),
        ("6.12.29", "sc16is752-spi1,int_pin=24"),
        ("6.12.34+rpt", "sc16is75x-spi,sc16is752,spi1-0,int_pin=24"),
    ],
)
def test_the_overlay_of_an_spi_board_by_kernel(tmp_path, kernel, overlay):
    machine = family(tmp_path, "4", f"/proc/sys/kernel/osrelease = {kernel}")
    wanted = find_hat("waveshare-rs485-can-b").wanted_config(machine)
    assert wanted[0] == "dtparam=spi=on"
    assert wanted[-1] == f"dtoverlay={overlay}"


@pytest.mark.parametrize(
    ("kernel", "overlay", "wanted"),
    [
        ("6.12.28", "sc16is75x-spi", "sc16is75x-spi,sc16is752,spi1-0,int_pin=24"),
        ("6.14.2", "sc16is752-spi1", "sc16is752-spi1,int_pin=24"),
    ],
)
def test_the_overlays_that_are_there_tell_more_than_the_kernels_number(tmp_path, kernel, overlay, wanted):
    lines = [f"/proc/sys/kernel/osrelease = {kernel}", "/boot/config.txt = ", f"/boot/overlays/{overlay}.dtbo = "]
    assert find_hat("waveshare-2ch-rs485").wanted_config(family(tmp_path, "4", *lines))[-1] == f"dtoverlay={wanted}"


@each_hat
def test_lines_that_differ_by_kernel_do_so_for_the_renamed_overlay(hat):
    variants = [" ".join(row["lines"]) for row in hat.config if isinstance(row, dict)]
    assert [hats._RENAMED in lines for lines in variants] == [False, True][: len(variants)]


@pytest.mark.parametrize(
    ("hat", "name", "settings"),
    [
        ("generic-uart-auto", "4", {"device": "/dev/ttyAMA0", "direction": "auto", "echo": "auto"}),
        (
            "waveshare-rs485-can-manual",
            "4",
            {"device": "/dev/ttyAMA0", "direction": "gpio", "direction_chip": "/dev/gpiochip0", "direction_line": 4,
             "direction_active": "high", "echo": "auto"},
        ),
        (
            "waveshare-rs485-can-manual",
            "5",
            {"device": "/dev/ttyAMA0", "direction": "gpio", "direction_chip": "pinctrl-rp1", "direction_line": 4,
             "direction_active": "high", "echo": "auto"},
        ),
        ("uart-kernel-rts", "3", {"device": "/dev/ttyAMA0", "direction": "kernel", "direction_active": "high", "echo": "none"}),
        ("uart3-kernel-rts", "5", {"device": "/dev/ttyAMA3", "direction": "kernel", "direction_active": "high", "echo": "none"}),
        ("waveshare-serial-expansion", "2", {"device": "/dev/ttySC0", "direction": "kernel", "direction_active": "low", "echo": "auto"}),
        ("sequent-8serial", "4", {"device": "/dev/ttySC1", "direction": "auto", "echo": "auto"}),
    ],
)  # fmt: skip
def test_what_a_board_means_for_a_line(tmp_path, hat, name, settings):
    assert find_hat(hat).settings(family(tmp_path, name), {}) == settings


@pytest.mark.parametrize(
    ("hat", "given", "settings"),
    [
        ("waveshare-rs485-can-manual", {"direction": "auto"}, {"device": "/dev/ttyAMA0", "direction": "auto", "echo": "auto"}),
        ("generic-uart-auto", {"device": "/dev/ttyAMA2", "echo": "drop"}, {"device": "/dev/ttyAMA2", "direction": "auto", "echo": "drop"}),
        (
            "widgetlords",
            {"direction_line": 17, "device": None},
            {"device": "/dev/ttyAMA0", "direction": "gpio", "direction_chip": "/dev/gpiochip0", "direction_line": 17,
             "direction_active": "low", "echo": "auto"},
        ),
        (
            "waveshare-rs485-can-manual",
            {"direction": "gpio", "direction_chip": "/dev/gpiochip3", "direction_active": "low", "direction_line": 0},
            {"device": "/dev/ttyAMA0", "direction": "gpio", "direction_chip": "/dev/gpiochip3", "direction_line": 0,
             "direction_active": "low", "echo": "auto"},
        ),
    ],
)  # fmt: skip
def test_what_the_user_says_wins(tmp_path, hat, given, settings):
    assert find_hat(hat).settings(family(tmp_path, "4"), given) == settings


def test_the_first_of_the_names_that_is_there(tmp_path):
    hat = find_hat("uart3-kernel-rts")
    assert hat.device_on(family(tmp_path, "4")) == "/dev/ttyAMA1"
    assert hat.device_on(family(tmp_path, "4", "/dev/ttyAMA3 c 0660 0:20")) == "/dev/ttyAMA3"


def test_a_usb_adapter_goes_by_its_driver(tmp_path):
    machine = recorded.board("usb-ftdi", tmp_path)
    assert find_hat("usb-ftdi").device_on(machine) == "/dev/serial/by-id/usb-FTDI_FT232R_USB_UART_A50285BI-if00-port0"
    with pytest.raises(LineError, match="there is no adapter with the driver cp210x: plug it in"):
        find_hat("usb-cp210x").device_on(machine)
    assert "the adapter with the driver cp210x, which is not plugged in" in hats.sheet(machine, "usb-cp210x")
    with pytest.raises(ConfigurationError, match="the profile usb-ch340 fits several adapters: name one of /dev/serial/by-path/"):
        find_hat("usb-ch340").device_on(recorded.board("usb-ch340", tmp_path / "2"))


@pytest.mark.parametrize(
    ("hat", "given", "sentence"),
    [
        ("widgetlords", {}, "the profile widgetlords does not know its pin: give --direction-line N"),
        ("generic-uart-auto", {"direction": "gpio"}, "the profile generic-uart-auto does not know its pin"),
        ("revpi", {"baudrate": 460800}, "loses bytes above 230400 Bd and 460800 is asked for: give -b 230400"),
        ("monarco", {"baudrate": 19200, "bytesize": 8, "parity": "E", "stopbits": 1}, "19200 8E1 is another: give -b 115200 -m 8N1"),
        ("monarco", {"baudrate": 115200, "bytesize": 8, "parity": "N", "stopbits": 2}, "115200 8N2 is another: give -b 115200 -m 8N1"),
    ],
)
def test_what_a_board_can_not_do_is_one_sentence(tmp_path, hat, given, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        find_hat(hat).settings(family(tmp_path, "4"), given)


@pytest.mark.parametrize(
    ("hat", "given"),
    [("revpi", {"baudrate": 230400}), ("monarco", {"baudrate": 115200, "bytesize": 8, "parity": "N", "stopbits": 1})],
)
def test_what_a_board_can_do_is_taken(tmp_path, hat, given):
    assert find_hat(hat).settings(family(tmp_path, "3"), given)["direction"] == "auto"


def test_a_board_for_other_machines(tmp_path):
    with pytest.raises(ConfigurationError, match="is for a Raspberry Pi 3 or cm3 or 4, and this is Raspberry Pi 2"):
        find_hat("kontron-pitron").settings(family(tmp_path, "2"), {})
    with pytest.raises(ConfigurationError, match="and this is none: choose another one"):
        find_hat("kontron-pitron").settings(recorded.unpack("", tmp_path / "pc"), {})
    assert "not on this machine" in hats.sheet(family(tmp_path, "2"), "uart3-kernel-rts")


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("widgetlord", "did you mean widgetlords?"),
        ("Waveshare-RS485-CAN", "did you mean waveshare-rs485-can or"),
        ("qqq", "`mbcore hats` lists them"),
    ],
)
def test_an_unknown_name_gets_near_ones(name, way):
    with pytest.raises(ConfigurationError) as caught:
        find_hat(name)
    assert str(caught.value).startswith(f"there is no profile {name!r}: {way}")


def test_pins_are_held_until_the_server_ends(tmp_path, monkeypatch):
    asked, closed = [], []
    monkeypatch.setattr(hats, "request_gpio", lambda chip, line, active: asked.append((chip, line, active)) or 77)
    monkeypatch.setattr(hats.os, "close", closed.append)
    with ExitStack() as held:
        hold_pins(find_hat("pixtend-v2"), family(tmp_path, "4"), held)
        hold_pins(find_hat("touchberry"), family(tmp_path, "5"), held)
        # A line is given out in the state that does not send: the other than `active`.
        assert asked == [("/dev/gpiochip0", 18, "low"), ("pinctrl-rp1", 17, "high")]
        assert closed == []
    assert closed == [77, 77]
    assert gpio_chip(family(tmp_path, "other")) == "/dev/gpiochip0"


def test_all_are_listed_with_their_titles(tmp_path):
    lines = hats.listing().splitlines()
    assert [line.split()[0] for line in lines] == list(HATS)
    assert json.loads(json.dumps(hats.as_json(family(tmp_path, "4"), None))).keys() == HATS.keys()


def test_a_sheet_of_one_board(tmp_path):
    assert hats.sheet(family(tmp_path, "5"), "pixtend-v2") == """\
pixtend-v2: PiXtend V2, its serial port as RS-485
  board                      Raspberry Pi 5 Model B Rev 1.0
  port                       /dev/ttyAMA0
  switched by                itself
  echo                       auto
  held                       GPIO18 high
  /boot/firmware/config.txt  dtparam=uart0=on or dtoverlay=uart0-pi5 or dtparam=uart0_console=on
  note                       GPIO18 is held high while the server runs: low, or free, the port is RS-232
  verified                   from documents; not tried on the board

Serve it:  mbcore serve rtu --hat pixtend-v2
Check it:  mbcore doctor --hat pixtend-v2"""
    assert "switched by                GPIO?, low while sending" in hats.sheet(family(tmp_path, "4"), "widgetlords")


@pytest.mark.parametrize(
    ("hat", "level", "active"),
    [("uart-kernel-rts", "high", "high"), ("uart3-kernel-rts", "high", "high"), ("waveshare-serial-expansion", "high", "low")],
)
def test_a_sheet_names_the_level_of_the_pin_whatever_the_drivers_word_for_it_is(tmp_path, hat, level, active):
    said = f"RTS, by the UART's driver, its pin {level} while sending (--direction-active {active})\n"
    assert said in hats.sheet(family(tmp_path, "4"), hat)
