"""A certification authority for one test run, with a certificate for the server and one for the client."""

import datetime
import ipaddress
import ssl

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

LOOPBACK = ipaddress.ip_address("127.0.0.1")


class Certificates:
    """PEM files in `folder`: ca, server, client; keys beside them."""

    def __init__(self, folder):
        self._folder = folder
        authority = self._make("ca", None)
        self._make("server", authority)
        self._make("client", authority)

    def of_server(self):
        """Keywords for the server that demands a client certificate."""
        return {"certfile": self._path("server.pem"), "keyfile": self._path("server.key"), "cafile": self._path("ca.pem")}

    def of_client(self):
        return [self._path("ca.pem"), self._path("client.pem"), self._path("client.key")]

    def client_context(self, shown=True):
        """Trusts only the authority of this run, and shows the client's certificate if `shown`.

        The name is not checked: pymodbus 3 gives none to the handshake.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(self._path("ca.pem"))
        if shown:
            context.load_cert_chain(self._path("client.pem"), self._path("client.key"))
        return context

    def _path(self, name):
        return str(self._folder / name)

    def _make(self, name, authority):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer_key, issuer = authority or (key, subject)
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=authority is None, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(LOOPBACK)]), critical=False)
            .sign(issuer_key, hashes.SHA256())
        )
        (self._folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        (self._folder / f"{name}.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
            )
        )
        return key, subject
