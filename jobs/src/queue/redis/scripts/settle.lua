-- Arguments: the owner; settlements of 8 values each: id, run, what becomes of it, after how many milliseconds, the
-- error, the progress, the result, and the id of a job that may follow. Returns the ids of those that are no longer
-- this owner's, and the ids of dead jobs, each with that of the job that follows it.
ignore_memory_limit()
local refused, followed = {}, {}

local function complete(job)
    local again = call('HMGET', job.key, 'again_payload', 'again_headers')
    if not again[1] then
        move(job, COMPLETED)
        return
    end
    -- What has crashed a process waits elsewhere, so it leaves as what it was.
    leave(job)
    job.state, job.crashes, job.due = WAITING, 0, now
    call('HDEL', job.key, 'again_payload', 'again_headers', 'failures', 'crashes', 'progress', 'result')
    call('HSET', job.key, 'state', WAITING, 'due', int(now), 'headers', again[2])
    call('SET', P .. 'payload:' .. job.id, again[1])
    enter(job)
end

local settle = {
    complete = complete,
    retry = function(job, after, json)
        call('HINCRBY', job.key, 'failures', 1)
        add_error(job, json)
        make_due(job, now + after)
    end,
    dead = function(job, _, json, new_id)
        call('HINCRBY', job.key, 'failures', 1)
        add_error(job, json)
        move(job, DEAD)
        if follow(job, new_id) then
            followed[#followed + 1] = job.id
            followed[#followed + 1] = new_id
        end
    end,
    release = function(job, after)
        -- What is released at once keeps its place.
        make_due(job, after > 0 and now + after or math.min(job.due, now))
    end,
}

for at = 2, #ARGV, 8 do
    local id, run, kind, after, json, progress, result, new_id = unpack(ARGV, at, at + 7)
    local job = read(id)
    if job and job.state == RUNNING and job.owner == ARGV[1] and job.run == run then
        if progress ~= '' then
            call('HSET', job.key, 'progress', progress)
        end
        if result ~= '' then
            call('HSET', job.key, 'result', result)
        end
        settle[kind](job, tonumber(after), json, new_id)
    else
        refused[#refused + 1] = id
    end
end
tell_workers()
return { refused, followed }
