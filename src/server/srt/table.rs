//! Which packet belongs to which session of one worker. No socket and no clock; `S` is a handle to a
//! session, whatever it is.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use super::cookie::Cookies;
use crate::{
    codec::srt::{
        self,
        handshake::{Handshake, LEN, OLD_VERSION, Reason, Stage, VERSION},
    },
    metrics::label::Dropped,
};

/// How long a caller is remembered whose session has ended: as long as callers of libsrt repeat a
/// conclusion. One that was under way must not begin a session that nobody waits for.
const MEMORY: Duration = Duration::from_secs(3);
/// The smallest packet size and window that make sense, as in libsrt.
const MIN_MTU: u32 = 32;
const MIN_FLOW_WINDOW: u32 = 2;

/// A socket of a client. One address can have several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Caller {
    /// Where its packets come from.
    pub peer: SocketAddr,
    /// Its own id of the socket.
    pub socket: u32,
}

/// One connection that a socket asks for. The next one of the same socket begins elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Connection {
    /// Whose it is.
    pub caller: Caller,
    /// The sequence number of its first data packet.
    pub initial_sequence: u32,
}

/// What to do with a packet.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict<'a, 't, S> {
    /// It belongs to this session: pass it on.
    Relay(&'t S),
    /// Answer it with this; nothing is remembered of it.
    Answer([u8; LEN]),
    /// A caller repeats its conclusion.
    Repeated {
        /// Its session, if that has not ended.
        session: Option<&'t S>,
        /// What it was answered already.
        answer: Option<&'t [u8]>,
    },
    /// A caller that has proven its address wants a session.
    Wanted {
        /// What it asks for.
        connection: Connection,
        /// What it sent.
        conclusion: Handshake<'a>,
        /// The session that this socket had before, which nobody can reach any more.
        replaced: Option<S>,
    },
    /// Nothing, for this reason.
    Drop(Dropped),
}

/// The sessions of one worker, by what their packets show.
#[derive(Debug)]
pub struct Table<S> {
    cookies: Arc<Cookies>,
    started: Instant,
    callers: HashMap<Caller, Entry<S>>,
    routes: HashMap<Caller, S>,
    /// Callers whose session has ended, in the order in which they are forgotten.
    ended: VecDeque<(Instant, Connection)>,
    /// How many of these are remembered at the most.
    max_ended: usize,
}

#[derive(Debug)]
struct Entry<S> {
    connection: Connection,
    session: Option<S>,
    answer: Option<Box<[u8]>>,
    /// The origin's socket.
    route: Option<u32>,
}

impl<S: Clone> Table<S> {
    /// No sessions. Of those that have ended up to `max_ended` are remembered for a while.
    pub fn new(cookies: Arc<Cookies>, max_ended: usize, now: Instant) -> Self {
        let (callers, routes, ended) = Default::default();
        Self { cookies, started: now, callers, routes, ended, max_ended }
    }

    /// What to do with `packet`, which came from `peer`.
    pub fn take<'a>(&mut self, peer: SocketAddr, packet: &'a [u8], now: Instant) -> Verdict<'a, '_, S> {
        let Some(socket) = srt::destination(packet) else { return Verdict::Drop(Dropped::Malformed) };
        if socket != 0 {
            return self.routes.get(&Caller { peer, socket }).map_or(Verdict::Drop(Dropped::Unknown), Verdict::Relay);
        }
        let Ok(handshake) = Handshake::parse(packet) else { return Verdict::Drop(Dropped::Malformed) };
        let caller = Caller { peer, socket: handshake.socket_id };
        match handshake.stage {
            _ if caller.socket == 0 => Verdict::Drop(Dropped::Malformed),
            Stage::Induction => {
                Verdict::Answer(handshake.induction_answer(self.cookies.make(peer, now), self.timestamp(now)))
            }
            Stage::Conclusion if !self.cookies.check(handshake.cookie, peer, now) => Verdict::Drop(Dropped::Unproven),
            Stage::Conclusion => self.conclude(caller, handshake, now),
            _ => Verdict::Drop(Dropped::Malformed),
        }
    }

    fn conclude<'a>(&mut self, caller: Caller, conclusion: Handshake<'a>, now: Instant) -> Verdict<'a, '_, S> {
        if let Some(reason) = flaw(&conclusion) {
            return Verdict::Answer(self.refuse(&conclusion, reason, now));
        }
        self.forget_ended(now);
        let connection = Connection { caller, initial_sequence: conclusion.initial_sequence };
        if self.entry(connection).is_none() {
            let replaced = self.remove(caller);
            return Verdict::Wanted { connection, conclusion, replaced };
        }
        match self.entry(connection).map(|entry| (&entry.session, &entry.answer)) {
            Some((None, None)) | None => Verdict::Answer(self.refuse(&conclusion, Reason::CLOSE, now)),
            Some((session, answer)) => Verdict::Repeated { session: session.as_ref(), answer: answer.as_deref() },
        }
    }

    /// A refusal of `conclusion`.
    pub fn refuse(&self, conclusion: &Handshake<'_>, reason: Reason, now: Instant) -> [u8; LEN] {
        conclusion.rejection(reason, self.timestamp(now))
    }

    /// Begins a session for a caller that [wanted](Verdict::Wanted) one.
    pub fn begin(&mut self, connection: Connection, session: S) {
        let entry = Entry { connection, session: Some(session), answer: None, route: None };
        self.callers.insert(connection.caller, entry);
    }

    /// From now on the caller's packets for the origin's socket `route` are its session's, and a
    /// repeated conclusion gets `answer`. False if the session has been replaced, or another one of
    /// this address has that route.
    pub fn accept(&mut self, connection: Connection, route: u32, answer: &[u8]) -> bool {
        let key = Caller { peer: connection.caller.peer, socket: route };
        let Some(entry) = self.callers.get_mut(&connection.caller).filter(|e| e.connection == connection) else {
            return false;
        };
        let Some(session) = entry.session.clone().filter(|_| !self.routes.contains_key(&key)) else { return false };
        self.routes.insert(key, session);
        entry.route = Some(route);
        entry.answer = Some(answer.into());
        true
    }

    /// Ends a session, unless it has been replaced. A conclusion that is repeated a little later gets
    /// `answer` or, without one, hears that the connection is closed.
    pub fn end(&mut self, connection: Connection, answer: Option<&[u8]>, now: Instant) {
        let Some(entry) = self.callers.get_mut(&connection.caller).filter(|e| e.connection == connection) else {
            return;
        };
        entry.session = None;
        entry.answer = answer.map(Into::into);
        if let Some(socket) = entry.route.take() {
            self.routes.remove(&Caller { peer: connection.caller.peer, socket });
        }
        self.ended.push_back((now + MEMORY, connection));
        self.forget_ended(now);
    }

    /// How many sessions there are that have not ended.
    pub fn len(&self) -> usize {
        self.callers.values().filter(|entry| entry.session.is_some()).count()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many callers are remembered, those included whose session has ended.
    pub fn remembered(&self) -> usize {
        self.callers.len()
    }

    /// Forgets those that ended long enough ago.
    pub fn forget_ended(&mut self, now: Instant) {
        while let Some(&(until, connection)) = self.ended.front() {
            if now < until && self.ended.len() <= self.max_ended {
                return;
            }
            self.ended.pop_front();
            if self.entry(connection).is_some_and(|entry| entry.session.is_none()) {
                self.callers.remove(&connection.caller);
            }
        }
    }

    fn entry(&self, connection: Connection) -> Option<&Entry<S>> {
        self.callers.get(&connection.caller).filter(|entry| entry.connection == connection)
    }

    fn remove(&mut self, caller: Caller) -> Option<S> {
        let entry = self.callers.remove(&caller)?;
        if let Some(socket) = entry.route {
            self.routes.remove(&Caller { peer: caller.peer, socket });
        }
        entry.session
    }

    /// Microseconds since the start; wraps after 71 minutes, as all timestamps of SRT do.
    fn timestamp(&self, now: Instant) -> u32 {
        now.saturating_duration_since(self.started).as_micros() as u32
    }
}

/// What no listener of libsrt takes either.
fn flaw(conclusion: &Handshake<'_>) -> Option<Reason> {
    if !(OLD_VERSION..=VERSION).contains(&conclusion.version) {
        return Some(Reason::VERSION);
    }
    let sane = conclusion.initial_sequence >> 31 == 0
        && conclusion.mtu >= MIN_MTU
        && conclusion.flow_window >= MIN_FLOW_WINDOW;
    (!sane).then_some(Reason::ROGUE)
}

#[cfg(test)]
mod tests;
