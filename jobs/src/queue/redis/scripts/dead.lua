-- Arguments: a name, or nothing; the id of the job before the page, or nothing; how many. Returns the ids of dead jobs.
local key = P .. (ARGV[1] ~= '' and 'dead:' .. ARGV[1] or 'dead')
local from = '+inf'
if ARGV[2] ~= '' then
    local number = call('ZSCORE', P .. 'dead', ARGV[2])
    if not number then
        return {}
    end
    from = '(' .. number
end
return call('ZREVRANGEBYSCORE', key, from, '-inf', 'LIMIT', 0, ARGV[3])
