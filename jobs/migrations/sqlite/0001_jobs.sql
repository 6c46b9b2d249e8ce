-- The tables of postlude-jobs in SQLite. Times are milliseconds since the Unix epoch.
-- States: 0 waiting, 1 scheduled, 2 running, 3 completed, 4 dead, 5 cancelled.
CREATE TABLE postlude_jobs (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    state INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    due INTEGER NOT NULL,
    pushed_at INTEGER NOT NULL,
    started_at INTEGER,
    finished_at INTEGER,
    lease_until INTEGER,
    owner TEXT,
    run INTEGER NOT NULL DEFAULT 0,
    failures INTEGER NOT NULL DEFAULT 0,
    crashes INTEGER NOT NULL DEFAULT 0,
    replays INTEGER NOT NULL DEFAULT 0,
    max_attempts INTEGER NOT NULL,
    max_crashes INTEGER NOT NULL,
    unique_key TEXT,
    again_payload BLOB,
    again_headers TEXT,
    headers TEXT NOT NULL,
    errors TEXT NOT NULL DEFAULT '[]',
    progress TEXT,
    result TEXT,
    payload BLOB NOT NULL
);

CREATE INDEX postlude_jobs_waiting ON postlude_jobs (name, priority, seq, due) WHERE state = 0 AND crashes = 0;
CREATE INDEX postlude_jobs_crashed ON postlude_jobs (name, priority, seq, due) WHERE state = 0 AND crashes > 0;
CREATE INDEX postlude_jobs_scheduled ON postlude_jobs (due, name) WHERE state = 1;
CREATE INDEX postlude_jobs_running ON postlude_jobs (lease_until, name) WHERE state = 2;
CREATE INDEX postlude_jobs_dead ON postlude_jobs (finished_at, seq, name) WHERE state = 4;
CREATE INDEX postlude_jobs_finished ON postlude_jobs (finished_at) WHERE state IN (3, 5);
CREATE UNIQUE INDEX postlude_jobs_unique ON postlude_jobs (name, unique_key)
    WHERE unique_key IS NOT NULL AND state <= 2;

-- Names that are paused.
CREATE TABLE postlude_paused (
    name TEXT NOT NULL PRIMARY KEY
);

-- The last tick of each schedule.
CREATE TABLE postlude_ticks (
    schedule TEXT NOT NULL PRIMARY KEY,
    last INTEGER NOT NULL
);

-- Settings that hold for all workers: the version of the tables, the oldest version that a program may have been built
-- for, and the lease in milliseconds.
CREATE TABLE postlude_settings (
    name TEXT NOT NULL PRIMARY KEY,
    value INTEGER NOT NULL
);
INSERT INTO postlude_settings (name, value) VALUES ('schema', 1), ('usable_from', 1), ('lease', 30000);
