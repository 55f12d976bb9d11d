//! How the homes of streams learn of the sessions that a node has: all of them once in a period, those
//! that begin and end at once (rule 5).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::{MissedTickBehavior, interval, sleep};

use super::{Node, state::State};
use crate::{
    balancer::mesh::{
        model::{
            member::NodeState,
            record::{NodeId, Record},
        },
        traits::{GossipStore, PeerClient},
        wire::{
            self, Budget,
            message::{Renewal, Request, Response},
        },
    },
    stream::StreamKey,
};

/// How long sessions that begin and end are collected before their homes are told.
const COLLECT: Duration = Duration::from_millis(5);

impl<B: GossipStore, P: PeerClient> Node<B, P> {
    /// Tells the homes of streams of this node's sessions: of all once in a period, of those that
    /// begin and end at once.
    pub(super) async fn renew(self: &Arc<Self>) {
        let mut periods = interval(self.settings.renew);
        periods.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut again = BTreeSet::new();
        loop {
            let all = tokio::select! {
                biased;
                _ = periods.tick() => true,
                () = self.renewals.notified() => {
                    sleep(COLLECT).await;
                    false
                }
            };
            let due = self.with(|state, now| {
                let mut due = std::mem::take(&mut state.to_renew);
                if all {
                    due.append(&mut again);
                    due.extend(state.usage.streams().cloned());
                }
                self.by_home(state, due, now)
            });
            let batches = due.into_iter().flat_map(|(home, renewals)| {
                let batches = wire::batches(renewals, |renewal| wire::entry_len(&renewal.stream, &renewal.record));
                batches.into_iter().map(move |batch| (home.clone(), batch))
            });
            for (home, batch) in batches {
                again.extend(self.renew_at(&home, batch).await);
            }
        }
    }

    fn by_home(&self, state: &mut State, due: BTreeSet<StreamKey>, now: Instant) -> BTreeMap<NodeId, Vec<Renewal>> {
        let mut by_home: BTreeMap<NodeId, Vec<Renewal>> = BTreeMap::new();
        for stream in due {
            let home = state.view.home(stream.as_str(), &[]).unwrap_or_else(|| self.id().clone());
            if let Some(renewal) = state.renewal(&stream, now) {
                if state.ledger.own(&stream).is_some() && home != *self.id() {
                    // Until the home has taken over, this node's own record must not fade.
                    state.take_renewals(self.id(), std::slice::from_ref(&renewal), now);
                }
                by_home.entry(home).or_default().push(renewal);
            }
        }
        by_home
    }

    /// Tells one home; gives the streams of which it could not be told.
    async fn renew_at(&self, home: &NodeId, batch: Vec<Renewal>) -> Vec<StreamKey> {
        if home == self.id() {
            self.with(|state, now| state.take_renewals(self.id(), &batch, now));
            return Vec::new();
        }
        let streams = batch.iter().map(|renewal| renewal.stream.clone()).collect();
        let Some(address) = self.with(|state, _| state.view.address(home)) else { return streams };
        let Ok(Response::Records(records)) = self.call(&address, Request::RenewLeases(batch)).await else {
            self.with(|state, _| state.counters.unanswered += 1);
            return streams;
        };
        self.learn(&records);
        Vec::new()
    }

    pub(super) fn learn(&self, records: &[(StreamKey, Record)]) {
        self.with(|state, now| {
            for (stream, record) in records {
                state.learn(stream, record, None, now);
            }
        });
    }
}

impl State {
    /// The sessions that this node has on a stream.
    pub fn renewal(&mut self, stream: &StreamKey, now: Instant) -> Option<Renewal> {
        let users = self.usage.users(stream);
        let held = self.usage.get(stream).map(|held| (held.origin.clone(), held.epoch));
        if let Some((origin, epoch)) = &held {
            let stamp = self.clock.now();
            self.ledger.reassert(stream, origin, *epoch, stamp, now);
        }
        if let Some(Record { origin, epoch, .. }) = self.ledger.agreed(stream)
            && held.as_ref().is_some_and(|(_, held)| held < epoch)
        {
            // It was later all along, and nothing else will say so.
            self.usage.moved(stream, origin, *epoch);
        }
        let held = self.usage.get(stream).map(|held| (held.origin.clone(), held.epoch));
        let mut records = self.ledger.all(stream);
        let Some((origin, _)) = held else {
            let record = (!records.is_empty()).then(|| records.swap_remove(0))?;
            return Some(Renewal { stream: stream.clone(), record, publishers: 0, players: 0 });
        };
        let count = |users: usize| u32::try_from(users).unwrap_or(u32::MAX);
        // Sessions on an origin that no record names are about to be sent away.
        let used = records.iter().position(|record| record.origin == origin);
        let (publishers, players) = used.map_or((0, 0), |_| (count(users.publishers), count(users.players)));
        let record = records.swap_remove(used.unwrap_or(0));
        Some(Renewal { stream: stream.clone(), record, publishers, players })
    }

    /// Takes the sessions of a node; gives the records that it does not know as they are.
    pub(super) fn take_renewals(
        &mut self,
        from: &NodeId,
        renewals: &[Renewal],
        now: Instant,
    ) -> Vec<(StreamKey, Record)> {
        let me = self.view.me().clone();
        let (mut news, mut budget) = (Vec::new(), Budget::default());
        for Renewal { stream, record, publishers, players } in renewals {
            self.clock.observe(record.written);
            let stamp = self.clock.now();
            self.ledger.merge(stream, record, None, now);
            self.ledger.lease(stream, from, record, (*publishers, *players), stamp, now);
            if *publishers + *players > 0 {
                self.adopt_if_home(&me, stream, now);
            }
            // What does not fit comes with the answer to a later renewal, and by gossip.
            if let Some(known) = self.ledger.agreed(stream).filter(|known| *known != record)
                && budget.take(1, wire::entry_len(stream, known))
            {
                news.push((stream.clone(), known.clone()));
            }
        }
        news
    }

    pub(super) fn adopt_if_home(&mut self, me: &NodeId, stream: &StreamKey, now: Instant) {
        if self.view.state() == NodeState::Serving && self.view.home(stream.as_str(), &[]).as_ref() == Some(me) {
            self.adopt(stream, now);
        }
    }
}

/// Cuts records into those of one message each.
pub(super) fn batches(records: Vec<(StreamKey, Record)>) -> Vec<Vec<(StreamKey, Record)>> {
    wire::batches(records, |(stream, record)| wire::entry_len(stream, record))
}
