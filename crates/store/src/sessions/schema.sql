CREATE TABLE sessions(
    id         TEXT PRIMARY KEY,
    user       TEXT NOT NULL,
    consent    TEXT NOT NULL,
    channel    TEXT NOT NULL,
    language   TEXT NOT NULL,
    title      TEXT NOT NULL DEFAULT '',
    numbered   INTEGER NOT NULL DEFAULT 0,
    created    INTEGER NOT NULL,
    last       INTEGER NOT NULL,
    ended      INTEGER,
    remembered INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX sessions_by_user ON sessions(user, last);
CREATE INDEX sessions_open ON sessions(last) WHERE ended IS NULL;
CREATE INDEX sessions_to_remember ON sessions(ended) WHERE ended IS NOT NULL AND remembered = 0;

CREATE TABLE entries(
    id       INTEGER PRIMARY KEY,
    session  TEXT NOT NULL REFERENCES sessions(id) ON DELETE CASCADE,
    number   INTEGER NOT NULL,
    user     TEXT NOT NULL,
    consent  TEXT NOT NULL,
    turn     BLOB NOT NULL,
    speaker  TEXT NOT NULL,
    text     TEXT NOT NULL,
    amended  TEXT,
    language TEXT NOT NULL,
    spans    TEXT NOT NULL,
    handler  TEXT NOT NULL,
    source   TEXT NOT NULL,
    tokens   INTEGER NOT NULL,
    at       INTEGER NOT NULL,
    words    TEXT GENERATED ALWAYS AS (coalesce(amended, text)) VIRTUAL,
    -- What an entry takes of a window; text that nobody counted is taken for a token per three characters.
    cost     INTEGER GENERATED ALWAYS AS
             (CASE WHEN tokens > 0 THEN tokens ELSE length(coalesce(amended, text)) / 3 + 1 END) VIRTUAL,
    UNIQUE(session, number)
);
CREATE INDEX entries_by_turn ON entries(turn);
CREATE INDEX entries_by_user ON entries(user, at);

CREATE TABLE summaries(
    session TEXT PRIMARY KEY REFERENCES sessions(id) ON DELETE CASCADE,
    through INTEGER NOT NULL,
    turns   TEXT NOT NULL,
    text    TEXT NOT NULL,
    tokens  INTEGER NOT NULL,
    model   TEXT NOT NULL,
    at      INTEGER NOT NULL
);

CREATE TABLE retention(user TEXT PRIMARY KEY, keep_days INTEGER);

CREATE VIRTUAL TABLE entry_words USING fts5(
    words, content = 'entries', content_rowid = 'id', tokenize = 'unicode61 remove_diacritics 2'
);
-- Deleted words leave the index at once instead of being marked and merged away some day.
INSERT INTO entry_words(entry_words, rank) VALUES ('secure-delete', 1);
CREATE TRIGGER entry_added AFTER INSERT ON entries BEGIN
    INSERT INTO entry_words(rowid, words) VALUES (new.id, coalesce(new.amended, new.text));
END;
CREATE TRIGGER entry_amended AFTER UPDATE OF text, amended ON entries BEGIN
    INSERT INTO entry_words(entry_words, rowid, words) VALUES ('delete', old.id, coalesce(old.amended, old.text));
    INSERT INTO entry_words(rowid, words) VALUES (new.id, coalesce(new.amended, new.text));
END;
CREATE TRIGGER entry_removed AFTER DELETE ON entries BEGIN
    INSERT INTO entry_words(entry_words, rowid, words) VALUES ('delete', old.id, coalesce(old.amended, old.text));
END;
