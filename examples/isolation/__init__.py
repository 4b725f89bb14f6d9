"""What sagas do to each other without isolation, and what to do about each: an anomaly and its countermeasure."""
