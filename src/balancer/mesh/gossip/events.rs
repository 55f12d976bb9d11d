//! Events of gossip, queued until they are read.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use tokio::sync::Notify;

use super::latest::Latest;
use crate::balancer::mesh::{
    model::member::Incarnation,
    model::record::NodeId,
    traits::{EventStream, GossipEvent},
};
use crate::sync::lock;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum About {
    Post(Incarnation, String),
    Live,
    Heard,
}

#[derive(Debug, Default)]
struct Queue {
    news: Latest<About, GossipEvent>,
    closed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Notify,
}

/// Queues events without waiting. Of unread events about one key only the last is kept, so the queue is
/// never longer than the number of keys that nodes have set.
#[derive(Debug)]
pub(super) struct EventSender(Arc<Shared>);

/// Receives events in order. Of several about one key between two reads only the last is received, at
/// its own place.
///
/// The state is what the runs in the latest `Live` have set and not deleted since. `Set` is sent when a
/// value differs from the one sent before, `Deleted` when the node deleted the key. No `Deleted` is sent
/// for the keys of a run that has ended: the reader decides what they are still worth. A run that is
/// heard again after a silence is in `Live` again, and its keys are not sent again.
#[derive(Debug)]
pub struct EventReceiver(Arc<Shared>);

pub(super) fn channel() -> (EventSender, EventReceiver) {
    let shared = Arc::new(Shared::default());
    (EventSender(Arc::clone(&shared)), EventReceiver(shared))
}

impl EventSender {
    pub fn set(&self, from: &Incarnation, key: &str, value: bytes::Bytes) {
        let about = About::Post(from.clone(), key.to_owned());
        self.put(about, |_| GossipEvent::Set { from: from.clone(), key: key.to_owned(), value });
    }

    pub fn deleted(&self, from: &Incarnation, key: &str) {
        let about = About::Post(from.clone(), key.to_owned());
        self.put(about, |_| GossipEvent::Deleted { from: from.clone(), key: key.to_owned() });
    }

    pub fn live(&self, live: BTreeSet<Incarnation>) {
        self.put(About::Live, |_| GossipEvent::Live(live));
    }

    pub fn heard(&self, nodes: Vec<NodeId>) {
        self.put(About::Heard, |before| {
            let before = if let Some(GossipEvent::Heard(nodes)) = before { nodes } else { Vec::new() };
            let all: BTreeSet<NodeId> = before.into_iter().chain(nodes).collect();
            GossipEvent::Heard(all.into_iter().collect())
        });
    }

    fn put(&self, about: About, news: impl FnOnce(Option<GossipEvent>) -> GossipEvent) {
        let mut queue = lock(&self.0.queue);
        if queue.closed {
            return;
        }
        let before = if about == About::Heard { queue.news.remove(&about) } else { None };
        queue.news.put(about, news(before));
        drop(queue);
        self.0.changed.notify_one();
    }
}

impl Drop for EventSender {
    fn drop(&mut self) {
        lock(&self.0.queue).closed = true;
        self.0.changed.notify_one();
    }
}

impl EventReceiver {
    /// Waits for the next news. None once the board has ended and everything is read. May be dropped
    /// and called again.
    pub async fn recv(&mut self) -> Option<GossipEvent> {
        loop {
            {
                let mut queue = lock(&self.0.queue);
                if let Some((_, news)) = queue.news.take() {
                    return Some(news);
                }
                if queue.closed {
                    return None;
                }
            }
            self.0.changed.notified().await;
        }
    }

    /// The next news, if there are any now.
    pub fn try_recv(&mut self) -> Option<GossipEvent> {
        let mut queue = lock(&self.0.queue);
        queue.news.take().map(|(_, news)| news)
    }

    /// How many news wait.
    pub fn backlog(&self) -> usize {
        lock(&self.0.queue).news.len()
    }
}

#[async_trait]
impl EventStream for EventReceiver {
    async fn next(&mut self) -> Option<GossipEvent> {
        self.recv().await
    }

    fn try_next(&mut self) -> Option<GossipEvent> {
        self.try_recv()
    }
}

impl Drop for EventReceiver {
    fn drop(&mut self) {
        let mut queue = lock(&self.0.queue);
        *queue = Queue { closed: true, ..Queue::default() };
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn run(node: &str) -> Incarnation {
        Incarnation { node: node.into(), generation: 1 }
    }

    #[tokio::test]
    async fn a_reader_that_is_late_sees_the_last_of_each_in_order_and_then_the_end() {
        let (sender, mut feed) = channel();
        for round in 0..1000_u32 {
            sender.set(&run("a"), "x", Bytes::copy_from_slice(&round.to_be_bytes()));
            sender.set(&run("b"), "x", Bytes::new());
            sender.heard(vec![if round % 2 == 0 { "a" } else { "b" }.into()]);
        }
        sender.deleted(&run("b"), "x");
        sender.live(BTreeSet::from([run("a")]));
        assert_eq!(feed.backlog(), 4);
        drop(sender);
        let mut news = Vec::new();
        while let Some(next) = feed.recv().await {
            news.push(next);
        }
        assert_eq!(
            news,
            [
                GossipEvent::Set {
                    from: run("a"),
                    key: "x".into(),
                    value: Bytes::copy_from_slice(&999_u32.to_be_bytes())
                },
                GossipEvent::Heard(vec!["a".into(), "b".into()]),
                GossipEvent::Deleted { from: run("b"), key: "x".into() },
                GossipEvent::Live(BTreeSet::from([run("a")])),
            ]
        );
    }

    #[test]
    fn news_that_nobody_reads_any_more_are_not_kept() {
        let (sender, feed) = channel();
        sender.heard(vec!["a".into()]);
        let shared = Arc::clone(&feed.0);
        drop(feed);
        sender.heard(vec!["a".into()]);
        assert_eq!(shared.queue.lock().unwrap().news.len(), 0);
    }
}
