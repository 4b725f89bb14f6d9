"""A social-post service: a post is written to Postgres and announced on Kafka, and both happen or neither does."""
