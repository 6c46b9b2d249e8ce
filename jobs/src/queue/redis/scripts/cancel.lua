-- Arguments: the id. Returns whether the job was waiting or scheduled.
ignore_memory_limit()
local job = read(ARGV[1])
if not job or job.state > SCHEDULED then
    return 0
end
move(job, CANCELLED)
return 1
