"""An SSH shell into the running server: a Python prompt with the server's objects, for the machine's own administrators.

Listens on 127.0.0.1 unless asked otherwise, since who is in the shell can do all that the process can. Leaves SSH to twisted.conch.
"""

import logging
import os
import secrets
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import Portal
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.error import CannotListenError
from twisted.protocols.policies import WrappingFactory

from mbcore.errors import ConfigurationError, LineError

DEFAULT_PORT = 5022

_log = logging.getLogger(__name__)


class Console:
    """A console that listens; what :func:`start_console` returns."""

    def __init__(self, listener: Any, sessions: Any) -> None:
        self._listener = listener
        self._sessions = sessions
        #: The TCP port.
        self.port: int = listener.getHost().port

    def stop(self) -> Deferred[None]:
        """Close the port and every session; the Deferred fires when the port is free."""
        for session in list(self._sessions.protocols):
            session.transport.loseConnection()
        return maybeDeferred(self._listener.stopListening)


def start_console(
    namespace: Mapping[str, object],
    reactor: Any = None,
    interface: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    authorized_keys: str | os.PathLike[str] | None = None,
    host_key: str | os.PathLike[str] | None = None,
) -> Console:
    """Serve a Python prompt over SSH; any user name will do.

    :param namespace: the names that the prompt knows
    :param port: TCP port; 0 takes a free one
    :param authorized_keys: file with the public keys that are let in, as OpenSSH has it; None: a password is made for this run and written
        once to the log
    :param host_key: file of the server's own key, made at the first start; None: ``console_host_key`` in the service's or the user's state
        directory
    :raises ConfigurationError: the extra is not installed, or a file can't be used
    :raises LineError: the port can't be opened
    """
    manhole, manhole_ssh = _conch("manhole"), _conch("manhole_ssh")
    if reactor is None:
        from twisted.internet import reactor

    def open_session(avatar: Any) -> Any:
        session = manhole_ssh.TerminalSession(avatar)
        # Twisted has no answer to a resized window nor to the end of input, and would drop the connection with what is still to be said.
        session.windowChanged = lambda size: None
        session.eofReceived = lambda: None
        return session

    key = _host_key(Path(host_key)) if host_key else _default_host_key()
    realm = manhole_ssh.TerminalRealm()
    realm.sessionFactory = open_session
    realm.chainedProtocolFactory = lambda: manhole_ssh.insults.ServerProtocol(manhole.ColoredManhole, dict(namespace))
    checker: Any
    if authorized_keys is None:
        password = secrets.token_urlsafe(12)
        checker, who = _Password(password), f"the password for this run is {password}"
    else:
        checker, who = _key_checker(Path(authorized_keys)), f"with a key of {authorized_keys}"
    factory = manhole_ssh.ConchFactory(Portal(realm, [checker]))
    factory.publicKeys = {key.sshType(): key.public()}
    factory.privateKeys = {key.sshType(): key}

    sessions: Any = WrappingFactory(factory)
    try:
        listener = reactor.listenTCP(port, sessions, interface=interface)
    except CannotListenError as error:
        raise LineError(f"the console can't listen on {interface}:{port}: {error.socketError}; choose another port") from error
    console = Console(listener, sessions)
    _log.warning("console: ssh -p %d %s (%s)", console.port, interface, who)
    return console


class _Password:
    """cred's ICredentialsChecker: one password for every user name."""

    credentialInterfaces = (IUsernamePassword,)

    def __init__(self, password: str) -> None:
        self._password = password.encode()

    def requestAvatarId(self, credentials: Any) -> Deferred[bytes]:
        if secrets.compare_digest(credentials.password, self._password):
            return succeed(credentials.username)
        return fail(UnauthorizedLogin())


class _AuthorizedKeys:
    """conch's IAuthorizedKeysDB: the same keys for every user name."""

    def __init__(self, keys: Iterable[Any]) -> None:
        self._keys = list(keys)

    def getAuthorizedKeys(self, avatarId: bytes) -> Iterable[Any]:
        return self._keys


def _key_checker(authorized_keys: Path) -> Any:
    checkers = _conch("checkers")
    try:
        with authorized_keys.open("rb") as file:
            keys = list(checkers.readAuthorizedKeyFile(file))
    except OSError as error:
        raise ConfigurationError(f"authorized keys {authorized_keys} can't be read: {error.strerror}") from error
    if not keys:
        raise ConfigurationError(f"authorized keys {authorized_keys} has no public key; put the line of an id_ed25519.pub there")
    return checkers.SSHPublicKeyChecker(_AuthorizedKeys(keys))


def _conch(name: str) -> Any:
    """A module of twisted.conch, which comes with an extra and without types."""
    try:
        return import_module(f"twisted.conch.{name}")
    except ImportError as error:
        raise ConfigurationError("the console needs packages that are not installed; run: pip install 'mbcore[console]'") from error


def _default_host_key() -> Any:
    path = _state_directory() / "console_host_key"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return _host_key(path)
    except (OSError, ConfigurationError) as error:
        _log.warning("console: its host key is new at every start, since %s can't keep it (%s)", path, error)
        return _new_key()


def _host_key(path: Path) -> Any:
    keys = _conch("ssh.keys")
    try:
        if path.exists():
            return keys.Key.fromFile(str(path))
        key = _new_key()
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(key.toString("openssh"))
    except OSError as error:
        raise ConfigurationError(f"host key {path} can't be used: {error.strerror}") from error
    except keys.BadKeyError as error:
        raise ConfigurationError(f"host key {path} is no private key; remove it, and a new one is made") from error
    return key


def _new_key() -> Any:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return _conch("ssh.keys").Key(Ed25519PrivateKey.generate())


def _state_directory() -> Path:
    # systemd names the directory of a service that has one; its first is meant when there are several.
    service = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    user = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(service) if service else Path(user) / "mbcore"
