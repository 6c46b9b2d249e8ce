-- Arguments: a job, of 11 values; the schedule; the tick. Returns whether it was later than the last one.
local schedule, tick = ARGV[12], ARGV[13]
local last = call('HGET', P .. 'ticks', schedule)
if not last or tonumber(last) >= tonumber(tick) then
    return 0
end
local seq = call('INCR', P .. 'seq')
call('HSET', P .. 'ticks', schedule, tick)
store(1, seq)
tell_workers()
return 1
