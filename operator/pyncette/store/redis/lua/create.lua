-- Writes the version of the schema unless there is one. ARGV: the version, and the least reader.

if redis.call('EXISTS', KEYS[1]) == 0 then
    redis.call('HSET', KEYS[1], 'schema_version', ARGV[1], 'min_reader', ARGV[2])
end
