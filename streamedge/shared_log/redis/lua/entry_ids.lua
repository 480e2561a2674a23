-- KEYS: log. ARGV: positions. Returns the ids of their entries, a line each; "" where there is none.
local lines = {}
for index, position in ipairs(ARGV) do
  local entry = redis.call('XRANGE', KEYS[1], position, position)[1]
  lines[index] = entry and entry[2][2] or ''
end
return table.concat(lines, '\n')
