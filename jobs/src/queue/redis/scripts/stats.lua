-- Returns for each name: how many jobs wait, are scheduled, run, and are dead; for how long the oldest one has waited,
-- or nothing; whether the name is paused.
local rows = {}
local function oldest(key, before)
    for priority = 0, 2 do
        local band = priority * PRIORITY
        local first = call('ZRANGEBYSCORE', key, int(band), '(' .. int(band + PRIORITY), 'WITHSCORES', 'LIMIT', 0, 1)
        if first[2] then
            before = math.max(before, now - (tonumber(first[2]) - band))
        end
    end
    return before
end
for _, name in ipairs(call('SUNION', P .. 'names', P .. 'paused')) do
    local waiting = call('ZCARD', P .. 'waiting:' .. name) + call('ZCARD', P .. 'crashed:' .. name)
    local age = oldest(P .. 'crashed:' .. name, oldest(P .. 'waiting:' .. name, -1))
    local counts = call('HMGET', P .. 'counts', '1:' .. name, '2:' .. name)
    rows[#rows + 1] = {
        name, int(waiting), counts[1] or '0', counts[2] or '0', int(call('ZCARD', P .. 'dead:' .. name)),
        waiting > 0 and int(math.max(age, 0)) or false, int(call('SISMEMBER', P .. 'paused', name)),
    }
end
return rows
