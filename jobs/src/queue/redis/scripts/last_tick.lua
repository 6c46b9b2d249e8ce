-- Arguments: the schedule. Returns its last tick; a new schedule gets the present.
local last = call('HGET', P .. 'ticks', ARGV[1])
if not last then
    last = int(now)
    call('HSET', P .. 'ticks', ARGV[1], last)
end
return last
