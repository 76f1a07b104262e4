-- Returns for each partition the values of records, in the order in which they were asked for. It writes nothing.
--
-- ARGV: for each partition the number of its records, and their names.

local answer, at = list(), 1
for number = 1, #KEYS / 4 do
    local names = {}
    for place = 1, tonumber(ARGV[at]) do
        names[place] = ARGV[at + place]
    end
    at = at + #names + 1
    local values = values_of(open_partition(number), names)
    for place, value in ipairs(values) do
        values[place] = readable(value)
    end
    append(answer, values)
end
return answer
