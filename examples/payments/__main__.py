"""Serve: PAYMENTS_DATABASE is a PostgreSQL URL, PAYMENTS_SECRET the secret of the key `payments`."""

import os

import uvicorn

from examples.payments.service import create_app
from participants.http import Key

if __name__ == "__main__":
    key = Key("payments", os.environ["PAYMENTS_SECRET"].encode())
    port = int(os.environ.get("PAYMENTS_PORT", "8000"))
    uvicorn.run(create_app(os.environ["PAYMENTS_DATABASE"], [key]), port=port, log_level="warning")
