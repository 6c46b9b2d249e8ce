-- Arguments: the owner; notes of 4 values each: id, run, progress, result.
ignore_memory_limit()
for at = 2, #ARGV, 4 do
    local key = P .. 'job:' .. ARGV[at]
    local job = call('HMGET', key, 'state', 'owner', 'run')
    if job[1] == '2' and job[2] == ARGV[1] and job[3] == ARGV[at + 1] then
        if ARGV[at + 2] ~= '' then
            call('HSET', key, 'progress', ARGV[at + 2])
        end
        if ARGV[at + 3] ~= '' then
            call('HSET', key, 'result', ARGV[at + 3])
        end
    end
end
return 0
