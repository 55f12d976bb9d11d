//! Where a stream is placed: this node's question, the home's answer, and the claim where it is not
//! settled whose answer counts (rules 3, 6, 7 and 8).

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{Decision, Node};
use crate::{
    balancer::{
        BalancerError, Intent, PlaceRequest, Placement,
        decide::Verdict,
        mesh::{
            claims::GRANT,
            message::{Address, NodeState, Request, Response},
            port::{Board, Peers},
            record::{NodeId, Record},
        },
    },
    origin::{OriginId, Protocol},
    stream::StreamKey,
};

/// How many nodes one request goes to, at the most.
const MAX_STEPS: usize = 8;
/// How many times a request is sent on before somebody must decide.
const MAX_REDIRECTS: usize = 2;

/// A request that outlives its borrowed form.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub stream: StreamKey,
    pub protocol: Protocol,
    pub intent: Intent,
    pub avoid: Vec<OriginId>,
    /// Nodes that whoever asks cannot reach.
    pub unreachable: Vec<NodeId>,
    /// Whether this node must decide even if it thinks that it is another's turn.
    pub insist: bool,
}

impl Ask {
    fn request(&self) -> PlaceRequest<'_> {
        PlaceRequest { stream: &self.stream, protocol: self.protocol, intent: self.intent, avoid: &self.avoid }
    }
}

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
struct Claim<'a, B: Board, P: Peers> {
    node: &'a Node<B, P>,
    stream: &'a StreamKey,
}

impl<B: Board, P: Peers> Drop for Claim<'_, B, P> {
    fn drop(&mut self) {
        self.node.with(|state, _| state.claims.end(self.stream));
    }
}

/// Notes that a node is asked to decide, for as long as it lives.
struct Asking<'a, B: Board, P: Peers> {
    node: &'a Node<B, P>,
    stream: &'a StreamKey,
    asked: &'a NodeId,
}

impl<B: Board, P: Peers> Drop for Asking<'_, B, P> {
    fn drop(&mut self) {
        self.node.with(|state, _| state.claims.asked(self.stream, self.asked));
        self.node.answered.notify_waiters();
    }
}

impl<B: Board, P: Peers> Node<B, P> {
    /// The origin of a stream: the one it has, while that one is live, else one chosen now by the
    /// stream's home.
    pub async fn place(self: &Arc<Self>, request: PlaceRequest<'_>) -> Result<Placement, BalancerError> {
        self.ready()?;
        let mut ask = Ask {
            stream: request.stream.clone(),
            protocol: request.protocol,
            intent: request.intent,
            avoid: request.avoid.to_vec(),
            unreachable: Vec::new(),
            insist: false,
        };
        let (mut redirects, mut told) = (0, None);
        let deadline = Instant::now() + self.settings.rpc * 6 + GRANT / 2;
        for _ in 0..MAX_STEPS {
            if Instant::now() >= deadline {
                break;
            }
            let decision = match self.with(|state, now| self.route(state, &ask, told.take(), now)) {
                Route::Here => self.decide(&ask).await,
                Route::Peer(peer) => {
                    let Some(decision) = self.ask(&peer, &ask).await else {
                        ask.unreachable.push(peer.node);
                        continue;
                    };
                    decision
                }
                Route::Nobody => break,
            };
            match decision {
                Decision::Placed(record) => return self.placed(&ask, &record),
                Decision::Refused(error) => return Err(error),
                Decision::NotServing => break,
                Decision::Elsewhere(node) => {
                    redirects += 1;
                    ask.insist = redirects > MAX_REDIRECTS;
                    told = Some(node);
                }
            }
        }
        self.remembered(&ask)
    }

    fn route(&self, state: &super::State, ask: &Ask, told: Option<Address>, now: Instant) -> Route {
        let reachable = |node: &NodeId| !ask.unreachable.contains(node);
        let granted = state.claims.granted(&ask.stream, now).cloned();
        if let Some(address) = told.or(granted).filter(|address| reachable(&address.node)) {
            return if address.node == *self.id() { Route::Here } else { Route::Peer(address) };
        }
        let mut without = ask.unreachable.clone();
        loop {
            match state.view.home(ask.stream.as_str(), &without) {
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
    async fn ask(&self, peer: &Address, ask: &Ask) -> Option<Decision> {
        let Ask { stream, protocol, intent, avoid, unreachable, insist } = ask.clone();
        let request = self.with(|state, now| {
            if state.view.is_unresponsive(&peer.node, now) {
                return None;
            }
            state.claims.ask(&stream, &peer.node);
            let known = state.ledger.all(&stream);
            let floor = state.ledger.ended().floor(&stream);
            Some(Request::Place { stream, protocol, intent, avoid, known, floor, unreachable, insist })
        })?;
        let _asking = Asking { node: self, stream: &ask.stream, asked: &peer.node };
        match self.call(peer, request).await {
            Ok(Response::Placed { record, origin }) => {
                self.with(|state, now| {
                    state.clock.observe(record.written);
                    let super::State { origins, changes, .. } = state;
                    origins.learn(&origin, Duration::ZERO, now, changes);
                    state.ledger.merge(&ask.stream, &record, None, now);
                });
                Some(Decision::Placed(record))
            }
            Ok(Response::Elsewhere(node)) => Some(Decision::Elsewhere(node)),
            Ok(Response::Refused(error)) => Some(Decision::Refused(error)),
            Ok(_) => None,
            Err(error) => {
                self.with(|state, _| state.counters.unanswered += 1);
                tracing::debug!(node = %peer, stream = %ask.stream, %error, "the stream's home does not answer");
                None
            }
        }
    }

    fn placed(&self, ask: &Ask, record: &Record) -> Result<Placement, BalancerError> {
        let placement = self.with(|state, _| {
            // The answer may be older than what this node knows by now.
            let later = state.ledger.agreed(&ask.stream).filter(|known| known.supersedes(record));
            let later = later.and_then(|later| state.placement(&ask.stream, later));
            later
                .filter(|later| later.origin.serves(ask.protocol) && !ask.avoid.contains(&later.origin.id()))
                .or_else(|| state.placement(&ask.stream, record))
        });
        placement.ok_or_else(|| {
            BalancerError::Unavailable(format!("the origin {} of the stream is gone; try again", record.origin))
        })
    }

    /// What is known of a stream on which nobody can decide now.
    fn remembered(&self, ask: &Ask) -> Result<Placement, BalancerError> {
        let known = self.with(|state, _| {
            let record = state.ledger.get(&ask.stream)?;
            let placement = state.placement(&ask.stream, record)?;
            let usable = placement.origin.serves(ask.protocol) && !ask.avoid.contains(&record.origin);
            usable.then_some(placement)
        });
        known.ok_or_else(|| {
            BalancerError::Unavailable(
                "the nodes of the mesh that decide on this stream do not answer; try again in a moment".into(),
            )
        })
    }

    /// Answers another node's question.
    pub(super) async fn answer_place(self: &Arc<Self>, ask: Ask, known: &[Record], floor: u64) -> Response {
        self.with(|state, now| {
            state.ledger.raise_floor(&ask.stream, floor);
            for record in known {
                state.learn(&ask.stream, record, None, now);
            }
        });
        match self.decide(&ask).await {
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
            Decision::Elsewhere(node) => Response::Elsewhere(node),
            Decision::NotServing => Response::NotServing,
        }
    }

    /// Decides, as the home or in its place.
    async fn decide(self: &Arc<Self>, ask: &Ask) -> Decision {
        let deadline = Instant::now() + GRANT;
        loop {
            match self.with(|state, now| self.step(state, ask, now)) {
                Step::Done(decision) => return decision,
                Step::Wait(ended) => {
                    if timeout_at(deadline, ended.cancelled()).await.is_err() {
                        return Decision::NotServing;
                    }
                }
                Step::Claim(others) => return self.claim(ask, others).await,
            }
        }
    }

    fn step(&self, state: &mut super::State, ask: &Ask, now: Instant) -> Step {
        if !matches!(state.view.state(), NodeState::Serving | NodeState::Draining) {
            return Step::Done(Decision::NotServing);
        }
        if let Some(ended) = state.claims.going_on(&ask.stream) {
            return Step::Wait(ended);
        }
        let request = ask.request();
        let home = state.view.home(ask.stream.as_str(), &[]);
        let is_home = home.as_ref() == Some(self.id());
        let mut others_turn = None;
        if let Some(granted) = state.claims.granted(&ask.stream, now)
            && granted.node != *self.id()
            && !ask.unreachable.contains(&granted.node)
        {
            others_turn = Some(granted.clone());
        } else if !ask.insist
            && let Some(node) = state.view.home(ask.stream.as_str(), &ask.unreachable)
            && node != *self.id()
        {
            others_turn = state.view.address(&node);
        }
        if let Some(address) = others_turn {
            return Step::Done(Decision::Elsewhere(address));
        }

        let verdict = match state.verdict(&request, now) {
            Ok(verdict) => verdict,
            Err(error) => return Step::Done(Decision::Refused(error)),
        };
        let alone = is_home && state.settled(now) && state.claims.granted(&ask.stream, now).is_none();
        if alone || matches!(verdict, Verdict::Keep(_)) {
            return Step::Done(Self::carry_out(state, ask, &verdict, alone, now));
        }
        let others = state.view.to_consult(now);
        if others.is_empty() {
            return Step::Done(Self::carry_out(state, ask, &verdict, true, now));
        }
        match state.claims.begin(&ask.stream) {
            Ok(()) => {
                state.counters.claims += 1;
                Step::Claim(others)
            }
            Err(ended) => Step::Wait(ended),
        }
    }

    fn carry_out(state: &mut super::State, ask: &Ask, verdict: &Verdict, home: bool, now: Instant) -> Decision {
        match state.carry_out(&ask.request(), verdict, home, now) {
            Ok(decided) => {
                let (stream, record) = (&ask.stream, &decided.record);
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
    async fn claim(self: &Arc<Self>, ask: &Ask, others: Vec<Address>) -> Decision {
        let claim = Claim { node: self, stream: &ask.stream };
        let known = self.with(|state, _| state.ledger.all(&ask.stream));
        let patience = self.settings.rpc;
        let asked = others.iter().map(async |other| {
            let request = Request::Claim { stream: ask.stream.clone(), known: known.clone() };
            (other, timeout(patience, self.call(other, request)).await)
        });
        let mut yielding = HashSet::new();
        let mut held = Vec::new();
        for (other, answer) in join_all(asked).await {
            match answer {
                Ok(Ok(Response::Claimed { known, floor, held: before })) => {
                    self.with(|state, now| {
                        state.ledger.raise_floor(&ask.stream, floor);
                        for record in known {
                            state.learn(&ask.stream, &record, None, now);
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
            let before = before.or_else(|| state.claims.lost(&ask.stream));
            if let Some(before) = before {
                state.counters.claims_lost += 1;
                return Decision::Elsewhere(before);
            }
            match state.verdict(&ask.request(), now) {
                Ok(verdict) => Self::carry_out(state, ask, &verdict, true, now),
                Err(error) => Decision::Refused(error),
            }
        });
        drop(claim);
        if let Decision::Placed(record) = &decision {
            self.tell(others, &[(ask.stream.clone(), record.clone())]);
        }
        decision
    }

    /// Tells others what was decided, without waiting for them.
    fn tell(self: &Arc<Self>, others: Vec<Address>, records: &[(StreamKey, Record)]) {
        for other in others {
            let (node, records) = (Arc::clone(self), records.to_vec());
            tokio::spawn(async move {
                let _ = node.call(&other, Request::Tell { records, adopt: false }).await;
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
            Response::Claimed { known, floor: state.ledger.ended().floor(&stream), held }
        })
    }
}
