"""The transport of a worker's messages, where Redis speaks TLS."""

import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from kombu.exceptions import OperationalError

from jobs.queue import make_celery
from worker.screening import Screened

pytestmark = pytest.mark.slow


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate of 127.0.0.1 that nobody has signed, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    began = datetime(2020, 1, 1)  # noqa: DTZ001 - x509 takes it for UTC
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(began)
        .not_valid_after(began.replace(year=2100))
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "certificate.pem"
    plain = serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    pem = serialization.Encoding.PEM
    file.write_bytes(made.public_bytes(pem) + key.private_bytes(pem, form, plain))
    return file


@pytest.fixture
def stranger(certificate: Path) -> Iterator[tuple[int, list[bytes]]]:
    """A server with that certificate: its port, and what was said to it once it was trusted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def listen() -> None:
            while True:
                try:
                    plain, _ = listener.accept()
                except OSError:
                    return
                plain.settimeout(5)
                first = plain.recv(1, socket.MSG_PEEK)
                if first != b"\x16":  # of a TLS handshake
                    heard.append(plain.recv(1000))
                    plain.close()
                    continue
                try:
                    with context.wrap_socket(plain, server_side=True) as trusted:
                        heard.append(trusted.recv(1000))
                except OSError:
                    continue

        threading.Thread(target=listen, daemon=True).start()
        yield listener.getsockname()[1], heard
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("transport", [None, Screened])
def test_server_whose_certificate_nobody_has_signed_is_told_nothing(stranger, transport) -> None:
    port, heard = stranger
    app = make_celery(f"rediss://:password@127.0.0.1:{port}/0", socket_timeout_seconds=5)
    app.conf.broker_transport = transport
    with app.connection_for_read() as connection, pytest.raises(OperationalError) as refused:
        connection.ensure_connection(max_retries=1, interval_start=0)
    assert "CERTIFICATE_VERIFY_FAILED" in str(refused.value).upper().replace(" ", "_")
    assert heard == []
