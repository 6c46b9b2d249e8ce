-- Arguments: the id. Returns whether the job was dead.
local job = read(ARGV[1])
if not job or job.state ~= DEAD then
    return 0
end
leave(job)
forget(job.id)
return 1
