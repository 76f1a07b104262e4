-- Counts due records, leased records, and the names of a task. It writes nothing.
--
-- ARGV: now, in eight bytes; the name of the task with its separator, or nothing for all; and how many records to read.
-- Returns the number of due records, the number of leased records, 1 if all were read, and the number of instances of the
-- task, which includes side runs if there are more than that.

local partition, task, limit = open_partition(1), ARGV[2], tonumber(ARGV[3])
local at = string.format('%.17g', score(struct.unpack('>i4I4', ARGV[1])))
local all = 1

local of_task = redis.call('ZLEXCOUNT', partition.names, '[' .. task, '(' .. task:sub(1, -2) .. '\1')
local is_all = task == '' or of_task == redis.call('ZCARD', partition.names)

-- Returns the number of entries between two scores. Names are read only if other tasks have entries too.
local function filed(set, first, last)
    local number = redis.call('ZCOUNT', set, first, last)
    if number > limit then
        number, all = limit, 0
    end
    if is_all or number == 0 then
        return number
    end
    local found = 0
    for _, name in ipairs(redis.call('ZRANGE', set, first, last, 'BYSCORE', 'LIMIT', 0, limit)) do
        if name:sub(1, #task) == task then
            found = found + 1
        end
    end
    return found
end

-- The lease has ended, but no claim has moved the record to the index of due records yet.
local due = filed(partition.due, '-inf', at) + filed(partition.leased, '-inf', at)
local leased = filed(partition.leased, '(' .. at, '+inf')
local first, behind = '[' .. task .. '\1', '(' .. task:sub(1, -2) .. '\1'
local instances = redis.call('ZLEXCOUNT', partition.names, first, behind)
if instances <= limit then
    -- A side run has a third name.
    for _, name in ipairs(redis.call('ZRANGE', partition.names, first, behind, 'BYLEX')) do
        if name:sub(-1) ~= '\0' then
            instances = instances - 1
        end
    end
end
return { math.min(due, limit), leased, all, instances }
