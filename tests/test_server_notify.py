"""What the service manager is told, over real sockets; what feeds its watchdog, and what does not."""

import logging
import os
import select
import socket
import subprocess
import sys

import pytest
from adu import ENVIRONMENT
from doubles import Reactor

from mbcore.errors import ConfigurationError
from mbcore.server.notify import notify_systemd

PATIENCE = 30


class Handle:
    """A server's handle, with what the notifier asks of it."""

    def __init__(self, alive=True, line=None):
        self.alive, self.line = alive, line

    def __repr__(self):
        return "<TCP server on 127.0.0.1:5020>"


class Waiting:
    state, reason = "waiting", "it is not plugged in"


class Manager:
    """systemd's end of the socket."""

    def __init__(self, address):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.settimeout(PATIENCE)

    def said(self):
        """Every message that is there by now, a list of its lines."""
        found = []
        while select.select([self.socket], [], [], 0)[0]:
            found.append(self.socket.recv(4096).decode().split("\n"))
        return found


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path, monkeypatch):
    """(Manager, the words of the environment); a link leads to the folder, whose own name is too long for a socket."""
    monkeypatch.chdir(tmp_path)
    name = f"mbcore-test-{os.getpid()}"
    manager = Manager(f"\0{name}" if request.param == "abstract" else "notify")
    link = f"/tmp/{name}"
    os.symlink(tmp_path, link)
    yield manager, {"NOTIFY_SOCKET": f"@{name}" if request.param == "abstract" else f"{link}/notify"}
    os.unlink(link)
    manager.socket.close()


@pytest.fixture
def reactor():
    return Reactor()


def run(reactor, *meanwhile):
    """Run the reactor; it is stopped after these."""
    reactor.meanwhile = [*meanwhile, reactor.stop]
    reactor.run()


SERVES = "STATUS=TCP server on 127.0.0.1:5020"


def test_ready_when_the_reactor_runs_and_stopping_before_it_stops(manager, reactor):
    manager, environ = manager
    assert notify_systemd([Handle()], reactor, environ) is None
    assert manager.said() == []
    run(reactor, lambda: None)
    assert manager.said() == [["READY=1", SERVES], ["STOPPING=1"]]


def test_a_line_that_waits_for_its_device_is_ready_and_says_so(manager, reactor):
    manager, environ = manager
    notify_systemd([Handle(line=Waiting())], reactor, environ)
    run(reactor)
    assert manager.said()[0] == ["READY=1", f"{SERVES}, waits: it is not plugged in"]


def test_the_watchdog_is_fed_twice_in_its_time_while_all_servers_are_alive(manager, reactor):
    manager, environ = manager
    first, second = Handle(), Handle()
    feeding = notify_systemd([first, second], reactor, environ | {"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": str(os.getpid())})
    status = f"{SERVES}, TCP server on 127.0.0.1:5020"
    fed = ["WATCHDOG=1", status]

    def watch():
        assert manager.said() == [["READY=1", status], fed]
        reactor.advance(4.9)
        assert manager.said() == []
        reactor.advance(0.2)
        assert manager.said() == [fed]
        second.alive = False
        reactor.advance(5)
        assert manager.said() == [[status]]
        second.alive = True
        reactor.advance(5)
        assert manager.said() == [fed]

    run(reactor, watch)
    feeding.stop()
    assert manager.said() == [["STOPPING=1"]]


@pytest.mark.parametrize(
    "more", [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "1"}, {"WATCHDOG_PID": str(os.getpid())}]
)
def test_a_watchdog_that_is_none_or_watches_another_process_is_not_fed(manager, reactor, more):
    manager, environ = manager
    assert notify_systemd([Handle()], reactor, environ | more) is None
    run(reactor)
    assert manager.said() == [["READY=1", SERVES], ["STOPPING=1"]]


def test_without_a_manager_nothing_is_done(reactor):
    for environ in ({}, {"NOTIFY_SOCKET": "", "WATCHDOG_USEC": "1"}):
        assert notify_systemd([Handle()], reactor, environ) is None
    assert not reactor.shutdown_triggers


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"NOTIFY_SOCKET": "notify"}, "NOTIFY_SOCKET is 'notify': systemd gives a path, or an abstract name that begins with @"),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "soon"}, "WATCHDOG_USEC and WATCHDOG_PID are whole numbers: .*'soon'"),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_PID": "me"}, "WATCHDOG_USEC and WATCHDOG_PID are whole numbers: .*'me'"),
    ],
)
def test_an_environment_that_is_not_systemds_is_refused(reactor, environ, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        notify_systemd([Handle()], reactor, environ)


def test_a_manager_that_is_gone_is_told_of_once(reactor, caplog):
    caplog.set_level(logging.WARNING)
    notify_systemd([Handle()], reactor, {"NOTIFY_SOCKET": "/no/such/socket"})
    run(reactor)
    assert [record.getMessage() for record in caplog.records] == [
        "systemd is not told READY=1: [Errno 2] No such file or directory"
    ]


@pytest.mark.live
@pytest.mark.parametrize("words", [["tcp", "127.0.0.1", "-p", "0"], ["rtu", "/dev/no-such-port"]], ids=["tcp", "rtu"])
def test_the_command_tells_its_manager(manager, words):
    manager, environ = manager
    command = [sys.executable, "-P", "-m", "mbcore", "serve", *words]
    # The watchdog's process is known only when it runs: without a number it is any.
    serving = subprocess.Popen(command, env=ENVIRONMENT | environ | {"WATCHDOG_USEC": "200000"}, stdout=subprocess.DEVNULL)
    try:
        ready = manager.socket.recv(4096).decode().split("\n")
        assert ready[0] == "READY=1"
        status = {"tcp": "TCP server on 127.0.0.1:", "rtu": "serial server on /dev/no-such-port, waits: "}[words[0]]
        assert ready[1].startswith(f"STATUS={status}")
        for _ in range(3):
            assert manager.socket.recv(4096).startswith(b"WATCHDOG=1\n")
        serving.terminate()
        while (said := manager.socket.recv(4096)) != b"STOPPING=1":
            assert said.startswith(b"WATCHDOG=1\n")
        assert serving.wait(PATIENCE) == 0
    finally:
        serving.kill()
        serving.wait()
