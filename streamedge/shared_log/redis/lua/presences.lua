-- KEYS: state, names. ARGV: prefix of presence keys.
-- Returns what report.lua returns.
return completeness(KEYS[1]) .. '\n' .. table.concat(presences(KEYS[2], ARGV[1]), '\n')
