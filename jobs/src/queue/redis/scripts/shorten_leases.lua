-- Arguments: how many leases at most. Returns how many were shortened.
ignore_memory_limit()
local latest = int(now + lease())
local ids = call('ZRANGEBYSCORE', P .. 'running', '(' .. latest, '+inf', 'LIMIT', 0, ARGV[1])
for _, id in ipairs(ids) do
    call('ZADD', P .. 'running', latest, id)
end
return #ids
