"""Where webhooks may not lead, however it is written: the forbidden listener sees nothing."""

import asyncio
import ipaddress
import socket
from collections.abc import Iterator

import httpx
import pytest

from jobs.delivery.addresses import addresses_of, is_public, parse, resolve_name
from jobs.delivery.posting import post
from jobs.store.deliveries import Outcome
from tests.receiver import Receiver
from trainer_core.errors import ForbiddenTarget

LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)

_HOSTS = """
127.0.0.1 127.0.0.2 127.1 127.0.1 0 0.0.0.0 2130706433 0x7f000001 0x7f.1 0x7f.0.0.1 017700000001
0177.0.0.1 0177.1 127.0.0.01 127.0.0.1. 2130706433. localhost localhost. LOCALHOST
[::1] [0:0:0:0:0:0:0:1] [::] [::ffff:127.0.0.1] [::ffff:7f00:1] [::127.0.0.1]
[64:ff9b::127.0.0.1] [64:ff9b::7f00:1] [64:ff9b:1::7f00:1] [2002:7f00:1::] [2002:7f00:1::1]
[2001:0:7f00:1::] [fe80::1] [fec0::1] [fc00::1] [fd12:3456::1] [ff02::1] [ff0e::1]
[2001:db8::1] [3fff::1] [100::1] [5f00::1] [2001:10::1]
10.0.0.1 10.255.255.255 172.16.0.1 172.31.255.255 192.168.0.1 169.254.169.254 169.254.0.1
100.64.0.1 100.127.255.255 192.0.0.1 192.0.0.192 192.0.2.1 198.18.0.1 198.51.100.1 203.0.113.1
192.88.99.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 0.1.2.3 169.254.170.2
""".split()  # noqa: SIM905 - sixty short words
_URLS = [
    "file:///etc/passwd",
    "gopher://127.0.0.1:{port}/",
    "ftp://127.0.0.1:{port}/",
    "//127.0.0.1:{port}/",
    "127.0.0.1:{port}",
    "http:///",
    "http://user@127.0.0.1:{port}/",
    "http://example.org@127.0.0.1:{port}/",
    "http://127.0.0.1:{port}/#fragment",
    "http://example.org:0/",
    "http://example.org:99999/",
    "http://①②⑦.⓪.⓪.①:{port}/",
    "http://127。0。0。1:{port}/",
    "http://127.0.0.1\t:{port}/",
    "http://exa mple.org/",
    "http://[::1/",
    "http://[fe80::1%25lo]:{port}/",
    "",
]
FORBIDDEN = [f"http://{host}:{{port}}/hooks" for host in _HOSTS] + _URLS


@pytest.fixture(scope="module")
def listener() -> Iterator[Receiver]:
    """Listens on loopback, where nobody may come."""
    with Receiver() as receiver:
        yield receiver


def send(url: str, **options: object) -> Outcome:
    settings = {"networks": (), "timeout_seconds": 5, "resolve": resolve_name, **options}
    return asyncio.run(post(url, "{}", headers={}, **settings))


def test_there_are_enough_forbidden_urls() -> None:
    assert len(set(FORBIDDEN)) >= 60


@pytest.mark.parametrize("url", FORBIDDEN)
def test_forbidden_url_is_never_connected_to(url: str, listener: Receiver) -> None:
    outcome = send(url.format(port=listener.port))

    assert outcome.status_code is None
    assert outcome.error is not None
    assert "refused" in outcome.error or "not a public address" in outcome.error
    assert listener.num_connections == 0


def test_listener_would_have_seen_a_request() -> None:
    with Receiver() as receiver:
        outcome = send(receiver.url, networks=LOOPBACK)

    assert (outcome.status_code, outcome.error, outcome.answer) == (200, None, "seen")
    assert receiver.num_connections == 1


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700:4700::1111"])
def test_public_addresses_are_allowed(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


def test_name_with_one_forbidden_address_among_public_ones_is_refused() -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return ["1.1.1.1", "2606:4700:4700::1111", "10.0.0.1"]

    with pytest.raises(ForbiddenTarget, match=r"10\.0\.0\.1, which is not a public"):
        asyncio.run(addresses_of(parse("https://a.example/"), networks=(), resolve=resolve))


def test_name_is_resolved_once_and_the_connection_made_to_what_was_checked(
    listener: Receiver,
) -> None:
    asked = []

    async def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) > 1 else ["127.0.0.9"]

    with Receiver() as receiver:  # on 127.0.0.1: what a second look-up would lead to
        outcome = send(
            f"http://rebinding.example:{receiver.port}/",
            networks=(ipaddress.ip_network("127.0.0.9/32"),),
            resolve=rebinding,
        )
        again = send(f"http://rebinding.example:{receiver.port}/", resolve=rebinding)

    assert asked == ["rebinding.example"] * 2  # once a try
    assert outcome.error is not None
    assert "ConnectError" in outcome.error
    assert again.error is not None
    assert "127.0.0.1, which is not a public address" in again.error
    assert receiver.num_connections == 0


def test_redirect_is_a_failure_and_not_followed(listener: Receiver) -> None:
    there = {"Location": f"http://127.0.0.1:{listener.port}/secret"}
    for status in (301, 302, 303, 307, 308):
        with Receiver(lambda _, status=status: status, headers=there) as receiver:
            outcome = send(receiver.url, networks=LOOPBACK)

        assert (outcome.status_code, outcome.error) == (status, f"the target answered {status}")
    assert listener.num_connections == 0


def test_proxy_of_the_environment_is_not_used(
    monkeypatch: pytest.MonkeyPatch, listener: Receiver
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{listener.port}")
    with Receiver() as receiver:
        outcome = send(receiver.url, networks=LOOPBACK)

    assert outcome.status_code == 200
    assert listener.num_connections == 0


def test_host_header_names_the_url_not_the_address() -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    with Receiver() as receiver:
        send(f"http://hooks.example:{receiver.port}/a?b=c", networks=LOOPBACK, resolve=resolve)

    (request,) = receiver.received
    assert request.headers["host"] == f"hooks.example:{receiver.port}"
    assert request.path == "/a?b=c"


def test_next_address_is_tried_where_the_first_can_not_be_reached() -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return ["127.0.0.9", "127.0.0.1"]

    with Receiver() as receiver:
        url = f"http://hooks.example:{receiver.port}/"
        outcome = send(url, networks=LOOPBACK, resolve=resolve)

    assert outcome.error is None


def test_target_that_never_answers_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        outcome = send(f"http://127.0.0.1:{port}/", networks=LOOPBACK, timeout_seconds=0.3)

    assert outcome.error == "no answer within 0.3 s"


def test_target_that_drips_headers_is_given_up_in_time() -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        try:
            while True:
                writer.write(b"a")
                await writer.drain()
                await asyncio.sleep(0.05)
        except (ConnectionError, asyncio.CancelledError):
            writer.close()

    async def run() -> Outcome:
        server = await asyncio.start_server(drip, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        outcome = await post(
            f"http://127.0.0.1:{port}/",
            "{}",
            headers={},
            networks=LOOPBACK,
            timeout_seconds=0.5,
            resolve=resolve_name,
        )
        server.close()
        return outcome

    assert asyncio.run(run()).error == "no answer within 0.5 s"


def test_url_is_parsed_as_it_is_sent() -> None:
    assert parse("https://EXAMPLE.org/a") == httpx.URL("https://example.org/a")
