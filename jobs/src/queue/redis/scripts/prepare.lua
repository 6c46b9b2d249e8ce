-- Arguments: the version of the keys; the lease, or nothing. Returns the version that is found.
ignore_memory_limit()
local version = call('HGET', P .. 'settings', 'schema')
if not version then
    version = ARGV[1]
    call('HSET', P .. 'settings', 'schema', version)
    call('HSETNX', P .. 'settings', 'lease', 30000)
end
if tonumber(version) <= tonumber(ARGV[1]) and ARGV[2] ~= '' and call('HGET', P .. 'settings', 'lease') ~= ARGV[2] then
    call('HSET', P .. 'settings', 'lease', ARGV[2])
end
return tonumber(version)
