"""Who may talk to this cluster: a certificate authority made for it alone, and TLS 1.3 both ways.

Each cluster has a directory (0700) with the authority's certificate and one certificate and key per role (0600).
The authority's own key is thrown away as soon as the three certificates are signed, so there are never more.
The role ("head", "client", "worker") is the certificate's common name, and is checked against what a peer says
it is. Only the owner of the directory, and root, can read a key.

This does not defend against root, against the same user account, or against a compromised compute node.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpclaunch import file_errors, trusted
from hpclaunch.errors import HandshakeError, SiteError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

ROLES = ("head", "client", "worker")
_AUTHORITY = "hpclaunch authority"
# A certificate ends with its directory, which the cluster's end removes. It holds at any time, for the clocks of
# nodes may be days or years off; the second is RFC 5280's "no end" (4.1.2.5).
_ALWAYS = datetime.datetime(1970, 1, 1), datetime.datetime(9999, 12, 31, 23, 59, 59)


def write_credentials(directory: Path, cluster_id: str) -> None:
    """Make a new authority and a certificate for each role in ``directory``, which must be private.

    The curve is P-256: its handshake is the quickest that OpenSSL has.

    :raises SiteError: the directory is not private or can't be written.
    """
    with _opened(directory) as below:
        _write_credentials(directory, below, cluster_id)


def _write_credentials(directory: Path, below: int, cluster_id: str) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    pem = serialization.Encoding.PEM
    authority = ec.generate_private_key(ec.SECP256R1())
    ca = _sign(_AUTHORITY, cluster_id, authority.public_key(), authority, is_authority=True)
    trusted.write_file(directory / "ca.pem", ca.public_bytes(pem), below=below)
    for role in ROLES:
        key = ec.generate_private_key(ec.SECP256R1())
        signed = _sign(role, cluster_id, key.public_key(), authority)
        secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        trusted.write_file(directory / f"{role}.pem", secret + signed.public_bytes(pem), below=below)


def _sign(
    common_name: str,
    cluster_id: str,
    key: ec.EllipticCurvePublicKey,
    authority: ec.EllipticCurvePrivateKey,
    *,
    is_authority: bool = False,
) -> x509.Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import NameOID

    def name(common: str) -> x509.Name:
        organisation = x509.NameAttribute(NameOID.ORGANIZATION_NAME, cluster_id[:64])
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common), organisation])

    return (
        x509.CertificateBuilder()
        .subject_name(name(common_name))
        .issuer_name(name(_AUTHORITY))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_ALWAYS[0])
        .not_valid_after(_ALWAYS[1])
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .sign(authority, hashes.SHA256())
    )


def warm_up() -> None:
    """Import what :func:`write_credentials` needs, which takes a while."""
    import cryptography.hazmat.primitives.asymmetric.ec
    import cryptography.x509  # noqa: F401


def server_context(directory: Path, role: str) -> ssl.SSLContext:
    """Return the context of a side that accepts connections as ``role``."""
    return _context(ssl.PROTOCOL_TLS_SERVER, directory, role)


def client_context(directory: Path, role: str) -> ssl.SSLContext:
    """Return the context of a side that dials as ``role``."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, directory, role)


def _context(protocol: int, directory: Path, role: str) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the certificate names a role, not a host: see peer_role
    context.verify_mode = ssl.CERT_REQUIRED
    with _opened(directory) as below:
        context.load_verify_locations(cadata=trusted.read_below(below, "ca.pem", directory / "ca.pem").decode())
        keys = trusted.open_file(below, f"{role}.pem", directory / f"{role}.pem")
        try:
            context.load_cert_chain(f"/proc/self/fd/{keys}")  # the very file that was looked at
        finally:
            os.close(keys)
    return context


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[int]:
    """Open the cluster's directory for the time of a block; what fails in it is told as an error of ours."""
    try:
        with trusted.private_directory(directory) as below:
            yield below
    except OSError as error:
        why = file_errors.told(error, error.filename or directory)
        raise SiteError(f"the cluster's keys in {directory} can't be used: {why}") from None
    except UnicodeError as error:
        raise SiteError(f"the cluster's keys in {directory} can't be used: {error}") from None


def peer_role(tls: ssl.SSLObject | ssl.SSLSocket | None) -> str:
    """Return the role in the peer's verified certificate.

    :raises HandshakeError: there is no such certificate.
    """
    certificate: Any = tls.getpeercert() if tls is not None else None
    for part in (certificate or {}).get("subject", ()):
        for name, value in part:
            if name == "commonName" and value in ROLES:
                return str(value)
    raise HandshakeError("the peer's certificate names no role of this cluster")
