-- Makes each change whose record is as it was, and of a group all or none.
--
-- KEYS: those of the partitions, then those of histories. ARGV: how many partitions, then for each change: the number of
-- its partition, its name, its group, the version before it (eight bytes; none: to be created), what is to be there after it,
-- in four parts (front, lease, spec, state; no front: to be deleted; no lease or no spec: that which is stored stays),
-- the number of the history to be forgotten (0: none), of the history to be written, how many rows, and each slot and row.
-- Returns a 1 or 0 for each change.

local partitions, names, changes = {}, {}, {}
for number = 1, tonumber(ARGV[1]) do
    partitions[number], names[number] = open_partition(number), {}
end
local histories = 4 * #partitions

local at = 2
while at <= #ARGV do
    local number = tonumber(ARGV[at])
    append(names[number], ARGV[at + 1])
    local change = { at = at, partition = partitions[number], number = number, place = #names[number] }
    changes[#changes + 1] = change
    change.rows = tonumber(ARGV[at + 10])
    at = at + 11 + 2 * change.rows
end

local values, broken = {}, {}
for number, partition in ipairs(partitions) do
    values[number] = values_of(partition, names[number])
end
for _, change in ipairs(changes) do
    local stored, version = values[change.number][change.place], ARGV[change.at + 3]
    change.stored = stored
    change.wins = (not stored and version == '')
        or (stored and version ~= '' and stored:sub(2, 9) == version and ends(stored) ~= nil)
    if not change.wins and ARGV[change.at + 2] ~= '0' then
        broken[ARGV[change.at + 2]] = true
    end
end

local function after(change)
    local front, lease, spec, state = unpack(ARGV, change.at + 4, change.at + 7)
    if lease == '' or spec == '' then
        local stored = change.stored
        local lease_end, spec_end = ends(stored)
        lease = lease == '' and stored:sub(LEASE, lease_end) or lease
        spec = spec == '' and stored:sub(lease_end + 1, spec_end) or spec
    end
    return front .. lease .. spec .. state
end

local made = {}
for place, change in ipairs(changes) do
    local partition, name = change.partition, ARGV[change.at + 1]
    local wins = change.wins and not broken[ARGV[change.at + 2]]
    made[place] = wins and '1' or '0'
    if wins then
        local row = change.at + 11
        for _ = 1, change.rows do
            redis.call('HSET', KEYS[histories + tonumber(ARGV[change.at + 9])], ARGV[row], ARGV[row + 1])
            row = row + 2
        end
        if ARGV[change.at + 4] == '' then
            append(partition.removed, name)
            forget(partition, name)
            if ARGV[change.at + 8] ~= '0' then
                redis.call('UNLINK', KEYS[histories + tonumber(ARGV[change.at + 8])])
            end
        else
            local value = after(change)
            append(partition.written, name, value)
            file(partition, name, value)
            if not change.stored then
                append(partition.named, 0, name)
            end
        end
    end
end
for _, partition in ipairs(partitions) do
    write(partition)
end
return table.concat(made)
