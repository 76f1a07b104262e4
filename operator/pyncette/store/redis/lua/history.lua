-- Returns at most ARGV[1] rows of the history at KEYS[1]; an empty text for a row that is too long. It writes nothing.

local rows = list()
for place, row in ipairs(redis.call('HVALS', KEYS[1])) do
    if place > tonumber(ARGV[1]) then
        break
    end
    append(rows, #row > STATE_BYTES_MAX and '' or row)
end
return rows
