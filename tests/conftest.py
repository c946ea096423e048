"""Fixtures shared by several files: the masters of the conformance tests, and the device that the live tests talk to."""

import signal
import sys
from contextlib import ExitStack, closing

import pytest
from adu import DELIVERIES, master
from carried import EVERY, carried_master, case
from doubles import Reactor
from live import programs
from live.device import Device, has_choice
from live.line import Adapter, Line
from live.ports import reserved_port
from live.shim import Shim, compile_shim
from twisted.python import threadable

from mbcore import control, device, hosts
from mbcore.server import running

LIVE_SECONDS = 60
LONG_SECONDS = 300


def pytest_configure():
    # A shell that begins this in the background has it ignored, and so would be by all that is begun here and ended by it.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Where libcst is there, hypothesis writes a patch for an example that fails; libcst stumbles over zope.interface, and pytest would end.
    sys.modules["hypothesis.extra._patching"] = None


@pytest.fixture(params=[case(way) for way in EVERY])
def connect(request):
    """connect(store, control=None, **options) -> Master

    Over every framer, whole, byte by byte and between two glued frames; and through servers on Twisted and on the compiled loops, over TCP,
    UDP and serial lines.
    """
    if request.param in DELIVERIES:
        line, delivery = request.param
        return lambda store, control=None, **options: master(line, store, control, delivery, **options)

    def start(store, control=None, **options):
        made, server = carried_master(request.param, store, control, **options)
        request.addfinalizer(server.close)
        return made

    return start


@pytest.fixture
def access_control(monkeypatch):
    """The ModbusAccessControl of this process, as a process has it at first."""
    monkeypatch.setattr(device.ModbusAccessControl, "_hosts", device.ModbusAccessControl._hosts.copy())
    monkeypatch.setattr(device.ModbusAccessControl, "_filled", False)
    yield device.ModbusAccessControl()
    hosts.set_table(None)


@pytest.fixture
def table_of_hosts():
    """table_of_hosts(network, ...): they are in it, (address, bits) each. At first none is."""

    def enter(*networks):
        hosts.set_table(dict(enumerate(networks)))

    enter()
    yield enter
    hosts.set_table(None)


@pytest.fixture
def process_control(monkeypatch):
    """The control block of this process, as an old script has it that asks for it before it starts a server."""
    monkeypatch.setattr(device, "_process", None)
    control.server_blocks.clear()
    return device.process_control()


@pytest.fixture
def own_servers(monkeypatch):
    """This thread is the one that runs the reactor, and the servers of one test are not those of the next."""
    monkeypatch.setattr(threadable, "ioThread", threadable.getThreadID())
    monkeypatch.setattr(running, "_servers", set())
    monkeypatch.setattr(running, "_reactors_left", set())


@pytest.fixture
def reactor(own_servers):
    return Reactor()


@pytest.fixture(autouse=True)
def time_limit(request):
    """A live test that hangs fails, where it hangs; everything that it started is then ended by its fixtures."""
    if not request.node.get_closest_marker("live"):
        yield
        return
    seconds = LONG_SECONDS if request.node.get_closest_marker("long") else LIVE_SECONDS

    def give_up(_signal, _frame):
        raise TimeoutError(f"the test takes longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module", params=[True, False], ids=["loop", "twisted"])
def engine(request):
    """What carries the bytes: a compiled loop or Twisted."""
    return request.param


def _serve(request, engine):
    """serve(transport, **keywords) -> Device, with a serial line or certificates where the transport wants them; on either engine."""

    def start(transport, **keywords):
        if has_choice(transport):
            keywords["engine"] = engine
        else:
            assert not engine, "Twisted alone carries this: the test is to be marked with carried.on_engines"
        if transport in ("rtu", "ascii", "binary"):
            keywords["line"] = stack.enter_context(closing(Line()))
        elif transport in ("tls", "bare-tls"):
            keywords["certificates"] = request.getfixturevalue("certificates")
        device = Device(transport, **keywords)
        stack.callback(device.kill)
        return device

    # Not by finalizers of the request: they would come before those of the fixtures that use this one.
    with ExitStack() as stack:
        yield start


# The first is for a device of the test's own, the second for one that the tests of a file share.
serve = pytest.fixture(_serve, name="serve")
serve_all = pytest.fixture(_serve, scope="module", name="serve_all")


@pytest.fixture
def adapter(tmp_path):
    """A serial port that is plugged in and out."""
    adapter = Adapter(tmp_path)
    yield adapter
    if adapter.master is not None:
        adapter.unplug()


@pytest.fixture
def free_port():
    """free_port() -> a TCP port for a server that the test starts; nobody else is given it before the test ends."""
    with ExitStack() as held:
        yield lambda: held.enter_context(reserved_port())


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    from live.certificates import Certificates

    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def libmodbus_program(tmp_path_factory):
    return programs.compile_libmodbus_client(tmp_path_factory.mktemp("libmodbus"))


@pytest.fixture(scope="session")
def pymodbus2_python():
    # The first time it is fetched and installed, which is not the fault of the test that waits for it.
    remaining = signal.alarm(0)
    python = programs.install_pymodbus2()
    signal.alarm(remaining)
    return python


@pytest.fixture(scope="session")
def shim_library(tmp_path_factory):
    return compile_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def shim(shim_library, tmp_path):
    """shim(script="", device=None, **words) -> Shim: a driver and its record."""
    records = iter(range(1000))
    return lambda *script, **words: Shim(shim_library, tmp_path / f"record{next(records)}", *script, **words)
