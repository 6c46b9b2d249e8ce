-- Arguments: the owner; ids, each with its run. Returns the ids of those that are no longer this owner's.
ignore_memory_limit()
local lease_until, lost = int(now + lease()), {}
for at = 2, #ARGV, 2 do
    local id = ARGV[at]
    local job = call('HMGET', P .. 'job:' .. id, 'state', 'owner', 'run')
    if job[1] == '2' and job[2] == ARGV[1] and job[3] == ARGV[at + 1] then
        call('ZADD', P .. 'running', lease_until, id)
    else
        lost[#lost + 1] = id
    end
end
return lost
