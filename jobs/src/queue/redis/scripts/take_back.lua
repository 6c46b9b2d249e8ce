-- Arguments: the error of a run whose lease ran out, and what is added to it at the cap; ids of jobs that may follow
-- dead ones, as many as jobs are taken. Returns the jobs: id, name, crashes, whether it is dead.
ignore_memory_limit()
local taken, followed = {}, 0
for _, id in ipairs(call('ZRANGEBYSCORE', P .. 'running', '-inf', int(now), 'LIMIT', 0, #ARGV - 2)) do
    local job = read(id)
    if job then
        local limits = call('HMGET', job.key, 'failures', 'max_crashes')
        local crashes = job.crashes + 1
        local is_dead = crashes >= tonumber(limits[2])
        local message = ARGV[1] .. (is_dead and ': ' .. int(crashes) .. ' ' .. ARGV[2] or '')
        add_error(job, cjson.encode({ at = now, attempt = (limits[1] or 0) + crashes, error = message }))
        leave(job)
        job.crashes, job.due, job.state = crashes, now, is_dead and DEAD or WAITING
        call('HSET', job.key, 'state', job.state, 'crashes', crashes, 'due', int(now))
        if is_dead then
            call('HSET', job.key, 'finished', int(now))
        end
        enter(job)
        if is_dead then
            followed = followed + (follow(job, ARGV[3 + followed]) and 1 or 0)
        end
        taken[#taken + 1] = { id, job.name, int(crashes), is_dead and '1' or '0' }
    else
        call('ZREM', P .. 'running', id)
    end
end
tell_workers()
return taken
