-- Arguments: the id. Returns whether the job was dead. If another job holds its key by now, it does without.
ignore_memory_limit()
local job = read(ARGV[1])
if not job or job.state ~= DEAD then
    return 0
end
leave(job)
job.state, job.crashes, job.due = WAITING, 0, now
call('HDEL', job.key, 'failures', 'crashes', 'finished', 'progress', 'result')
call('HSET', job.key, 'state', WAITING, 'due', int(now))
call('HINCRBY', job.key, 'replays', 1)
if job.unique and call('HSETNX', P .. 'unique', job.unique, job.id) == 0 then
    call('HDEL', job.key, 'unique')
end
enter(job)
tell_workers()
return 1
