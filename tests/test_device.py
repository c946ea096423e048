"""pymodbus' device module over the core's control: the process-wide block, access control, device information."""

import pytest

from mbcore import control, device
from mbcore.device import (
    DeviceInformationFactory,
    ModbusAccessControl,
    ModbusControlBlock,
    ModbusDeviceIdentification,
    ModbusPlusStatistics,
    new_control,
    process_control,
)
from mbcore.errors import ConfigurationError
from mbcore.events import EnteredListenModeEvent, RemoteReceiveEvent


@pytest.fixture(autouse=True)
def _fresh_process(monkeypatch, access_control):
    monkeypatch.setattr(device, "_process", None)
    control.server_blocks.clear()


def serve(identity=None):
    """The control block of a new server, as a server makes it."""
    block = new_control(identity)
    control.server_blocks[block] = None
    return block


def test_the_process_wide_block_is_the_servers():
    block = serve()
    block.Counter.BusMessage = 7
    process = process_control()
    assert process is process_control()
    assert process.block is block
    assert dict(process)["BusMessage"] == process.Counter.BusMessage == 7
    assert str(process) == "ModbusControl"
    process.ListenOnly = True
    process.Identity.VendorName = "ACME"
    process.addEvent(EnteredListenModeEvent())
    process.setDiagnostic({2: True})
    assert (block.ListenOnly, block.Identity.VendorName, block.events, block.diagnostic_register) == (True, "ACME", b"\x04", 4)
    assert process.Events == [EnteredListenModeEvent()]
    assert process.getDiagnostic(2)
    with pytest.raises(AttributeError, match="ListenAlways"):
        _ = process.ListenAlways
    with pytest.raises(AttributeError, match="ListenAlways"):
        process.ListenAlways = True


def test_what_pymodbus_adds_belongs_to_the_process():
    process = process_control()
    process.Mode = "RTU"
    serve()
    assert process.Mode == "RTU"
    assert process.Plus is process.Plus


def test_a_block_asked_for_early_is_taken_by_the_first_server_alone():
    early = process_control()
    early.Identity.VendorName = "ACME"
    first = serve()
    assert early.block is first
    assert first.Identity.VendorName == "ACME"
    second = serve()
    assert second is not first
    assert second.Identity.VendorName == "mbcore"
    assert early.block is first


def test_a_servers_identity_wins():
    process_control().Identity.VendorName = "ACME"
    identity = ModbusDeviceIdentification({0: "Other"})
    assert serve(identity).Identity is identity is process_control().Identity
    assert serve(identity).Identity is identity


def test_the_next_server_takes_the_process_wide_block_over():
    process = process_control()
    first, second = serve(), serve()
    del control.server_blocks[first]
    assert process.block is second
    del control.server_blocks[second]
    assert process.block is second
    assert serve() is second


def test_without_a_server_there_is_one_block_too():
    process = process_control()
    process.ListenOnly = True
    assert process.block is process.block
    assert process.ListenOnly


def test_two_blocks_share_nothing():
    one, other = ModbusControlBlock(), ModbusControlBlock()
    one.Counter.BusMessage = 5
    one.addEvent(EnteredListenModeEvent())
    one.ListenOnly = True
    one.setDiagnostic({3: True})
    assert (other.Counter.BusMessage, other.Events, other.ListenOnly, other.diagnostic_register) == (0, [], False, 0)


def test_events_are_objects_newest_first():
    control = ModbusControlBlock()
    control.addEvent(EnteredListenModeEvent())
    control.addEvent(RemoteReceiveEvent(broadcast=True))
    assert control.Events == [RemoteReceiveEvent(broadcast=True), EnteredListenModeEvent()]
    assert control.getEvents() == b"\xc0\x04"
    control.clearEvents()
    assert control.Events == []


def test_the_diagnostic_register_by_bits():
    control = ModbusControlBlock()
    control.setDiagnostic({0: True, 15: 1, 16: True, -1: True})
    assert control.diagnostic_register == 0x8001
    assert control.getDiagnosticRegister() == [True] + 14 * [False] + [True]
    assert [control.getDiagnostic(bit) for bit in (0, 1, 15, 16, -1, None)] == [True, False, True, None, None, None]
    control.setDiagnostic({0: False})
    assert control.diagnostic_register == 0x8000


def test_the_mode_is_one_of_two():
    control = ModbusControlBlock()
    control.Mode = "RTU"
    control.Mode = "TCP"
    assert control.Mode == "RTU"


def test_iterating_gives_the_counters():
    control = ModbusControlBlock()
    control.Counter.SlaveMessage = 2
    assert dict(control)["SlaveMessage"] == 2
    assert str(control) == "ModbusControl"


def test_modbus_plus_statistics_are_55_words():
    statistics = ModbusControlBlock().Plus
    assert statistics.encode() == [0] * 55
    dict(statistics)["mac_state_variable"][1] = 7
    assert statistics.encode()[3] == 7
    assert ModbusPlusStatistics().encode() == [0] * 55
    statistics.reset()
    assert statistics.encode() == [0] * 55
    assert sum(map(len, statistics.summary())) == 110


IDENTITY = {0: "a", 1: "b", 2: "c", 4: "e", 0x80: "x", 0xFF: "y"}


@pytest.mark.parametrize(("code", "first", "found"), [
    (1, 0, [0, 1, 2]), (1, 1, [1, 2]), (2, 0, [0, 1, 2, 4]), (2, 2, [2, 4]), (2, 3, [0, 1, 2, 4]),
    (3, 0, [0, 1, 2, 4, 0x80, 0xFF]), (3, 0x80, [0x80, 0xFF]), (3, 0x81, [0, 1, 2, 4, 0x80, 0xFF]), (4, 4, [4]), (4, 5, [5]),
])
def test_device_information(code, first, found):
    control = ModbusControlBlock(ModbusDeviceIdentification(IDENTITY))
    result = DeviceInformationFactory.get(control, code, first)
    assert result == {number: IDENTITY.get(number, "") for number in found}


def test_device_information_of_no_known_code():
    with pytest.raises(ConfigurationError, match="5"):
        DeviceInformationFactory.get(ModbusControlBlock(), 5)


def test_access_control_is_asked_only_when_it_was_filled():
    access = ModbusAccessControl()
    assert list(access) == ["127.0.0.1"]
    access.remove("192.168.1.8")
    assert not access.enforced
    access.add("192.168.1.7")
    assert ModbusAccessControl() is access
    assert access.enforced
    assert access.check("192.168.1.7")
    assert not access.check("192.168.1.8")
    access.remove("192.168.1.7")
    assert access.enforced
    assert not access.check("192.168.1.7")


def test_what_is_added_by_a_class_that_derives_from_it_is_enforced():
    class Mine(ModbusAccessControl):
        pass

    Mine().add("192.168.1.7")
    assert ModbusAccessControl().enforced
    assert ModbusAccessControl().check("192.168.1.7")


def test_access_control_takes_lists_and_names_each_host_once():
    access = ModbusAccessControl()
    access.add(["10.0.0.1", "10.0.0.2", "10.0.0.1", "127.0.0.1"])
    assert list(access) == ["127.0.0.1", "10.0.0.1", "10.0.0.2"]
    access.remove(["127.0.0.1", "10.0.0.9"])
    access.remove("10.0.0.1")
    assert list(access) == ["10.0.0.2"]
    assert "10.0.0.1" not in access


def test_an_address_is_known_in_every_spelling():
    access = ModbusAccessControl()
    access.add(["10.0.0.1", "fe80:0::1", "fe80::2%eth0"])
    known = ["::ffff:10.0.0.1", "fe80::1", "fe80::1%eth0", "fe80::2%eth0"]
    unknown = ["::ffff:10.0.0.2", "fe80::2", "fe80::2%eth1", "fe80::3", "10.0.0.1.1", "", None, b"10.0.0.1"]
    assert [host for host in known + unknown if host in access] == known


def test_a_network_lets_all_its_hosts_in():
    access = ModbusAccessControl()
    access.add(["192.168.1.0/24", "10.0.0.7/30", "fd00::/8"])
    assert list(access) == ["127.0.0.1", "192.168.1.0/24", "10.0.0.4/30", "fd00::/8"]
    known = ["192.168.1.200", "::ffff:192.168.1.200", "10.0.0.5", "fd00::17", "192.168.1.0/24"]
    assert [host for host in [*known, "192.168.2.1", "10.0.0.8", "fe80::1", "192.168.1.0/25"] if host in access] == known
    access.remove("192.168.1.0/24")
    assert not access.check("192.168.1.200")


@pytest.mark.parametrize("host", ["gateway", "192.168.1", "", 7, None])
def test_a_host_that_is_no_address_is_refused_in_one_sentence(host):
    access = ModbusAccessControl()
    with pytest.raises(ConfigurationError, match=f"the host {host!r} is no address: give one such as"):
        access.add(["10.0.0.1", host])
    assert list(access) == ["127.0.0.1"]
    assert not access.enforced
