"""A database and a broker in memory: for tests and first steps, held to the same suite as the real ones."""
