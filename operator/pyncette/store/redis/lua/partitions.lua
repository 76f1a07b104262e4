-- Returns the members of the set at KEYS[1] that are no longer than ARGV[2]; only their number, if it exceeds ARGV[1].
-- It writes nothing.

local members = redis.call('SMEMBERS', KEYS[1])
if #members > tonumber(ARGV[1]) then
    return #members
end
local found = list()
for _, member in ipairs(members) do
    if #member <= tonumber(ARGV[2]) then
        append(found, member)
    end
end
return found
