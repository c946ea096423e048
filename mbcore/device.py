"""What pymodbus' ``device`` has beyond the core's control: the process-wide control block, access control, Modbus Plus."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, ClassVar

from mbcore import control, hosts
from mbcore.bits import pack_bitstring, unpack_bitstring
from mbcore.defaults import DeviceInformation
from mbcore.errors import ConfigurationError
from mbcore.events import ModbusEvent, decode_event
from mbcore.interfaces import Singleton

__all__ = [
    "DeviceInformationFactory",
    "ModbusAccessControl",
    "ModbusControlBlock",
    "ModbusCountersHandler",
    "ModbusDeviceIdentification",
    "ModbusPlusStatistics",
    "ProcessControlBlock",
    "new_control",
    "process_control",
    "tell_loops",
]

_Place = IPv4Address | IPv6Address | IPv4Network | IPv6Network

ModbusCountersHandler = control.ModbusCountersHandler
ModbusDeviceIdentification = control.ModbusDeviceIdentification


class ModbusPlusStatistics:
    """The statistics of a Modbus Plus node, all zero: there is no such network here.

    Iterating gives (name, values), each value one byte.
    """

    _sizes: ClassVar[dict[str, int]] = {
        "node_type_id": 2,
        "software_version_number": 2,
        "network_address": 2,
        "mac_state_variable": 2,
        "peer_status_code": 2,
        "token_pass_counter": 2,
        "token_rotation_time": 2,
        "program_master_token_failed": 1,
        "data_master_token_failed": 1,
        "program_master_token_owner": 1,
        "data_master_token_owner": 1,
        "program_slave_token_owner": 1,
        "data_slave_token_owner": 1,
        "data_slave_command_transfer": 1,
        "__unused_10_lowbit": 1,
        "program_slave_command_transfer": 1,
        "program_master_rsp_transfer": 1,
        "program_slave_auto_logout": 1,
        "program_master_connect_status": 1,
        "receive_buffer_dma_overrun": 1,
        "pretransmit_deferral_error": 1,
        "frame_size_error": 1,
        "repeated_command_received": 1,
        "receiver_alignment_error": 1,
        "receiver_collision_abort_error": 1,
        "bad_packet_length_error": 1,
        "receiver_crc_error": 1,
        "transmit_buffer_dma_underrun": 1,
        "bad_link_address_error": 1,
        "bad_mac_function_code_error": 1,
        "internal_packet_length_error": 1,
        "communication_failed_error": 1,
        "communication_retries": 1,
        "no_response_error": 1,
        "good_receive_packet": 1,
        "unexpected_path_error": 1,
        "exception_response_error": 1,
        "forgotten_transaction_error": 1,
        "unexpected_response_error": 1,
        "active_station_bit_map": 8,
        "token_station_bit_map": 8,
        "global_data_bit_map": 8,
        "receive_buffer_use_bit_map": 8,
        "data_master_output_path": 8,
        "data_slave_input_path": 8,
        "program_master_outptu_path": 8,  # pymodbus' spelling
        "program_slave_input_path": 8,
    }

    def __init__(self) -> None:
        self.reset()

    def __iter__(self) -> Iterator[tuple[str, list[int]]]:
        return iter(self._values.items())

    def reset(self) -> None:
        """Set all to zero."""
        self._values = {name: [0] * size for name, size in self._sizes.items()}

    def summary(self) -> Iterable[list[int]]:
        """Return the values without their names."""
        return self._values.values()

    def encode(self) -> list[int]:
        """Return the values as 16-bit words."""
        octets = [octet for values in self.summary() for octet in values]
        return [high << 8 | low for high, low in zip(octets[::2], octets[1::2], strict=True)]


class _Additions:
    """What pymodbus' control block has beyond the core's; for a class that has all of that."""

    def __init__(self) -> None:
        self._mode = "ASCII"
        self._plus = ModbusPlusStatistics()

    def __str__(self) -> str:
        return "ModbusControl"

    def __iter__(self: Any) -> Iterator[tuple[str, int]]:
        """Iterate over (name, value) of the counters."""
        return iter(self.Counter)

    @property
    def Mode(self) -> str:
        """"ASCII" or "RTU": a note of the application's, any other word is ignored. The framer is chosen where the server is started."""
        return self._mode

    @Mode.setter
    def Mode(self, mode: str) -> None:
        if mode in ("ASCII", "RTU"):
            self._mode = mode

    @property
    def Plus(self) -> ModbusPlusStatistics:
        """The Modbus Plus statistics."""
        return self._plus

    @property
    def Events(self: Any) -> list[ModbusEvent]:
        """The event log as objects, newest first."""
        return [decode_event(code) for code in self.events]

    def setDiagnostic(self: Any, mapping: Mapping[int, object]) -> None:
        """Set bits of the diagnostic register, {bit 0..15: whether it is set}; others are ignored."""
        register = self.getDiagnosticRegister()
        for bit, value in mapping.items():
            if 0 <= bit < len(register):
                register[bit] = bool(value)
        self.diagnostic_register = int.from_bytes(pack_bitstring(register), "little")

    def getDiagnostic(self, bit: Any) -> bool | None:
        """Return one bit of the diagnostic register, None when ``bit`` is not one of 0..15."""
        return self.getDiagnosticRegister()[bit] if isinstance(bit, int) and 0 <= bit <= 15 else None

    def getDiagnosticRegister(self: Any) -> list[bool]:
        """Return the diagnostic register, bit 0 first."""
        return unpack_bitstring(self.diagnostic_register.to_bytes(2, "little"))


class ModbusControlBlock(_Additions, control.ModbusControlBlock):
    """The core's control block with all that pymodbus' one has.

    :param identity: as there
    """

    def __init__(self, identity: control.ModbusDeviceIdentification | None = None) -> None:
        control.ModbusControlBlock.__init__(self, identity)
        _Additions.__init__(self)


class ProcessControlBlock(_Additions):
    """pymodbus' one control block for the process: the first server's own, with all of its attributes.

    Before there is a server it is a block that the next one takes over, and so it is when the last has stopped. A second server has a block
    of its own, which its handle's ``control`` is.
    """

    _block: control.ModbusControlBlock | None = None

    @property
    def block(self) -> control.ModbusControlBlock:
        """The core's block that this one is now."""
        self._block = next(iter(control.server_blocks), self._block) or control.ModbusControlBlock()
        return self._block

    def __getattr__(self, name: str) -> Any:
        return getattr(self.block, name)

    def __setattr__(self, name: str, value: object) -> None:
        own = name.startswith("_") or hasattr(type(self), name)
        object.__setattr__(self if own else self.block, name, value)


_process: ProcessControlBlock | None = None


def process_control() -> ProcessControlBlock:
    """The control block that a script with one server means when it names none."""
    global _process
    if _process is None:
        _process = ProcessControlBlock()
    return _process


def new_control(identity: control.ModbusDeviceIdentification | None = None) -> control.ModbusControlBlock:
    """The control block of a new server: the process' when a script has asked for that and no other server has it.

    :param identity: the server's; None leaves what the script has set, or says mbcore
    """
    if _process is None or control.server_blocks:
        return control.ModbusControlBlock(identity)
    if identity is not None:
        _process.block.Identity = identity
    return _process.block


class DeviceInformationFactory:
    """Picks objects of an identification as 43/14 does (AP 6.21)."""

    _last: ClassVar[dict[int, int]] = {DeviceInformation.Basic: 0x02, DeviceInformation.Regular: 0x06, DeviceInformation.Extended: 0xFF}

    @classmethod
    def get(
        cls, control: control.ModbusControlBlock, read_code: int = DeviceInformation.Basic, object_id: int = 0
    ) -> dict[int, str | bytes]:
        """The objects as {object id: text}, from ``object_id`` on, empty ones left out.

        :param read_code: one of :class:`mbcore.defaults.DeviceInformation`; Specific is the one object alone, empty or not
        :param object_id: a regular or extended stream that is to begin at an object that is not there begins at the first
        :raises ConfigurationError: there is no such read code
        """
        identity = control.Identity
        if read_code == DeviceInformation.Specific:
            return {object_id: identity[object_id]}
        if read_code not in cls._last:
            raise ConfigurationError(f"the read device identification code {read_code!r} is not in 1..4")
        first = object_id if identity[object_id] or read_code == DeviceInformation.Basic else 0
        # 0x07..0x7F are reserved.
        return {number: text for number, text in identity
                if text and first <= number <= cls._last[read_code] and not 0x06 < number < 0x80}


class ModbusAccessControl(Singleton):
    """The hosts that a server lets in: one table for the process, as in pymodbus.

    At first it holds 127.0.0.1 and is not asked. From the first :meth:`add` on, servers of TCP, TLS and UDP refuse who is not in it;
    connections that are open already stay.

    Compiled loops let in who is in the table by themselves, whatever Python does meanwhile, and ask :meth:`check` about all others. Where
    the application has put a rule of its own in place of ours, they ask it about everyone: a class instead of this one in this module, or a
    ``check``, ``__contains__`` or ``enforced`` of this class or its instance. They notice that when a server starts, and at each
    :meth:`add` and :meth:`remove`; what is put there or taken away in between is not noticed before.
    """

    # As the loops want them; those that they don't know have None.
    _hosts: ClassVar[dict[_Place, tuple[bytes, int] | None]] = {IPv4Address("127.0.0.1"): (b"\x7f\0\0\1", 32)}
    _filled: ClassVar[bool] = False

    @property
    def enforced(self) -> bool:
        """Whether a host was ever added, and so servers ask the table."""
        return self._filled

    def __iter__(self) -> Iterator[str]:
        return map(str, list(self._hosts))

    def __contains__(self, host: object) -> bool:
        place = _place(host)
        if place is None:
            return False
        # An address of a link, "fe80::1%eth0", is let in on that link or on every one, "fe80::1".
        if place in self._hosts or _place(str(place).partition("%")[0]) in self._hosts:
            return True
        # A list: another thread may change the table meanwhile.
        return any(place in net for net in list(self._hosts) if isinstance(net, IPv4Network | IPv6Network))

    def add(self, host: str | list[str]) -> None:
        """Let a host, or a list of them, in.

        :param host: an address, "192.168.1.7" or "fe80::1", or a network, "192.168.1.0/24"
        :raises ConfigurationError: it is neither; nothing is added then
        """
        places = {}
        for entry in _listed(host):
            place = _place(entry)
            if place is None:
                raise ConfigurationError(f'the host {entry!r} is no address: give one such as "192.168.1.7" or "192.168.1.0/24"')
            places[place] = _network(place)
        # Of all: who derives from this class has the same table.
        ModbusAccessControl._filled = True
        self._hosts.update(places)
        tell_loops()

    def remove(self, host: str | list[str]) -> None:
        """Let a host, or a list of them, in no more; those that are not in the table are passed over."""
        for place in map(_place, _listed(host)):
            if place is not None:
                self._hosts.pop(place, None)
        tell_loops()

    def check(self, host: str) -> bool:
        """Return whether the host is in the table, by itself or in one of its networks."""
        return host in self


# As they were made.
_RULE = {name: getattr(ModbusAccessControl, name) for name in ("check", "__contains__", "enforced")}


def tell_loops() -> None:
    """Tell this process' compiled loops whom they let in without asking: who is in the table, unless the rule is the application's."""
    # What servers ask: the application may have put another class in its place.
    access = ModbusAccessControl()
    attributes = getattr(access, "__dict__", {})
    ours = all(getattr(type(access), name, None) is rule and name not in attributes for name, rule in _RULE.items())
    if not ours:
        hosts.set_table({})
    elif access.enforced:
        # A table that is there is never taken away: another thread may have added to it meanwhile.
        hosts.set_table(access._hosts)


def _listed(host: str | Iterable[str]) -> list[str]:
    return [host] if isinstance(host, str) else list(host)


def _place(host: object) -> _Place | None:
    """One object for all spellings of an address or a network; on a port for both versions of IP, an IPv4 client is ::ffff:192.168.1.7."""
    if isinstance(host, str):
        with suppress(ValueError):
            address = ip_address(host)
            return getattr(address, "ipv4_mapped", None) or address
        with suppress(ValueError):
            return ip_network(host, strict=False)
    return None


def _network(place: _Place) -> tuple[bytes, int] | None:
    """A place as the loops want it. They don't know links, and so no address of one link alone, "fe80::1%eth0"."""
    if isinstance(place, IPv4Network | IPv6Network):
        return place.network_address.packed, place.prefixlen
    if getattr(place, "scope_id", None) is not None:
        return None
    return place.packed, place.max_prefixlen
