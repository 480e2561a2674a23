-- Begins a line, unless the log is in it or in a later one. Restores the documents of an emptied
-- engine.
-- KEYS: log, ids, state, resources, members.
-- ARGV: channel, line, id and JSON of the entry, position of the newest RESOURCES entry; number of
-- resources, for each name and JSON; then for each member its name and its document.
-- Returns 1 if the line was begun, otherwise 0.
local log, ids, state, resources, members = unpack(KEYS)
local channel, line, id, text, resources_position = unpack(ARGV, 1, 5)
local first_member = 7 + 2 * tonumber(ARGV[6])

local last, previous = newest(log)
if line_of(last) >= tonumber(line) then return 0 end
add(log, ids, channel, line .. '-0', id, previous, text)
push(channel)
if redis.call('EXISTS', resources, members) == 0 then
  for index = 7, first_member - 1, 2 do
    redis.call('HSET', resources, ARGV[index], ARGV[index + 1])
  end
  for index = first_member, #ARGV, 2 do
    redis.call('HSET', members, ARGV[index], ARGV[index + 1])
  end
  if resources_position ~= '0-0' then
    redis.call('HSET', state, 'resources', resources_position)
  end
end
return 1
