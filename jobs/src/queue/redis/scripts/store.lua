-- Stores one job, unless its id is known or its key is held. Returns the id of the job that is stored.
local names = {}

local function store(at, seq)
    local id, name, priority, delay, time, max_attempts, max_crashes, unique, runs_again, headers, payload =
        unpack(ARGV, at, at + 10)
    if call('EXISTS', P .. 'job:' .. id) == 1 then
        return id
    end
    unique = unique ~= '' and name .. '\0' .. unique
    local holder = unique and call('HGET', P .. 'unique', unique)
    holder = holder and read(holder)
    if holder then
        if runs_again == '1' and holder.state == RUNNING then
            call('HSET', holder.key, 'again_payload', payload, 'again_headers', headers)
        end
        return holder.id
    end
    -- A time that has passed is now.
    local due = math.max(now, time ~= '' and tonumber(time) or now + delay)
    create({ id = id, name = name, priority = tonumber(priority), seq = seq, unique = unique, due = due },
        payload, headers, max_attempts, max_crashes)
    if not names[name] then
        call('SADD', P .. 'names', name)
        names[name] = true
    end
    return id
end
