"""Who may talk to this cluster: a certificate authority made for it alone, and TLS 1.3 both ways.

Each cluster has a directory (0700) with the authority's certificate and one certificate and key per role (0600).
The authority's own key is thrown away as soon as the three certificates are signed, so nobody can make more.
The role ("head", "client", "worker") is the certificate's common name, and is checked against what a peer says
it is. Nobody but the owner of the directory can read a key; whoever can, is the owner or root.

This does not defend against root, against the same user account, or against a compromised compute node.
"""

from __future__ import annotations

import datetime
import os
import ssl
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    check_private(directory)
    pem = serialization.Encoding.PEM
    authority = ec.generate_private_key(ec.SECP256R1())
    ca = _sign(_AUTHORITY, cluster_id, authority.public_key(), authority, is_authority=True)
    write_private(directory / "ca.pem", ca.public_bytes(pem))
    for role in ROLES:
        key = ec.generate_private_key(ec.SECP256R1())
        signed = _sign(role, cluster_id, key.public_key(), authority)
        secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        write_private(directory / f"{role}.pem", secret + signed.public_bytes(pem))


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


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
    part.rename(path)


def check_private(path: Path) -> None:
    """Raise SiteError unless ``path`` belongs to this user and to nobody else."""
    try:
        info = os.stat(path)
    except OSError as error:
        raise SiteError(f"the cluster's directory {path} can't be read: {error.strerror}") from None
    if info.st_uid != os.geteuid():
        raise SiteError(f"{path} belongs to user {info.st_uid}, not to you; it will not be used")
    if stat.S_IMODE(info.st_mode) & 0o077:
        raise SiteError(
            f"{path} can be read by other users (mode {stat.S_IMODE(info.st_mode):04o}); "
            f"it holds keys. Run: chmod go-rwx {path}"
        )


def server_context(directory: Path, role: str) -> ssl.SSLContext:
    """Return the context of a side that accepts connections as ``role``."""
    return _context(ssl.PROTOCOL_TLS_SERVER, directory, role)


def client_context(directory: Path, role: str) -> ssl.SSLContext:
    """Return the context of a side that dials as ``role``."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, directory, role)


def _context(protocol: int, directory: Path, role: str) -> ssl.SSLContext:
    keys = directory / f"{role}.pem"
    check_private(directory)
    check_private(keys)
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the certificate names a role, not a host: see peer_role
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(directory / "ca.pem")
    context.load_cert_chain(keys)
    return context


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
