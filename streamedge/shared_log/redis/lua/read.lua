-- Reads entries after the entry with this id at this position ("" at 0-0).
-- KEYS: log. ARGV: position, id, number of entries, limit of bytes.
-- Returns their lines, or "-" if that entry is not there and is not what the next one follows.
local position, id, count, bytes_max = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local PAGE = 200

local first = redis.call('XRANGE', KEYS[1], position, '+', 'COUNT', 1)[1]
if not first then return id == '' and '' or '-' end
if first[1] == position then
  if first[2][2] ~= id then return '-' end
elseif first[2][4] ~= id then
  return '-'
end

local lines, bytes = {}, 0
while #lines < count and bytes < bytes_max do
  local page = math.min(PAGE, count - #lines)
  local entries = redis.call('XRANGE', KEYS[1], '(' .. position, '+', 'COUNT', page)
  for _, entry in ipairs(entries) do
    if bytes >= bytes_max then break end
    lines[#lines + 1] = format_entry(entry)
    bytes = bytes + #lines[#lines]
    position = entry[1]
  end
  if #entries < page then break end
end
return table.concat(lines, '\n')
