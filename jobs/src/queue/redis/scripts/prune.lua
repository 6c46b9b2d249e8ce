-- Arguments: the retention; how many jobs at most. Returns how many were removed.
local ids = call('ZRANGEBYSCORE', P .. 'finished', '-inf', '(' .. int(now - ARGV[1]), 'LIMIT', 0, ARGV[2])
for _, id in ipairs(ids) do
    call('ZREM', P .. 'finished', id)
    forget(id)
end
return #ids
