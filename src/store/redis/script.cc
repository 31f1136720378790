#include "store/redis/script.h"

#include "store/digest.h"

namespace ashlar::store {

// The arithmetic is that of meters.cc. All numbers are whole and below 2^53, so that doubles hold them exactly;
// quotients go by fmod, which does not round. What a script reads comes before what it writes: a key of a foreign type
// is an error that has changed nothing.
//
// Budgets count only while the key `epoch` is there. It is lost with the data (FLUSHALL, a restart without a disk), and
// deleted by whoever finds this script gone from the server's cache ('+' before the word), for then the server was
// started anew, perhaps from a copy that is older than the last spending. A ledger's restore makes the next epoch.
const std::string_view kCountersScript = R"lua(
local word, id = ARGV[1], ARGV[4]
if string.sub(word, 1, 1) == '+' then
  word = string.sub(word, 2)
  redis.call('DEL', KEYS[2])
end

local function whole(n) return string.format('%.0f', n) end
local function div(a, b) return (a - math.fmod(a, b)) / b end
local function ceil_div(a, b)
  if a <= 0 then return 0 end
  return div(a - 1, b) + 1
end
local MOST = 9007199254740991
local function clamp(n) return math.max(0, math.min(MOST, n)) end

-- Rates run on the server's time, made to never go back.
local steady, utc = tonumber(ARGV[2]), tonumber(ARGV[3])
if not steady then
  local t = redis.call('TIME')
  steady = tonumber(t[1]) * 1000 + div(tonumber(t[2]), 1000)
  utc = steady
end
do
  local c = redis.call('HMGET', KEYS[1], 'last', 'shift')
  local last, shift = tonumber(c[1]) or 0, tonumber(c[2]) or 0
  steady = steady + shift
  if steady < last then
    shift = shift + last - steady
    steady = last
  end
  if steady > last then redis.call('HSET', KEYS[1], 'last', whole(steady), 'shift', whole(shift)) end
  if steady == last and shift ~= (tonumber(c[2]) or 0) then redis.call('HSET', KEYS[1], 'shift', whole(shift)) end
end
local SPARE = 600000  -- keys live this much longer than they are needed

-- Who holds money says now and then that he lives. An id begins with its owner.
local OWNER = 24
local prefix = string.sub(KEYS[3], 1, -5)
local beats, silent = prefix .. 'beats', prefix .. 'silent'

local function days_of(y, m)
  if m <= 2 then y = y - 1 end
  local era = math.floor(y / 400)
  local yoe = y - era * 400
  local doy = math.floor((153 * (m > 2 and m - 3 or m + 9) + 2) / 5)
  return era * 146097 + yoe * 365 + math.floor(yoe / 4) - math.floor(yoe / 100) + doy - 719468
end
local function month_of(days)
  local z = days + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local m = mp < 10 and mp + 3 or mp - 9
  return yoe + era * 400 + (m <= 2 and 1 or 0), m
end
-- The number of the open window, and how long it stays open.
local function window(calendar)
  if calendar == 'hour' then return div(utc, 3600000), 3600000 - math.fmod(utc, 3600000) end
  local days = div(utc, 86400000)
  if calendar == 'day' then return days, 86400000 - math.fmod(utc, 86400000) end
  if calendar == 'month' then
    local y, m = month_of(days)
    local next_days = m == 12 and days_of(y + 1, 1) or days_of(y, m + 1)
    return y * 12 + m, next_days * 86400000 - utc
  end
  return 0, 0
end

-- A limit L: key, kind, cap, period, calendar. load() reads and brings up to now; save() writes.
local bucket = {}
function bucket.load(L)
  local s = redis.call('HMGET', L.key, 'last', 'used', 'cap')
  local cap = tonumber(s[3] or nil) or L.cap  -- what has passed is of before
  if word == 'end' or word == 'amend' or word == 'bury' then L.cap = cap end  -- as whoever reserved last has it
  local last, used = tonumber(s[1]) or steady, tonumber(s[2]) or 0
  local passed = math.max(0, steady - last)
  L.last = last + passed
  if cap > 0 then used = passed >= ceil_div(used, cap) and 0 or used - passed * cap end
  L.used = used
end
function bucket.fit(L, amount)
  if L.cap == 0 then return false, true, 0 end
  local most = math.max(0, L.cap - amount) * L.period
  if L.used <= most then return true end
  return false, false, ceil_div(L.used - most, L.cap)
end
function bucket.give(L, mark, taken, amount)
  local deepest = div(MOST, L.period)
  L.used = clamp(L.used + math.max(-deepest, math.min(deepest, amount - taken)) * L.period)
  if L.used == 0 then return redis.call('DEL', L.key) end
  redis.call('HSET', L.key, 'last', whole(L.last), 'used', whole(L.used), 'cap', whole(L.cap))
  redis.call('PEXPIRE', L.key, whole(math.min(ceil_div(L.used, math.max(1, L.cap)), 3e12) + SPARE))
end
function bucket.take(L, amount)
  bucket.give(L, 0, 0, amount)
  return 0
end
function bucket.standing(L)
  local left = math.max(0, L.cap - ceil_div(L.used, L.period))
  return left, L.cap == 0 and 0 or ceil_div(L.used, L.cap)
end

local sliding = {}
function sliding.load(L)
  L.slot = ceil_div(L.period, 240)
  L.slots = ceil_div(L.period, L.slot)
  L.now = div(steady, L.slot)
  local s = redis.call('HMGET', L.key, 'total', 'from', 'to')
  L.total, L.from, L.to = tonumber(s[1]) or 0, tonumber(s[2]) or L.now, tonumber(s[3]) or L.now
  L.first = math.max(L.from, L.now - L.slots)
  L.passed = {}
  for slot = L.from, math.min(L.first - 1, L.to) do
    local n = tonumber(redis.call('HGET', L.key, whole(slot)) or nil)
    if n then
      L.total = L.total - n
      L.passed[#L.passed + 1] = whole(slot)
    end
  end
end
function sliding.save(L)
  if L.total == 0 then return redis.call('DEL', L.key) end
  if #L.passed > 0 then redis.call('HDEL', L.key, unpack(L.passed)) end
  redis.call('HSET', L.key, 'total', whole(L.total), 'from', whole(L.first), 'to', whole(L.to))
  redis.call('PEXPIRE', L.key, whole(L.period + 2 * L.slot + SPARE))
end
function sliding.fit(L, amount)
  if amount > L.cap or L.cap == 0 then return false, true, 0 end
  local excess = L.total + amount - L.cap
  if excess <= 0 then return true end
  for slot = L.first, L.to do
    excess = excess - (tonumber(redis.call('HGET', L.key, whole(slot)) or nil) or 0)
    if excess <= 0 then return false, false, math.max(1, (slot + L.slots + 1) * L.slot - steady) end
  end
  return false, false, L.period
end
function sliding.take(L, amount)
  if amount > 0 then
    redis.call('HINCRBY', L.key, whole(L.now), whole(amount))
    L.total = clamp(L.total + amount)
    L.to = math.max(L.to, L.now)
    sliding.save(L)
  end
  return L.now
end
function sliding.give(L, mark, taken, amount)
  if amount > taken then
    sliding.take(L, amount - taken)
    return
  end
  if mark < L.first then return end
  local n = tonumber(redis.call('HGET', L.key, whole(mark)) or nil)
  if not n then return end
  local back = math.min(taken - amount, n)
  L.total = L.total - back
  if back == n then redis.call('HDEL', L.key, whole(mark))
  else redis.call('HSET', L.key, whole(mark), whole(n - back)) end
  sliding.save(L)
end
function sliding.standing(L)
  local left, reset = math.max(0, L.cap - L.total), 0
  if L.total > 0 then
    local slot = L.to
    while slot > L.first and redis.call('HEXISTS', L.key, whole(slot)) == 0 do slot = slot - 1 end
    reset = math.max(1, (slot + L.slots + 1) * L.slot - steady)
  end
  return left, reset
end

local seats = {}
function seats.load(L)
  L.held = redis.call('ZCOUNT', L.key, '(' .. whole(steady), '+inf')
end
function seats.fit(L)
  if L.cap == 0 then return false, true, 0 end
  if L.held < L.cap then return true end
  local first = redis.call('ZRANGEBYSCORE', L.key, '(' .. whole(steady), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  return false, false, math.max(1, math.min(1000, tonumber(first[2]) - steady))
end
function seats.take(L)
  redis.call('ZREMRANGEBYSCORE', L.key, '-inf', whole(steady))
  redis.call('ZADD', L.key, whole(steady + L.period), id)
  redis.call('PEXPIRE', L.key, whole(L.period + SPARE))
  L.held = redis.call('ZCARD', L.key)
  return steady + L.period
end
function seats.give(L) redis.call('ZREM', L.key, id) end
function seats.standing(L)
  local last = redis.call('ZREVRANGEBYSCORE', L.key, '+inf', '(' .. whole(steady), 'WITHSCORES', 'LIMIT', 0, 1)
  return math.max(0, L.cap - L.held), last[2] and tonumber(last[2]) - steady or 0
end

local budget = {}
function budget.load(L)
  L.window, L.left = window(L.calendar)
  L.used = tonumber(redis.call('HGET', L.key, whole(L.window)) or nil) or 0
end
function budget.fit(L, amount)
  if amount == 0 then return true end
  if amount > L.cap then return false, true, 0 end
  if L.used + amount <= L.cap then return true end
  return false, L.left == 0, L.left
end
function budget.raise(L, to)
  L.used = math.max(L.used, to)
  redis.call('HSET', L.key, whole(L.window), whole(L.used))
  if redis.call('HLEN', L.key) > 8 then
    local oldest
    for _, w in ipairs(redis.call('HKEYS', L.key)) do
      local n = tonumber(w)
      if n ~= L.window and (not oldest or n < oldest) then oldest = n end
    end
    redis.call('HDEL', L.key, whole(oldest))
  end
end
function budget.take(L, amount)
  budget.raise(L, clamp(L.used + amount))
  return L.window
end
function budget.give(L, mark, taken, amount)
  local n = tonumber(redis.call('HGET', L.key, whole(mark)) or nil)
  if n then redis.call('HSET', L.key, whole(mark), whole(clamp(n + amount - taken))) end
end
function budget.standing(L) return math.max(0, L.cap - L.used), L.used == 0 and 0 or L.left end

local meters = {bucket = bucket, window = sliding, seats = seats, budget = budget}
local function limit(key, kind, cap, period, calendar)
  local L = {key = key, kind = kind, cap = tonumber(cap), period = tonumber(period), calendar = calendar}
  L.meter = meters[kind]
  return L
end
-- The limits of KEYS, five words each from ARGV[at] on, the fifth an amount.
local function charges(at)
  local all = {}
  for i = 5, #KEYS do
    local L = limit(KEYS[i], ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3])
    L.amount = tonumber(ARGV[at + 4])
    all[#all + 1] = L
    at = at + 5
  end
  return all
end
local epoch = redis.call('GET', KEYS[2])
local function lost(all)
  for _, L in ipairs(all) do
    if L.kind == 'budget' and not epoch then return true end
  end
  return false
end
local function add_standings(reply, all)
  for _, L in ipairs(all) do
    local left, reset = L.meter.standing(L)
    reply[#reply + 1] = left
    reply[#reply + 1] = reset
  end
  return reply
end

if word == 'reserve' then
  local all = charges(5)
  if lost(all) then return {'lost'} end
  local record = redis.call('GET', KEYS[4])
  if record and (record == 'x' or string.sub(record, 1, 1) == '!') then return {'gone'} end
  local by, never, wait = -1, 0, 0
  for i, L in ipairs(all) do
    L.meter.load(L)
    if not record then
      local fits, no_use, ms = L.meter.fit(L, L.amount)
      if not fits and (by < 0 or (never == 0 and (no_use or ms > wait))) then
        by, never, wait = i - 1, no_use and 1 or 0, no_use and 0 or ms
      end
    end
  end
  if by < 0 and not record then
    local lines, longest, money = {epoch or ''}, 0, false
    for _, L in ipairs(all) do
      local mark = L.meter.take(L, L.amount)
      longest = math.max(longest, L.period)
      money = money or L.kind == 'budget'
      lines[#lines + 1] = table.concat({L.kind, whole(L.cap), whole(L.period), L.calendar, whole(L.amount), whole(mark), L.key}, ' ')
    end
    local text = table.concat(lines, '\n')
    if money then
      redis.call('SET', KEYS[4], text)
      redis.call('ZADD', KEYS[3], whole(steady), id)
      redis.call('HSETNX', beats, string.sub(id, 1, OWNER), whole(steady))
    else
      redis.call('SET', KEYS[4], text, 'PX', whole(longest + 86400000))
    end
  end
  return add_standings({'ok', by < 0 and 1 or 0, by, never, wait, epoch or ''}, all)
end

local function each_held(record, use)
  local i = 0
  for kind, cap, period, calendar, amount, mark, key in string.gmatch(record, '(%a+) (%d+) (%d+) (%a+) (%d+) (%d+) (%C+)') do
    i = i + 1
    local L = limit(key, kind, cap, period, calendar)
    use(i, L, tonumber(amount), tonumber(mark))
  end
end

-- ARGV: the epoch of its reservation (empty: not known), how many amounts, the amounts; what was reserved, with the
-- true amounts, in case that Redis has forgotten it. What money was settled to is kept for a while behind a '!', so that
-- who finds the journal of a holder who died a moment later may amend it.
if word == 'end' or word == 'amend' then
  local record, known, n = redis.call('GET', KEYS[4]), ARGV[5], tonumber(ARGV[6])
  if record == 'x' then return {'ok', 0} end
  if record then
    local over = string.sub(record, 1, 1) == '!'
    if over and word == 'end' then return {'ok', 0} end
    local todo, lines, money = {}, {'!'}, false
    each_held(record, function(i, L, taken, mark)
      local amount = n > 0 and clamp(tonumber(ARGV[6 + i]) or taken) or 0
      if L.kind == 'budget' then money = true end
      lines[#lines + 1] = table.concat({L.kind, whole(L.cap), whole(L.period), L.calendar, whole(amount), whole(mark), L.key}, ' ')
      if over and L.kind ~= 'budget' then return end  -- rates pass, and the seat is somebody else's
      L.meter.load(L)
      todo[#todo + 1] = function() L.meter.give(L, mark, taken, amount) end
    end)
    for _, give in ipairs(todo) do give() end
    if money and n > 0 and not over then
      redis.call('SET', KEYS[4], table.concat(lines, '\n'), 'PX', SPARE / 5)
    else
      redis.call('DEL', KEYS[4])
    end
    redis.call('ZREM', KEYS[3], id)
    return {'ok', 1}
  end
  -- A command that was given up may still arrive after us: its id is used up.
  redis.call('SET', KEYS[4], 'x', 'PX', SPARE)
  if known ~= '' and epoch and known ~= epoch and n > 0 then
    for _, L in ipairs(charges(7 + n)) do
      if L.kind == 'budget' then
        L.meter.load(L)
        L.meter.take(L, L.amount)
      end
    end
    return {'ok', 2}
  end
  return {'ok', 0}
end

if word == 'renew' then
  local record = redis.call('GET', KEYS[4])
  if record and record ~= 'x' and string.sub(record, 1, 1) ~= '!' then
    each_held(record, function(i, L)
      if L.kind == 'seats' then
        seats.take(L)
        if redis.call('PTTL', KEYS[4]) >= 0 then redis.call('PEXPIRE', KEYS[4], whole(L.period + 86400000)) end
      end
    end)
  end
  return {'ok'}
end

if word == 'look' then
  local all = charges(5)
  if lost(all) then return {'lost'} end
  for _, L in ipairs(all) do L.meter.load(L) end
  return add_standings({'ok'}, all)
end

-- The id names the next epoch, if one must begin.
if word == 'restore' or word == 'raise' then
  local all = charges(5)
  for _, L in ipairs(all) do
    L.meter.load(L)
    budget.raise(L, L.amount)
  end
  if not epoch and word == 'restore' then redis.call('SET', KEYS[2], id) end
  return {'ok'}
end

-- Whoever is in the set `dead` holds nothing and is not known any more: `part` is called with each id that he held and
-- its record's key.
local function forget(dead, part)
  local from, parted, found = 0, 0, nil
  repeat
    found = redis.call('ZRANGE', KEYS[3], whole(from), whole(from + 999))
    for _, held in ipairs(found) do
      if dead[string.sub(held, 1, OWNER)] then
        part(held, prefix .. 'r:' .. held)
        redis.call('ZREM', KEYS[3], held)
        parted = parted + 1
      else
        from = from + 1
      end
    end
  until #found < 1000
  for owner in pairs(dead) do
    redis.call('HDEL', beats, owner)
    redis.call('HDEL', silent, owner)
  end
  return {'ok', parted}
end

-- The id is its owner's. ARGV: the lease. Who has been silent for one and is still so after another is dead: one look
-- says nothing, for all are silent while Redis itself is away. His money goes back; its records stay, so that what his
-- journal says of them counts, should it be found.
if word == 'tend' then
  local lease = tonumber(ARGV[5])
  redis.call('HSET', beats, id, whole(steady))
  redis.call('HDEL', silent, id)
  local dead = {}
  local all = redis.call('HGETALL', beats)
  for i = 1, #all, 2 do
    local owner = all[i]
    local since = tonumber(redis.call('HGET', silent, owner) or nil)
    if steady - tonumber(all[i + 1]) < lease then
      if since then redis.call('HDEL', silent, owner) end
    elseif not since then
      redis.call('HSET', silent, owner, whole(steady))
    elseif steady - since >= lease then
      dead[owner] = true
    end
  end
  if not next(dead) then return {'ok', 0} end
  return forget(dead, function(held, key)
    local record = redis.call('GET', key) or ''
    local lines = {string.match(record, '^[^\n]*')}
    each_held(record, function(i, L, taken, mark)
      if L.kind == 'budget' then
        L.meter.give(L, mark, taken, 0)
        taken = 0
      end
      lines[#lines + 1] = table.concat({L.kind, whole(L.cap), whole(L.period), L.calendar, whole(taken), whole(mark), L.key}, ' ')
    end)
    redis.call('SET', key, table.concat(lines, '\n'), 'PX', whole(400 * 86400000))
  end)
end

-- The id is the owner's, who is dead for sure: nobody will say anything of what he holds any more.
if word == 'bury' then
  return forget({[id] = true}, function(held, key)
    id = held  -- whose seat it is
    local todo = {}
    each_held(redis.call('GET', key) or '', function(i, L, taken, mark)
      L.meter.load(L)
      todo[i] = function() L.meter.give(L, mark, taken, 0) end
    end)
    for _, give in ipairs(todo) do give() end
    redis.call('DEL', key)
  end)
end

-- ARGV: the age.
if word == 'unsettled' then
  local found = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', whole(steady - tonumber(ARGV[5])), 'LIMIT', 0, 1000)
  return {'ok', unpack(found)}
end
return redis.error_reply('ERR no such word')
)lua";

const std::string& counters_script_sha() {
  static const std::string sha = [] {
    Hasher hasher(Hasher::Kind::sha1);
    hasher.add(kCountersScript);
    return to_hex(hasher.finish());
  }();
  return sha;
}

}  // namespace ashlar::store
