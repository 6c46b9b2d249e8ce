-- Arguments: how many jobs at most.
ignore_memory_limit()
for _, id in ipairs(call('ZRANGEBYSCORE', P .. 'scheduled', '-inf', int(now), 'LIMIT', 0, ARGV[1])) do
    local job = read(id)
    if job then
        move(job, WAITING)
    else
        -- The server has evicted it.
        call('ZREM', P .. 'scheduled', id)
    end
end
tell_workers()
return 0
