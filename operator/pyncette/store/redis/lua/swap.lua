-- Makes each change whose record is unchanged, and a group as a whole or not at all.
--
-- KEYS: those of the partitions, then those of histories. ARGV: the number of partitions; then all changes, packed. Each has
-- its own length; the number of its partition; its group (0: none); the numbers of the histories to delete and to write
-- (0: none); the number of rows; its kind (below); the version before it; three strings with their lengths: its name, and the
-- new value in two parts, between which the kept part of the stored value goes; and for each row its slot and its text with
-- its length. Returns a 1 or 0 for each change.

local HEADER = '>I4I4i4I4I4I4Bi4I4I2I4I4'
-- Bits of a kind: a record exists before it; none exists after it; the stored lease stays; the stored spec stays.
local KNOWN, DELETES, KEEPS_LEASE, KEEPS_SPEC = 1, 2, 4, 8

local packed = ARGV[2]
local partitions, names, values = {}, {}, {}
for number = 1, tonumber(ARGV[1]) do
    partitions[number], names[number] = open_partition(number), list()
end

-- The offset of each change, and its index among those of its partition.
local begins, places, grouped = list(), {}, false
local at = 1
while at <= #packed do
    local size, number, group, _, _, _, _, _, _, name, _, _, first = struct.unpack(HEADER, packed, at)
    append(names[number], packed:sub(first, first + name - 1))
    append(begins, at)
    places[begins.n] = names[number].n
    grouped = grouped or group ~= 0
    at = at + size
end
for number, partition in ipairs(partitions) do
    values[number] = values_of(partition, names[number])
end

local function is_unchanged(stored, kind, version_high, version_low)
    local is_known = has(kind, KNOWN)
    if not stored then
        return not is_known
    end
    if not is_known or not ends(stored) then
        return false
    end
    local high, low = struct.unpack('>i4I4', stored, VERSION)
    return high == version_high and low == version_low
end

-- Returns the kept part of the stored value, from its lease to its spec.
local function kept(stored, kind)
    if not has(kind, KEEPS_LEASE + KEEPS_SPEC) then
        return ''
    end
    local lease_end, spec_end = ends(stored)
    return stored:sub(
        has(kind, KEEPS_LEASE) and LEASE or lease_end + 1, has(kind, KEEPS_SPEC) and spec_end or lease_end
    )
end

local broken = {}
if grouped then
    for change = 1, begins.n do
        local _, number, group, _, _, _, kind, version_high, version_low = struct.unpack(HEADER, packed, begins[change])
        local stored = values[number][places[change]]
        if group ~= 0 and not is_unchanged(stored, kind, version_high, version_low) then
            broken[group] = true
        end
    end
end

local function write_rows(history, rows, at)
    for _ = 1, rows do
        local slot, length, text = struct.unpack('>i4I4', packed, at)
        at = text + length
        redis.call('HSET', KEYS[4 * #partitions + history], slot, packed:sub(text, at - 1))
    end
end

local made = {}
for change = 1, begins.n do
    local _, number, group, forgotten, history, rows, kind, version_high, version_low, name_length, before, after, first =
        struct.unpack(HEADER, packed, begins[change])
    local partition, stored = partitions[number], values[number][places[change]]
    if broken[group] or not is_unchanged(stored, kind, version_high, version_low) then
        made[change] = '0'
    else
        made[change] = '1'
        local name, middle = names[number][places[change]], first + name_length + before
        local last = middle + after
        write_rows(history, rows, last)
        if has(kind, DELETES) then
            append(partition.removed, name)
            forget(partition, name)
            if forgotten ~= 0 then
                redis.call('UNLINK', KEYS[4 * #partitions + forgotten])
            end
        else
            local value = packed:sub(middle - before, middle - 1) .. kept(stored, kind) .. packed:sub(middle, last - 1)
            append(partition.written, name, value)
            file(partition, name, value)
            if not stored then
                append(partition.named, 0, name)
            end
        end
    end
end
for _, partition in ipairs(partitions) do
    write(partition)
end
return table.concat(made)
