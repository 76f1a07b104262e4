-- Adds a page of records to the indexes, or removes a page of index entries that have no record.
--
-- ARGV: `records`, `due`, `leased` or `names`, and a cursor. Returns the next cursor; 0 at the end.

local partition = open_partition(1)
local found = redis.call(ARGV[1] == 'records' and 'HSCAN' or 'ZSCAN', partition[ARGV[1]], ARGV[2], 'COUNT', CHUNK)
local entries = found[2]
if ARGV[1] == 'records' then
    for at = 1, #entries, 2 do
        append(partition.named, 0, entries[at])
        file(partition, entries[at], entries[at + 1])
    end
else
    local names = list()
    for at = 1, #entries, 2 do
        append(names, entries[at])
    end
    for place, value in ipairs(values_of(partition, names)) do
        if not value then
            forget(partition, names[place])
        end
    end
end
write(partition)
return found[1]
