-- Files a page of what is there anew, or drops a page of what is filed and is not there.
--
-- ARGV: `records`, `due`, `leased` or `names`, and where to go on. Returns where to go on; 0: it is done.

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
