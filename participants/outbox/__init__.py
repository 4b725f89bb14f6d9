"""The outbox: what a relay does with messages that stand beside the business rows they belong to."""
