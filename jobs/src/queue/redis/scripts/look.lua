-- Arguments: the names that the worker handles. Returns the clock, the lease, when the next job is due and the next
-- lease runs out, and whether a job that has crashed a process waits.
local function first(key)
    local one = call('ZRANGE', P .. key, 0, 0, 'WITHSCORES')
    return one[2] and int(tonumber(one[2])) or false
end
local crashed = '0'
for _, name in ipairs(ARGV) do
    if call('EXISTS', P .. 'crashed:' .. name) == 1 and call('SISMEMBER', P .. 'paused', name) == 0 then
        crashed = '1'
        break
    end
end
return { int(now), int(lease()), first('scheduled'), first('running'), crashed }
