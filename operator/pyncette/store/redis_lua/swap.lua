-- Makes each change whose record is as it was, and of a group all or none.
--
-- KEYS: those of the partitions, then those of histories. ARGV: how many partitions; then all changes, packed, each as
-- the number of its partition, its group (0: none), the number of the history to be forgotten (0: none), that of the history to be
-- written, how many rows; six lengths and what has them: its name, the version before it (none: to be created), and what is to be
-- there after it, in four parts (front, lease, spec, state; no front: to be deleted; no lease or no spec: that which is stored
-- stays); and for each row its slot, a length and its text. Returns a 1 or 0 for each change.

local partitions, names, values = {}, {}, {}
for number = 1, tonumber(ARGV[1]) do
    partitions[number], names[number] = open_partition(number), {}
end
local histories = 4 * #partitions

local changes, packed, at = {}, ARGV[2], 1
local size = #packed
while at <= size do
    local number, group, forgotten, history, count, name, before, front, lease, spec, state, first =
        struct.unpack('>I4i4I4I4I4I2I2I2I2I4I4', packed, at)
    before = before + first + name -- from here on, where each begins that comes after it
    front, name = front + before, first + name
    lease = lease + front
    spec = spec + lease
    state = state + spec
    at = state
    local rows = {}
    for _ = 1, count do
        local slot, length
        slot, length, at = struct.unpack('>i4I4', packed, at)
        append(rows, slot, packed:sub(at, at + length - 1))
        at = at + length
    end
    changes[#changes + 1] = {
        number = number, group = group, forgotten = forgotten, history = history, rows = rows,
        name = packed:sub(first, name - 1), before = packed:sub(name, before - 1), front = packed:sub(before, front - 1),
        lease = packed:sub(front, lease - 1), spec = packed:sub(lease, spec - 1), state = packed:sub(spec, state - 1),
    }
end

local places = {}
for at, change in ipairs(changes) do
    local of_partition = names[change.number]
    places[at] = #of_partition + 1
    of_partition[places[at]] = change.name
end
for number, partition in ipairs(partitions) do
    values[number] = values_of(partition, names[number])
end

local function is_as_it_was(change, stored)
    if not stored then
        return change.before == ''
    end
    return change.before ~= '' and stored:sub(2, 9) == change.before and ends(stored) ~= nil
end

local wins, broken = {}, {}
for at, change in ipairs(changes) do
    wins[at] = is_as_it_was(change, values[change.number][places[at]])
    if not wins[at] and change.group ~= 0 then
        broken[change.group] = true
    end
end

local function after(change, stored)
    local lease, spec = change.lease, change.spec
    if lease == '' or spec == '' then
        local lease_end, spec_end = ends(stored)
        lease = lease == '' and stored:sub(LEASE, lease_end) or lease
        spec = spec == '' and stored:sub(lease_end + 1, spec_end) or spec
    end
    return change.front .. lease .. spec .. change.state
end

local function make(change, partition, stored)
    local rows = change.rows
    for row = 1, #rows, 2 do
        redis.call('HSET', KEYS[histories + change.history], rows[row], rows[row + 1])
    end
    if change.front ~= '' then
        local value = after(change, stored)
        append(partition.written, change.name, value)
        file(partition, change.name, value)
        if not stored then
            append(partition.named, 0, change.name)
        end
        return
    end
    append(partition.removed, change.name)
    forget(partition, change.name)
    if change.forgotten ~= 0 then
        redis.call('UNLINK', KEYS[histories + change.forgotten])
    end
end

local made = {}
for at, change in ipairs(changes) do
    local is_made = wins[at] and not broken[change.group]
    made[at] = is_made and '1' or '0'
    if is_made then
        make(change, partitions[change.number], values[change.number][places[at]])
    end
end
for _, partition in ipairs(partitions) do
    write(partition)
end
return table.concat(made)
