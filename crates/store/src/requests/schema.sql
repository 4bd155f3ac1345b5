CREATE TABLE requests(
    id       BLOB PRIMARY KEY,
    turn     BLOB NOT NULL UNIQUE,
    user     TEXT NOT NULL,
    consent  TEXT NOT NULL,
    session  TEXT,
    modality TEXT NOT NULL,
    priority INTEGER NOT NULL,
    deadline INTEGER NOT NULL,
    body     TEXT,
    accepted INTEGER NOT NULL,
    stage    TEXT NOT NULL,
    outcome  TEXT,
    code     TEXT NOT NULL DEFAULT '',
    handler  TEXT NOT NULL DEFAULT '',
    tier     TEXT NOT NULL DEFAULT '',
    model    TEXT NOT NULL DEFAULT '',
    answer   TEXT,
    finished INTEGER
);
CREATE INDEX requests_unfinished ON requests(accepted) WHERE finished IS NULL;
CREATE INDEX requests_finished ON requests(finished) WHERE finished IS NOT NULL;
CREATE INDEX requests_answered ON requests(finished) WHERE answer IS NOT NULL;
CREATE INDEX requests_by_user ON requests(user);

CREATE TABLE stages(
    request BLOB NOT NULL REFERENCES requests(id) ON DELETE CASCADE,
    number  INTEGER NOT NULL,
    stage   TEXT NOT NULL,
    at      INTEGER NOT NULL,
    PRIMARY KEY(request, number)
) WITHOUT ROWID;

CREATE TABLE effects(
    request BLOB NOT NULL REFERENCES requests(id) ON DELETE CASCADE,
    number  INTEGER NOT NULL,
    receipt TEXT NOT NULL,
    at      INTEGER NOT NULL,
    PRIMARY KEY(request, number)
) WITHOUT ROWID;

CREATE TABLE events(
    request BLOB NOT NULL REFERENCES requests(id) ON DELETE CASCADE,
    number  INTEGER NOT NULL,
    body    TEXT NOT NULL,
    PRIMARY KEY(request, number)
) WITHOUT ROWID;

CREATE TABLE confirmations(
    token   TEXT PRIMARY KEY,
    request BLOB NOT NULL REFERENCES requests(id) ON DELETE CASCADE,
    user    TEXT NOT NULL,
    body    TEXT NOT NULL,
    expires INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX confirmations_by_request ON confirmations(request);
CREATE INDEX confirmations_by_user ON confirmations(user);
