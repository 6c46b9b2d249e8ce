-- Arguments: the owner; how many jobs; `crashed` or `waiting`; names, each with how many of it. Returns the jobs, and
-- how many were found without their data.
local owner, limit, kind = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local found = {}
for at = 4, #ARGV, 2 do
    local name = ARGV[at]
    if call('SISMEMBER', P .. 'paused', name) == 0 then
        local key = P .. kind .. ':' .. name
        local first = call('ZRANGE', key, 0, ARGV[at + 1] - 1, 'WITHSCORES')
        for index = 1, #first, 2 do
            found[#found + 1] = { key = key, member = first[index], score = tonumber(first[index + 1]) }
        end
    end
end
if #ARGV > 5 then
    table.sort(found, function(one, other)
        if one.score == other.score then
            return one.member < other.member
        end
        return one.score < other.score
    end)
end

local jobs, lost, running = {}, 0, {}
local lease_until = int(now + lease())
for number = 1, math.min(limit, #found) do
    local one = found[number]
    local id = string.sub(one.member, 17)
    local key = P .. 'job:' .. id
    call('ZREM', one.key, one.member)
    local job = call('HMGET', key, 'name', 'headers', 'priority', 'pushed', 'run', 'failures', 'crashes',
        'max_attempts')
    if job[1] then
        local run = (job[5] or 0) + 1
        call('HSET', key, 'state', RUNNING, 'owner', owner, 'run', run, 'started', int(now))
        if run > 1 then
            call('HDEL', key, 'progress', 'result')
        end
        call('ZADD', P .. 'running', lease_until, id)
        running[job[1]] = (running[job[1]] or 0) + 1
        jobs[#jobs + 1] = {
            id, call('GET', P .. 'payload:' .. id) or '', job[1], job[2], job[3], job[4], int(run), job[6] or '0',
            job[7] or '0', job[8],
        }
    else
        -- The server has evicted it.
        lost = lost + 1
    end
end
for name, count in pairs(running) do
    call('HINCRBY', P .. 'counts', '2:' .. name, count)
end
return { jobs, lost }
