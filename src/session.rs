//! The sessions of this node: what each one does and how much it moved. For people, scripts and
//! the drain.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::{
    balancer::{Intent, Page},
    origin::{OriginId, Protocol},
    stream::StreamKey,
};

/// One client of this node, from its first byte to its last.
#[derive(Debug)]
pub struct Session {
    /// Unique on this node for as long as the process runs.
    pub id: u64,
    /// The protocol that the client speaks.
    pub protocol: Protocol,
    /// The client's address.
    pub peer: SocketAddr,
    started: Instant,
    role: OnceLock<(Intent, StreamKey)>,
    origin: Mutex<Option<OriginId>>,
    from_client: AtomicU64,
    from_origin: AtomicU64,
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
}

/// All sessions of this node. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Sessions {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    last_id: AtomicU64,
    live: Mutex<BTreeMap<u64, Arc<Session>>>,
}

/// A session's place in the list, which it leaves when this is dropped.
#[derive(Debug)]
pub struct SessionGuard {
    sessions: Sessions,
    session: Arc<Session>,
}

impl Sessions {
    /// Lists a session for as long as the guard lives.
    pub fn start(&self, protocol: Protocol, peer: SocketAddr) -> SessionGuard {
        let session = Arc::new(Session {
            id: self.inner.last_id.fetch_add(1, Relaxed) + 1,
            protocol,
            peer,
            started: Instant::now(),
            role: OnceLock::new(),
            origin: Mutex::new(None),
            from_client: AtomicU64::new(0),
            from_origin: AtomicU64::new(0),
        });
        lock(&self.inner.live).insert(session.id, Arc::clone(&session));
        SessionGuard { sessions: self.clone(), session }
    }

    /// A page of the sessions, oldest first, and how many there are in all.
    pub fn page(&self, page: Page) -> (Vec<Arc<Session>>, usize) {
        let live = lock(&self.inner.live);
        (live.values().skip(page.start).take(page.count).cloned().collect(), live.len())
    }

    /// Bytes that the sessions of `origin` have received from it so far. It grows while the origin
    /// lives, whatever a new connection to it meets.
    pub fn bytes_from(&self, origin: &OriginId) -> u64 {
        let live: Vec<_> = lock(&self.inner.live).values().cloned().collect();
        live.iter().filter(|s| s.origin().as_ref() == Some(origin)).map(|s| s.bytes().1).sum()
    }

    /// Whether any session but `except` uses `stream`.
    pub fn others_use(&self, stream: &StreamKey, except: u64) -> bool {
        lock(&self.inner.live).values().any(|s| s.id != except && s.role().is_some_and(|(_, key)| key == stream))
    }

    /// How many sessions there are.
    pub fn len(&self) -> usize {
        lock(&self.inner.live).len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
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
        lock(&self.sessions.inner.live).remove(&self.session.id);
    }
}

/// A poisoned lock here guards plain values that are whole at every moment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
