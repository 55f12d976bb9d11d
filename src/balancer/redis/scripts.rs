//! The scripts that Redis runs: each looks at a placement and changes it in one step, so that two
//! nodes can never both win.
//!
//! The judge of a placement is the value of the Go proxy's key (`KEYS[1]`). The hash beside it
//! (`KEYS[2]`) says for which value its epoch is; if the two differ, a node of the Go proxy has
//! written, which counts as a move. Epochs are microseconds of Redis' clock, but always above those
//! before: so they grow even when the placement, or all data, was lost.

use std::{sync::LazyLock, time::Duration};

use redis::{Cmd, Value};

use super::keys::Keys;
use crate::{origin::OriginId, stream::StreamKey};

/// A script and the name by which Redis remembers it.
pub(super) struct Script {
    text: String,
    hash: String,
}

impl Script {
    fn new(parts: &[&str]) -> Self {
        let text = parts.concat();
        let hash = redis::Script::new(&text).get_hash().to_owned();
        Self { text, hash }
    }
}

/// A script with its keys and arguments.
pub(super) struct Call {
    script: &'static Script,
    keys: Vec<String>,
    args: Vec<Vec<u8>>,
}

impl Call {
    /// The command; `whole` sends the text, which Redis may have forgotten.
    pub fn command(&self, whole: bool) -> Cmd {
        let mut command = redis::cmd(if whole { "EVAL" } else { "EVALSHA" });
        command.arg(if whole { &self.script.text } else { &self.script.hash }).arg(self.keys.len());
        command.arg(&self.keys).arg(&self.args);
        command
    }
}

/// A placement as Redis has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// The value as it is: a server's key, or whatever somebody wrote.
    pub value: Vec<u8>,
    pub epoch: u64,
    /// Whether a publisher sends it.
    pub published: bool,
}

/// What all scripts on one placement take.
pub(super) struct PlacementScripts<'a> {
    pub keys: &'a Keys,
    pub node: &'a str,
    /// No new epoch is below.
    pub min_epoch: u64,
}

const COMMON: &str = r"
local DAY = 86400000
local function text(n) return string.format('%.0f', n) end
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end
local function next_epoch(epoch)
  return math.max(now(), epoch + 1, tonumber(ARGV[1]) + 1)
end
local function write(server, epoch)
  redis.call('DEL', KEYS[2])
  redis.pcall('HSET', KEYS[2], 'server', server, 'epoch', text(epoch))
  redis.pcall('PEXPIRE', KEYS[2], DAY)
end
local function current()
  local value = redis.pcall('GET', KEYS[1])
  if type(value) ~= 'string' then return false, 0 end
  local known = redis.pcall('HMGET', KEYS[2], 'server', 'epoch')
  if known.err then known = {} end
  local epoch = tonumber(known[2] or '') or 0
  if known[1] ~= value then
    epoch = next_epoch(epoch)
    write(value, epoch)
  end
  return value, epoch
end
local function extend(ms)
  local ttl = redis.call('PTTL', KEYS[1])
  if ttl >= 0 and ttl < ms then redis.call('PEXPIRE', KEYS[1], ms) end
  if ttl >= 0 then redis.call('PEXPIRE', KEYS[2], math.max(ttl, ms) * 2) else redis.call('PEXPIRE', KEYS[2], DAY) end
end
local function users()
  local used, published = false, '0'
  local all = redis.pcall('HGETALL', KEYS[2])
  if all.err then return false, '0' end
  local time = now()
  for i = 1, #all, 2 do
    if string.sub(all[i], 1, 2) == 'n:' then
      local till, flag = string.match(all[i + 1], '^(%d+):([01])$')
      if till and tonumber(till) > time then
        used = true
        if flag == '1' then published = '1' end
      else
        redis.call('HDEL', KEYS[2], all[i])
      end
    end
  end
  return used, published
end
local function found(value, epoch)
  if not value then return {} end
  local _, published = users()
  return {value, text(epoch), published}
end
local function tell(channel, node, stream, server, epoch, from)
  local event = {kind = 'placed', node = node, stream = stream, server = server, epoch = text(epoch), from = from}
  local ok, message = pcall(cjson.encode, event)
  if ok then redis.pcall('PUBLISH', channel, message) end
end
";

static LOOK: LazyLock<Script> = LazyLock::new(|| {
    Script::new(&[
        COMMON,
        r"
local value, epoch = current()
if value then extend(tonumber(ARGV[2])) end
return found(value, epoch)
",
    ])
});

static ASSIGN: LazyLock<Script> = LazyLock::new(|| {
    Script::new(&[
        COMMON,
        r"
local value, epoch = current()
if (value or '') ~= ARGV[3] or (value and text(epoch) ~= ARGV[4]) then
  return {'0', found(value, epoch)}
end
epoch = next_epoch(epoch)
redis.call('SET', KEYS[1], ARGV[5], 'PX', ARGV[2])
write(ARGV[5], epoch)
extend(tonumber(ARGV[2]))
tell(ARGV[6], ARGV[7], ARGV[8], ARGV[5], epoch, ARGV[3])
return {'1', {ARGV[5], text(epoch), '0'}}
",
    ])
});

static RENEW: LazyLock<Script> = LazyLock::new(|| {
    Script::new(&[
        COMMON,
        r"
local lease, server, mine = tonumber(ARGV[2]), ARGV[5], tonumber(ARGV[4])
local value, epoch = current()
if value and value ~= server and epoch >= mine then
  return {'0', found(value, epoch)}
end
if value ~= server then
  redis.call('SET', KEYS[1], server, 'PX', lease)
  write(server, mine)
  epoch = mine
  tell(ARGV[6], ARGV[7], ARGV[8], server, epoch, value or '')
elseif epoch < mine then
  epoch = mine
  redis.pcall('HSET', KEYS[2], 'epoch', text(epoch))
end
extend(lease)
redis.pcall('HSET', KEYS[2], 'n:' .. ARGV[7], text(now() + lease * 1000) .. ':' .. ARGV[3])
return {'1', {server, text(epoch), '0'}}
",
    ])
});

static RELEASE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(&[
        COMMON,
        r"
redis.pcall('HDEL', KEYS[2], 'n:' .. ARGV[7])
local value, epoch = current()
if value ~= ARGV[5] or text(epoch) ~= ARGV[4] then return 0 end
local used = users()
if not used and redis.call('PTTL', KEYS[1]) >= 0 then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  redis.call('PEXPIRE', KEYS[2], ARGV[2] * 2)
end
return 1
",
    ])
});

/// Sets a time to live where a node of the Go proxy set none.
static EXPIRE_ABANDONED: LazyLock<Script> = LazyLock::new(|| {
    Script::new(&[r"
if redis.call('PTTL', KEYS[1]) == -1 and redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 0
"])
});

/// Adds to the list of servers and removes from it, and repairs one that cannot be read.
static LIST: LazyLock<Script> = LazyLock::new(|| {
    Script::new(&[r"
local raw = redis.pcall('GET', KEYS[1])
local old, broken = {}, '0'
if type(raw) == 'string' then
  local ok, decoded = pcall(cjson.decode, raw)
  if ok and type(decoded) == 'table' then old = decoded else broken = '1' end
elseif raw then
  broken = '1'
end
local adds, gone, new, seen = tonumber(ARGV[1]), {}, {}, {}
for i = adds + 2, #ARGV do gone[ARGV[i]] = true end
local function keep(key)
  if type(key) == 'string' and not seen[key] then
    seen[key] = true
    new[#new + 1] = key
  end
end
for _, key in ipairs(old) do
  if type(key) == 'string' and not gone[key] then keep(key) end
end
local kept = #new
for i = 2, adds + 1 do keep(ARGV[i]) end
if broken == '1' or kept ~= #old or #new ~= kept then
  redis.call('SET', KEYS[1], #new > 0 and cjson.encode(new) or '[]')
end
return broken
"])
});

impl PlacementScripts<'_> {
    fn call(&self, script: &'static Script, stream: &StreamKey, args: Vec<Vec<u8>>) -> Call {
        let keys = vec![self.keys.url(stream), self.keys.placement(stream)];
        let args = std::iter::once(self.min_epoch.to_string().into_bytes()).chain(args).collect();
        Call { script, keys, args }
    }

    fn tail(&self, stream: &StreamKey) -> [Vec<u8>; 3] {
        [self.keys.events().into(), self.node.into(), stream.as_str().into()]
    }

    /// Where a stream is; it is kept for `lease` from now on. Answer: [`found`].
    pub fn look(&self, stream: &StreamKey, lease: Duration) -> Call {
        self.call(&LOOK, stream, vec![millis(lease)])
    }

    /// Places a stream, if it still is as it was found. Answer: [`outcome`].
    pub fn assign(&self, stream: &StreamKey, was: Option<&Found>, to: &OriginId, lease: Duration) -> Call {
        let (value, epoch) = was.map_or((Vec::new(), 0), |was| (was.value.clone(), was.epoch));
        let mut args = vec![millis(lease), value, epoch.to_string().into(), self.keys.server(to).into()];
        args.extend(self.tail(stream));
        self.call(&ASSIGN, stream, args)
    }

    /// Says that this node uses a placement, which is restored if it was lost. Answer: [`outcome`].
    pub fn renew(&self, stream: &StreamKey, to: &OriginId, epoch: u64, published: bool, lease: Duration) -> Call {
        let flag = if published { "1" } else { "0" };
        let mut args = vec![millis(lease), flag.into(), epoch.to_string().into(), self.keys.server(to).into()];
        args.extend(self.tail(stream));
        self.call(&RENEW, stream, args)
    }

    /// Says that this node no longer uses a placement, which is kept for `hold` if nobody else does.
    pub fn release(&self, stream: &StreamKey, to: &OriginId, epoch: u64, hold: Duration) -> Call {
        let mut args = vec![millis(hold), Vec::new(), epoch.to_string().into(), self.keys.server(to).into()];
        args.extend(self.tail(stream));
        self.call(&RELEASE, stream, args)
    }
}

/// Lets a placement without a time to live expire, if it still is as it was found.
pub(super) fn expire_abandoned(keys: &Keys, stream: &StreamKey, value: &[u8], ttl: Duration) -> Call {
    Call { script: &EXPIRE_ABANDONED, keys: vec![keys.url(stream)], args: vec![value.to_vec(), millis(ttl)] }
}

/// Adds servers to the list and removes others. Answer: `1` if the list could not be read.
pub(super) fn list(keys: &Keys, add: &[OriginId], remove: &[Vec<u8>]) -> Call {
    let mut args = vec![add.len().to_string().into_bytes()];
    args.extend(add.iter().map(|id| keys.server(id).into_bytes()));
    args.extend(remove.iter().cloned());
    Call { script: &LIST, keys: vec![keys.servers()], args }
}

/// Reads what [`PlacementScripts::look`] answers.
pub(super) fn found(value: &Value) -> Option<Found> {
    let Value::Array(parts) = value else { return None };
    let [Value::BulkString(value), epoch, published] = parts.as_slice() else { return None };
    let published = matches!(published, Value::BulkString(flag) if flag == b"1");
    Some(Found { value: value.clone(), epoch: number(epoch)?, published })
}

/// Reads what [`PlacementScripts::assign`] and [`PlacementScripts::renew`] answer: whether it was done, and how the
/// placement is now.
pub(super) fn outcome(value: &Value) -> (bool, Option<Found>) {
    let Value::Array(parts) = value else { return (false, None) };
    match parts.as_slice() {
        [Value::BulkString(done), now] => (done == b"1", found(now)),
        _ => (false, None),
    }
}

fn number(value: &Value) -> Option<u64> {
    let Value::BulkString(digits) = value else { return None };
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Redis takes whole milliseconds, at least one, and not more than it can count.
pub(super) fn millis(time: Duration) -> Vec<u8> {
    const MAX: u128 = 10 * 365 * 24 * 3_600_000;
    time.as_millis().clamp(1, MAX).to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_another_form_are_no_placements() {
        let text = |text: &str| Value::BulkString(text.into());
        let good = Value::Array(vec![text("k"), text("12"), text("1")]);
        assert_eq!(found(&good), Some(Found { value: b"k".to_vec(), epoch: 12, published: true }));
        assert_eq!(outcome(&Value::Array(vec![text("1"), good.clone()])), (true, found(&good)));
        for odd in [Value::Nil, Value::Array(vec![]), Value::Array(vec![text("k"), text("x"), text("0")])] {
            assert_eq!(found(&odd), None);
            assert_eq!(outcome(&odd), (false, None));
        }
    }

    #[test]
    fn times_are_whole_and_never_zero() {
        assert_eq!(millis(Duration::ZERO), b"1");
        assert_eq!(millis(Duration::from_micros(2500)), b"2");
        assert_eq!(millis(Duration::MAX), b"315360000000");
    }
}
