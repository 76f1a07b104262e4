-- Says which schema is kept here, if nobody has said so yet. ARGV: the version, and the oldest reader.

if redis.call('EXISTS', KEYS[1]) == 0 then
    redis.call('HSET', KEYS[1], 'schema_version', ARGV[1], 'min_reader', ARGV[2])
end
