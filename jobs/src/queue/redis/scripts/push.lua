-- Arguments: the jobs, of 11 values each. Returns the ids.
local jobs = #ARGV / 11
local ids = {}
-- The first write: at the memory limit it is refused, and so are all.
local seq = call('INCRBY', P .. 'seq', jobs) - jobs
for number = 1, jobs do
    ids[number] = store((number - 1) * 11 + 1, seq + number)
end
tell_workers()
return ids
