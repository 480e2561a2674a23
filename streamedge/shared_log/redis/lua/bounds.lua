-- KEYS: log. Returns the positions of the oldest and of the newest entry; "0-0 0-0" without any.
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
local last = newest(KEYS[1])
return (first and first[1] or '0-0') .. ' ' .. (last or '0-0')
