-- Replaces the presence of an edge for a lease, and sends it to all who wait.
-- KEYS: state, names, presence, log. ARGV: channel, prefix of presence keys, name, lease in ms,
-- JSON; the position and the id of the entry that the edge has read last, "" for no comparison,
-- and the JSON if the log has another entry there.
-- Returns a line with the milliseconds until presences are complete and the data set's
-- name, then presences.
local state, names, presence, log = unpack(KEYS)
local channel, key_prefix, name, lease_ms, text, applied, applied_id, text_astray = unpack(ARGV)

local data_set = data_set_id()
local fields = redis.call('HMGET', state, 'data_set', 'lease_ms')
if fields[1] ~= data_set then
  redis.call('HSET', state, 'data_set', data_set, 'since_ms', now_ms(), 'lease_ms', lease_ms)
elseif tonumber(fields[2]) < tonumber(lease_ms) then
  redis.call('HSET', state, 'lease_ms', lease_ms)
end
if applied_id ~= '' then
  local entry = redis.call('XRANGE', log, applied, applied)[1]
  if not entry or entry[2][2] ~= applied_id then text = text_astray end
end
redis.call('SET', presence, text, 'PX', lease_ms)
redis.call('SADD', names, name)
for _, other in ipairs(redis.call('SMEMBERS', names)) do
  if redis.call('EXISTS', key_prefix .. other) == 0 then redis.call('SREM', names, other) end
end
local complete = complete_in_ms(state)
redis.call('PUBLISH', channel, complete .. ' ' .. name .. ' ' .. lease_ms .. ' ' .. text)
return completeness(state) .. '\n' .. table.concat(presences(names, key_prefix), '\n')
