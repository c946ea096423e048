"""TLS settings from certificate files, for reactor.listenSSL and the endpoints. Leaves the protocol to Twisted and OpenSSL."""

import re
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbcore.errors import ConfigurationError

if TYPE_CHECKING:
    from OpenSSL import crypto

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_EXTRA = "TLS needs packages that are not installed; run: pip install 'mbcore[tls]'"


def tls_context(certfile: Any = None, keyfile: Any = None, cafile: Any = None, sslctx: Any = None) -> Any:
    """The context factory that Twisted's TLS takes: ``reactor.listenSSL(port, factory, tls_context(...))``.

    The minimum version is TLS 1.2. Every mistake is a :class:`ConfigurationError` that names the file.

    :param certfile: PEM file with the server's certificate, followed by the intermediate ones if there are any
    :param keyfile: PEM file with its private key, without a passphrase; None: the key stands in ``certfile``
    :param cafile: PEM file with certificate authorities; when given, a client must show a certificate that one of them signed
    :param sslctx: instead of files, a ready object: Twisted's ``CertificateOptions`` (or any context factory) or a pyOpenSSL ``Context``,
        used as it is
    """
    if sslctx is None:
        return _from_files(certfile, keyfile, cafile)
    if certfile or keyfile or cafile:
        raise ConfigurationError("sslctx comes ready with its certificates; give either sslctx or certfile, keyfile and cafile")
    return _from_object(sslctx)


def _from_files(certfile: Any, keyfile: Any, cafile: Any) -> Any:
    if not certfile:
        raise ConfigurationError("TLS needs a certificate; give certfile= and keyfile=, the names of two PEM files")
    try:
        from OpenSSL.SSL import Error
        from twisted.internet.ssl import Certificate, CertificateOptions, TLSVersion, trustRootFromCertificates
    except ImportError as error:
        raise ConfigurationError(_EXTRA) from error

    certificate, *chain = _certificates(certfile)
    authorities = [Certificate(authority) for authority in _certificates(cafile)] if cafile else []
    options = CertificateOptions(
        privateKey=_private_key(keyfile or certfile),
        certificate=certificate,
        extraCertChain=chain,
        raiseMinimumTo=TLSVersion.TLSv1_2,
        trustRoot=trustRootFromCertificates(authorities) if cafile else None,
    )
    try:
        options.getContext()
    except Error as error:
        raise ConfigurationError(f"the key in {keyfile or certfile} does not belong to the certificate in {certfile}") from error
    return options


def _from_object(sslctx: Any) -> Any:
    if isinstance(sslctx, ssl.SSLContext):
        raise ConfigurationError("Twisted uses pyOpenSSL and can't take an ssl.SSLContext; give certfile=, keyfile= and cafile= instead")
    try:
        from OpenSSL.SSL import Context
        from twisted.internet.ssl import ContextFactory
    except ImportError as error:
        raise ConfigurationError(_EXTRA) from error
    if isinstance(sslctx, Context):
        factory = ContextFactory()
        factory.getContext = lambda: sslctx  # type: ignore[method-assign]
        return factory
    if hasattr(sslctx, "getContext") or hasattr(sslctx, "serverConnectionForTLS"):
        return sslctx
    raise ConfigurationError(f"sslctx={sslctx!r} is no TLS context; give Twisted's CertificateOptions or a pyOpenSSL Context")


def _certificates(path: Any) -> "list[crypto.X509]":
    from OpenSSL import crypto

    blocks = _CERTIFICATE.findall(_read(path))
    if not blocks:
        raise ConfigurationError(f"{path} has no certificate in PEM form")
    try:
        return [crypto.load_certificate(crypto.FILETYPE_PEM, block) for block in blocks]
    except (crypto.Error, ValueError) as error:
        raise ConfigurationError(f"{path} has a certificate that can't be read: {error}") from error


def _private_key(path: Any) -> "crypto.PKey":
    from OpenSSL import crypto

    text = _read(path)
    if b"PRIVATE KEY-----" not in text:
        raise ConfigurationError(f"{path} has no private key in PEM form")
    try:
        # An encrypted key without a passphrase here would make OpenSSL ask for one at the terminal.
        return crypto.load_privatekey(crypto.FILETYPE_PEM, text, passphrase=b"")
    except (crypto.Error, ValueError, TypeError) as error:
        raise ConfigurationError(
            f"the private key in {path} can't be read; it must be unencrypted (openssl pkey -in {path} -out plain.pem)"
        ) from error


def _read(path: Any) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path} can't be read: {error.strerror}") from error
