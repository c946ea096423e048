"""Servers beside threads, signals and a reactor of the user's own: each scenario is a process, since a reactor runs once in a process."""

import atexit
import contextlib
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from live.ports import reserved_port

import mbcore

pytestmark = pytest.mark.live

REQUEST = bytes.fromhex("0001 0000 0006 01 03 0000 0001")
REPLY = bytes.fromhex("0001 0000 0005 01 03 02 0000")
PATIENCE = 20


_held = contextlib.ExitStack()
atexit.register(_held.close)


def free_port(kind=socket.SOCK_STREAM):
    """A port for a server; one of TCP is nobody else's as long as this process lives."""
    if kind == socket.SOCK_STREAM:
        return _held.enter_context(reserved_port())
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def connect(port):
    """A client's connection, as soon as there is a server."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), PATIENCE)
        except ConnectionRefusedError:
            assert time.monotonic() < end
            time.sleep(0.01)


def ask(port):
    with connect(port) as client:
        client.sendall(REQUEST)
        assert client.recv(100) == REPLY


def stopper_after_an_answer(port, asked):
    """A thread that stops the server whether it answers or not, so that the reactor ends, and notes in `asked` that it does."""
    from mbcore.server import StopServer

    def work():
        try:
            ask(port)
            asked.append(True)
        finally:
            StopServer()

    return threading.Thread(target=work)


def gone(port):
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), PATIENCE)


def said_ports():
    """kind -> port of the servers that say from now on that they are ready."""
    ports = {}

    class Ear(logging.Handler):
        def emit(self, record):
            if found := re.fullmatch(r"(\w+) server on .*:(\d+) is ready", record.getMessage()):
                ports[found[1]] = int(found[2])

    logging.getLogger().addHandler(Ear())
    logging.getLogger().setLevel(logging.INFO)
    return ports


def in_thread(function, **options):
    thread = threading.Thread(target=function, args=(mbcore.ModbusServerContext(),), kwargs=options)
    thread.start()
    return thread


def scenario_a_thread_runs_the_reactor_and_any_thread_stops_it():
    from mbcore.server import StartTcpServer, StopServer

    port = free_port()
    server = in_thread(StartTcpServer, address=("127.0.0.1", port))
    ask(port)
    StopServer()
    server.join(PATIENCE)
    assert not server.is_alive()
    gone(port)


def scenario_two_threads_start_servers_at_the_same_time():
    from mbcore.server import StartTcpServer, StartUdpServer, StopServer

    said = said_ports()
    ports = [free_port(), free_port(), 0]
    functions = [StartTcpServer, StartTcpServer, StartUdpServer]
    threads = [in_thread(function, address=("127.0.0.1", port)) for function, port in zip(functions, ports, strict=True)]
    ask(ports[0])
    ask(ports[1])
    end = time.monotonic() + PATIENCE
    while "UDP" not in said:
        assert time.monotonic() < end
        time.sleep(0.01)
    ports[2] = said["UDP"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0.2)
        client.connect(("127.0.0.1", ports[2]))
        for _ in range(100):
            try:
                client.send(REQUEST)
                assert client.recv(100) == REPLY
                break
            except (TimeoutError, ConnectionRefusedError):  # it is not there yet
                time.sleep(0.01)
        else:
            raise AssertionError("the UDP server does not answer")
    StopServer()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    gone(ports[0])


def scenario_a_server_is_stopped_and_started_again_in_a_running_reactor():
    from twisted.internet import reactor, threads

    from mbcore.server import StartTcpServer, StopServer

    port = free_port()
    outcome = []

    def work():
        for _ in range(3):
            server = StartTcpServer(address=("127.0.0.1", port))
            with connect(port) as idle:
                ask(port)
                StopServer()
                assert idle.recv(100) == b""
            gone(port)
            assert "stopped" in repr(server)

    def finish(result):
        outcome.append(result)
        reactor.stop()

    threads.deferToThread(work).addBoth(finish)
    reactor.run()
    assert outcome == [None]


def scenario_deferred_servers_run_with_the_users_reactor():
    from twisted.internet import reactor, threads

    from mbcore.server import StartTcpServer

    first, second = (StartTcpServer(address=("127.0.0.1", 0), defer_reactor_run=True) for _ in range(2))
    assert first.port != second.port

    def work():
        ask(first.port)
        ask(second.port)
        assert first.counters.BusMessage == second.counters.BusMessage == 1

    outcome = []

    def finish(result):
        outcome.append(result)
        reactor.stop()

    working = threads.deferToThread(work)
    working.addCallback(lambda _: first.stop()).addCallback(lambda _: gone(first.port)).addBoth(finish)
    reactor.run()
    assert outcome == [None]
    gone(second.port)


def scenario_a_reactor_that_was_left_to_the_user_is_stopped_by_any_thread():
    from twisted.internet import reactor

    from mbcore.server import StartTcpServer

    server = StartTcpServer(address=("127.0.0.1", 0), defer_reactor_run=True)
    asked = []
    stopper = stopper_after_an_answer(server.port, asked)
    reactor.callWhenRunning(stopper.start)
    reactor.run()
    stopper.join(PATIENCE)
    assert not stopper.is_alive()
    assert asked
    gone(server.port)


def scenario_a_reactor_that_has_stopped_is_one_sentence():
    from twisted.internet.error import ReactorNotRestartable, ReactorNotRunning

    from mbcore.server import StartTcpServer, StopServer

    port = free_port()
    asked = []
    stopper = stopper_after_an_answer(port, asked)
    stopper.start()
    StartTcpServer(address=("127.0.0.1", port))
    stopper.join(PATIENCE)
    assert asked
    with pytest.raises(ReactorNotRestartable, match="runs once in a process"):
        StartTcpServer(address=("127.0.0.1", port))
    gone(port)
    with pytest.raises(ReactorNotRunning, match="there is no server to stop"):
        StopServer()


def scenario_ports_that_are_refused_are_one_sentence():
    from mbcore.errors import LineError
    from mbcore.server import StartTcpServer, StartUdpServer

    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(LineError, match=f"TCP port {taken.getsockname()[1]} is in use by another program"),
    ):
        StartTcpServer(address=taken.getsockname())
    for function in (StartTcpServer, StartUdpServer):
        for host in ("192.0.2.1", "2001:db8::1"):
            with pytest.raises(LineError, match=f"this machine has no interface {host}"):
                function(address=(host, 0))
        with pytest.raises(LineError, match=r"the name nowhere\.invalid cannot be resolved"):
            function(address=("nowhere.invalid", 0))
    if os.geteuid() == 0:
        os.seteuid(65534)
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) > 502:
        with pytest.raises(LineError, match="TCP port 502 needs a right that this process does not have"):
            StartTcpServer(address=("127.0.0.1", 502))


def scenario_a_unix_socket_is_served_by_an_endpoint():
    from twisted.internet import reactor, threads
    from twisted.internet.endpoints import serverFromString

    from mbcore.server import ModbusServerFactory

    def work():
        with socket.socket(socket.AF_UNIX) as client:
            client.connect("modbus.sock")
            client.sendall(REQUEST)
            assert client.recv(100) == REPLY

    outcome = []

    def finish(result):
        outcome.append(result)
        reactor.stop()

    listening = serverFromString(reactor, "unix:modbus.sock").listen(ModbusServerFactory(None))
    listening.addCallback(lambda _: threads.deferToThread(work)).addBoth(finish)
    reactor.run()
    assert outcome == [None]


SCENARIOS = {name.removeprefix("scenario_"): function for name, function in list(globals().items()) if name.startswith("scenario_")}


def program(*arguments, **options):
    # The process runs the mbcore that the test runs, installed or not, and finds what this file imports.
    folders = [Path(mbcore.__file__).parents[1], Path(__file__).parent]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))}
    return subprocess.Popen([sys.executable, "-P", *arguments], env=environment, stderr=subprocess.PIPE, text=True, **options)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_in_a_process_of_its_own(scenario, tmp_path):
    with program(__file__, scenario, cwd=tmp_path) as process:
        try:
            errors = process.communicate(timeout=PATIENCE * 2)[1]
        finally:
            process.kill()
    assert process.returncode == 0, errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_server_whoever_takes_no_answer(number, tmp_path):
    port = free_port()
    script = f"from mbcore.server import StartTcpServer; StartTcpServer(address=('127.0.0.1', {port}))"
    with program("-c", script) as process, connect(port) as idle, connect(port) as stuck:
        # A client that asks a lot and takes no answer must not keep the server.
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            while True:
                stuck.sendall(REQUEST * 300)
        process.send_signal(number)
        errors = process.communicate(timeout=PATIENCE)[1]
        assert idle.recv(100) == b""
    assert process.returncode == 0, errors
    assert "Traceback" not in errors


def test_a_tac_file_of_old_works(tmp_path):
    tcp, udp = free_port(), free_port(socket.SOCK_DGRAM)
    (tmp_path / "server.tac").write_text(
        f"""
from twisted.application import internet, service

from mbcore import ModbusServerContext, ModbusSocketFramer
from mbcore.server import ModbusServerFactory, ModbusUdpProtocol

context = ModbusServerContext()
application = service.Application("Modbus Server")
internet.TCPServer({tcp}, ModbusServerFactory(context, ModbusSocketFramer), interface="127.0.0.1").setServiceParent(application)
internet.UDPServer({udp}, ModbusUdpProtocol(context), interface="127.0.0.1").setServiceParent(application)
"""
    )
    twistd = "from twisted.scripts.twistd import run; run()"
    with program("-c", twistd, "-n", "-y", "server.tac", "-l", "twistd.log", cwd=tmp_path) as process:
        try:
            ask(tcp)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.settimeout(PATIENCE)
                client.connect(("127.0.0.1", udp))
                client.send(REQUEST)
                assert client.recv(100) == REPLY
        finally:
            process.terminate()
            process.communicate(timeout=PATIENCE)
    log = (tmp_path / "twistd.log").read_text()
    # twistd ends in order, and then as the signal would have ended it.
    assert "Server Shut Down." in log
    assert "Traceback" not in log


if __name__ == "__main__":
    SCENARIOS[sys.argv[1]]()
