//! How a node begins and ends (rules 12 and 13).

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::{sleep, timeout};

use super::{Node, renewals::batches, state::State};
use crate::{
    balancer::{
        mesh::{
            model::{
                member::{Address, NodeState},
                record::{NodeId, Record},
            },
            traits::{EventStream, GossipStore, PeerClient},
            wire::{
                self, Budget,
                message::{Cursor, Request, Response},
            },
        },
        now,
    },
    stream::StreamKey,
};

/// How often a joining node looks whom it could query.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// How long nodes that all join wait for each other, before one of them begins.
const FIRST: Duration = Duration::from_secs(1);
/// How long all of what a leaving node tells may take.
const HANDOVER: Duration = Duration::from_secs(5);
/// Pages of a snapshot, at the most.
const MAX_PAGES: usize = 10_000;

/// The address of each node that shall be told something, with what it shall be told.
type Told = BTreeMap<NodeId, (Address, Vec<(StreamKey, Record)>)>;

impl<B: GossipStore, P: PeerClient> Node<B, P> {
    /// Lives: joins, and does its duties until this is dropped or there are no more news to come.
    pub async fn run(self: Arc<Self>, feed: impl EventStream) {
        let duties = async { tokio::join!(self.join(), self.run_maintenance(), self.renew()) };
        tokio::select! {
            biased;
            () = self.follow(feed) => {}
            _ = duties => {}
        }
    }

    fn enter(&self, phase: NodeState) {
        self.with(|state, now| {
            let changed = state.view.set_state(phase, now);
            state.view_changed(&changed, now);
        });
        self.phase.send_replace(phase);
        tracing::info!(node = %self.id(), state = phase.as_str(), "mesh");
    }

    /// Learns what the others know, and serves then.
    async fn join(&self) {
        let started = now();
        loop {
            let (informed, first) = self.with(|state, _| {
                let live = || state.view.members().filter(|(_, member)| member.is_live());
                let all = |phase| {
                    let all = live().filter(move |(_, m)| m.info.as_ref().is_some_and(|info| info.state == phase));
                    all.filter_map(|(node, _)| state.view.address(node))
                };
                // One that drains knows as much, and may be the last that knows anything.
                let informed: Vec<_> = all(NodeState::Serving).chain(all(NodeState::Draining)).collect();
                (informed, live().next().map(|(node, _)| node > self.id()))
            });
            for node in informed {
                if self.take_snapshot(&node).await {
                    return self.enter(NodeState::Serving);
                }
            }
            let waited = now().saturating_duration_since(started);
            let patience = match first {
                // Of several that join, the first by name begins. The others take over from it.
                Some(true) => FIRST.min(self.settings.join),
                _ if !self.settings.expects_others => Duration::ZERO,
                _ => self.settings.join,
            };
            if waited >= patience {
                tracing::info!(?waited, "no node of the mesh serves that could be joined; this one begins");
                return self.enter(NodeState::Serving);
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Takes over all that a node knows. Says whether that is complete.
    async fn take_snapshot(&self, from: &Address) -> bool {
        let (mut after, mut taken) = (None, 0);
        for _ in 0..MAX_PAGES {
            let page = self.call(from, Request::Snapshot { after: after.take() }).await;
            let Ok(Response::Page { records, origins, min_epoch, next }) = page else {
                tracing::warn!(node = %from, answer = ?page.err(), "the node did not tell what it knows");
                return false;
            };
            taken += records.len();
            self.with(|state, now| {
                state.ledger.raise_min_epochs(min_epoch);
                for (facts, age) in &origins {
                    state.clock.observe(facts.last_heartbeat.max(facts.recovered_at).max(facts.replaced_at));
                    let State { origins, changes, .. } = state;
                    origins.learn(facts, *age, now, changes);
                }
                for (stream, record) in &records {
                    state.learn(stream, record, None, now);
                }
            });
            let Some(next) = next else {
                self.with(State::expire_orphans);
                tracing::info!(node = %from, records = taken, "took over what the node knows");
                return true;
            };
            after = Some(next);
        }
        false
    }

    /// Gives up this node's share: it is the home of nothing from now on.
    pub async fn drain(self: &Arc<Self>) {
        if *self.phase.borrow() >= NodeState::Draining {
            return;
        }
        self.enter(NodeState::Draining);
        let told = self.with(|state, _| {
            let mut told = Told::new();
            for (stream, record) in state.ledger.own_records() {
                if let Some(home) = state.view.home(stream.as_str(), &[])
                    && let Some(address) = state.view.address(&home)
                {
                    told.entry(home).or_insert_with(|| (address, Vec::new())).1.push((stream.clone(), record.clone()));
                }
            }
            told
        });
        let hand_over = async {
            for (address, records) in told.into_values() {
                for records in batches(records) {
                    if let Err(error) = self.call(&address, Request::PushRecords { records, adopt: true }).await {
                        tracing::warn!(node = %address, %error, "the node did not take over; it learns by gossip");
                        break;
                    }
                }
            }
        };
        if timeout(HANDOVER, hand_over).await.is_err() {
            tracing::warn!("not all placements were handed over in time; the others learn of them by gossip");
        }
    }

    /// Says that this node has ended, so that nobody waits for it.
    pub fn leave(&self) {
        self.enter(NodeState::Left);
    }
}

impl State {
    /// All records of the streams, in this order, as far as they fit into one message; and whether all
    /// of them did.
    pub(super) fn records_that_fit<'a>(
        &self,
        streams: impl Iterator<Item = &'a StreamKey>,
        budget: &mut Budget,
    ) -> (Vec<(StreamKey, Record)>, bool) {
        let mut fitting = Vec::new();
        for stream in streams {
            let records = self.ledger.all(stream);
            let bytes = records.iter().map(|record| wire::entry_len(stream, record)).sum();
            if !budget.take(records.len(), bytes) {
                return (fitting, false);
            }
            fitting.extend(records.into_iter().map(|record| (stream.clone(), record)));
        }
        (fitting, true)
    }

    /// A page of all that this node knows: origins before the records that name them.
    pub(super) fn snapshot(&self, after: Option<&Cursor>, now: Instant) -> Response {
        let mut budget = Budget::default();
        let (after_origin, after_stream) = match after {
            None => (Some(None), None),
            Some(Cursor::Origin(id)) => (Some(Some(id)), None),
            Some(Cursor::Stream(stream)) => (None, Some(stream)),
        };
        let (mut origins, mut whole) = (Vec::new(), true);
        for (facts, age) in after_origin.into_iter().flat_map(|after| self.origins.iter_after(after, now)) {
            whole = budget.take(1, wire::origin_len(facts));
            if !whole {
                break;
            }
            origins.push((facts.clone(), age));
        }
        let mut records = Vec::new();
        if whole {
            let streams = self.ledger.iter_after(after_stream).map(|(stream, _)| stream);
            (records, whole) = self.records_that_fit(streams, &mut budget);
        }
        let last_origin = || origins.last().map(|(facts, _)| Cursor::Origin(facts.origin.id()));
        let last = records.last().map(|(stream, _)| Cursor::Stream(stream.clone())).or_else(last_origin);
        let next = last.filter(|_| !whole);
        Response::Page { records, origins, min_epoch: self.ledger.tombstones().highest(), next }
    }
}
