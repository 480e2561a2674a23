-- Removes the oldest entries that are before a position, with their ids: at most one page.
-- KEYS: log, ids. ARGV: position, number of entries that stay. Returns how many were removed.
local PAGE = 1000
local length = redis.call('XLEN', KEYS[1])
local spare = math.min(PAGE, length - tonumber(ARGV[2]))
if spare <= 0 then return 0 end
local removed = {}
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', spare)) do
  if not is_before(entry[1], ARGV[1]) then break end
  removed[#removed + 1] = entry[2][2]
end
if #removed == 0 then return 0 end
redis.call('HDEL', KEYS[2], unpack(removed))
redis.call('XTRIM', KEYS[1], 'MAXLEN', length - #removed)
return #removed
