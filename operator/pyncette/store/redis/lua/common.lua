-- The beginning of every script: the format of a record, and its indexes. Redis runs one script at a time, as a whole.
--
-- KEYS has four keys for each partition. `records` is a hash of packed records by their names. `due` is a sorted set of the
-- names of unleased records by `claimable_at`, and at infinity if nothing is to run. `leased` is a sorted set of the names of
-- the other records by the ends of their leases. `names` is a sorted set of all names, in their own order.
-- So each name is in `names`, and in one of `due` and `leased`.
--
-- A packed record is a front of 61 bytes (flags, version, fence, attempt, due_at, schedule_since, claimable_at,
-- lease_length, began_at), its lease (end, lengths of id and holder, id, holder), its spec (length, JSON) and its state
-- (JSON); all integers are big-endian.

local CLAIMABLE, BEGAN, LEASED = 2, 4, 8
local VERSION, DUE_AT, CLAIMABLE_AT, BEGAN_AT, LEASE, LEASE_LENGTHS, LEASE_ID = 2, 22, 38, 54, 62, 70, 74

local CHUNK = 1000 -- arguments of one command, even, and well below what Lua can unpack
local NEVER = math.huge

-- An integer of 64 bits is two numbers here, since a number of Lua holds only 53 bits.
local WORD = 4294967296
local INEXACT = 2097152 -- a high half from here on (or below its negative) is more than a score can hold to the bit

local function is_later(high, low, than_high, than_low)
    return high > than_high or (high == than_high and low > than_low)
end

local function plus(high, low, more_high, more_low)
    low = low + more_low
    if low >= WORD then
        return high + more_high + 1, low - WORD
    end
    return high + more_high, low
end

-- Rounded down if need be, so that no record is found too late.
local function score(high, low)
    if high >= INEXACT or high < -INEXACT then
        low = low - low % 2048
    end
    return high * WORD + low
end

local function has(flags, flag)
    return bit.band(flags, flag) ~= 0
end

-- Returns where the lease and the spec of a packed record end; nothing if it is invalid, or too long to be read.
local function ends(value)
    if not value or #value < 77 then
        return nil
    end
    local id_length, holder_length = struct.unpack('>HH', value, LEASE_LENGTHS)
    local lease_end = LEASE_ID - 1 + id_length + holder_length
    if #value < lease_end + 4 then
        return nil
    end
    local spec_end = lease_end + 4 + struct.unpack('>I4', value, lease_end + 1)
    if #value < spec_end or spec_end - lease_end - 4 > SPEC_BYTES_MAX or #value - spec_end > STATE_BYTES_MAX then
        return nil
    end
    return lease_end, spec_end
end

-- Returns a packed record for the caller; an empty text if it is too long, since another program may have written it.
local function readable(value)
    if value and #value > VALUE_BYTES_MAX then
        return ''
    end
    return value
end

-- A list has its length `n`, since Lua would search for its end each time.
local function list()
    return { n = 0 }
end

local function append(to, one, other)
    local n = to.n + 1
    to[n] = one
    if other ~= nil then
        n = n + 1
        to[n] = other
    end
    to.n = n
end

local function in_chunks(command, key, arguments)
    for first = 1, arguments.n, CHUNK do
        redis.call(command, key, unpack(arguments, first, math.min(first + CHUNK - 1, arguments.n)))
    end
end

-- A score as text. Redis would format a number with all of its digits, which takes longer than all else that it does with it.
-- Consecutive scores are often equal, as the ends of the leases of a claim are.
local last_score, text_of_last
local function text_of(at)
    if at ~= last_score then
        last_score, text_of_last = at, at == NEVER and '+inf' or string.format('%.0f', at)
    end
    return text_of_last
end

-- The pending writes of one partition. Ranks from `first` to `last` are removed from `due`.
local function open_partition(number)
    local first = 4 * (number - 1)
    return {
        records = KEYS[first + 1], due = KEYS[first + 2], leased = KEYS[first + 3], names = KEYS[first + 4],
        written = list(), removed = list(), to_due = list(), from_due = list(), to_leased = list(), from_leased = list(),
        named = list(), unnamed = list(),
    }
end

local function values_of(partition, names)
    local values = {}
    for first = 1, #names, CHUNK do
        local part = redis.call('HMGET', partition.records, unpack(names, first, math.min(first + CHUNK - 1, #names)))
        for place = 1, #part do
            values[first + place - 1] = part[place]
        end
    end
    return values
end

local function file_as_due(partition, name, at)
    append(partition.to_due, text_of(at), name)
    append(partition.from_leased, name)
end

local function file_as_leased(partition, name, until_)
    append(partition.to_leased, text_of(until_), name)
    append(partition.from_due, name)
end

local function forget(partition, name)
    append(partition.from_due, name)
    append(partition.from_leased, name)
    append(partition.unnamed, name)
end

-- Add a record to the right index. An invalid record is never claimable.
local function file(partition, name, value)
    local flags = value:byte()
    if not ends(value) or not has(flags, CLAIMABLE) then
        file_as_due(partition, name, NEVER)
    elseif has(flags, LEASED) then
        file_as_leased(partition, name, score(struct.unpack('>i4I4', value, LEASE)))
    else
        file_as_due(partition, name, score(struct.unpack('>i4I4', value, CLAIMABLE_AT)))
    end
end

-- Writes that take memory come first: a server out of memory refuses a script at its first write only.
local function write(partition)
    in_chunks('HSET', partition.records, partition.written)
    in_chunks('HDEL', partition.records, partition.removed)
    if partition.first then
        redis.call('ZREMRANGEBYRANK', partition.due, partition.first, partition.last)
    end
    in_chunks('ZREM', partition.due, partition.from_due)
    in_chunks('ZADD', partition.due, partition.to_due)
    in_chunks('ZREM', partition.leased, partition.from_leased)
    in_chunks('ZADD', partition.leased, partition.to_leased)
    in_chunks('ZADD', partition.names, partition.named)
    in_chunks('ZREM', partition.names, partition.unnamed)
end
