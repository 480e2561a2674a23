-- Appends entries to a line, all or none; an entry that the log has already keeps its position.
-- KEYS: log, ids, state, resources, members.
-- ARGV: channel, line, expected position of the newest RESOURCES entry or "", kind of documents
-- ("resources" or "members"), their number, for each name and JSON ("": remove); then for each
-- entry its id, its kind and its JSON.
-- Returns {"ok", position, ...}, {"line", number} or {"conflict", position}.
local log, ids, state, resources, members = unpack(KEYS)
local channel, line, expected = ARGV[1], ARGV[2], ARGV[3]
local document_kind, document_count = ARGV[4], tonumber(ARGV[5])
local first_entry = 6 + 2 * document_count

local last, previous = newest(log)
if line_of(last) ~= tonumber(line) then
  return {'line', line_of(last)}
end

local reply = {'ok'}
for index = first_entry, #ARGV, 3 do
  local id, kind, text = ARGV[index], ARGV[index + 1], ARGV[index + 2]
  local position = redis.call('HGET', ids, id)
  if not position then
    if expected ~= '' then
      local at = redis.call('HGET', state, 'resources') or '0-0'
      if at ~= expected then return {'conflict', at} end
    end
    position = add(log, ids, channel, line .. '-*', id, previous, text)
    previous = id
    if kind == 'resources' then redis.call('HSET', state, 'resources', position) end
    local documents = document_kind == 'members' and members or resources
    for document = 6, first_entry - 1, 2 do
      local name, body = ARGV[document], ARGV[document + 1]
      if body == '' then
        redis.call('HDEL', documents, name)
      elseif document_kind == 'members' then
        -- A member keeps the position of its first entry, in front of its body.
        local old = redis.call('HGET', documents, name)
        local order = old and string.match(old, '^(%S+) ') or position
        redis.call('HSET', documents, name, order .. ' ' .. body)
      else
        redis.call('HSET', documents, name, body)
      end
    end
  end
  reply[#reply + 1] = position
end
push(channel)
return reply
