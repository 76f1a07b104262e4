-- Leases claimable records, soonest first, and returns when to claim again.
--
-- ARGV: now, the end of the time ahead, and expired_at, each of eight bytes; the id of the lease, its holder, and the limit
-- of each partition.
-- Returns the time of the server (seconds, microseconds), and for each partition: names and values of the leased records in
-- turns; the score of the first due record, and of the first lease to end; 1 if more records may be claimable; 1 if the
-- indexes match the records; and the number of records.

local PAGES_MAX = 10 -- pages that one call goes through of either kind: what is left has its turn in the next one

local now_high, now_low = struct.unpack('>i4I4', ARGV[1])
local until_high, until_low = struct.unpack('>i4I4', ARGV[2])
local expired_high, expired_low = struct.unpack('>i4I4', ARGV[3])
local until_score, expired_score = score(until_high, until_low), score(expired_high, expired_low)
local lease = struct.pack('>HH', #ARGV[4], #ARGV[5]) .. ARGV[4] .. ARGV[5]

-- True if a lease keeps a record from being claimed.
local function is_held(flags, value)
    if not has(flags, LEASED) then
        return false
    end
    local high, low = struct.unpack('>i4I4', value, LEASE)
    return is_later(high, low, expired_high, expired_low)
end

-- Move records whose leases have ended to the index of due records, where they are ordered by when they were due.
local function file_the_expired(number)
    local passed_over = 0
    for _ = 1, PAGES_MAX do
        local partition = open_partition(number)
        local names = redis.call(
            'ZRANGE', partition.leased, '-inf', expired_score, 'BYSCORE', 'LIMIT', passed_over, CHUNK
        )
        local values = values_of(partition, names)
        for place, name in ipairs(names) do
            local value = values[place]
            if not value then
                forget(partition, name)
            elseif not ends(value) or not has(value:byte(), CLAIMABLE) then
                file_as_due(partition, name, NEVER)
            elseif is_held(value:byte(), value) then
                file(partition, name, value) -- ends later than it was filed, if only by what a score cannot hold
                passed_over = passed_over + 1
            else
                file_as_due(partition, name, score(struct.unpack('>i4I4', value, CLAIMABLE_AT)))
            end
        end
        write(partition)
        if #names < CHUNK then
            return
        end
    end
end

-- Returns the value of a record with the lease, and the score of the end of that.
local function leased(value, lease_end)
    local flags, version_high, version_low, fence_high, fence_low, attempt = struct.unpack('>Bi4I4i4I4i4', value)
    local due_high, due_low, length_high, length_low, began_high, began_low =
        struct.unpack('>i4I4i4I4i4I4', value, CLAIMABLE_AT)
    if not has(flags, BEGAN) then
        began_high, began_low = now_high, now_low
        if is_later(due_high, due_low, now_high, now_low) then
            began_high, began_low = due_high, due_low
        end
    end
    version_high, version_low = plus(version_high, version_low, 0, 1)
    fence_high, fence_low = plus(fence_high, fence_low, 0, 1)
    local end_high, end_low = plus(now_high, now_low, length_high, length_low)
    return struct.pack(
        '>Bi4I4i4I4i4c0i4I4i4I4c0c0',
        bit.bor(flags, BEGAN + LEASED), version_high, version_low, fence_high, fence_low, attempt + 1,
        value:sub(DUE_AT, BEGAN_AT - 1),
        began_high, began_low, end_high, end_low,
        lease, value:sub(lease_end + 1)
    ), score(end_high, end_low)
end

-- Lease one record, or move it to the right index. Returns the new value if it was leased.
local function consider(partition, name, value)
    local lease_end = ends(value)
    local flags = value:byte()
    if not lease_end or not has(flags, CLAIMABLE) then
        file_as_due(partition, name, NEVER)
        return not lease_end and readable(value) -- so that the caller logs it
    end
    local high, low = struct.unpack('>i4I4', value, CLAIMABLE_AT)
    if is_held(flags, value) then
        file(partition, name, value)
    elseif is_later(high, low, until_high, until_low) then
        file_as_due(partition, name, score(high, low))
        return false, score(high, low) <= until_score
    else
        local new, until_ = leased(value, lease_end)
        append(partition.written, name, new)
        file_as_leased(partition, name, until_)
        return new
    end
    return false
end

local function take(number, limit, taken)
    local passed_over = 0
    for _ = 1, PAGES_MAX do
        local wanted = math.min(limit, CHUNK)
        if wanted == 0 then
            return true
        end
        local partition = open_partition(number)
        local names = redis.call('ZRANGE', partition.due, '-inf', until_score, 'BYSCORE', 'LIMIT', passed_over, wanted)
        local values = values_of(partition, names)
        for place, name in ipairs(names) do
            if values[place] then
                local new, stays = consider(partition, name, values[place])
                if new then
                    append(taken, name, new)
                    limit = limit - 1
                elseif stays then
                    passed_over = passed_over + 1
                end
            else
                forget(partition, name)
            end
        end
        if #names > 0 and partition.from_due.n == #names then
            -- Remove the whole page by rank, without a search for each name.
            partition.from_due, partition.first, partition.last = list(), passed_over, passed_over + #names - 1
        end
        write(partition)
        if #names < wanted then
            return false
        end
    end
    return true
end

local answer = redis.call('TIME')
for number = 1, #KEYS / 4 do
    local partition = open_partition(number)
    local taken = list()
    file_the_expired(number)
    local more = take(number, tonumber(ARGV[5 + number]), taken)
    local count, of_due = redis.call('HLEN', partition.records), redis.call('ZCARD', partition.due)
    local of_leased, of_names = redis.call('ZCARD', partition.leased), redis.call('ZCARD', partition.names)
    answer[#answer + 1] = {
        taken,
        redis.call('ZRANGE', partition.due, 0, 0, 'WITHSCORES')[2] or '',
        redis.call('ZRANGE', partition.leased, 0, 0, 'WITHSCORES')[2] or '',
        more and 1 or 0,
        (count == of_names and count == of_due + of_leased) and 1 or 0,
        count,
    }
end
return answer
