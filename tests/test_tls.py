"""TLS settings: what a client meets, and what the user is told about files that don't fit. Handshakes run in memory."""

import contextlib
import datetime
import ssl
import sys

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from twisted.internet.ssl import CertificateOptions

from mbcore.errors import ConfigurationError
from mbcore.server.tls import tls_context

HOST = "device.example"


class Identity:
    """A certificate and its key, by `issuer` or by itself."""

    def __init__(self, name, issuer=None, authority=False):
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.UTC)
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(issuer.name if issuer else self.name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .sign(issuer.key if issuer else self.key, SHA256())
        )

    def certificate_pem(self):
        return self.certificate.public_bytes(Encoding.PEM)

    def key_pem(self, encryption=None):
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


class Files:
    """An authority, an intermediate one, a server by the first and one by the second; PEM files by name."""

    def __init__(self, folder):
        self._folder = folder
        self.authority = Identity("authority", authority=True)
        self.intermediate = Identity("intermediate", self.authority, authority=True)
        self.server = Identity(HOST, self.authority)
        self.write("authority.pem", self.authority.certificate_pem())
        self.write("server.pem", self.server.certificate_pem())
        self.write("server.key", self.server.key_pem())

    def write(self, name, content):
        (self._folder / name).write_bytes(content)
        return self[name]

    def __getitem__(self, name):
        return str(self._folder / name)

    def client(self, identity=None):
        context = ssl.create_default_context(cafile=self["authority.pem"])
        context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
        if identity:
            both = self.write(f"{identity.certificate.serial_number}.pem", identity.key_pem() + identity.certificate_pem())
            context.load_cert_chain(both)
        return context


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return Files(tmp_path_factory.mktemp("certificates"))


def handshake(factory, client_context):
    """The TLS version that both sides agree on; raises what the side that refuses raises."""
    server = SSL.Connection(factory.getContext(), None)
    server.set_accept_state()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(incoming, outgoing, server_hostname=HOST)
    sides = {"client": client.do_handshake, "server": server.do_handshake}
    for _ in range(10):
        for side, step in list(sides.items()):
            with contextlib.suppress(ssl.SSLWantReadError, SSL.WantReadError):
                step()
                del sides[side]
        if outgoing.pending:
            server.bio_write(outgoing.read())
        with contextlib.suppress(SSL.WantReadError):
            incoming.write(server.bio_read(65536))
    assert not sides
    return client.version()


def test_client_that_trusts_the_authority_gets_through(files):
    assert handshake(tls_context(files["server.pem"], files["server.key"]), files.client()) == "TLSv1.3"


def test_tls_1_2_is_enough(files):
    client = files.client()
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    assert handshake(tls_context(files["server.pem"], files["server.key"]), client) == "TLSv1.2"


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_tls_1_1_is_refused(files):
    client = files.client()
    client.set_ciphers("ALL:@SECLEVEL=0")
    client.minimum_version = ssl.TLSVersion.TLSv1
    client.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(SSL.Error, match="unsupported protocol"):
        handshake(tls_context(files["server.pem"], files["server.key"]), client)


def test_key_may_stand_in_the_certificate_file(files):
    both = files.write("both.pem", files.server.key_pem() + files.server.certificate_pem())
    assert handshake(tls_context(both), files.client())


def test_intermediate_certificates_are_sent_along(files):
    server = Identity(HOST, files.intermediate)
    chain = files.write("chain.pem", server.certificate_pem() + files.intermediate.certificate_pem())
    key = files.write("chain.key", server.key_pem())
    assert handshake(tls_context(chain, key), files.client())


def test_cafile_demands_a_client_certificate(files):
    factory = tls_context(files["server.pem"], files["server.key"], files["authority.pem"])
    with pytest.raises(SSL.Error, match="peer did not return a certificate"):
        handshake(factory, files.client())


def test_cafile_lets_in_whom_its_authority_signed(files):
    factory = tls_context(files["server.pem"], files["server.key"], files["authority.pem"])
    assert handshake(factory, files.client(Identity("master", files.authority)))


def test_cafile_keeps_out_whom_another_authority_signed(files):
    factory = tls_context(files["server.pem"], files["server.key"], files["authority.pem"])
    stranger = Identity("master", Identity("authority", authority=True))
    with pytest.raises(SSL.Error, match="certificate verify failed"):
        handshake(factory, files.client(stranger))


def test_every_authority_of_the_cafile_counts(files):
    other = Identity("other", authority=True)
    both = files.write("authorities.pem", other.certificate_pem() + files.authority.certificate_pem())
    factory = tls_context(files["server.pem"], files["server.key"], both)
    assert handshake(factory, files.client(Identity("master", other)))
    assert handshake(factory, files.client(Identity("master", files.authority)))


def test_certificate_options_are_used_as_they_are():
    options = CertificateOptions()
    assert tls_context(sslctx=options) is options


def test_pyopenssl_context_is_used_as_it_is(files):
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.use_certificate_file(files["server.pem"])
    context.use_privatekey_file(files["server.key"])
    factory = tls_context(sslctx=context)
    assert factory.getContext() is context
    assert handshake(factory, files.client())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({}, "give certfile= and keyfile="),
        ({"keyfile": "server.key"}, "give certfile= and keyfile="),
        ({"certfile": "none.pem"}, "none.pem can't be read: No such file or directory"),
        ({"certfile": "server.pem", "keyfile": "none.key"}, "none.key can't be read: No such file or directory"),
        ({"certfile": "server.pem", "keyfile": "server.key", "cafile": "none.pem"}, "none.pem can't be read: No such file or directory"),
        ({"certfile": "server.key"}, "server.key has no certificate in PEM form"),
        ({"certfile": "broken.pem", "keyfile": "server.key"}, "broken.pem has a certificate that can't be read"),
        ({"certfile": "server.pem"}, "server.pem has no private key in PEM form"),
        ({"certfile": "server.pem", "keyfile": "broken.key"}, "the private key in .*broken.key can't be read"),
        ({"certfile": "server.pem", "keyfile": "locked.key"}, "openssl pkey -in .*locked.key"),
        ({"certfile": "server.pem", "keyfile": "foreign.key"}, "foreign.key does not belong to the certificate in .*server.pem"),
        ({"certfile": "."}, "can't be read: Is a directory"),
    ],
)
def test_file_that_can_not_be_used_is_named(files, arguments, sentence):
    files.write("broken.pem", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    files.write("broken.key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    files.write("locked.key", files.server.key_pem(BestAvailableEncryption(b"secret")))
    files.write("foreign.key", files.authority.key_pem())
    with pytest.raises(ConfigurationError, match=sentence):
        tls_context(**{name: files[file] for name, file in arguments.items()})


def test_ssl_context_of_the_standard_library_is_refused_with_the_way_out():
    with pytest.raises(ConfigurationError, match=r"pyOpenSSL and can't take an ssl.SSLContext; give certfile="):
        tls_context(sslctx=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))


def test_anything_else_is_refused_by_name():
    with pytest.raises(ConfigurationError, match=r"sslctx='server.pem' is no TLS context"):
        tls_context(sslctx="server.pem")


def test_ready_context_and_files_exclude_each_other(files):
    with pytest.raises(ConfigurationError, match="either sslctx or certfile"):
        tls_context(files["server.pem"], sslctx=CertificateOptions())


@pytest.mark.parametrize("arguments", [{"certfile": "server.pem"}, {"sslctx": object()}])
def test_missing_extra_is_named(files, arguments, monkeypatch):
    monkeypatch.setitem(sys.modules, "OpenSSL.SSL", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'mbcore\[tls\]'"):
        tls_context(**arguments)
