//! The origins of streams that are fetched piece by piece (HLS, DASH). Who fetches them comes and
//! goes with every piece; this stands for all of them together, and holds the placement.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use crate::sync::lock;
use crate::{balancer::Lease, stream::StreamKey};

/// Streams that were fetched lately, and where they are.
pub struct Segments {
    idle: Duration,
    max: usize,
    streams: Mutex<HashMap<StreamKey, (Arc<Lease>, Instant)>>,
}

impl Segments {
    /// Remembers up to `max` streams, each for `idle` after its last piece.
    pub fn new(idle: Duration, max: usize) -> Self {
        Self { idle, max, streams: Mutex::default() }
    }

    /// Where a stream is, as far as this node knows without asking.
    pub(super) fn get(&self, stream: &StreamKey) -> Option<Arc<Lease>> {
        let mut streams = self.streams();
        let (lease, used) = streams.get_mut(stream)?;
        if lease.has_moved() {
            streams.remove(stream);
            return None;
        }
        *used = Instant::now();
        Some(Arc::clone(lease))
    }

    /// Remembers where a stream is. The caller has fetched a piece of it from there: names that nobody
    /// publishes must not fill this.
    pub(super) fn keep(&self, lease: &Arc<Lease>) {
        let stream = &lease.placement().stream;
        let mut streams = self.streams();
        if streams.len() < self.max || streams.contains_key(stream) {
            streams.insert(stream.clone(), (Arc::clone(lease), Instant::now()));
        }
    }

    /// Forgets where a stream was, if it is still thought to be there.
    pub(super) fn forget(&self, lease: &Arc<Lease>) {
        let mut streams = self.streams();
        let stream = &lease.placement().stream;
        if streams.get(stream).is_some_and(|(known, _)| Arc::ptr_eq(known, lease)) {
            streams.remove(stream);
        }
    }

    /// Forgets streams of which no piece is fetched any more, for ever.
    pub async fn tidy(&self) {
        loop {
            sleep(self.idle / 2).await;
            self.streams().retain(|_, (lease, used)| used.elapsed() < self.idle && !lease.has_moved());
        }
    }

    fn streams(&self) -> MutexGuard<'_, HashMap<StreamKey, (Arc<Lease>, Instant)>> {
        lock(&self.streams)
    }
}
