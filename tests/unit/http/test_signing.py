"""Whatever of a signed request is changed, it is not let in; nor is an old one."""

import pytest

from coordinator.errors import InvalidDefinition, Misconfigured
from participants.http import Delivery, Forged, Key, Verifier
from participants.http.signing import signed_headers

KEY = Key("2026-11", b"s" * 32)
AT = 1_800_000_000
DELIVERY = Delivery(gid="unan-1", step="charge", direction="action", attempt=2, term=7)
BODY = b'{"amount": 5}'


def signed(delivery=DELIVERY, key=KEY, method="POST", path="/charge?a=b", body=BODY, at=AT):
    return signed_headers(key, delivery, method, path, body, at)


def verify(headers, *, keys=(KEY,), method="POST", path="/charge?a=b", body=BODY, now=AT):
    return Verifier(keys).verify(method, path, headers, body, now)


def test_what_was_signed_is_let_in_and_tells_what_it_is_about():
    assert verify(signed()) == DELIVERY


def test_a_step_with_any_name_travels():
    delivery = Delivery(gid="g", step="zahlen: ä/ö\n", direction="compensation")
    assert verify(signed(delivery)) == delivery


@pytest.mark.parametrize("gid", ["", "a b", "a\r\nX: 1", "a\n", "a\0", "\u00e4", "a\x7f", "a" * 501], ids=ascii)
def test_a_gid_that_no_header_carries_as_it_is_is_refused_by_its_name(gid):
    """An HTTP library would say something of its own, or send what the service reads otherwise."""
    with pytest.raises(InvalidDefinition, match="a gid that is sent") as refused:
        signed(Delivery(gid=gid, step="charge", direction="action"))
    assert repr(gid) in str(refused.value)


@pytest.mark.parametrize("change", [{"method": "PUT"}, {"path": "/charge?a=c"}, {"path": "/charge"}, {"body": b"{}"}])
def test_another_method_path_or_body_is_not_let_in(change):
    with pytest.raises(Forged):
        verify(signed(), **change)


@pytest.mark.parametrize("header", sorted(signed()))
def test_no_header_can_be_changed_or_left_out(header):
    headers = signed()
    for other in ("", "0", headers[header] + "0", headers[header].upper() + "X", "compensation", "\u0660"):
        if other != headers[header]:
            with pytest.raises(Forged):
                verify({**headers, header: other})
    del headers[header]
    with pytest.raises(Forged):
        verify(headers)


def test_values_cannot_be_moved_from_one_header_into_the_next():
    headers = signed(Delivery(gid="a", step="b", direction="c"))
    moved = {**headers, "unanimity-gid": "a\nb", "unanimity-step": "c", "unanimity-direction": "1"}
    with pytest.raises(Forged):
        verify(moved)


@pytest.mark.parametrize(("age", "accepted"), [(0, True), (300, True), (-300, True), (301, False), (-301, False)])
def test_a_request_is_let_in_for_five_minutes_either_way(age, accepted):
    if accepted:
        assert verify(signed(), now=AT + age) == DELIVERY
    else:
        with pytest.raises(Forged, match="clocks"):
            verify(signed(), now=AT + age)


def test_while_a_key_is_changed_both_are_known_and_afterwards_the_old_one_is_not():
    new = Key("2026-12", b"n" * 32)
    assert verify(signed(key=new), keys=(KEY, new)) == verify(signed(), keys=(KEY, new)) == DELIVERY
    with pytest.raises(Forged):
        verify(signed(), keys=(new,))


def test_one_key_under_the_name_of_another_is_not_let_in():
    with pytest.raises(Forged):
        verify(signed(key=Key("2026-11", b"x" * 32)))


def test_a_secret_is_long_and_is_not_shown():
    with pytest.raises(Misconfigured) as refused:
        Key("k", b"too-short-secret")
    assert "too-short-secret" not in str(refused.value)
    assert "ssss" not in repr(KEY)


def test_the_idempotency_key_does_not_depend_on_attempt_or_term():
    again = Delivery(gid="unan-1", step="charge", direction="action", attempt=9, term=8)
    assert again.idempotency_key == DELIVERY.idempotency_key == "unan-1:charge:action"


def test_the_signature_is_the_one_that_the_documentation_describes():
    """As a service in another language would compute it, from the text alone."""
    import hashlib
    import hmac

    lines = ["unanimity-1", "POST", "/charge?a=b", str(AT), "2026-11", "unan-1", "charge", "action", "2", "7"]
    text = "\n".join([*lines, hashlib.sha256(BODY).hexdigest()])
    assert signed()["unanimity-signature"] == hmac.new(b"s" * 32, text.encode(), hashlib.sha256).hexdigest()
