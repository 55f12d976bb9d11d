//! Messages that peers sent, until chitchat reads them.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::sync::Notify;

use super::KnownVersions;
use crate::balancer::mesh::gossip::{
    counters::{Counters, Reason},
    inspect::{Inspected, Inspector, MessageKind},
    latest::Latest,
};
use crate::sync::lock;

/// The most messages that wait, 64 KB each.
const MAX_WAITING: usize = 128;

/// Messages that chitchat may see and has not seen. Of several of one peer that ask the same only the
/// last is kept: answers cost more than questions, and a node that falls behind would never catch up.
pub(super) struct Inbox {
    queue: Mutex<Queue>,
    changed: Notify,
    counters: Arc<Counters>,
    known: KnownVersions,
}

struct Queue {
    inspector: Inspector,
    /// By who sent them and what they are.
    waiting: Latest<(SocketAddr, MessageKind, u64), Vec<u8>>,
    serial: u64,
}

impl Inbox {
    pub fn new(inspector: Inspector, counters: Arc<Counters>, known: KnownVersions) -> Self {
        let queue = Queue { inspector, waiting: Latest::default(), serial: 0 };
        Self { queue: Mutex::new(queue), changed: Notify::new(), counters, known }
    }

    pub fn put(&self, from: SocketAddr, message: Vec<u8>) {
        let mut queue = lock(&self.queue);
        let Some(Inspected { kind, known: version }) = queue.inspector.inspect(&message) else {
            self.counters.count_dropped(Reason::Garbage, 1, Some(from), "a message that no node makes");
            return;
        };
        if let Some(version) = version {
            self.known.heard(from, version);
        }
        // What only tells is kept; what asks takes the place of what asked before.
        queue.serial += u64::from(kind == MessageKind::Ack);
        let serial = if kind == MessageKind::Ack { queue.serial } else { 0 };
        queue.waiting.put((from, kind, serial), message);
        if queue.waiting.len() > MAX_WAITING && queue.waiting.take().is_some() {
            self.counters.count_dropped(Reason::Overflow, 1, Some(from), "more than this node can read");
        }
        drop(queue);
        self.changed.notify_one();
    }

    /// Waits for the next message. May be dropped and called again.
    pub async fn take(&self) -> (SocketAddr, Vec<u8>) {
        loop {
            let next = lock(&self.queue).waiting.take();
            if let Some(((from, ..), message)) = next {
                return (from, message);
            }
            self.changed.notified().await;
        }
    }
}
