-- The barrier on Redis: one hash per step. What `decision.py` says, where the records are; a test compares the two.
-- KEYS[1] is the step's hash; the others are those of the effect. ARGV is
--   what: enter | intend | settle | ask;  direction;  origin;  undoes: 1 | 0;  term;  fingerprint;  retention in ms;
--   refused: 1 | 0;  result, or nothing: 1 | 0;  result;  the Unix time from which on what is not here may have been
--   forgotten, or '';  then each command of the effect: its number of words, and its words.
-- The answer is {verdict (of ask: the state), result or false, refused: 1 | 0, the answers of the effect's commands}.
local step = KEYS[1]
local what, direction, origin, undoes = ARGV[1], ARGV[2], ARGV[3], ARGV[4] == '1'
local term, fingerprint, retention = tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[7])
local refused, kept, result, young_until = ARGV[8] == '1', ARGV[9] == '1', ARGV[10], tonumber(ARGV[11])

local directions = {'action', 'compensation', 'try', 'confirm', 'cancel', 'message'}

local function get(of, field) return redis.call('HGET', step, of .. ':' .. field) end
local function set(of, field, value) redis.call('HSET', step, of .. ':' .. field, value) end
local function record(of, state, mark)
  set(of, 'state', state)
  set(of, 'term', ARGV[5])
  if mark then set(of, 'fingerprint', mark) end
end

local function raise_term()
  if term > tonumber(get(direction, 'term')) then set(direction, 'term', ARGV[5]) end
end

-- A marker that is open is never forgotten.
local function remember()
  local open = false
  for _, of in ipairs(directions) do open = open or get(of, 'state') == 'intended' end
  if open then redis.call('PERSIST', step) else redis.call('PEXPIRE', step, retention) end
end

-- Nothing is read into the absence of an origin whose transaction is older than what is remembered here.
local function may_be_forgotten() return young_until and tonumber(redis.call('TIME')[1]) >= young_until end
local function forgotten() return redis.error_reply('BARRIERFORGOTTEN ' .. redis.call('TIME')[1]) end

local highest = -1
for _, of in ipairs(directions) do
  highest = math.max(highest, tonumber(get(of, 'term') or -1))
end
if what ~= 'settle' and term < highest then return redis.error_reply('BARRIERREPLACED ' .. highest) end

local own, first_state = get(direction, 'state'), what == 'intend' and 'intended' or 'done'
if what == 'ask' then
  if not own and may_be_forgotten() then return forgotten() end
  if not own then record(direction, 'blocked') else raise_term() end
  remember()
  return {own or 'blocked', get(direction, 'result'), 0, {}}
end
local first, at_origin = not own, get(origin, 'state')
local known = get(direction, 'fingerprint')
if what ~= 'settle' and known and known ~= fingerprint then return redis.error_reply('BARRIERREUSED') end

local verdict, ends_origin
local again = own == 'intended' and 'unsettled' or 'duplicate'
if what == 'settle' then
  if not own then return redis.error_reply('BARRIERREFUSED its marker is not here: intend it first') end
  verdict = own == 'intended' and 'proceed' or (own == 'undone' or own == 'blocked') and 'too-late' or 'duplicate'
elseif direction == origin then
  if first then verdict = 'proceed'
  elseif own == 'blocked' or own == 'undone' then verdict = 'too-late'
  else verdict = again end
elseif undoes then
  if not at_origin and may_be_forgotten() then return forgotten() end
  if not at_origin or at_origin == 'blocked' or at_origin == 'refused' then
    verdict = first and 'nothing-to-undo' or 'duplicate'
  elseif at_origin == 'confirmed' then verdict = 'too-late'
  elseif at_origin == 'undone' then verdict = again
  else verdict, ends_origin = 'proceed', 'undone' end
else
  if not at_origin then return redis.error_reply('BARRIERREFUSED its try is not here: it was lost, or forgotten') end
  if at_origin == 'intended' then return redis.error_reply('BARRIERREFUSED its try is not settled') end
  if at_origin == 'done' then verdict, ends_origin = 'proceed', 'confirmed'
  elseif at_origin == 'confirmed' then verdict = again
  else verdict = 'too-late' end
end

-- The effect is first: where its first command fails, nothing has been written.
local answers = {}
if verdict == 'proceed' then
  local at = 12
  while at <= #ARGV do
    local words = tonumber(ARGV[at])
    answers[#answers + 1] = redis.call(unpack(ARGV, at + 1, at + words))
    at = at + words + 1
  end
end

if what == 'settle' then
  if verdict == 'proceed' then set(direction, 'state', 'done') end
else
  if undoes and not at_origin then record(origin, 'blocked') end
  if first then record(direction, first_state, fingerprint) end
  if ends_origin then set(origin, 'state', ends_origin) end
  if not first then raise_term() end
  local goes_on = verdict == 'proceed' or verdict == 'unsettled'
  if what == 'intend' and not goes_on and get(direction, 'state') == 'intended' then
    set(direction, 'state', 'done')
  end
end
if verdict == 'proceed' and what ~= 'intend' then
  if kept then set(direction, 'result', result) end
  if refused then set(direction, 'state', 'refused') end
end
remember()

local answered = verdict == 'duplicate' and get(direction, 'result') or false
local was_refused = verdict == 'duplicate' and own == 'refused' and 1 or 0
return {verdict, answered, was_refused, answers}
