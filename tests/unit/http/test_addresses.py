"""Hostile URLs, paths and addresses: none is registered, or none is connected to."""

from ipaddress import ip_address

import pytest

from coordinator.errors import Misconfigured
from participants.http.addresses import Allowed, Origin, checked_path

# Every one of these is the canary, a metadata service or somebody's inner network, to one parser or another.
URLS = """
http://0x7f000001:{p}
http://0x7f.1:{p}
http://0x7f.0x0.0x0.0x1:{p}
http://0X7F.0.0.1:{p}
http://2130706433:{p}
http://02130706433:{p}
http://017700000001:{p}
http://0177.0.0.1:{p}
http://0177.0.0.01:{p}
http://127.1:{p}
http://127.0.1:{p}
http://127.0.0.1.:{p}
http://127.000.000.001:{p}
http://127.0.0.0x1:{p}
http://0:{p}
http://0.0:{p}
http://00.0.0.0:{p}
http://127.0.0.1%00:{p}
http://127.0.0.1%2f:{p}
http://127.0.0.1%23@example.com:{p}
http://127。0。0。1:{p}
http://127.0.0.1:{p}
http://①②⑦.⓪.⓪.①:{p}
http://127.0.0.\uff11:{p}
http://ⓛocalhost:{p}
http://ʟocalhost:{p}
http://loc\u00adalhost:{p}
http://127.0.0.1\u200b:{p}
http://user@127.0.0.1:{p}
http://user:pass@127.0.0.1:{p}
http://example.com@127.0.0.1:{p}
http://example.com:80@127.0.0.1:{p}
http://example.com%40127.0.0.1:{p}
http://@127.0.0.1:{p}
http://:@127.0.0.1:{p}
http://a@b@127.0.0.1:{p}
http://127.0.0.1:{p}@example.com
http://127.0.0.1:{p}#@example.com
http://127.0.0.1:{p}#.example.com
http://127.0.0.1:{p}?.example.com
http://127.0.0.1:{p}/path
http://127.0.0.1:{p}/?q
http://127.0.0.1:{p};x
http://127.0.0.1:{p}\\@example.com
http://example.com\\@127.0.0.1:{p}
http://example.com\\.127.0.0.1:{p}
http:\\\\127.0.0.1:{p}
http:/127.0.0.1:{p}
http:///127.0.0.1:{p}
http:127.0.0.1:{p}
//127.0.0.1:{p}
127.0.0.1:{p}
 http://127.0.0.1:{p}
http://127.0.0.1:{p}{space}
http:// 127.0.0.1:{p}
http://127.0.0.1 :{p}
http://127.0.0.1:{tab}{p}
http://127.0.0.1{nl}:{p}
http://example.com{crlf}Host: 127.0.0.1:{p}
ht{tab}tp://127.0.0.1:{p}
http://127.0.0.1{nul}.example.com:{p}
HTTP://127.0.0.1:{p}
http://LOCALHOST:{p}
http://localhost.:{p}
http://.localhost:{p}
http://local_host:{p}
http://-localhost:{p}
http://localhost-:{p}
http://local..host:{p}
http://*.localhost:{p}
http://127.0.0.1:0{p}
http://127.0.0.1:+{p}
http://127.0.0.1:-1
http://127.0.0.1:0
http://127.0.0.1:65536
http://127.0.0.1:{p}:80
http://127.0.0.1::{p}
http://127.0.0.1:
http://127.0.0.1:{p}a
http://127.0.0.1:0x1f90
http://127.0.0.1:\uff18\uff10
http://[127.0.0.1]:{p}
http://[::1]x:{p}
http://[::1:{p}
http://::1:{p}
http://[0:0:0:0:0:0:0:1]:{p}
http://[0000::0001]:{p}
http://[::0001]:{p}
http://[::127.0.0.1]:{p}
http://[::ffff:127.0.0.1]:{p}
http://[::ffff:7f00:1]:{p}
http://[::FFFF:7F00:1]:{p}
http://[0:0:0:0:0:ffff:127.0.0.1]:{p}
http://[::ffff:0:127.0.0.1]:{p}
http://[64:ff9b::7f00:1]:{p}
http://[64:ff9b::127.0.0.1]:{p}
http://[2002:7f00:1::]:{p}
http://[2001:0:7f00:1::]:{p}
http://[::1%25lo]:{p}
http://[fe80::1%25eth0]:{p}
http://[fe80::1]:{p}
http://[v1.127.0.0.1]:{p}
http://[::]:{p}
http://[::1]:{p}
http://127.0.0.1:{p}
http://127.0.0.2:{p}
http://127.255.255.254:{p}
http://0.0.0.0:{p}
http://10.0.0.1:{p}
http://172.16.0.1:{p}
http://172.31.255.255:{p}
http://192.168.0.1:{p}
http://100.64.0.1:{p}
http://198.18.0.1:{p}
http://192.0.2.1:{p}
http://224.0.0.1:{p}
http://240.0.0.1:{p}
http://255.255.255.255:{p}
http://169.254.169.254
http://169.254.169.254/latest/meta-data/
http://169.254.170.2
http://0xa9fea9fe
http://2852039166
http://0251.0376.0251.0376
http://169.254.43518
http://[::ffff:169.254.169.254]
http://[::ffff:a9fe:a9fe]
http://[64:ff9b::a9fe:a9fe]
http://[2002:a9fe:a9fe::]
http://[fd00:ec2::254]
http://[fd20:ce::254]
http://[fd00:ec2::23]
http://[fd00:42::42]
http://[::ffff:0:a9fe:a9fe]
http://[::ffff:0:169.254.169.254]
http://[64:ff9b:1::a9fe:a9fe]
http://[64:ff9b:1:a9fe:a9:fe00::]
http://[2001:0:4136:e378:8000:63bf:5601:5601]
http://[2606:4700::5efe:a9fe:a9fe]
http://[2606:4700::200:5efe:a9fe:a9fe]
http://[::a9fe:a9fe]
http://100.100.100.200
http://168.63.129.16
http://192.0.0.192
http://[fc00::1]
http://[fec0::1]
http://[ff02::1]
ftp://127.0.0.1:{p}
file:///etc/passwd
file://127.0.0.1/etc/passwd
gopher://127.0.0.1:{p}/_GET
dict://127.0.0.1:{p}
ldap://127.0.0.1:{p}
unix:///var/run/docker.sock
http+unix://%2Fvar%2Frun%2Fdocker.sock
ws://127.0.0.1:{p}
jar:http://127.0.0.1:{p}!/
javascript://127.0.0.1:{p}
data:text/plain,x
http://
https://
http://?
{empty}
"""
_SPECIAL = {"space": " ", "tab": "\t", "nl": "\n", "crlf": "\r\n", "nul": "\0", "empty": ""}
HOSTILE = [line for line in URLS.splitlines() if line]

PATHS = """
evil
//evil.example
/\\evil.example
\\evil
/%2e%2e/admin
/..
/../admin
/a/../b
/a/./b
/.
/a/%2E%2e/b
/a/.%2e
/a b
/a%0d%0aHost:x
/a#b
@127.0.0.1/
:80@127.0.0.1/
.evil.example/
?x
/ä
/a%
/a%zz
/a"b
/a<b
/a|b
/a^b
/a`b
/a{b}
""".splitlines()


def hostile_urls(port=8080):
    """Every form, for a canary at *port*."""
    return [line.encode().decode("utf-8").format(p=port, **_SPECIAL) for line in HOSTILE]


def test_the_corpus_is_large():
    assert len(set(hostile_urls())) >= 150


@pytest.mark.parametrize("url", hostile_urls(), ids=ascii)
def test_a_hostile_url_is_refused_or_is_an_address_that_is_not_allowed(url):
    try:
        origin = Origin.parse(url)
    except Misconfigured:
        return
    assert origin.literal is not None, "a name would have to be looked up first"
    assert not Allowed().allows(origin.literal)


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://payments.internal", Origin("https", "payments.internal", 443)),
        ("http://payments", Origin("http", "payments", 80)),
        ("https://payments.example:8443/", Origin("https", "payments.example", 8443)),
        ("http://10.1.2.3:80", Origin("http", "10.1.2.3", 80)),
        ("https://[2606:4700::1111]", Origin("https", "2606:4700::1111", 443)),
        ("https://xn--bcher-kva.example", Origin("https", "xn--bcher-kva.example", 443)),
    ],
)
def test_a_usual_url_is_understood(url, origin):
    assert Origin.parse(url) == origin
    assert Origin.parse(str(origin)) == origin


@pytest.mark.parametrize(
    "path", [*(path for path in PATHS if path), "", "/charge?", "/?", "/a\nb", "/a\tb", "/a\0", "/a\u202e"], ids=ascii
)
def test_a_path_that_could_be_read_as_something_else_is_refused(path):
    with pytest.raises(Misconfigured):
        checked_path(path)


@pytest.mark.parametrize(
    "path", ["/", "/charge", "/v1/accounts/a:b@c/charge", "/charge?currency=EUR", "/a%20b", "/..a"]
)
def test_a_usual_path_is_taken(path):
    assert checked_path(path) == path


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "2606:4700::1111", "2606:4700::5eff:1:2", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_the_public_internet_is_allowed(address):
    assert Allowed().allows(ip_address(address))


def test_a_private_network_is_allowed_where_it_is_listed_and_in_no_disguise_elsewhere():
    allowed = Allowed.of(["10.20.0.0/16", "::1/128"])
    assert allowed.allows(ip_address("10.20.1.1"))
    assert allowed.allows(ip_address("::ffff:10.20.1.1"))
    assert allowed.allows(ip_address("::1"))
    for other in ("10.21.0.1", "127.0.0.1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "fd00::1"):
        assert not allowed.allows(ip_address(other)), other


@pytest.mark.parametrize(
    "address",
    ["169.254.169.254", "::ffff:169.254.169.254", "fe80::1", "fe80::1%eth0", "fd00:ec2::254", "0.0.0.0", "::",
     "224.0.0.1", "100.100.100.200", "168.63.129.16", "192.0.0.192", "2002:a9fe:a9fe::", "2001:0:7f00:1::",
     "fd00:ec2::23", "fd00:ec2::123", "fd00:ec2::253", "fd00:42::42", "fd20:ce::254", "::a9fe:a9fe", "::6464:64c8",
     "::ffff:0:a9fe:a9fe", "::ffff:0:169.254.170.23", "::ffff:100.100.100.200", "64:ff9b::a9fe:a9fe",
     "64:ff9b::168.63.129.16", "64:ff9b:1::a9fe:a9fe", "64:ff9b:1:a9fe:a9:fe00::", "2002:6464:64c8::1",
     "2001:0:4136:e378:8000:63bf:5601:5601", "fd00::5efe:a9fe:a9fe", "2606:4700::200:5efe:a9fe:a9fe"],
)  # fmt: skip
def test_metadata_services_are_never_allowed_whatever_is_listed(address):
    assert not Allowed.of(["0.0.0.0/0", "::/0", "fd00::/8"]).allows(ip_address(address))
