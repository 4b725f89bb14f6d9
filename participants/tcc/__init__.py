"""Try, confirm, cancel: a service that reserves takes part in transactions as a database that prepares does."""

from participants.tcc.participant import Tcc, TccSession

__all__ = ["Tcc", "TccSession"]
