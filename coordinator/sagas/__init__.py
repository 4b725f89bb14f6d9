"""Sagas as users define them: steps in code, checked when they are put together, and drawn."""
