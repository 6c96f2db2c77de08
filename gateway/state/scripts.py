"""The Lua scripts of ``gateway.state.redis``: each runs in Redis as one step, unseen by others until its end.

KEYS[1] is the sorted set of holders (processes) by the time until which they are believed to live; then come
two keys for each bound: rates, held. ARGV[1] is the holder that calls; every script but BEAT gives {-1} to
one that is not (any more) among the holders: its counts are gone, and it must join again.

What runs stands in the hash ``held`` by holder, so that a process that dies takes its part with it: its
fields are dropped by whoever reads them next. Rates are kept as the time when they are full again, and expire
then.
"""

_MEMBERS = """
local clock = redis.call('TIME')
local time_s = clock[1] + clock[2] / 1000000
local me, known = ARGV[1], {}
local function lives(holder)
  if known[holder] == nil then
    local until_s = redis.call('ZSCORE', KEYS[1], holder)
    known[holder] = until_s and tonumber(until_s) > time_s or false
  end
  return known[holder]
end
if not lives(me) then return {-1} end
"""

_HELD = """
local function held(key)
  local running, fields = 0, redis.call('HGETALL', key)
  for i = 1, #fields, 2 do
    if lives(fields[i]) then
      running = running + fields[i + 1]
    else
      redis.call('HDEL', key, fields[i])
    end
  end
  return running
end
"""

# ARGV: holder, now_s, tokens, force ('1': admitted elsewhere already, just count); then for each bound rpm,
# tpm, rpd, tpd, concurrency ('' where there is none).
# Gives {code, number of the bound, seconds to wait, four full_at_s for each bound}; code 0 is admitted,
# 1 to 4 one of the rates, 5 concurrency.
TAKE = (
    _MEMBERS
    + _HELD
    + """
local now_s, tokens, force = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == '1'
local windows_s = {60, 60, 86400, 86400}
local code, at, longest_s, before, after = 0, 0, 0, {}, {}
local bounds = (#KEYS - 1) / 2
for b = 0, bounds - 1 do
  local key, arg = 2 + 2 * b, 4 + 5 * b
  local concurrency = tonumber(ARGV[arg + 5])
  if concurrency and longest_s < 1 and held(KEYS[key + 1]) >= concurrency then
    code, at, longest_s = 5, b, 1
  end
  local full_at_s = redis.call('HMGET', KEYS[key], '1', '2', '3', '4')
  for slot = 1, 4 do
    local limit, place = tonumber(ARGV[arg + slot]), 4 * b + slot
    before[place], after[place] = '', ''
    if limit then
      local full_s = tonumber(full_at_s[slot] or 0)
      local taken = slot % 2 == 1 and 1 or math.min(tokens, limit)
      local wanted_s = math.max(full_s, now_s) + taken * windows_s[slot] / limit
      local wait_s = wanted_s - now_s - windows_s[slot] - 0.000001
      before[place], after[place] = string.format('%.17g', full_s), string.format('%.17g', wanted_s)
      if wait_s > longest_s then code, at, longest_s = slot, b, wait_s end
    end
  end
end
if code ~= 0 and not force then return {code, at, string.format('%.17g', longest_s), unpack(before)} end
for b = 0, bounds - 1 do
  local key, last_s = 2 + 2 * b, now_s
  redis.call('HINCRBY', KEYS[key + 1], me, 1)
  redis.call('PEXPIRE', KEYS[key + 1], 86400000)
  for slot = 1, 4 do
    local wanted = after[4 * b + slot]
    if wanted ~= '' then
      redis.call('HSET', KEYS[key], slot, wanted)
      last_s = math.max(last_s, tonumber(wanted))
    end
  end
  if last_s > now_s then redis.call('PEXPIRE', KEYS[key], math.ceil((last_s - now_s) * 1000)) end
end
return {0, 0, '0', unpack(after)}
"""
)

# ARGV: holder, now_s, tokens estimated, tokens used; then for each bound tpm, tpd.
SETTLE = (
    _MEMBERS
    + """
local now_s, estimated, used = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
for b = 0, (#KEYS - 1) / 2 - 1 do
  local key, arg = 2 + 2 * b, 4 + 2 * b
  if redis.call('HINCRBY', KEYS[key + 1], me, -1) <= 0 then redis.call('HDEL', KEYS[key + 1], me) end
  for slot, window_s in pairs({[2] = 60, [4] = 86400}) do
    local limit = tonumber(ARGV[arg + slot / 2])
    if limit then
      local full_s = tonumber(redis.call('HGET', KEYS[key], slot) or 0)
      full_s = full_s + (used - math.min(estimated, limit)) * window_s / limit
      full_s = math.max(full_s, now_s)
      redis.call('HSET', KEYS[key], slot, string.format('%.17g', full_s))
      local left_ms = math.max(1, math.ceil((full_s - now_s) * 1000))
      if left_ms > redis.call('PTTL', KEYS[key]) then redis.call('PEXPIRE', KEYS[key], left_ms) end
    end
  end
end
return {0}
"""
)

# KEYS: holders, held; ARGV: holder, running. Says what a holder that has joined holds already.
RESTORE = (
    _MEMBERS
    + """
redis.call('HSET', KEYS[2], me, ARGV[2])
redis.call('PEXPIRE', KEYS[2], 86400000)
return {0}
"""
)

# ARGV: holder, the answer to its last beat ('' to join), seconds to live. Gives {a mark, number of holders}.
# A mark that is not the last one says that Redis has come back with older data.
BEAT = """
local clock = redis.call('TIME')
local time_s = clock[1] + clock[2] / 1000000
if ARGV[2] ~= '' and redis.call('ZSCORE', KEYS[1], ARGV[1]) ~= ARGV[2] then return {-1} end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.6f', time_s))
redis.call('ZADD', KEYS[1], string.format('%.6f', time_s + ARGV[3]), ARGV[1])
redis.call('PEXPIRE', KEYS[1], math.ceil(ARGV[3] * 1000))
return {redis.call('ZSCORE', KEYS[1], ARGV[1]), redis.call('ZCARD', KEYS[1])}
"""
