-- The tables of postlude-jobs in PostgreSQL. Times are milliseconds since the Unix epoch, by the clock of the server.
-- States: 0 waiting, 1 scheduled, 2 running, 3 completed, 4 dead, 5 cancelled.
CREATE TABLE postlude_jobs (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id uuid NOT NULL UNIQUE,
    name text NOT NULL,
    state smallint NOT NULL,
    priority smallint NOT NULL,
    due bigint NOT NULL,
    pushed_at bigint NOT NULL,
    started_at bigint,
    finished_at bigint,
    lease_until bigint,
    owner uuid,
    run bigint NOT NULL DEFAULT 0,
    failures integer NOT NULL DEFAULT 0,
    crashes integer NOT NULL DEFAULT 0,
    replays integer NOT NULL DEFAULT 0,
    max_attempts integer NOT NULL,
    max_crashes integer NOT NULL,
    unique_key text,
    again_payload bytea,
    again_headers jsonb,
    headers jsonb NOT NULL,
    errors jsonb NOT NULL DEFAULT '[]',
    progress text,
    result text,
    payload bytea NOT NULL
) WITH (
    -- Every job is updated at least twice, and what workers read must not hide behind dead rows.
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0
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
    name text NOT NULL PRIMARY KEY
);

-- The last tick of each schedule.
CREATE TABLE postlude_ticks (
    schedule text NOT NULL PRIMARY KEY,
    last bigint NOT NULL
);

-- Settings that hold for all workers: the version of the tables, the oldest version that a program may have been built
-- for, and the lease in milliseconds.
CREATE TABLE postlude_settings (
    name text NOT NULL PRIMARY KEY,
    value bigint NOT NULL
);
INSERT INTO postlude_settings (name, value) VALUES ('schema', 1), ('usable_from', 1), ('lease', 30000);

-- The clock of the queue.
CREATE FUNCTION postlude_now() RETURNS bigint LANGUAGE sql VOLATILE AS
    $$ SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint $$;

-- Pushes a job from SQL, in the transaction of the caller. Returns its id: that of the job that holds the key, if one does.
-- The payload is stored as plain JSON: a queue whose workers have a codec can't read it.
-- Priorities: 0 high, 1 normal, 2 low.
CREATE FUNCTION postlude_push(
    job_name text,
    job_payload jsonb,
    delay_ms bigint DEFAULT 0,
    job_unique_key text DEFAULT NULL,
    job_priority smallint DEFAULT 1::smallint,
    job_max_attempts integer DEFAULT 25,
    job_max_crashes integer DEFAULT 3,
    job_headers jsonb DEFAULT '{}'
) RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
    now_ms bigint := postlude_now();
    bytes bytea := convert_to(job_payload::text, 'UTF8');
    known uuid;
    known_state smallint;
BEGIN
    IF job_name = '' THEN
        RAISE EXCEPTION 'the name of a job is empty';
    END IF;
    IF octet_length(bytes) > 262144 THEN
        RAISE EXCEPTION 'the payload has % bytes, and the limit is 262144: store the data elsewhere and push where it is',
            octet_length(bytes);
    END IF;
    FOR attempt IN 1..10 LOOP
        INSERT INTO postlude_jobs
            (id, name, state, priority, due, pushed_at, max_attempts, max_crashes, unique_key, headers, payload)
        VALUES (gen_random_uuid(), job_name, CASE WHEN delay_ms > 0 THEN 1 ELSE 0 END, job_priority,
            now_ms + delay_ms, now_ms, greatest(job_max_attempts, 1), greatest(job_max_crashes, 1), job_unique_key,
            job_headers || '{"postlude-format": "1"}', bytes)
        ON CONFLICT DO NOTHING RETURNING id INTO known;
        IF known IS NOT NULL THEN
            RETURN known;
        END IF;
        UPDATE postlude_jobs SET again_payload = bytes, again_headers = job_headers || '{"postlude-format": "1"}'
        WHERE name = job_name AND unique_key = job_unique_key AND state = 2 RETURNING id INTO known;
        IF known IS NOT NULL THEN
            RETURN known;
        END IF;
        -- The lock keeps workers from starting the job before this transaction commits.
        SELECT id, state INTO known, known_state FROM postlude_jobs
        WHERE name = job_name AND unique_key = job_unique_key AND state <= 2 FOR SHARE;
        IF known IS NOT NULL AND known_state < 2 THEN
            RETURN known;
        END IF;
    END LOOP;
    RAISE EXCEPTION 'the key % changes hands too fast: push again', job_unique_key;
END $$;
