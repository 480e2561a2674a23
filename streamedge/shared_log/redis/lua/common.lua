-- Functions that several scripts use. A position is written "LINE-SEQUENCE" everywhere.

-- The position and the id of the newest entry; nil for an empty log.
local function newest(log)
  local entries = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)
  if #entries == 0 then return nil, '' end
  return entries[1][1], entries[1][2][2]
end

-- The numbers of a position.
local function numbers(position)
  local line, sequence = string.match(position, '^(%d+)-(%d+)$')
  return tonumber(line), tonumber(sequence)
end

local function line_of(position)
  if not position then return 0 end
  return (numbers(position))
end

local function is_before(position, other)
  local line, sequence = numbers(position)
  local other_line, other_sequence = numbers(other)
  if line ~= other_line then return line < other_line end
  return sequence < other_sequence
end

-- An entry of the stream as one line: position, id, id of the entry before it, JSON.
local function format_entry(entry)
  local fields = entry[2]
  return entry[1] .. ' ' .. fields[2] .. ' ' .. fields[4] .. ' ' .. fields[6]
end

-- Larger entries are announced without their JSON; readers then read the log.
local PUSHED_BYTES_MAX = 65536

-- Lines that are not sent to the readers yet.
local pushed, pushed_bytes = {}, 0

-- Sends the lines in one message.
local function push(channel)
  if #pushed > 0 then redis.call('PUBLISH', channel, table.concat(pushed, '\n')) end
  pushed, pushed_bytes = {}, 0
end

-- Appends an entry under an explicit or a partial id ("LINE-*"); `push` sends it to all readers.
local function add(log, ids, channel, position, id, previous, text)
  position = redis.call('XADD', log, position, 'id', id, 'after', previous, 'entry', text)
  redis.call('HSET', ids, id, position)
  local line = position .. ' ' .. id .. ' ' .. previous
  if #text <= PUSHED_BYTES_MAX then line = line .. ' ' .. text end
  pushed[#pushed + 1] = line
  pushed_bytes = pushed_bytes + #line
  if pushed_bytes > PUSHED_BYTES_MAX then push(channel) end
  return position
end

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Changes whenever the data set may have lost its newest writes: a restart, a promotion.
local function data_set_id()
  local text = redis.call('INFO', 'replication')
  return string.match(text, 'master_replid:(%w+)') or ''
end

-- Longer than any lease: while no edge has reported to this data set.
local UNKNOWN_MS = 600000

-- How many milliseconds to wait until every edge that lives has reported to this data set.
local function complete_in_ms(state)
  local fields = redis.call('HMGET', state, 'data_set', 'since_ms', 'lease_ms')
  if fields[1] ~= data_set_id() then return UNKNOWN_MS end
  return math.max(0, tonumber(fields[2]) + tonumber(fields[3]) - now_ms())
end

-- A line with complete_in_ms and a name of the data set since it may last have lost something.
local function completeness(state)
  local fields = redis.call('HMGET', state, 'data_set', 'since_ms')
  local name = (fields[1] or '') .. '@' .. (fields[2] or '')
  return complete_in_ms(state) .. ' ' .. name
end

-- All presences that last, a line each: milliseconds of the lease that are left, and JSON.
local function presences(names, key_prefix)
  local lines = {}
  for _, name in ipairs(redis.call('SMEMBERS', names)) do
    local text = redis.call('GET', key_prefix .. name)
    if text then
      lines[#lines + 1] = redis.call('PTTL', key_prefix .. name) .. ' ' .. text
    end
  end
  return lines
end
