-- Arguments: the owner; from which running job on; how many to look at; ids, each with its run, which are held.
-- Returns from where to go on, or -1 at the end.
ignore_memory_limit()
local owner, from, count = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local held = {}
for at = 4, #ARGV, 2 do
    held[ARGV[at]] = ARGV[at + 1]
end
local ids = call('ZRANGE', P .. 'running', from, from + count - 1)
local released = 0
for _, id in ipairs(ids) do
    local job = read(id)
    if job and job.owner == owner and held[id] ~= job.run then
        make_due(job, math.min(job.due, now))
        released = released + 1
    end
end
tell_workers()
return #ids < count and -1 or from + count - released
