//! What a node does without being asked: it tells homes of its sessions, ends what is over and
//! settles conflicts. And its answers to what the others' duties bring.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::{Node, state::State};
use crate::{
    balancer::{
        BalancerError,
        mesh::{
            message::{Address, Cursor, NodeState, Renewal, Request, Response},
            record::{NodeId, Record},
            rpc::wire::{self, Budget},
            traits::{GossipStore, PeerClient},
        },
    },
    stream::StreamKey,
};

/// How often what is over is ended, and conflicts are looked for.
const TICK: Duration = Duration::from_millis(100);
/// How many records one tick looks at before it lets others have the lock.
const TICK_RECORDS: usize = 1024;
/// How many conflicts one tick looks into.
const BATCH: usize = 500;
/// How long sessions that begin and end are collected before their homes are told.
const COLLECT: Duration = Duration::from_millis(5);
/// How long a conflict waits for all nodes to see the same, before it is settled anyway (rule 9).
const UNSETTLED_CONFLICT: Duration = Duration::from_secs(2);
/// How long a conflict lasts before those who see it tell the home of it, and how often.
const TELL_CONFLICTS: Duration = Duration::from_secs(1);
/// How many nodes keep a short-lived record, and how many are asked for it.
const COPIES: usize = 2;
const QUERIED_NODES: usize = 3;

impl<B: GossipStore, P: PeerClient> Node<B, P> {
    /// Ends what is over and settles conflicts, for ever.
    pub(super) async fn run_maintenance(self: &Arc<Self>) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.with(|state, now| state.expire_origins(&self.board, now));
            while self.with(|state, now| state.expire_records(TICK_RECORDS, now)) == TICK_RECORDS {
                tokio::task::yield_now().await;
            }
            self.settle_conflicts().await;
            self.tell_conflicts().await;
        }
    }

    /// Tells homes of conflicts that they may not see (rule 9).
    async fn tell_conflicts(self: &Arc<Self>) {
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
    async fn settle_conflicts(self: &Arc<Self>) {
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

    fn learn(&self, records: &[(StreamKey, Record)]) {
        self.with(|state, now| {
            for (stream, record) in records {
                state.learn(stream, record, None, now);
            }
        });
    }

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

    /// Answers what another node asks.
    pub(super) async fn handle_request(self: &Arc<Self>, from: NodeId, request: Request) -> Response {
        match request {
            Request::Place { query, known, min_epoch } => self.answer_place(query, &known, min_epoch).await,
            Request::Claim { stream, known } => self.answer_claim(from, stream, &known).await,
            Request::RenewLeases(renewals) => self.with(|state, now| {
                if state.view.state() == NodeState::Left {
                    return Response::NotServing;
                }
                Response::Records(state.take_renewals(&from, &renewals, now))
            }),
            Request::PushRecords { records, adopt } => {
                self.learn(&records);
                if adopt {
                    self.with(|state, now| {
                        for (stream, _) in &records {
                            state.adopt_if_home(self.id(), stream, now);
                        }
                    });
                }
                Response::Done
            }
            Request::GetRecords(streams) => self.with(|state, now| {
                state.expire_records(TICK_RECORDS, now);
                Response::Records(state.records_that_fit(streams.iter(), &mut Budget::default()).0)
            }),
            Request::Snapshot { after } => self.with(|state, now| state.snapshot(after.as_ref(), now)),
            Request::PutUfrag { id, stream, ttl } => {
                match self.with(|state, now| state.ufrags.put(&id, &stream, ttl, now)) {
                    Ok(()) => Response::Done,
                    Err(error) => Response::Refused(error),
                }
            }
            Request::StreamOfUfrag { id } => {
                Response::StreamOfUfrag(self.with(|state, now| state.ufrags.get(&id, now).cloned()))
            }
        }
    }

    /// Keeps a short-lived record at the nodes that its id leads to.
    pub async fn put_ufrag(&self, id: &str, stream: &StreamKey, ttl: Duration) -> Result<(), BalancerError> {
        let mut kept = 0;
        for node in self.keepers(id) {
            let put = match self.with(|state, _| state.view.address(&node)) {
                None if node == *self.id() => {
                    self.with(|state, now| state.ufrags.put(id, stream, ttl, now))?;
                    true
                }
                None => false,
                Some(address) => {
                    let request = Request::PutUfrag { id: id.into(), stream: stream.clone(), ttl };
                    match self.call(&address, request).await {
                        Ok(Response::Refused(error)) => return Err(error),
                        answer => answer == Ok(Response::Done),
                    }
                }
            };
            kept += usize::from(put);
            if kept == COPIES {
                break;
            }
        }
        if kept == 0 {
            return Err(BalancerError::Unavailable("no node of the mesh keeps the session record; try again".into()));
        }
        Ok(())
    }

    /// The stream of a short-lived record.
    pub async fn stream_of_ufrag(&self, id: &str) -> Result<Option<StreamKey>, BalancerError> {
        let keepers: Vec<_> = self.keepers(id).into_iter().take(QUERIED_NODES).collect();
        let asked = keepers.iter().map(async |node| match self.with(|state, _| state.view.address(node)) {
            None => Some(self.with(|state, now| state.ufrags.get(id, now).cloned())),
            Some(address) => match self.call(&address, Request::StreamOfUfrag { id: id.into() }).await {
                Ok(Response::StreamOfUfrag(stream)) => Some(stream),
                _ => None,
            },
        });
        let answers = join_all(asked).await;
        if answers.iter().all(Option::is_none) {
            return Err(BalancerError::Unavailable("no node of the mesh that keeps session records answers".into()));
        }
        Ok(answers.into_iter().flatten().flatten().next())
    }

    fn keepers(&self, id: &str) -> Vec<NodeId> {
        self.with(|state, _| state.view.ranked(&format!("session {id}")))
    }
}

impl State {
    /// Takes the sessions of a node; gives the records that it does not know as they are.
    fn take_renewals(&mut self, from: &NodeId, renewals: &[Renewal], now: Instant) -> Vec<(StreamKey, Record)> {
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

    /// All records of the streams, in this order, as far as they fit into one message; and whether all
    /// of them did.
    fn records_that_fit<'a>(
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
    fn snapshot(&self, after: Option<&Cursor>, now: Instant) -> Response {
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

/// Cuts records into those of one message each.
pub(super) fn batches(records: Vec<(StreamKey, Record)>) -> Vec<Vec<(StreamKey, Record)>> {
    wire::batches(records, |(stream, record)| wire::entry_len(stream, record))
}

/// The address of each node that shall be told something, with what it shall be told.
pub(super) type Told = BTreeMap<NodeId, (Address, Vec<(StreamKey, Record)>)>;
