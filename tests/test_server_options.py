"""What users hand to a server: taken, refused with one sentence, or answered with one warning."""

import enum
import warnings

import pytest
from adu import run_python

from mbcore import (
    ModbusAsciiFramer,
    ModbusBinaryFramer,
    ModbusDeviceIdentification,
    ModbusRtuFramer,
    ModbusSequentialDataBlock,
    ModbusServerContext,
    ModbusSlaveContext,
    ModbusSocketFramer,
    ModbusTlsFramer,
    server,
)
from mbcore.errors import ConfigurationError
from mbcore.framer import Framer
from mbcore.server import IgnoredKeywordWarning, options
from mbcore.server.options import (
    check_address,
    check_count,
    check_hook,
    check_identity,
    check_store,
    find_framer,
    take_options,
)

# Every keyword of a Start function or a server class in the releases of pymodbus from 1.2 to 3.16.
EVERY = (
    "context identity console framer ignore_missing_slaves ignore_missing_devices defer_reactor_run custom_functions custom_pdu "
    "broadcast_enable trace_packet trace_pdu trace_connect handler loop response_manipulator request_tracer"
)
NETWORK = EVERY + " address allow_reuse_address allow_reuse_port defer_start backlog host"
TLS = NETWORK + " sslctx certfile keyfile password reqclicert"
SERIAL = EVERY + (
    " port baudrate bytesize parity stopbits timeout xonxoff rtscts auto_reconnect reconnect_delay handle_local_echo allow_multiple_devices"
)


@pytest.mark.parametrize(
    ("known", "words"),
    [
        (options.TCP_KEYWORDS, NETWORK),
        (options.TLS_KEYWORDS, TLS),
        (options.UDP_KEYWORDS, NETWORK),
        (options.SERIAL_KEYWORDS, SERIAL),
        (options.FACTORY_KEYWORDS, TLS + SERIAL.removeprefix(EVERY) + " path"),
    ],
    ids=["tcp", "tls", "udp", "serial", "factory"],
)
def test_every_pymodbus_keyword_is_used_or_gets_one_warning(known, words):
    aliases = {"ignore_missing_devices": "ignore_missing_slaves", "custom_pdu": "custom_functions"}
    for word in words.split():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            taken = take_options("Start", {word: "a value"}, known)
        if caught:
            assert [warning.category for warning in caught] == [IgnoredKeywordWarning]
            assert str(caught[0].message).startswith(f"Start() ignores {word!r}: ")
            assert taken == {}
        else:
            assert taken == {aliases.get(word, word): "a value"}


def test_a_value_that_asks_for_nothing_gets_no_warning():
    given = {"handler": None, "auto_reconnect": False, "allow_reuse_address": True, "allow_multiple_devices": True}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert take_options("Start", given, options.TCP_KEYWORDS) == {}


@pytest.mark.parametrize("known", [options.TCP_KEYWORDS, options.SERIAL_KEYWORDS])
@pytest.mark.parametrize(("timeout", "warned"), [(None, 0), (0, 0), (0.0, 0), (3, 1), (0.5, 1)])
def test_a_timeout_is_not_used_and_pymodbus_defaults_are_silent(known, timeout, warned):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert take_options("Start", {"timeout": timeout}, known) == {}
    sentences = ["Start() ignores 'timeout': a server waits for requests without a limit"]
    assert [str(warning.message) for warning in caught] == sentences * warned


def test_a_free_port_is_not_nothing():
    with pytest.warns(IgnoredKeywordWarning, match="ignores 'port': use address="):
        take_options("StartTcpServer", {"port": 0}, options.TCP_KEYWORDS)


def test_the_warning_points_at_the_users_line():
    def start(**kwargs):
        take_options("Start", kwargs, options.TCP_KEYWORDS)

    with pytest.warns(IgnoredKeywordWarning) as caught:
        start(loop="a loop")
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("adress", "did you mean 'address'?"),
        ("ignore_missing_slave", "did you mean 'ignore_missing_slaves'?"),
        ("ignore_missing_device", "did you mean 'ignore_missing_devices'?"),
        ("respond_manipulator", "did you mean 'response_manipulator'?"),
    ],
)
def test_an_unknown_keyword_is_a_type_error_that_names_the_nearest(word, hint):
    with pytest.raises(TypeError) as caught:
        take_options("StartTcpServer", {word: 1}, options.TCP_KEYWORDS)
    assert str(caught.value) == f"StartTcpServer() has no keyword {word!r}; {hint}"


@pytest.mark.parametrize("word", ["zzz", "name", "factory", "baud"])
def test_a_keyword_like_no_other_is_a_type_error_that_names_them_all(word):
    with pytest.raises(TypeError, match=f"has no keyword '{word}'; it knows address, answer_timeout, backlog, broadcast_enable, "):
        take_options("StartTcpServer", {word: 1}, options.TCP_KEYWORDS)


@pytest.mark.parametrize(
    ("word", "owner"), [("zero_mode", "ModbusSlaveContext"), ("slaves", "ModbusServerContext"), ("single", "ModbusServerContext")]
)
def test_a_keyword_of_a_context_is_a_type_error_that_says_where_it_belongs(word, owner):
    with pytest.raises(TypeError) as caught:
        take_options("StartTcpServer", {word: True}, options.TCP_KEYWORDS)
    assert str(caught.value) == f"StartTcpServer() has no keyword {word!r}; it belongs to {owner}"


def test_a_keyword_under_both_its_names_is_a_type_error():
    with pytest.raises(TypeError, match="got 'ignore_missing_slaves' twice: 'ignore_missing_devices' is another name for it"):
        take_options("Start", {"ignore_missing_slaves": True, "ignore_missing_devices": True}, options.TCP_KEYWORDS)


def test_no_store_is_a_context_with_default_blocks():
    store = check_store(None)
    assert isinstance(store, ModbusServerContext)
    assert store[1].getValues(3, 65534, 1) == [0]


def test_a_store_of_a_subclass_is_taken_as_it_is():
    class Context(ModbusServerContext):
        pass

    store = Context()
    assert check_store(store) is store


@pytest.mark.parametrize(
    ("store", "sentence"),
    [
        (ModbusSlaveContext(), r"wrap it, ModbusServerContext\(slaves=context, single=True\)"),
        (ModbusSequentialDataBlock(0, [1]), r"ModbusSequentialDataBlock, not mbcore's: .*ModbusServerContext\(slaves=ModbusSlaveContext"),
        ({1: ModbusSlaveContext()}, r"the context is a builtins.dict, not mbcore's: .*ModbusServerContext\("),
        (ModbusServerContext, r"the context is the class mbcore.*ModbusServerContext, not mbcore's"),
        (7, "the context is 7, not mbcore's"),
    ],
)
def test_a_wrong_store_is_refused_with_the_way_to_wrap_it(store, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        check_store(store)


def test_an_identity_is_one_or_none():
    identity = ModbusDeviceIdentification(info={0: "ACME"})
    assert check_identity(identity) is identity
    assert check_identity(None) is None
    with pytest.raises(ConfigurationError, match=r"the identity is a builtins\.dict: import ModbusDeviceIdentification from mbcore"):
        check_identity({0: "ACME"})


class FramerType(enum.StrEnum):
    """As pymodbus 3 has it."""

    ASCII = "ascii"
    RTU = "rtu"
    SOCKET = "socket"
    TLS = "tls"


class OwnFramer(ModbusRtuFramer):
    pass


@pytest.mark.parametrize(
    ("framer", "found"),
    [
        (None, ModbusSocketFramer),
        (ModbusAsciiFramer, ModbusAsciiFramer),
        (OwnFramer, OwnFramer),
        ("socket", ModbusSocketFramer),
        ("RTU", ModbusRtuFramer),
        ("ascii", ModbusAsciiFramer),
        ("binary", ModbusBinaryFramer),
        (FramerType.TLS, ModbusTlsFramer),
        (FramerType.RTU, ModbusRtuFramer),
    ],
)
def test_a_framer_is_a_class_of_mbcore_or_a_word(framer, found):
    assert find_framer(framer) is found


class PymodbusRtuFramer:
    pass


class FrameReader(Framer):
    """Of no known framing."""


class ModbusSocket(Framer):
    """Has another framer's name, but is none of mbcore's."""


ModbusSocket.__name__ = "ModbusSocketFramer"


@pytest.mark.parametrize(
    ("framer", "named"),
    [
        ("modbus", "'modbus'"),
        (PymodbusRtuFramer, r"the class test_server_options\.PymodbusRtuFramer"),
        (PymodbusRtuFramer(), r"a test_server_options\.PymodbusRtuFramer"),
        (FrameReader, r"the class test_server_options\.FrameReader"),
        (ModbusSocket, r"the class test_server_options\.ModbusSocket"),
    ],
)
def test_another_framer_is_refused(framer, named):
    with pytest.raises(ConfigurationError, match=f"the framer is {named}.*ModbusRtuFramer.* of mbcore, or one of the words socket, rtu"):
        find_framer(framer)


def test_a_server_loads_the_one_framer_that_it_uses():
    loaded = "sorted(name for name in sys.modules if name.startswith('mbcore.framer.'))"
    script = f"import sys, mbcore.server as s; print({loaded}); s.ModbusServerFactory(framer='tls'); print({loaded})"
    assert run_python(script).split("\n")[:2] == ["['mbcore.framer.base']", "['mbcore.framer.base', 'mbcore.framer.tls']"]


@pytest.mark.parametrize("package", ["mbcore", "mbcore.framer"])
def test_a_framer_that_is_not_loaded_yet_is_there_for_all_who_look(package):
    names = [f"Modbus{name}Framer" for name in ("Ascii", "Binary", "Rtu", "Socket", "Tls")]
    looks = {
        f"import {package} as package; print(*dir(package))": names,
        f"from {package} import *; print(*[name for name in dir() if name.endswith('Framer') and name != 'Framer'])": names,
        f"import pydoc, {package}; print(pydoc.render_doc({package}, renderer=pydoc.plaintext))": [f"class {name}" for name in names],
        f"import {package} as package; print(package.ModbusRtuFramer is package.ModbusRtuFramer)": ["True"],
        f"import {package} as package; print(hasattr(package, 'ModbusMorseFramer'))": ["False"],
    }
    for program, shown in looks.items():
        printed = run_python(program)
        assert [text for text in shown if text not in printed] == []


def test_a_server_that_is_not_loaded_yet_is_there_for_all_who_look():
    looks = {
        "import sys, mbcore.server as s; print('twisted' in sys.modules, s.StartTcpServer.__module__, hasattr(s, 'StartCanServer'))":
            "False mbcore.server.start False",
        "from mbcore.server import *; print(set(__import__('mbcore.server').server.__all__) - set(dir()))": "set()",
        "import mbcore.server as s; print(set(s.__all__) - set(dir(s)), s.StopServer is s.StopServer)": "set() True",
        "import mbcore.server; print(mbcore.server.tcp.__name__, mbcore.server.start.__name__)": "mbcore.server.tcp mbcore.server.start",
        "from mbcore.server import *; print(sorted(name for name in dir() if name[:1].isupper()))": str(sorted(server.__all__)),
    }
    assert {program: run_python(program).strip() for program in looks} == looks
    assert set(server.__all__) <= set(dir(server))
    assert not hasattr(server, "StartCanServer")


def test_a_module_that_lacks_another_one_says_so(monkeypatch):
    def lack(name):
        raise ModuleNotFoundError("No module named 'twisted'", name="twisted")

    monkeypatch.setattr(server, "import_module", lack)
    with pytest.raises(ModuleNotFoundError, match="twisted"):
        _ = server.elsewhere


def test_a_hook_can_be_called_or_is_refused():
    assert check_hook("trace_pdu", None) is None
    assert check_hook("trace_pdu", print) is print
    with pytest.raises(ConfigurationError, match="trace_pdu is True: give a function"):
        check_hook("trace_pdu", True)


@pytest.mark.parametrize(
    ("value", "said"),
    [(0, "0"), (-1, "-1"), (1.0, "1.0, a float"), (True, "True, a bool"), ("9600", "'9600', a str"), (None, "None")],
)
def test_a_count_is_a_whole_number_that_is_not_too_low(value, said):
    assert check_count("backlog", 1, 1) == 1
    with pytest.raises(ConfigurationError) as caught:
        check_count("backlog", value, 1)
    assert str(caught.value) == f"backlog is {said}: give a whole number, 1 or more"


@pytest.mark.parametrize(
    ("address", "found"),
    [
        (None, ("", 502)),
        (("127.0.0.1", 5020), ("127.0.0.1", 5020)),
        (["::1", 0], ("::1", 0)),
        ((None, 65535), ("", 65535)),
    ],
)
def test_an_address_is_interface_and_port(address, found):
    assert check_address(address, 502) == found


@pytest.mark.parametrize("address", ["127.0.0.1:5020", ("", 65536), ("", -1), ("", "502"), (1, 502), ("",), 502])
def test_another_address_is_refused(address):
    with pytest.raises(ConfigurationError, match=r"the address is .*: give \(interface, port\), e\.g\. .*, with a port in 0\.\.65535"):
        check_address(address, 502)
