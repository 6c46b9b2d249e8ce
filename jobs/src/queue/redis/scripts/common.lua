-- What the scripts share. `KEYS[1]` is the prefix of all keys: its hash tag puts them into one slot of a cluster.
--
-- job:<id>         hash: all of a job but its payload; what is zero or empty is left out
-- payload:<id>     string, until the job has completed or is cancelled
-- errors:<id>      list of JSON
-- waiting:<name>   sorted set of <seq><id>, by priority and by when they were due
-- crashed:<name>   the same, of jobs that have crashed a process
-- scheduled        sorted set of ids, by when they are due
-- running          sorted set of ids, by when their leases run out
-- finished         sorted set of the ids of what has completed or was cancelled, by when
-- dead, dead:<name>  sorted sets of ids, in the order in which they died
-- counts           hash: how many jobs of a name are scheduled (`1:<name>`), and running (`2:<name>`)
-- unique           hash: from a name and a key to the id of the job that holds it
-- names, paused    sets of names
-- ticks            hash: the last tick of each schedule
-- settings         hash: the version of these keys, and the lease in milliseconds
-- seq, deaths      counters
local P = KEYS[1]
local call = redis.call

local WAITING, SCHEDULED, RUNNING, COMPLETED, DEAD, CANCELLED = 0, 1, 2, 3, 4, 5

-- How many errors of a job are stored: the first, and the latest of the others.
local MAX_ERRORS = 50

-- The text of a whole number: Lua writes large ones with an exponent.
local function int(number)
    return string.format('%.0f', number)
end

-- Milliseconds since the Unix epoch, by the clock of the server.
local function clock()
    local time = call('TIME')
    return time[1] * 1000 + math.floor(time[2] / 1000)
end
local now = clock()

local function lease()
    return tonumber(call('HGET', P .. 'settings', 'lease') or 30000)
end

-- The memory limit refuses the first write of a script, if that write needs memory, and none of the later ones. A
-- script that must not be refused, because it helps to get rid of jobs, begins with a write that needs none.
local function ignore_memory_limit()
    call('DEL', P .. 'none')
end

-- Whether workers have to be told of jobs that wait: where others wait already, they know.
local has_news = false
local looked_at = {}

local function tell_workers()
    if has_news then
        -- Workers poll besides, so a user without permission for the channel is no error.
        redis.pcall('PUBLISH', P .. 'changed', '')
    end
end

-- What has to be known of a job to move it.
local function read(id)
    local key = P .. 'job:' .. id
    local job = call('HMGET', key, 'name', 'state', 'priority', 'seq', 'crashes', 'due', 'owner', 'run', 'unique')
    if not job[1] then
        return nil
    end
    return {
        id = id,
        key = key,
        name = job[1],
        state = tonumber(job[2]),
        priority = tonumber(job[3]),
        seq = tonumber(job[4]),
        crashes = tonumber(job[5] or 0),
        due = tonumber(job[6]),
        owner = job[7],
        run = job[8] or '0',
        unique = job[9],
    }
end

local function waiting_key(job)
    return P .. (job.crashes > 0 and 'crashed:' or 'waiting:') .. job.name
end

-- Jobs of one time are in the order of their numbers.
local function waiting_member(job)
    return string.format('%016.0f', job.seq) .. job.id
end

-- Above each time of the next centuries; three times that is below 2^53, up to where a double is exact.
local PRIORITY = 2 ^ 44

-- Takes a job from where its state has put it. What it is now must not have changed yet.
local function leave(job)
    if job.state == WAITING then
        call('ZREM', waiting_key(job), waiting_member(job))
    elseif job.state == SCHEDULED then
        call('ZREM', P .. 'scheduled', job.id)
        call('HINCRBY', P .. 'counts', '1:' .. job.name, -1)
    elseif job.state == RUNNING then
        call('ZREM', P .. 'running', job.id)
        call('HINCRBY', P .. 'counts', '2:' .. job.name, -1)
        call('HDEL', job.key, 'owner')
    elseif job.state == DEAD then
        call('ZREM', P .. 'dead', job.id)
        call('ZREM', P .. 'dead:' .. job.name, job.id)
    end
end

local function release_key(job)
    if job.unique and call('HGET', P .. 'unique', job.unique) == job.id then
        call('HDEL', P .. 'unique', job.unique)
    end
end

-- Puts a job where its state belongs.
local function enter(job)
    if job.state == WAITING then
        local key = waiting_key(job)
        if not looked_at[key] then
            looked_at[key] = true
            has_news = has_news or call('EXISTS', key) == 0
        end
        call('ZADD', key, int(job.priority * PRIORITY + job.due), waiting_member(job))
    elseif job.state == SCHEDULED then
        call('ZADD', P .. 'scheduled', int(job.due), job.id)
        call('HINCRBY', P .. 'counts', '1:' .. job.name, 1)
    elseif job.state == RUNNING then
        call('ZADD', P .. 'running', int(job.lease_until), job.id)
        call('HINCRBY', P .. 'counts', '2:' .. job.name, 1)
    elseif job.state == DEAD then
        local number = call('INCR', P .. 'deaths')
        call('ZADD', P .. 'dead', number, job.id)
        call('ZADD', P .. 'dead:' .. job.name, number, job.id)
        release_key(job)
    else
        call('ZADD', P .. 'finished', int(now), job.id)
        call('DEL', P .. 'payload:' .. job.id)
        release_key(job)
    end
end

-- Moves a job to another state, and sets fields of it.
local function move(job, state, ...)
    leave(job)
    job.state = state
    if state == COMPLETED or state == DEAD or state == CANCELLED then
        call('HSET', job.key, 'state', state, 'finished', int(now), ...)
    else
        call('HSET', job.key, 'state', state, 'due', int(job.due), ...)
    end
    enter(job)
end

-- Makes a job wait, or be scheduled if it is due later.
local function make_due(job, due, ...)
    job.due = due
    move(job, due > now and SCHEDULED or WAITING, ...)
end

local function add_error(job, json)
    local key = P .. 'errors:' .. job.id
    if call('RPUSH', key, json) > MAX_ERRORS then
        call('LSET', key, 1, '')
        call('LREM', key, 1, '')
    end
end

-- Removes all of a job, which has left its state.
local function forget(id)
    call('DEL', P .. 'job:' .. id, P .. 'payload:' .. id, P .. 'errors:' .. id)
end

-- Stores a new job.
local function create(job, payload, headers, max_attempts, max_crashes)
    job.key = P .. 'job:' .. job.id
    job.crashes = 0
    job.state = job.due > now and SCHEDULED or WAITING
    call('HSET', job.key, 'name', job.name, 'state', job.state, 'priority', job.priority, 'seq', int(job.seq),
        'due', int(job.due), 'pushed', int(now), 'max_attempts', max_attempts, 'max_crashes', max_crashes,
        'headers', headers)
    call('SET', P .. 'payload:' .. job.id, payload)
    if job.unique then
        call('HSET', job.key, 'unique', job.unique)
        call('HSET', P .. 'unique', job.unique, job.id)
    end
    enter(job)
end

-- After a job has died: stores what was pushed with its key while it was running, as a job of its own.
local function follow(dead, new_id)
    local again = call('HMGET', dead.key, 'again_payload', 'again_headers', 'max_attempts', 'max_crashes')
    if not again[1] then
        return false
    end
    call('HDEL', dead.key, 'again_payload', 'again_headers')
    local job = { id = new_id, name = dead.name, priority = dead.priority, unique = dead.unique, due = now }
    job.seq = call('INCR', P .. 'seq')
    create(job, again[1], again[2], again[3], again[4])
    return true
end
