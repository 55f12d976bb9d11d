//! What arrives at the sockets of `PROXY_WEBRTC_SERVER`.
//!
//! A STUN request tells by its username which session it belongs to; anything else belongs to the
//! session of the last such request from its address. Each worker knows the addresses whose datagrams
//! the system gives to its socket; only for a request from an address that it does not know are the
//! sessions of all workers looked at. What belongs to no session costs a look and a counter.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::{lookup::Lookups, registry::Registry, session::SessionHandle};
use crate::{
    codec::stun::{self, Class, Message},
    log_throttle::LogThrottle,
    metrics::label::{Dropped, UdpListener},
    relay::udp::{Path, Reader, Received, Socket},
};

/// How often addresses of sessions that have ended are forgotten.
const TIDY: Duration = Duration::from_secs(5);
/// How many addresses may be there before they are looked at sooner than that.
const CROWDED: usize = 1024;
/// How often the same complaint is logged.
const COMPLAINT_PERIOD: Duration = Duration::from_secs(10);

/// Takes media on all sockets, one on each worker, until `stop` is cancelled. The first that ends ends
/// them all.
pub async fn serve(registry: Registry, stop: CancellationToken) {
    let stop = stop.child_token();
    let _stop_all = stop.clone().drop_guard();
    let (ended, mut first_ended) = mpsc::channel::<()>(1);
    let (means, lookups) = (&registry.inner.means, Lookups::default());
    for (number, socket) in means.sockets.iter().enumerate() {
        let serve = serve_one(Arc::clone(socket), registry.clone(), lookups.clone(), stop.clone());
        let ended = ended.clone();
        means.workers.spawn_on(number, async move {
            serve.await;
            let _ = ended.try_send(());
        });
    }
    first_ended.recv().await;
}

async fn serve_one(socket: Arc<Socket>, registry: Registry, lookups: Lookups, stop: CancellationToken) {
    let complaints = LogThrottle::new(COMPLAINT_PERIOD, 1);
    let reader = match Reader::new(socket) {
        Ok(reader) => reader,
        Err(error) => return tracing::error!(%error, "WebRTC media cannot be read"),
    };
    let mut worker = Worker { registry, lookups, known: HashMap::new(), crowded: CROWDED };
    let mut tidy = interval(TIDY);
    tidy.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut stopped = std::pin::pin!(stop.cancelled());
    loop {
        tokio::select! {
            biased;
            received = reader.receive(|received| worker.take(received)) => {
                if let Err(error) = received
                    && let Some(held_back) = complaints.admit(&())
                {
                    tracing::warn!(%error, held_back, "WebRTC media cannot be received");
                }
            }
            _ = tidy.tick() => worker.tidy(),
            () = &mut stopped => return,
        }
    }
}

struct Worker {
    registry: Registry,
    lookups: Lookups,
    known: HashMap<Path, Arc<SessionHandle>>,
    /// At how many of them those that no session knows any more are forgotten at once.
    crowded: usize,
}

impl Worker {
    fn take(&mut self, received: Received<'_>) {
        let now = Instant::now();
        for datagram in received.datagrams() {
            if let Err(reason) = self.pass(received.path, datagram, now) {
                self.registry.inner.means.metrics.dropped(UdpListener::Webrtc, reason, 1);
            }
        }
    }

    fn pass(&mut self, path: Path, datagram: &[u8], now: Instant) -> Result<(), Dropped> {
        let message = if stun::is_stun(datagram) {
            Some(Message::parse(datagram).map_err(|_| Dropped::Malformed)?)
        } else {
            None
        };
        let request = message.as_ref().filter(|message| message.class == Class::Request);
        let live = match request.and_then(Message::username) {
            Some(username) => self.session_of(path, username)?,
            None => self.known.get(&path).filter(|live| !live.has_ended()).ok_or(Dropped::Unknown)?,
        };
        live.pass(path, datagram, request, now).then_some(()).ok_or(Dropped::Unsent)
    }

    /// The session of a request, which may be another one than before for its address.
    fn session_of(&mut self, path: Path, username: &str) -> Result<&Arc<SessionHandle>, Dropped> {
        if !self.known.get(&path).is_some_and(|live| live.answers_to(username)) {
            match self.registry.find(username) {
                Some(live) => self.know(path, live),
                None => self.lookups.look_up(&self.registry, username, path),
            }
        }
        // A username that nobody knows may be a new one of the session at this address, which has
        // restarted ICE: its origin knows.
        self.known.get(&path).filter(|live| !live.has_ended()).ok_or(Dropped::Unknown)
    }

    /// Whoever knows a session's username can use it from as many addresses as he makes up, of which the
    /// session remembers a few.
    fn know(&mut self, path: Path, live: Arc<SessionHandle>) {
        if self.known.len() >= self.crowded {
            self.tidy();
        }
        self.known.insert(path, live);
    }

    fn tidy(&mut self) {
        self.known.retain(|path, live| !live.has_ended() && live.knows(*path));
        self.crowded = CROWDED.max(2 * self.known.len());
    }
}
