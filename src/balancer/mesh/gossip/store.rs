//! The keys that this node sets, queued until the gossip thread writes them to chitchat.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::Notify;

use super::{
    counters::{Counters, Reason},
    inspect::{MAX_POST, is_allowed},
    latest::Latest,
    value,
};
use crate::balancer::mesh::traits::GossipStore;
use crate::sync::lock;

/// Writes that the gossip thread has not taken. Of several to one key only the last is kept.
#[derive(Debug, Default)]
pub(super) struct PendingWrites {
    posts: Mutex<Latest<String, Option<String>>>,
    push: AtomicBool,
    pub changed: Notify,
}

impl PendingWrites {
    /// Takes up to `count` writes, the oldest first. None as the value deletes the key.
    pub fn take(&self, count: usize) -> Vec<(String, Option<String>)> {
        let mut posts = lock(&self.posts);
        std::iter::from_fn(|| posts.take()).take(count).collect()
    }

    /// Returns whether a push was requested, and resets it.
    pub fn take_push(&self) -> bool {
        self.push.swap(false, Ordering::AcqRel)
    }

    fn put(&self, key: &str, value: Option<String>) {
        lock(&self.posts).put(key.to_owned(), value);
        self.changed.notify_one();
    }
}

/// Sets and deletes keys of this node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ChitchatStore {
    pending: Arc<PendingWrites>,
    counters: Arc<Counters>,
}

impl ChitchatStore {
    pub(super) fn new(pending: Arc<PendingWrites>, counters: Arc<Counters>) -> Self {
        Self { pending, counters }
    }
}

impl GossipStore for ChitchatStore {
    fn set(&self, key: &str, value: &[u8]) {
        if !is_allowed(key) {
            self.counters.count_dropped(Reason::BadKey, 1, None, &key.escape_debug().take(100).collect::<String>());
            return;
        }
        let text = value::encode(value);
        if key.len() + text.len() > MAX_POST {
            self.counters.count_dropped(Reason::Oversize, 1, None, &format!("a post of {} bytes", value.len()));
            return;
        }
        self.pending.put(key, Some(text));
    }

    fn delete(&self, key: &str) {
        self.pending.put(key, None);
    }

    fn push(&self) {
        self.pending.push.store(true, Ordering::Release);
        self.pending.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_gossip_cannot_carry_is_refused_and_counted() {
        let (pending, counters) = (Arc::new(PendingWrites::default()), Arc::new(Counters::default()));
        let board = ChitchatStore::new(Arc::clone(&pending), Arc::clone(&counters));
        board.set("\u{e9}", b"x");
        board.set("", b"x");
        assert_eq!(counters.dropped(Reason::BadKey), 2);
        board.set("a", &vec![b'x'; MAX_POST]);
        board.set("a", &vec![0xff; MAX_POST / 2]);
        assert_eq!(counters.dropped(Reason::Oversize), 2);
        assert!(pending.take(usize::MAX).is_empty());

        board.set("a", &vec![b'x'; MAX_POST - 2]);
        board.set("b", b"1");
        board.delete("a");
        assert_eq!(pending.take(usize::MAX), [("b".to_owned(), Some("=1".to_owned())), ("a".to_owned(), None)]);
        assert!(!pending.take_push());
        board.push();
        assert!(pending.take_push() && !pending.take_push());
    }
}
