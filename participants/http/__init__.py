"""Services in any language as steps of sagas: signed requests, and answers that are understood."""

from participants.http.asgi import SignedRequests, delivery_of
from participants.http.signing import Delivery, Forged, Key, Verifier

__all__ = ["Delivery", "Forged", "Key", "SignedRequests", "Verifier", "delivery_of"]
