"""The control block and the identity of a server, from the application's side."""

import pytest
from adu import image, master, pdu

from mbcore import ModbusControlBlock, ModbusDeviceIdentification
from mbcore.errors import ConfigurationError

NAMES = ["BusMessage", "BusCommunicationError", "BusExceptionError", "SlaveMessage", "SlaveNoResponse", "SlaveNAK", "SlaveBusy",
         "BusCharacterOverrun", "Event"]
PROPERTIES = {"VendorName": 0, "ProductCode": 1, "MajorMinorRevision": 2, "VendorUrl": 3, "ProductName": 4, "ModelName": 5,
              "UserApplicationName": 6}


@pytest.mark.parametrize("name", NAMES)
def test_counters_start_at_zero_and_can_be_set(name):
    control = ModbusControlBlock()
    assert getattr(control.Counter, name) == 0
    setattr(control.Counter, name, 5)
    assert getattr(control.Counter, name) == 5


def test_a_new_control_block_is_quiet():
    control = ModbusControlBlock()
    assert not control.ListenOnly
    assert control.events == b""
    assert control.exception_status == 0
    assert control.diagnostic_register == 0
    assert isinstance(control.Delimiter, bytes)


def test_control_blocks_share_nothing():
    one, two = ModbusControlBlock(), ModbusControlBlock()
    one.Counter.BusMessage = 5
    one.ListenOnly = True
    one.exception_status = 7
    one.Identity.VendorName = "ACME"
    assert two.Counter.BusMessage == 0
    assert not two.ListenOnly
    assert two.exception_status == 0
    assert two.Identity.VendorName != "ACME"


@pytest.mark.parametrize("value", [-1, 256, 1 << 40, "x", None])
def test_exception_status_is_one_byte(value):
    control = ModbusControlBlock()
    with pytest.raises((ConfigurationError, TypeError)):
        control.exception_status = value
    assert control.exception_status == 0


@pytest.mark.parametrize("value", [-1, 65536, 1 << 40, "x", None])
def test_diagnostic_register_is_16_bits(value):
    control = ModbusControlBlock()
    with pytest.raises((ConfigurationError, TypeError)):
        control.diagnostic_register = value
    assert control.diagnostic_register == 0


def test_identity_is_the_one_given():
    identity = ModbusDeviceIdentification(info={0: "ACME"})
    assert ModbusControlBlock(identity).Identity.VendorName == "ACME"


def test_identity_by_numbers_and_by_names_is_the_same():
    numbers = ModbusDeviceIdentification(info={number: name for name, number in PROPERTIES.items()})
    names = ModbusDeviceIdentification(info_name={name: name for name in PROPERTIES})
    for name, number in PROPERTIES.items():
        assert getattr(numbers, name) == getattr(names, name) == name
        assert numbers[number] == names[number] == name


@pytest.mark.parametrize(("name", "number"), PROPERTIES.items())
def test_identity_attributes_are_items(name, number):
    identity = ModbusDeviceIdentification()
    setattr(identity, name, "one")
    assert identity[number] == "one"
    identity[number] = "two"
    assert getattr(identity, name) == "two"


def test_objects_that_the_specification_keeps_are_left_out():
    identity = ModbusDeviceIdentification(info=dict.fromkeys(range(0x100), "x"))
    assert [number for number, _ in identity] == [*range(7), *range(0x80, 0x100)]
    assert identity[0x10] == ""
    identity[7] = identity[8] = identity[0x10] = "y"
    assert (identity[7], identity[8], identity[0x10]) == ("", "", "y")


def test_an_identity_says_what_it_is():
    identity = ModbusDeviceIdentification(info={0: "ACME", 0x80: "ours"})
    assert str(identity) == "DeviceIdentity"
    assert repr(identity) == "ModbusDeviceIdentification({0: 'ACME', 128: 'ours'})"


def test_the_summary_of_counters_has_a_bit_for_each():
    counter = ModbusControlBlock().Counter
    assert counter.summary() == 0
    for bit, name in enumerate(dict(counter)):
        setattr(counter, name, 5)
        assert counter.summary() == (1 << min(bit + 1, 8)) - 1  # SL appendix A: CPT1 to CPT8; the event counter has none
    counter.reset()
    assert counter.summary() == 0


def test_identities_share_nothing():
    one, two = ModbusDeviceIdentification(), ModbusDeviceIdentification()
    one.VendorName = "ACME"
    one[0x80] = "ours"
    assert two.VendorName != "ACME"
    assert dict(iter(two)).get(0x80) is None


def test_reading_an_unknown_object_does_not_make_it():
    identity = ModbusDeviceIdentification(info={0: "ACME"})
    before = dict(iter(identity))
    assert identity[0x90] == ""
    assert dict(iter(identity)) == before


@pytest.mark.parametrize("number", [-1, 256, 1 << 40])
def test_object_ids_are_one_byte(number):
    with pytest.raises((ConfigurationError, KeyError, IndexError)):
        ModbusDeviceIdentification()[number] = "x"


def test_an_object_too_long_for_any_response_is_the_users_error():
    identity = ModbusDeviceIdentification()
    identity[0x80] = "x" * 244  # 253 - 7 bytes of head - id and length
    with pytest.raises(ConfigurationError):
        identity[0x80] = "x" * 245


@pytest.mark.parametrize("several", [["one", "two"], ("one",), {}])
def test_an_object_is_one_text(several):
    identity = ModbusDeviceIdentification(info={0x80: "one"})
    with pytest.raises(ConfigurationError, match=r"object 128 is .*; give it one text"):
        identity[0x80] = several
    assert identity[0x80] == "one"


@pytest.mark.parametrize("keywords", [{"info_name": {"Colour": "red"}}, {"info": 5}])
def test_an_unknown_identity_is_the_users_error(keywords):
    with pytest.raises((ConfigurationError, TypeError)):
        ModbusDeviceIdentification(**keywords)


def test_a_colon_is_no_delimiter():
    with pytest.raises(ConfigurationError, match="colon"):
        ModbusControlBlock().Delimiter = ":"


def test_a_subclass_that_forgets_init_has_an_identity():
    class Own(ModbusControlBlock):
        def __init__(self):
            pass

    assert Own().Identity.VendorName == "mbcore"


class Meddler(int):
    """A number for which a master asks whenever Python reckons with it."""

    def of(self, control):
        self.master, self.asked = master("socket", image(), control), 0
        return self

    def __radd__(self, other):
        self.ask()
        return other + int(self)

    def __and__(self, other):
        self.ask()
        return int(self) & other

    def ask(self):
        self.asked += 1
        self.master.ask(pdu("03 0000 0001"))


@pytest.mark.parametrize("name", ["SlaveMessage", "Event"])
def test_what_the_application_adds_to_a_counter_undoes_no_count(name):
    control = ModbusControlBlock()
    five = Meddler(5).of(control)
    control.Counter.update({name: five})
    assert five.asked, "a master has asked meanwhile"
    assert getattr(control.Counter, name) == five.asked + 5


def test_a_counter_that_the_application_adds_to_wraps():
    counter = ModbusControlBlock().Counter
    counter.BusMessage = 0xFFFF
    counter.update({"BusMessage": 3, "Event": -1})
    assert (counter.BusMessage, counter.Event) == (2, 0xFFFF)
