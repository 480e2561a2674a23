-- KEYS: log, state, resources, members.
-- Returns position and id of the newest entry, position of the newest RESOURCES entry, and the
-- documents: name, text, name, text ...
local last, id = newest(KEYS[1])
return {
  last or '0-0',
  id,
  redis.call('HGET', KEYS[2], 'resources') or '0-0',
  redis.call('HGETALL', KEYS[3]),
  redis.call('HGETALL', KEYS[4]),
}
