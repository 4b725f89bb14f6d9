"""Traces and metrics, through the OpenTelemetry API: whoever brings an SDK sees them, and nobody else pays for them."""

from coordinator.telemetry.telemetry import Telemetry, configured

__all__ = ["Telemetry", "configured"]
