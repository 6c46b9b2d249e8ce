-- Arguments: whether with payload and all errors; ids. Returns what is known of each job: its fields, its errors, or
-- the last one, and its payload.
local shown = {}
for at = 2, #ARGV do
    local id = ARGV[at]
    local job = call('HMGET', P .. 'job:' .. id, 'name', 'state', 'priority', 'due', 'pushed', 'started', 'finished',
        'failures', 'crashes', 'replays', 'max_attempts', 'max_crashes', 'headers', 'progress', 'result')
    if job[1] then
        local all = ARGV[1] == '1'
        local errors = call('LRANGE', P .. 'errors:' .. id, all and 0 or -1, -1)
        shown[#shown + 1] = { id, job, errors, all and call('GET', P .. 'payload:' .. id) or '' }
    end
end
return shown
