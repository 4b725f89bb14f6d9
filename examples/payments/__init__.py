"""A payment service whose endpoints are steps of sagas; start it with `python -m examples.payments`."""
