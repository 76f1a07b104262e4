-- Returns a page of names and values in turns, in the order of names. It writes nothing.
--
-- ARGV: the first and the last name, as ZRANGE takes them, and the largest number of records.

local partition = open_partition(1)
local names = redis.call('ZRANGE', partition.names, ARGV[1], ARGV[2], 'BYLEX', 'LIMIT', 0, ARGV[3])
local page = list()
for place, value in ipairs(values_of(partition, names)) do
    if #names[place] > NAME_BYTES_MAX then
        return redis.error_reply('ERR a record has a name of ' .. #names[place] .. ' bytes: remove it')
    end
    append(page, names[place], readable(value))
end
return page
