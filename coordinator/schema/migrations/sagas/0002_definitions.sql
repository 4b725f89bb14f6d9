CREATE TABLE unanimity.saga_definitions (
    owner      text NOT NULL,
    definition text NOT NULL,
    PRIMARY KEY (owner, definition)
);
