-- Renews leases that are held under the same id.
--
-- ARGV: now, in eight bytes; then all renewals, packed. Each has the number of its partition, the length of the lease in eight
-- bytes, and two strings with their lengths: its name, and the id of the lease.
-- Returns the time of the server (seconds, microseconds), and a 1 or 0 for each.

local now_high, now_low = struct.unpack('>i4I4', ARGV[1])
local partitions, names, values = {}, {}, {}
for number = 1, #KEYS / 4 do
    partitions[number], names[number], values[number] = open_partition(number), list(), {}
end
local renewals, packed, at = list(), ARGV[2], 1
while at <= #packed do
    local number, length, name, lease_id, next_at = struct.unpack('>I4c8I2I2', packed, at)
    at = next_at + name + lease_id
    local renewal = { number, packed:sub(next_at, next_at + name - 1), packed:sub(next_at + name, at - 1), length }
    append(names[number], renewal[2])
    append(renewals, renewal)
end
for number, partition in ipairs(partitions) do
    for place, value in ipairs(values_of(partition, names[number])) do
        values[number][names[number][place]] = value
    end
end

local function renewed(value, lease_id, length)
    if not ends(value) or not has(value:byte(), LEASED) then
        return nil
    end
    local id_length = struct.unpack('>H', value, LEASE_LENGTHS)
    if value:sub(LEASE_ID, LEASE_ID - 1 + id_length) ~= lease_id then
        return nil
    end
    local high, low = struct.unpack('>i4I4', value, LEASE)
    local new_high, new_low = plus(now_high, now_low, struct.unpack('>i4I4', length))
    if is_later(high, low, new_high, new_low) then
        new_high, new_low = high, low
    end
    return value:sub(1, LEASE - 1) .. struct.pack('>i4I4', new_high, new_low) .. value:sub(LEASE_LENGTHS)
end

local held = {}
for _, renewal in ipairs(renewals) do
    local number, name, lease_id, length = unpack(renewal)
    local value = renewed(values[number][name], lease_id, length)
    held[#held + 1] = value and '1' or '0'
    if value then
        values[number][name] = value -- it may be asked for once more
        append(partitions[number].written, name, value)
        file(partitions[number], name, value)
    end
end
for _, partition in ipairs(partitions) do
    write(partition)
end
local answer = redis.call('TIME')
answer[3] = table.concat(held)
return answer
