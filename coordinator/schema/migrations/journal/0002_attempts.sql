-- What an owed call was last answered, for people: written only when it failed.

CREATE TABLE unanimity.attempts (
    gid      text NOT NULL,
    branch   text NOT NULL,
    action   text NOT NULL,
    tried    integer NOT NULL,
    answer   text NOT NULL,
    owner    text NOT NULL,
    first_at timestamptz NOT NULL DEFAULT now(),
    last_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (gid, branch, action)
);
