//! Where a stream is placed: this node's question, the home's answer, and the claim where it is not
//! settled whose answer counts (rules 3, 6, 7 and 8).

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{Decision, Node};
use crate::{
    balancer::{
        BalancerError, PlaceRequest, Placement,
        decide::Verdict,
        mesh::{
            claims::GRANT,
            message::{Address, NodeState, PlaceQuery, Request, Response},
            record::{NodeId, Record},
            traits::{GossipStore, PeerClient},
        },
    },
    stream::StreamKey,
};

/// How many nodes one request goes to, at the most.
const MAX_STEPS: usize = 8;
/// How many times a request is sent on before somebody must decide.
const MAX_REDIRECTS: usize = 2;

/// Who is to decide, as far as this node knows.
enum Route {
    Here,
    Peer(Address),
    Nobody,
}

/// The next step of a decision at this node.
enum Step {
    Done(Decision),
    /// A claim of this node goes on; wait for its end.
    Wait(CancellationToken),
    /// This node has begun a claim, and asks these.
    Claim(Vec<Address>),
}

/// Ends this node's claim when it is dropped, whatever became of it.
struct Claim<'a, B: GossipStore, P: PeerClient> {
    node: &'a Node<B, P>,
    stream: &'a StreamKey,
}

impl<B: GossipStore, P: PeerClient> Drop for Claim<'_, B, P> {
    fn drop(&mut self) {
        self.node.with(|state, _| state.claims.end(self.stream));
    }
}

/// Notes that a node is asked to decide, for as long as it lives.
struct InFlightGuard<'a, B: GossipStore, P: PeerClient> {
    node: &'a Node<B, P>,
    stream: &'a StreamKey,
    asked: &'a NodeId,
}

impl<B: GossipStore, P: PeerClient> Drop for InFlightGuard<'_, B, P> {
    fn drop(&mut self) {
        self.node.with(|state, _| state.claims.end_pending(self.stream, self.asked));
        self.node.answered.notify_waiters();
    }
}

impl<B: GossipStore, P: PeerClient> Node<B, P> {
    /// The origin of a stream: the one it has, while that one is live, else one chosen now by the
    /// stream's home.
    pub async fn place(self: &Arc<Self>, request: PlaceRequest<'_>) -> Result<Placement, BalancerError> {
        self.ready()?;
        let mut query = PlaceQuery::from(&request);
        let (mut redirects, mut redirect) = (0, None);
        let deadline = Instant::now() + self.settings.rpc * 6 + GRANT / 2;
        for _ in 0..MAX_STEPS {
            if Instant::now() >= deadline {
                break;
            }
            let decision = match self.with(|state, now| self.route(state, &query, redirect.take(), now)) {
                Route::Here => self.decide(&query).await,
                Route::Peer(peer) => {
                    let Some(decision) = self.forward_to_home(&peer, &query).await else {
                        query.unreachable.push(peer.node);
                        continue;
                    };
                    decision
                }
                Route::Nobody => break,
            };
            match decision {
                Decision::Placed(record) => return self.placed(&query, &record),
                Decision::Refused(error) => return Err(error),
                Decision::NotServing => break,
                Decision::Redirect(node) => {
                    redirects += 1;
                    query.force = redirects > MAX_REDIRECTS;
                    redirect = Some(node);
                }
            }
        }
        self.remembered(&query)
    }

    fn route(&self, state: &super::State, query: &PlaceQuery, redirect: Option<Address>, now: Instant) -> Route {
        let reachable = |node: &NodeId| !query.unreachable.contains(node);
        let granted = state.claims.granted(&query.stream, now).cloned();
        if let Some(address) = redirect.or(granted).filter(|address| reachable(&address.node)) {
            return if address.node == *self.id() { Route::Here } else { Route::Peer(address) };
        }
        let mut without = query.unreachable.clone();
        loop {
            match state.view.home(query.stream.as_str(), &without) {
                None => return Route::Nobody,
                Some(home) if home == *self.id() => return Route::Here,
                Some(home) => match state.view.address(&home) {
                    Some(address) => return Route::Peer(address),
                    None => without.push(home),
                },
            }
        }
    }

    /// Asks another node to decide. Nothing if it does not answer.
    async fn forward_to_home(&self, peer: &Address, query: &PlaceQuery) -> Option<Decision> {
        let request = self.with(|state, now| {
            if state.view.is_unresponsive(&peer.node, now) {
                return None;
            }
            state.claims.begin_pending(&query.stream, &peer.node);
            let known = state.ledger.all(&query.stream);
            let min_epoch = state.ledger.tombstones().min_epoch(&query.stream);
            Some(Request::Place { query: query.clone(), known, min_epoch })
        })?;
        let _in_flight = InFlightGuard { node: self, stream: &query.stream, asked: &peer.node };
        match self.call(peer, request).await {
            Ok(Response::Placed { record, origin }) => {
                self.with(|state, now| {
                    state.clock.observe(record.written);
                    let super::State { origins, changes, .. } = state;
                    origins.learn(&origin, Duration::ZERO, now, changes);
                    state.ledger.merge(&query.stream, &record, None, now);
                });
                Some(Decision::Placed(record))
            }
            Ok(Response::Redirect(node)) => Some(Decision::Redirect(node)),
            Ok(Response::Refused(error)) => Some(Decision::Refused(error)),
            Ok(_) => None,
            Err(error) => {
                self.with(|state, _| state.counters.unanswered += 1);
                tracing::debug!(node = %peer, stream = %query.stream, %error, "the stream's home does not answer");
                None
            }
        }
    }

    fn placed(&self, query: &PlaceQuery, record: &Record) -> Result<Placement, BalancerError> {
        let placement = self.with(|state, _| {
            // The answer may be older than what this node knows by now.
            let later = state.ledger.agreed(&query.stream).filter(|known| known.supersedes(record));
            let later = later.and_then(|later| state.placement(&query.stream, later));
            later
                .filter(|later| later.origin.serves(query.protocol) && !query.avoid.contains(&later.origin.id()))
                .or_else(|| state.placement(&query.stream, record))
        });
        placement.ok_or_else(|| {
            BalancerError::Unavailable(format!("the origin {} of the stream is gone; try again", record.origin))
        })
    }

    /// What is known of a stream on which nobody can decide now.
    fn remembered(&self, query: &PlaceQuery) -> Result<Placement, BalancerError> {
        let known = self.with(|state, _| {
            let record = state.ledger.get(&query.stream)?;
            let placement = state.placement(&query.stream, record)?;
            let usable = placement.origin.serves(query.protocol) && !query.avoid.contains(&record.origin);
            usable.then_some(placement)
        });
        known.ok_or_else(|| {
            BalancerError::Unavailable(
                "the nodes of the mesh that decide on this stream do not answer; try again in a moment".into(),
            )
        })
    }

    /// Answers another node's question.
    pub(super) async fn answer_place(
        self: &Arc<Self>,
        query: PlaceQuery,
        known: &[Record],
        min_epoch: u64,
    ) -> Response {
        self.with(|state, now| {
            state.ledger.raise_min_epoch(&query.stream, min_epoch);
            for record in known {
                state.learn(&query.stream, record, None, now);
            }
        });
        match self.decide(&query).await {
            Decision::Placed(record) => {
                let facts = self.with(|state, _| state.origins.facts(&record.origin).cloned());
                match facts {
                    Some(facts) => Response::Placed { record, origin: Box::new(facts) },
                    None => Response::Refused(BalancerError::Unavailable(format!(
                        "the origin {} of the stream is gone; try again",
                        record.origin
                    ))),
                }
            }
            Decision::Refused(error) => Response::Refused(error),
            Decision::Redirect(node) => Response::Redirect(node),
            Decision::NotServing => Response::NotServing,
        }
    }

    /// Decides, as the home or in its place.
    async fn decide(self: &Arc<Self>, query: &PlaceQuery) -> Decision {
        let deadline = Instant::now() + GRANT;
        loop {
            match self.with(|state, now| self.step(state, query, now)) {
                Step::Done(decision) => return decision,
                Step::Wait(ended) => {
                    if timeout_at(deadline, ended.cancelled()).await.is_err() {
                        return Decision::NotServing;
                    }
                }
                Step::Claim(others) => return self.claim(query, others).await,
            }
        }
    }

    fn step(&self, state: &mut super::State, query: &PlaceQuery, now: Instant) -> Step {
        if !matches!(state.view.state(), NodeState::Serving | NodeState::Draining) {
            return Step::Done(Decision::NotServing);
        }
        if let Some(ended) = state.claims.going_on(&query.stream) {
            return Step::Wait(ended);
        }
        let request = query.request();
        let home = state.view.home(query.stream.as_str(), &[]);
        let is_home = home.as_ref() == Some(self.id());
        let mut others_turn = None;
        if let Some(granted) = state.claims.granted(&query.stream, now)
            && granted.node != *self.id()
            && !query.unreachable.contains(&granted.node)
        {
            others_turn = Some(granted.clone());
        } else if !query.force
            && let Some(node) = state.view.home(query.stream.as_str(), &query.unreachable)
            && node != *self.id()
        {
            others_turn = state.view.address(&node);
        }
        if let Some(address) = others_turn {
            return Step::Done(Decision::Redirect(address));
        }

        let verdict = match state.verdict(&request, now) {
            Ok(verdict) => verdict,
            Err(error) => return Step::Done(Decision::Refused(error)),
        };
        let alone = is_home && state.stable(now) && state.claims.granted(&query.stream, now).is_none();
        if alone || matches!(verdict, Verdict::Keep(_)) {
            return Step::Done(Self::carry_out(state, query, &verdict, alone, now));
        }
        let others = state.view.to_consult(now);
        if others.is_empty() {
            return Step::Done(Self::carry_out(state, query, &verdict, true, now));
        }
        match state.claims.begin(&query.stream) {
            Ok(()) => {
                state.counters.claims += 1;
                Step::Claim(others)
            }
            Err(ended) => Step::Wait(ended),
        }
    }

    fn carry_out(
        state: &mut super::State,
        query: &PlaceQuery,
        verdict: &Verdict,
        home: bool,
        now: Instant,
    ) -> Decision {
        match state.carry_out(&query.request(), verdict, home, now) {
            Ok(decided) => {
                let (stream, record) = (&query.stream, &decided.record);
                if let Some(from) = &decided.moved_from {
                    tracing::info!(%stream, origin = %record.origin, %from, epoch = record.epoch, "stream moved");
                } else if decided.fresh {
                    tracing::debug!(%stream, origin = %record.origin, epoch = record.epoch, "stream placed");
                }
                Decision::Placed(decided.record)
            }
            Err(error) => Decision::Refused(error),
        }
    }

    /// Asks all others what they know, and whether they hold back; then decides if nobody goes
    /// before. The claim has begun.
    async fn claim(self: &Arc<Self>, query: &PlaceQuery, others: Vec<Address>) -> Decision {
        let claim = Claim { node: self, stream: &query.stream };
        let known = self.with(|state, _| state.ledger.all(&query.stream));
        let patience = self.settings.rpc;
        let asked = others.iter().map(async |other| {
            let request = Request::Claim { stream: query.stream.clone(), known: known.clone() };
            (other, timeout(patience, self.call(other, request)).await)
        });
        let mut yielding = HashSet::new();
        let mut held = Vec::new();
        for (other, answer) in join_all(asked).await {
            match answer {
                Ok(Ok(Response::Claimed { known, min_epoch, held: before })) => {
                    self.with(|state, now| {
                        state.ledger.raise_min_epoch(&query.stream, min_epoch);
                        for record in known {
                            state.learn(&query.stream, &record, None, now);
                        }
                    });
                    match before {
                        None => {
                            yielding.insert(other.node.clone());
                        }
                        Some(before) => held.push((other.node.clone(), before)),
                    }
                }
                Ok(Ok(_)) => {}
                Ok(Err(_)) | Err(_) => self.with(|state, now| {
                    state.counters.unanswered += 1;
                    if answer.is_err() {
                        state.view.answered(&other.node, false, now);
                    }
                }),
            }
        }
        // Of one who held back for another, that other's own word counts, if it was heard.
        let before = held
            .into_iter()
            .map(|(_, before)| before)
            .find(|before| before.node != *self.id() && !yielding.contains(&before.node));
        let decision = self.with(|state, now| {
            let before = before.or_else(|| state.claims.lost(&query.stream));
            if let Some(before) = before {
                state.counters.claims_lost += 1;
                return Decision::Redirect(before);
            }
            match state.verdict(&query.request(), now) {
                Ok(verdict) => Self::carry_out(state, query, &verdict, true, now),
                Err(error) => Decision::Refused(error),
            }
        });
        drop(claim);
        if let Decision::Placed(record) = &decision {
            self.tell(others, &[(query.stream.clone(), record.clone())]);
        }
        decision
    }

    /// Tells others what was decided, without waiting for them.
    fn tell(self: &Arc<Self>, others: Vec<Address>, records: &[(StreamKey, Record)]) {
        for other in others {
            let (node, records) = (Arc::clone(self), records.to_vec());
            tokio::spawn(async move {
                let _ = node.call(&other, Request::PushRecords { records, adopt: false }).await;
            });
        }
    }

    /// Answers another node's claim.
    pub(super) async fn answer_claim(&self, from: NodeId, stream: StreamKey, known: &[Record]) -> Response {
        // An answer that this node awaits may be the decision that the other one must know of.
        let patience = Instant::now() + self.settings.rpc / 4;
        loop {
            let answered = self.answered.notified();
            if !self.with(|state, _| state.claims.awaits_other(&stream, &from))
                || timeout_at(patience, answered).await.is_err()
            {
                break;
            }
        }
        self.with(|state, now| {
            for record in known {
                state.learn(&stream, record, None, now);
            }
            let Some(by) = state.view.address(&from) else { return Response::NotServing };
            let held = state.claims.claimed(&stream, &by, &self.address(), now);
            let known = state.ledger.all(&stream);
            Response::Claimed { known, min_epoch: state.ledger.tombstones().min_epoch(&stream), held }
        })
    }
}
