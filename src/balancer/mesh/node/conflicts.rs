//! How conflicts end: those who see one tell the home of the stream, and it settles them (rule 9).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;

use super::{Node, renewals::batches};
use crate::{
    balancer::mesh::{
        model::{
            member::NodeState,
            record::{NodeId, Record},
        },
        traits::{GossipStore, PeerClient},
        wire::message::{Request, Response},
    },
    stream::StreamKey,
};

/// How many conflicts one tick looks into.
const BATCH: usize = 500;
/// How long a conflict waits for all nodes to see the same, before it is settled anyway (rule 9).
const UNSETTLED_CONFLICT: Duration = Duration::from_secs(2);
/// How long a conflict lasts before those who see it tell the home of it, and how often.
const TELL_CONFLICTS: Duration = Duration::from_secs(1);

impl<B: GossipStore, P: PeerClient> Node<B, P> {
    /// Tells homes of conflicts that they may not see (rule 9).
    pub(super) async fn tell_conflicts(self: &Arc<Self>) {
        let told = self.with(|state, now| {
            let mut told: BTreeMap<NodeId, Vec<(StreamKey, Record)>> = BTreeMap::new();
            if state.conflicts_told.is_some_and(|at| now.saturating_duration_since(at) < TELL_CONFLICTS) {
                return told;
            }
            state.conflicts_told = Some(now);
            let long = |since: Instant| now.saturating_duration_since(since) >= TELL_CONFLICTS;
            for (stream, _) in state.ledger.conflicts().filter(|(_, since)| long(*since)).take(BATCH) {
                if let Some(home) = state.view.home(stream.as_str(), &[]).filter(|home| home != self.id()) {
                    let records = state.ledger.all(stream).into_iter();
                    told.entry(home).or_default().extend(records.map(|record| (stream.clone(), record)));
                }
            }
            told
        });
        for (home, records) in told {
            if let Some(home) = self.with(|state, _| state.view.address(&home)) {
                for records in batches(records) {
                    let _ = self.call(&home, Request::PushRecords { records, adopt: false }).await;
                }
            }
        }
    }

    /// Settles the conflicts of streams of which this node is the home (rule 9).
    pub(super) async fn settle_conflicts(self: &Arc<Self>) {
        let mine: Vec<StreamKey> = self.with(|state, now| {
            let settled = state.stable(now);
            let serving = state.view.state() == NodeState::Serving;
            let due = |since: Instant| settled || now.saturating_duration_since(since) >= UNSETTLED_CONFLICT;
            let conflicts = state.ledger.conflicts().filter(|(_, since)| serving && due(*since));
            let mine = conflicts.filter(|(s, _)| state.view.home(s.as_str(), &[]).as_ref() == Some(self.id()));
            mine.map(|(stream, _)| stream.clone()).take(BATCH).collect()
        });
        if mine.is_empty() {
            return;
        }
        // The board may be behind on who has a publisher.
        let writers: BTreeSet<_> = self.with(|state, _| {
            let records = mine.iter().flat_map(|stream| state.ledger.all(stream));
            records.map(|record| record.writer).filter(|writer| writer != self.id()).collect()
        });
        let addresses: Vec<_> = self.with(|state, _| writers.iter().filter_map(|w| state.view.address(w)).collect());
        let asked = addresses.iter().map(|writer| self.call(writer, Request::GetRecords(mine.clone())));
        for answer in join_all(asked).await {
            if let Ok(Response::Records(records)) = answer {
                self.learn(&records);
            }
        }
        let settled = self.with(|state, now| {
            let mut settled = Vec::new();
            for stream in &mine {
                let stamp = state.clock.now();
                if state.ledger.resolve(stream, stamp, now) {
                    state.counters.conflicts += 1;
                    settled.push(stream.clone());
                }
            }
            settled
        });
        for stream in &settled {
            let origin = self.with(|state, _| state.ledger.get(stream).map(|record| record.origin.clone()));
            tracing::warn!(
                %stream, origin = origin.map(tracing::field::display),
                "the stream was on two origins at once; it stays on one, and sessions on the other are sent there"
            );
        }
    }
}
