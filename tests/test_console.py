"""The console: who gets in, what the prompt knows, and what is refused before anything listens. Shells run over real SSH."""

import logging
import os
import re
import select
import signal
import subprocess
import sys

import pytest
from adu import ENVIRONMENT
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from live import programs
from twisted.conch.interfaces import IConchUser, ISession
from twisted.conch.ssh.keys import Key
from twisted.cred.credentials import SSHPrivateKey, UsernamePassword
from twisted.cred.error import UnauthorizedLogin, UnhandledCredentials
from twisted.internet.error import CannotListenError
from twisted.internet.testing import MemoryReactorClock

from mbcore.errors import ConfigurationError, LineError
from mbcore.server.console import DEFAULT_PORT, start_console

PATIENCE = 20

SERVER = """
import logging, sys
from twisted.internet import reactor
from mbcore.server.console import start_console
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
authorized_keys = sys.argv[2] if len(sys.argv) > 2 else None
console = start_console({"answer": 42}, port=0, host_key=sys.argv[1], authorized_keys=authorized_keys)
reactor.callWhenRunning(print, "listening on", console.port, flush=True)
reactor.run()
"""

# Logs in with a password, types a line at the prompt and prints what comes back.
CLIENT = """
import sys
from twisted.conch.ssh import channel, connection, session, transport, userauth
from twisted.internet import defer, protocol, reactor

port, password, line = int(sys.argv[1]), sys.argv[2].encode(), sys.argv[3].encode()


class Authentication(userauth.SSHUserAuthClient):
    attempts = 0

    def getPassword(self, prompt=None):
        self.attempts += 1
        return defer.succeed(password) if self.attempts == 1 else None

    def getPublicKey(self):
        return None

    def ssh_USERAUTH_FAILURE(self, packet):
        sys.stdout.write(self.lastAuth.decode() + " is refused\\n")
        return super().ssh_USERAUTH_FAILURE(packet)


class Shell(channel.SSHChannel):
    name = b"session"

    def channelOpen(self, data):
        terminal = session.packRequest_pty_req(b"vt100", (24, 80, 0, 0), b"")
        self.conn.sendRequest(self, b"pty-req", terminal)
        self.conn.sendRequest(self, b"shell", b"", wantReply=True).addCallback(self.type)

    def type(self, _):
        self.conn.sendRequest(self, b"window-change", session.packRequest_window_change((48, 160, 0, 0)))
        self.write(line + b"\\r")
        self.write(b"\\x04")

    def dataReceived(self, data):
        sys.stdout.buffer.write(data)

    def closed(self):
        self.conn.transport.loseConnection()


class Connection(connection.SSHConnection):
    def serviceStarted(self):
        self.openChannel(Shell(conn=self))


class Transport(transport.SSHClientTransport):
    def verifyHostKey(self, key, fingerprint):
        return defer.succeed(1)

    def connectionSecure(self):
        self.requestService(Authentication(b"anyone", Connection()))

    def receiveError(self, code, description):
        sys.stdout.write(description.decode())

    def connectionLost(self, reason):
        super().connectionLost(reason)
        reactor.stop()


protocol.ClientCreator(reactor, Transport).connectTCP("127.0.0.1", port)
reactor.callLater(15, reactor.stop)
reactor.run()
"""


class Shell:
    """A process with a console."""

    def __init__(self, *arguments):
        command = [sys.executable, "-P", "-c", SERVER, *map(str, arguments)]
        self.process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE)
        self.log = ""
        while not (ready := re.search(r"listening on (\d+)\n", self.log)):
            readable, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
            said = os.read(self.process.stdout.fileno(), 65536) if readable else b""
            assert said, f"the console is not ready: {self.log}"
            self.log += said.decode()
        self.port = int(ready[1])

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            rest, _ = self.process.communicate(timeout=PATIENCE)
        finally:
            self.process.kill()
        self.log += rest.decode()
        return self.process.returncode


@pytest.fixture
def shell(tmp_path, request):
    def start(*arguments):
        shell = Shell(tmp_path / "host_key", *arguments)
        request.addfinalizer(shell.process.wait)
        request.addfinalizer(shell.process.kill)
        return shell

    return start


def log_in(shell, password, line="answer + 1"):
    command = [sys.executable, "-P", "-c", CLIENT, str(shell.port), password, line]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout


@pytest.mark.live
def test_password_from_the_log_opens_a_prompt_with_the_namespace(shell):
    server = shell()
    password = re.search(r"the password for this run is (\S+)\)", server.log)[1]
    assert len(password) >= 16
    assert re.search(r"\b43\b", log_in(server, password))
    assert server.stop() == 0
    assert server.log.count(password) == 1


@pytest.mark.live
def test_password_is_another_one_at_every_start(shell):
    first, second = shell(), shell()
    passwords = [re.search(r"the password for this run is (\S+)\)", server.log)[1] for server in (first, second)]
    assert passwords[0] != passwords[1]


@pytest.mark.live
def test_wrong_password_opens_nothing(shell):
    server = shell()
    assert log_in(server, "guess") == "none is refused\npassword is refused\n"
    assert server.process.poll() is None


@pytest.mark.live
def test_openssh_gets_in_with_an_authorized_key_only(shell, tmp_path):
    ssh, ssh_keygen = (programs.need(program, "openssh-client") for program in ("ssh", "ssh-keygen"))
    for name in ("friend", "stranger"):
        subprocess.run([ssh_keygen, "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    server = shell(tmp_path / "friend.pub")
    assert "password for this run" not in server.log

    def log_in_as(name):
        options = {
            "BatchMode": "yes",
            "IdentitiesOnly": "yes",
            "IdentityFile": tmp_path / name,
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": tmp_path / "known_hosts",
            "LogLevel": "ERROR",
        }
        words = [word for option, value in options.items() for word in ("-o", f"{option}={value}")]
        command = [ssh, "-F", "none", "-tt", "-p", str(server.port), *words, "anyone@127.0.0.1"]
        return subprocess.run(command, input="answer + 1\r\x04", capture_output=True, text=True, timeout=PATIENCE, check=False)

    assert re.search(r"\b43\b", log_in_as("friend").stdout)
    refused = log_in_as("stranger")
    assert "Permission denied (publickey)" in refused.stderr
    assert "43" not in refused.stdout


@pytest.fixture
def reactor():
    return MemoryReactorClock()


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    """Keeps the tests out of the user's own state directory."""
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def test_only_this_machine_is_served_unless_asked_otherwise(reactor):
    start_console({}, reactor)
    start_console({}, reactor, interface="10.0.0.1", port=2222)
    assert [(server[3], server[0]) for server in reactor.tcpServers] == [("127.0.0.1", DEFAULT_PORT), ("10.0.0.1", 2222)]


def test_reactor_is_the_installed_one_unless_another_is_given(reactor, monkeypatch):
    monkeypatch.setattr("twisted.internet.reactor", reactor, raising=False)
    start_console({})
    assert len(reactor.tcpServers) == 1


def log_in_directly(reactor, credentials):
    """What the portal says: the conch user, or why not."""
    said = []
    portal = reactor.tcpServers[-1][1].wrappedFactory.portal
    portal.login(credentials, None, IConchUser).addCallbacks(lambda it: said.append(it[1]), lambda failure: said.append(failure.type))
    return said[0]


def test_only_the_password_of_the_log_is_let_in_under_any_name(reactor, caplog):
    start_console({}, reactor)
    password = re.search(r"the password for this run is (\S+)\)", caplog.text)[1].encode()
    for name in (b"anyone", b"root"):
        assert IConchUser.providedBy(log_in_directly(reactor, UsernamePassword(name, password)))
        for wrong in (b"", password[:-1], password + b"x"):
            assert log_in_directly(reactor, UsernamePassword(name, wrong)) is UnauthorizedLogin


def test_only_an_authorized_key_is_let_in_under_any_name(reactor, tmp_path):
    friend, stranger = Key(Ed25519PrivateKey.generate()), Key(Ed25519PrivateKey.generate())
    file = tmp_path / "authorized_keys"
    file.write_bytes(friend.public().toString("openssh") + b" friend\n")
    start_console({}, reactor, authorized_keys=file)

    def signed_by(key, name):
        return SSHPrivateKey(name, key.sshType(), key.public().blob(), b"data", key.sign(b"data"))

    assert IConchUser.providedBy(log_in_directly(reactor, signed_by(friend, b"anyone")))
    assert IConchUser.providedBy(log_in_directly(reactor, signed_by(friend, b"root")))
    assert log_in_directly(reactor, signed_by(stranger, b"anyone")) is UnauthorizedLogin
    assert log_in_directly(reactor, UsernamePassword(b"anyone", b"")) is UnhandledCredentials


def test_shell_knows_the_namespace_and_survives_a_resized_window(reactor, caplog):
    start_console({"answer": 42}, reactor)
    password = re.search(r"the password for this run is (\S+)\)", caplog.text)[1].encode()
    session = ISession(log_in_directly(reactor, UsernamePassword(b"anyone", password)))
    assert session.chainedProtocolFactory().protocolArgs[0] == {"answer": 42}
    session.windowChanged((48, 160, 0, 0))
    session.eofReceived()


def host_key(reactor):
    (key,) = reactor.tcpServers[-1][1].wrappedFactory.privateKeys.values()
    return key


def test_host_key_is_kept_for_the_next_start_and_for_nobody_else(reactor, state):
    start_console({}, reactor)
    first = host_key(reactor)
    start_console({}, reactor)
    assert host_key(reactor) == first
    file = state / "mbcore" / "console_host_key"
    assert Key.fromFile(str(file)) == first
    assert file.stat().st_mode & 0o777 == 0o600


def test_service_keeps_its_host_key_in_its_own_state_directory(reactor, tmp_path, monkeypatch):
    monkeypatch.setenv("STATE_DIRECTORY", f"{tmp_path / 'service'}:{tmp_path / 'other'}")
    start_console({}, reactor)
    assert (tmp_path / "service" / "console_host_key").exists()


def test_console_starts_with_a_new_key_where_none_can_be_kept(reactor, state, caplog):
    state.write_text("a file, not a directory")
    start_console({}, reactor)
    first = host_key(reactor)
    start_console({}, reactor)
    assert host_key(reactor) != first
    assert "new at every start" in caplog.text


def test_host_key_that_is_none_is_named(reactor, tmp_path):
    file = tmp_path / "key"
    file.write_text("nonsense")
    with pytest.raises(ConfigurationError, match=f"host key {file} is no private key"):
        start_console({}, reactor, host_key=file)


def test_named_host_key_that_can_not_be_made_is_an_error(reactor, tmp_path):
    with pytest.raises(ConfigurationError, match=r"none/key can't be used: No such file or directory"):
        start_console({}, reactor, host_key=tmp_path / "none" / "key")


def test_authorized_keys_that_can_not_be_read_are_named(reactor, tmp_path):
    with pytest.raises(ConfigurationError, match=r"authorized keys .*none can't be read: No such file or directory"):
        start_console({}, reactor, authorized_keys=tmp_path / "none")
    assert not reactor.tcpServers


def test_authorized_keys_without_a_key_let_nobody_in_and_are_refused(reactor, tmp_path):
    file = tmp_path / "authorized_keys"
    file.write_text("# nobody yet\n")
    with pytest.raises(ConfigurationError, match="has no public key"):
        start_console({}, reactor, authorized_keys=file)


def test_missing_extra_is_named(reactor, monkeypatch):
    monkeypatch.setitem(sys.modules, "twisted.conch.manhole", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'mbcore\[console\]'"):
        start_console({}, reactor)


def test_busy_port_is_named(reactor):
    def refuse(port, factory, backlog=50, interface=""):
        raise CannotListenError(interface, port, OSError("Address already in use"))

    reactor.listenTCP = refuse
    with pytest.raises(LineError, match=r"127.0.0.1:2222: Address already in use; choose another port"):
        start_console({}, reactor, port=2222)


def test_stop_frees_the_port_and_closes_the_shells(reactor):
    stopped = []

    class Transport:
        def loseConnection(self):
            stopped.append("shell")

    console = start_console({}, reactor)
    factory = reactor.tcpServers[0][1]
    session = type("Session", (), {"transport": Transport()})()
    factory.registerProtocol(session)
    console.stop().addCallback(lambda _: stopped.append("port"))
    assert stopped == ["shell", "port"]


def test_password_is_logged_where_nobody_set_up_logging(reactor, caplog):
    with caplog.at_level(logging.WARNING):
        start_console({}, reactor)
    assert "the password for this run is" in caplog.text
