//! What a node does with the posts of others.

use std::time::Instant;

use super::{Node, state::State};
use crate::balancer::mesh::{
    gossip_keys::{self, Key},
    model::member::Incarnation,
    traits::{EventStream, GossipEvent, GossipStore, PeerClient},
};

/// How many news are taken at a time.
const BATCH: usize = 64;

impl<B: GossipStore, P: PeerClient> Node<B, P> {
    /// Takes news until there are no more to come.
    pub(super) async fn follow(&self, mut feed: impl EventStream) {
        while let Some(first) = feed.next().await {
            self.with(|state, now| {
                state.take_news(first, now);
                for news in std::iter::from_fn(|| feed.try_next()).take(BATCH) {
                    state.take_news(news, now);
                }
            });
            tokio::task::yield_now().await;
        }
    }
}

impl State {
    fn take_news(&mut self, news: GossipEvent, now: Instant) {
        match news {
            GossipEvent::Live(live) => self.set_live(&live, now),
            GossipEvent::Heard(nodes) => nodes.iter().for_each(|node| self.view.heard(node, now)),
            GossipEvent::Set { from, key, value } => {
                if let Err(error) = self.take_post(&from, &key, &value, now) {
                    self.counters.bad_posts += 1;
                    tracing::debug!(node = %from.node, key, %error, "a node posted something that makes no sense");
                }
            }
            GossipEvent::Deleted { from, key } => {
                if let Some(Key::Place(stream)) = gossip_keys::parse_key(&key) {
                    self.ledger.unposted(&stream, &from.node, now);
                }
            }
        }
    }

    fn take_post(&mut self, from: &Incarnation, key: &str, value: &[u8], now: Instant) -> Result<(), String> {
        match gossip_keys::parse_key(key) {
            None => {}
            Some(Key::Node) => {
                let info = gossip_keys::decode_node(value).map_err(|error| error.to_string())?;
                let changed = self.view.set_info(from, info, now);
                self.view_changed(&changed, now);
            }
            Some(Key::Origin) => {
                let facts = gossip_keys::decode_origin(value).map_err(|error| error.to_string())?;
                self.clock.observe(facts.last_heartbeat.max(facts.recovered_at).max(facts.replaced_at));
                let Self { origins, changes, .. } = self;
                origins.learn(&facts, std::time::Duration::ZERO, now, changes);
            }
            Some(Key::Place(stream)) => {
                let record = gossip_keys::decode_record(value).map_err(|error| error.to_string())?;
                if record.writer != from.node {
                    return Err(format!("a record of {} that {} posts", record.writer, from.node));
                }
                self.learn(&stream, &record, Some(from.generation), now);
            }
        }
        Ok(())
    }
}
