//! The sessions of this node: what each one does and how much it moved. For people, scripts, metrics
//! and the drain.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::sync::lock;
use crate::{
    balancer::{Intent, Page},
    error::{Error, Kind, Side},
    label::{End, Table},
    origin::OriginId,
    stream::StreamKey,
};

pub use crate::delivery::{Delivery, Role};

/// One client of this node, from its first byte to its last.
#[derive(Debug)]
pub struct Session {
    /// Unique on this node for as long as the process runs.
    pub id: u64,
    /// How the stream is delivered.
    pub delivery: Delivery,
    /// The client's address.
    pub peer: SocketAddr,
    started: Instant,
    role: OnceLock<(Intent, StreamKey)>,
    origin: Mutex<Option<OriginId>>,
    from_client: AtomicU64,
    from_origin: AtomicU64,
    packets_from_client: AtomicU64,
    packets_from_origin: AtomicU64,
    end: Mutex<Option<(Side, Kind)>>,
}

impl Session {
    /// How long the session has lasted.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// What the client wants, once it has said so.
    pub fn role(&self) -> Option<&(Intent, StreamKey)> {
        self.role.get()
    }

    /// Sets what the client wants. Later calls change nothing.
    pub fn set_role(&self, intent: Intent, stream: StreamKey) {
        let _ = self.role.set((intent, stream));
    }

    /// The origin that serves the session now.
    pub fn origin(&self) -> Option<OriginId> {
        lock(&self.origin).clone()
    }

    /// Sets the origin that serves the session.
    pub fn set_origin(&self, origin: Option<OriginId>) {
        *lock(&self.origin) = origin;
    }

    /// Bytes received from the client and from the origin so far.
    pub fn bytes(&self) -> (u64, u64) {
        (self.from_client.load(Relaxed), self.from_origin.load(Relaxed))
    }

    /// Sets the bytes received so far. One task writes them, so that no addition is contended.
    pub fn set_bytes(&self, from_client: u64, from_origin: u64) {
        self.from_client.store(from_client, Relaxed);
        self.from_origin.store(from_origin, Relaxed);
    }

    /// Datagrams received from the client and from the origin so far; 0 where they speak by TCP.
    pub fn packets(&self) -> (u64, u64) {
        (self.packets_from_client.load(Relaxed), self.packets_from_origin.load(Relaxed))
    }

    /// The same, and nothing where they speak by TCP.
    pub fn datagrams(&self) -> (Option<u64>, Option<u64>) {
        Delivery::DATAGRAMS.contains(&self.delivery).then(|| self.packets()).unzip()
    }

    /// Counts datagrams that came from `side`, and their bytes. One task at a time counts those of a
    /// side.
    pub fn count(&self, side: Side, packets: u64, bytes: u64) {
        let (counted, sum) = match side {
            Side::Client => (&self.packets_from_client, &self.from_client),
            Side::Origin | Side::Internal => (&self.packets_from_origin, &self.from_origin),
        };
        counted.fetch_add(packets, Relaxed);
        sum.fetch_add(bytes, Relaxed);
    }

    /// Sets why the session ends. One that ends without it counts as complete.
    pub fn set_end(&self, error: &Error) {
        *lock(&self.end) = Some((error.side(), error.kind()));
    }

    fn known_role(&self) -> Role {
        self.role().map_or(Role::Unknown, |(intent, _)| (*intent).into())
    }
}

/// All sessions of this node. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Sessions {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    last_id: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    live: BTreeMap<u64, Arc<Session>>,
    /// Of the sessions that have ended.
    ended: Table<(Delivery, (Role,)), Moved>,
    ends: Table<(Delivery, End), u64>,
}

/// What sessions have moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// Sessions that are there.
    pub live: u64,
    /// Sessions that have begun, as far as their role is known: one counts once it has told its role,
    /// or as unknown once it has ended without.
    pub started: u64,
    /// Bytes that came from the clients of those that are counted as started.
    pub from_client: u64,
    /// Bytes that came from the origins of those that are counted as started.
    pub from_origin: u64,
    /// Datagrams that came from the clients of those that are counted as started.
    pub packets_from_client: u64,
    /// Datagrams that came from the origins of those that are counted as started.
    pub packets_from_origin: u64,
}

impl Moved {
    fn add(&mut self, session: &Session) {
        let (from_client, from_origin) = session.bytes();
        self.started += 1;
        self.from_client += from_client;
        self.from_origin += from_origin;
        let (from_client, from_origin) = session.packets();
        self.packets_from_client += from_client;
        self.packets_from_origin += from_origin;
    }
}

/// What all sessions since the start of the node did. But for [`Moved::live`], nothing of it ever
/// shrinks.
#[derive(Debug, Clone)]
pub struct Totals {
    /// What was moved.
    pub moved: Table<(Delivery, (Role,)), Moved>,
    /// How sessions have ended.
    pub ends: Table<(Delivery, End), u64>,
}

/// A session's place in the list, which it leaves when this is dropped.
#[derive(Debug)]
pub struct SessionGuard {
    sessions: Sessions,
    session: Arc<Session>,
}

impl Sessions {
    /// Lists a session for as long as the guard lives.
    pub fn start(&self, delivery: Delivery, peer: SocketAddr) -> SessionGuard {
        let session = Arc::new(Session {
            id: self.inner.last_id.fetch_add(1, Relaxed) + 1,
            delivery,
            peer,
            started: Instant::now(),
            role: OnceLock::new(),
            origin: Mutex::new(None),
            from_client: AtomicU64::new(0),
            from_origin: AtomicU64::new(0),
            packets_from_client: AtomicU64::new(0),
            packets_from_origin: AtomicU64::new(0),
            end: Mutex::new(None),
        });
        lock(&self.inner.state).live.insert(session.id, Arc::clone(&session));
        SessionGuard { sessions: self.clone(), session }
    }

    /// A page of the sessions, oldest first, and how many there are in all.
    pub fn page(&self, page: Page) -> (Vec<Arc<Session>>, usize) {
        let live = &lock(&self.inner.state).live;
        (live.values().skip(page.start).take(page.count).cloned().collect(), live.len())
    }

    /// What all sessions did, those that run included.
    pub fn totals(&self) -> Totals {
        // Under one lock, since a session that ends meanwhile must be found in one place, not in two.
        let state = lock(&self.inner.state);
        let mut moved = state.ended.clone();
        for session in state.live.values() {
            let role = session.known_role();
            let moved = moved.at_mut((session.delivery, (role,)));
            moved.live += 1;
            // What is counted as unknown now would have to be taken back later.
            if role != Role::Unknown {
                moved.add(session);
            }
        }
        Totals { moved, ends: state.ends.clone() }
    }

    /// Bytes that the sessions of `origin` have received from it so far. It grows while the origin
    /// lives, whatever a new connection to it meets.
    pub fn bytes_from(&self, origin: &OriginId) -> u64 {
        let live: Vec<_> = lock(&self.inner.state).live.values().cloned().collect();
        live.iter().filter(|s| s.origin().as_ref() == Some(origin)).map(|s| s.bytes().1).sum()
    }

    /// Whether any session but `except` uses `stream`.
    pub fn others_use(&self, stream: &StreamKey, except: u64) -> bool {
        lock(&self.inner.state).live.values().any(|s| s.id != except && s.role().is_some_and(|(_, key)| key == stream))
    }

    /// How many sessions there are.
    pub fn len(&self) -> usize {
        lock(&self.inner.state).live.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl SessionGuard {
    /// The session, for those who count what it moves. It stays in the list for as long as the guard.
    pub fn handle(&self) -> Arc<Session> {
        Arc::clone(&self.session)
    }
}

impl std::ops::Deref for SessionGuard {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        let mut state = lock(&self.sessions.inner.state);
        if let Some(session) = state.live.remove(&self.session.id) {
            state.ended.at_mut((session.delivery, (session.known_role(),))).add(&session);
            let end = *lock(&session.end);
            *state.ends.at_mut((session.delivery, End(end))) += 1;
        }
    }
}
