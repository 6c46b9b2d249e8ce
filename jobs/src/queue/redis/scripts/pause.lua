-- Arguments: the name; whether it is paused. Returns whether that is a change.
if ARGV[2] == '1' then
    return call('SADD', P .. 'paused', ARGV[1])
end
has_news = true
tell_workers()
return call('SREM', P .. 'paused', ARGV[1])
