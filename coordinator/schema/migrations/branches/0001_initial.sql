-- A row written inside a branch before it is prepared: it is visible if, and only if, the branch was committed.
-- It answers where the server cannot any more ("prepared transaction does not exist" is said of either ending).

CREATE TABLE unanimity.branches (
    gid        text NOT NULL,
    branch     text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (gid, branch)
);
