"""Where web hooks may be sent to: every way to name an address that is not public, and what an operator allows."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from storage.errors import EgressRefused, InvalidInput
from storage.webhooks.sending.egress import NOT_PUBLIC, Egress, parse

PRIVATE = {
    "unspecified": ["0.0.0.0", "0.1.2.3", "[::]"],
    "loopback": ["127.0.0.1", "127.255.255.254", "[::1]", "localhost", "LOCALHOST", "localhost.", "a.localhost"],
    "private": ["10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.0.1", "192.168.255.255"],
    "shared (CGNAT)": ["100.64.0.1", "100.100.100.200", "100.127.255.255"],
    "link-local": ["169.254.0.1", "169.254.255.255", "[fe80::1]", "[febf::1]"],
    "metadata": ["169.254.169.254", "[fd00:ec2::254]", "[fd20:ce::254]", "168.63.129.16", "192.0.0.192"],
    "unique local": ["[fc00::1]", "[fdff:ffff::1]"],
    "multicast": ["224.0.0.1", "239.255.255.255", "[ff02::1]", "[ff0e::1]"],
    "reserved": ["240.0.0.1", "255.255.255.255", "192.0.0.1", "192.88.99.1", "[100::1]", "[4000::1]", "[5f00::1]"],
    "documentation": ["192.0.2.1", "198.51.100.1", "203.0.113.1", "[2001:db8::1]", "[3fff::1]"],
    "benchmark": ["198.18.0.1", "198.19.255.255", "[2001:2::1]"],
    "site-local": ["[fec0::1]"],
    "IPv4-mapped": ["[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:a9fe:a9fe]", "[::FFFF:10.0.0.1]"],
    "IPv4-compatible": ["[::127.0.0.1]", "[::a9fe:a9fe]"],
    "IPv4-translated": ["[::ffff:0:127.0.0.1]"],
    "NAT64": ["[64:ff9b::127.0.0.1]", "[64:ff9b::a9fe:a9fe]", "[64:ff9b::10.0.0.1]"],
    "local NAT64": ["[64:ff9b:1::7f00:1]", "[64:ff9b:1:a9fe:a9:fe00::]", "[64:ff9b:1::808:808]"],
    "6to4": ["[2002:7f00:1::]", "[2002:a9fe:a9fe::1]", "[2002:808:808::1]"],
    "Teredo": ["[2001:0:4136:e378:8000:63bf:80ff:fffe]", "[2001:0:7f00:1::1]", "[2001::1]"],
    "decimal": ["2130706433", "2852039166", "0", "1", "3232235521"],
    "octal": ["0177.0.0.1", "0177.0.0.01", "017700000001", "0251.0376.0251.0376", "00000012.0.0.1"],
    "hexadecimal": ["0x7f.1", "0x7f000001", "0X7F.0.0.0x1", "0xa9fea9fe", "0xA9.0xFE.0xA9.0xFE"],
    "short": ["127.1", "127.0.1", "10.1", "192.168.257"],
    "dot at the end": ["127.0.0.1.", "2130706433.", "0x7f.1."],
}
EACH_PRIVATE = [pytest.param(host, id=f"{kind}: {host}") for kind, hosts in PRIVATE.items() for host in hosts]

PUBLIC = ["8.8.8.8", "1.1.1.1", "100.63.255.255", "100.128.0.1", "172.15.255.255", "172.32.0.1", "192.0.1.1"]
PUBLIC += [
    "[2606:4700:4700::1111]",
    "[2a00:1450::1]",
    "[::ffff:8.8.8.8]",
    "[64:ff9b::8.8.8.8]",
    "134744072",
    "0x8.8.8.8",
]


class Names:
    """A resolver that gives one list of addresses after the other, and remembers what it was asked."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, int]] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append((host, port))
        await asyncio.sleep(0)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if not answer:
            raise OSError(f"no such host: {host}")
        return answer


# ---- addresses


@pytest.mark.parametrize("host", EACH_PRIVATE)
def test_an_address_that_is_not_public_is_refused(host: str) -> None:
    for scheme in ("https", "http"):
        with pytest.raises(EgressRefused, match="STORAGE_WEBHOOK_ALLOWED_NETWORKS"):
            Egress([]).check_url(f"{scheme}://{host}:8443/hook")


@pytest.mark.parametrize("host", [each for each in EACH_PRIVATE if "localhost" not in str(each.values[0]).lower()])
async def test_an_address_that_is_not_public_is_refused_when_it_is_connected_to(host: str) -> None:
    for written in (host.strip("[]"), parse(f"https://{host}").host):
        with pytest.raises(EgressRefused, match="not a public address"):
            await Egress([]).resolve(written, 443)


@pytest.mark.parametrize("host", [each for each in EACH_PRIVATE if "localhost" not in str(each.values[0]).lower()])
async def test_a_name_for_an_address_that_is_not_public_is_refused(host: str) -> None:
    address = parse(f"https://{host}").host
    with pytest.raises(EgressRefused, match=r"rebind\.example\.com") as refused:
        await Egress([], resolver=Names([address])).resolve("rebind.example.com", 443)
    assert address not in str(refused.value), "whoever chose the name is not told what it means here"


@pytest.mark.parametrize("host", PUBLIC)
async def test_a_public_address_is_allowed_over_tls(host: str) -> None:
    egress = Egress([])
    target = egress.target(f"https://{host}/hook")
    assert await egress.resolve(target.host, target.port) == [target.host]
    assert await Egress([], resolver=Names([target.host])).resolve("example.com", 443) == [target.host]


@pytest.mark.parametrize("network", [str(network) for network in NOT_PUBLIC])
async def test_both_ends_of_every_network_that_is_not_public_are_refused(network: str) -> None:
    found = next(each for each in NOT_PUBLIC if str(each) == network)
    for address in (found[0], found[-1]):
        with pytest.raises(EgressRefused):
            await Egress([]).resolve(str(address), 443)


async def test_an_address_with_a_zone_is_judged_without_it() -> None:
    with pytest.raises(EgressRefused):
        await Egress([], resolver=Names(["fe80::1%eth0"])).resolve("example.com", 443)
    with pytest.raises(EgressRefused):
        await Egress([], resolver=Names(["::1%1"])).resolve("example.com", 443)


# ---- names


@pytest.mark.parametrize(
    "answer",
    [
        ["93.184.216.34", "10.0.0.1"],
        ["10.0.0.1", "93.184.216.34"],
        ["2606:4700::1", "93.184.216.34", "::ffff:10.0.0.1"],
    ],
    ids=["private last", "private first", "mapped among public"],
)
async def test_a_name_with_public_and_private_addresses_is_refused(answer: list[str]) -> None:
    with pytest.raises(EgressRefused):
        await Egress([], resolver=Names(answer)).resolve("example.com", 443)


async def test_a_name_that_answers_public_then_private_is_looked_up_once_for_a_connection() -> None:
    names = Names(["93.184.216.34"], ["127.0.0.1"])
    egress = Egress([], resolver=names)
    egress.check_url("https://rebind.example.com/hook")
    assert names.asked == [], "checking a URL looks nothing up, so there is no answer that could be outdated"
    assert await egress.resolve("rebind.example.com", 443) == ["93.184.216.34"]
    assert names.asked == [("rebind.example.com", 443)]
    with pytest.raises(EgressRefused):
        await egress.resolve("rebind.example.com", 443)


async def test_an_address_is_never_looked_up() -> None:
    names = Names(["93.184.216.34"])
    for host in ("8.8.8.8", "0x8.8.8.8", "2606:4700::1"):
        await Egress([], resolver=names).resolve(host, 443)
    assert names.asked == []


async def test_answers_come_once_each_and_in_their_order() -> None:
    names = Names(["2606:4700::1", "93.184.216.34", "2606:4700::1"])
    assert await Egress([], resolver=names).resolve("example.com", 443) == ["2606:4700::1", "93.184.216.34"]


async def test_a_name_without_addresses_is_an_error_of_the_network() -> None:
    with pytest.raises(OSError, match="no such host"):
        await Egress([], resolver=Names([])).resolve("example.com", 443)


async def test_the_systems_resolver_is_used_and_judged() -> None:
    with pytest.raises(EgressRefused):
        await Egress([]).resolve("localhost", 443)
    assert set(await Egress(["127.0.0.0/8", "::1/128"]).resolve("localhost", 443)) <= {"127.0.0.1", "::1"}


async def test_those_who_ask_for_one_name_at_once_share_the_answer_and_one_may_give_up() -> None:
    names = Names(["93.184.216.34"])
    egress = Egress([], resolver=names)
    waiting = [asyncio.create_task(egress.resolve("example.com", 443)) for _ in range(5)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert answers[1:] == [["93.184.216.34"]] * 4
    assert len(names.asked) == 1


# ---- what is allowed


@pytest.mark.parametrize(
    ("network", "host"),
    [
        ("127.0.0.0/8", "127.0.0.1"),
        ("127.0.0.0/8", "localhost"),
        ("127.0.0.0/8", "2130706433"),
        ("127.0.0.0/8", "[::ffff:127.0.0.1]"),
        ("10.1.0.0/16", "10.1.2.3"),
        ("10.1.0.0/16", "[64:ff9b::10.1.2.3]"),
        ("fd00::/8", "[fd12::1]"),
        ("203.0.113.7/32", "203.0.113.7"),
        ("8.8.8.0/24", "8.8.8.8"),
        ("64:ff9b:1::/48", "[64:ff9b:1::a01:203]"),
    ],
)
@pytest.mark.parametrize("scheme", ["https", "http"])
async def test_an_allowed_network_is_reached_with_and_without_tls(scheme: str, network: str, host: str) -> None:
    egress = Egress([network])
    target = egress.target(f"{scheme}://{host}/")
    if target.address is not None:
        assert await egress.resolve(target.host, 80, is_encrypted=scheme == "https") == [target.host]


@pytest.mark.parametrize(
    ("network", "host"),
    [
        ("10.1.0.0/16", "10.2.0.1"),
        ("::/0", "127.0.0.1"),
        ("::/0", "[::ffff:127.0.0.1]"),
        ("::/0", "[64:ff9b::127.0.0.1]"),
        ("::/0", "[2002:7f00:1::]"),
        ("::/0", "[2001:0:4136:e378:8000:63bf:80ff:fffe]"),
        ("::ffff:0:0/96", "[::ffff:127.0.0.1]"),
        ("0.0.0.0/0", "[::1]"),
        ("127.0.0.1/32", "127.0.0.2"),
    ],
)
def test_allowing_one_network_allows_no_other_behind_it(network: str, host: str) -> None:
    with pytest.raises(EgressRefused):
        Egress([network]).check_url(f"https://{host}/")


async def test_a_public_receiver_must_speak_tls() -> None:
    for egress in (Egress([]), Egress(["10.0.0.0/8"])):
        with pytest.raises(EgressRefused, match="https://"):
            egress.check_url("http://8.8.8.8/")
    with pytest.raises(EgressRefused, match="https://"):
        Egress([]).check_url("http://example.com/")
    names = Names(["93.184.216.34"], ["10.0.0.1"])
    egress = Egress(["10.0.0.0/8"], resolver=names)
    egress.check_url("http://example.com/")  # it may be an internal name
    with pytest.raises(EgressRefused, match="https://"):
        await egress.resolve("example.com", 80, is_encrypted=False)
    assert await egress.resolve("example.com", 80, is_encrypted=False) == ["10.0.0.1"]


async def test_a_trusted_host_may_be_anywhere_and_needs_no_tls() -> None:
    names = Names(["10.0.0.1", "93.184.216.34"])
    egress = Egress([], ["Hooks.Internal.", "127.0.0.1:3000", "::1"], resolver=names)
    egress.check_url("http://hooks.internal/x")
    egress.check_url("http://127.0.0.1:3000/x")
    egress.check_url("https://[::1]:9000/x")
    assert await egress.resolve("hooks.internal", 80, is_encrypted=False) == ["10.0.0.1", "93.184.216.34"]
    for url in ("http://127.0.0.1:3001/x", "http://other.internal/", "https://10.0.0.1", "http://sub.hooks.internal/"):
        with pytest.raises(EgressRefused):
            egress.check_url(url)


@pytest.mark.parametrize("network", ["10.0.0.1/8", "example.com", "", "10.0.0.0/33"])
def test_a_network_that_is_none_is_an_error(network: str) -> None:
    with pytest.raises(InvalidInput, match="network"):
        Egress([network])


# ---- URLs


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("https://example.com", ("https", "example.com", 443, "/", "example.com")),
        ("HTTPS://EXAMPLE.com.:443/a/%20b?c=d&e", ("https", "example.com", 443, "/a/%20b?c=d&e", "example.com")),
        ("https://example.com?a=/b", ("https", "example.com", 443, "/?a=/b", "example.com")),
        ("http://example.com:443//x", ("http", "example.com", 443, "//x", "example.com:443")),
        ("https://example.com/a/../b/./c?", ("https", "example.com", 443, "/a/../b/./c?", "example.com")),
        ("https://[2606:4700:0::1]:8443/", ("https", "2606:4700::1", 8443, "/", "[2606:4700::1]:8443")),
        ("https://0x8.8.8.8/", ("https", "8.8.8.8", 443, "/", "8.8.8.8")),
        (
            "https://a_b.xn--bcher-kva.example/",
            ("https", "a_b.xn--bcher-kva.example", 443, "/", "a_b.xn--bcher-kva.example"),
        ),
    ],
)
def test_a_url_is_taken_apart_once_and_its_path_is_left_alone(url: str, parts: tuple[str, str, int, str, str]) -> None:
    target = parse(url)
    assert (target.scheme, target.host, target.port, target.path, target.authority) == parts


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://user@example.com/", "user or password"),
        ("https://user:pass@example.com/", "user or password"),
        ("https://example.com@127.0.0.1/", "user or password"),
        ("https://:@example.com/", "user or password"),
        ("https://example.com/#fragment", "fragment"),
        ("https://example.com#@127.0.0.1/", "fragment"),
        ("https://example.com\\@127.0.0.1/", "character"),
        ("https://example.com\\.evil.example/", "character"),
        ("https://exa mple.com/", "character"),
        ("https://example.com/\r\nHost: x", "character"),
        ("https://example.com/\t", "character"),
        (" https://example.com/", "character"),
        ("https://example.com/\x00", "character"),
        ("https://example.com/%zz", "character"),
        ("https://bücher.example/", "character"),
        ("https://127。0。0。1/", "character"),
        ("https://①②⑦.0.0.1/", "character"),
        ("https://example.com/é", "character"),
        ("https://127%2e0.0.1/", "host"),
        ("https://[fe80::1%25eth0]/", "zone"),
        ("https://[::1]example.com/", "host or port"),
        ("https://[127.0.0.1]/", "IPv6"),
        ("https://[v1.x]/", "IPv6"),
        ("https://::1/", "host or port"),
        ("https://1.2.3.4.5/", "number"),
        ("https://256.0.0.1/", "number"),
        ("https://example.0x7f/", "number"),
        ("https://08.0.0.1/", "number"),
        ("https://4294967296/", "number"),
        ("https:///path", "host"),
        ("https://./", "host"),
        ("https://a..b/", "host"),
        ("https://-a.example/", "host"),
        (f"https://{'a' * 64}.example/", "host"),
        (f"https://{'a.' * 127}example/", "host"),
        ("https://example.com:/", "host or port"),
        ("https://example.com:0/", "port"),
        ("https://example.com:65536/", "port"),
        ("https://example.com:+80/", "host or port"),
        ("https://example.com:80:80/", "host or port"),
        ("ftp://example.com/", "https://"),
        ("file:///etc/passwd", "https://"),
        ("gopher://127.0.0.1:6379/_x", "https://"),
        ("//example.com/", "https://"),
        ("https:example.com", "https://"),
        ("javascript:alert(1)", "https://"),
        ("example.com", "https://"),
        ("", "character"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_a_url_that_could_be_understood_in_two_ways_is_refused(url: str, why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        Egress(["0.0.0.0/0", "::/0"], ["example.com"]).check_url(url)


def test_an_error_about_a_url_does_not_quote_it() -> None:
    with pytest.raises(InvalidInput) as refused:
        parse("https://user:s3cret@example.com/t0ken")
    assert "s3cret" not in str(refused.value)
    with pytest.raises(EgressRefused) as unreachable:
        Egress([]).check_url("https://127.0.0.1/t0ken")
    assert "t0ken" not in str(unreachable.value)
