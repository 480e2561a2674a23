-- Ends the presence of an edge. KEYS: state, names, presence. ARGV: channel, name.
redis.call('DEL', KEYS[3])
redis.call('SREM', KEYS[2], ARGV[2])
redis.call('PUBLISH', ARGV[1], complete_in_ms(KEYS[1]) .. ' ' .. ARGV[2] .. ' 0 ')
return 1
