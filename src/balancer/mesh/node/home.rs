//! How a stream's home decides where it is placed, and the claim where it is not settled whose answer
//! counts (rules 3, 6, 7 and 8).

use std::{collections::HashSet, sync::Arc, time::Instant};

use futures_util::future::join_all;
use tokio::time::{timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{Node, state::State};
use crate::{
    balancer::{
        BalancerError,
        decide::Verdict,
        mesh::{
            model::{
                claims::GRANT,
                member::{Address, NodeState},
                record::{NodeId, Record},
            },
            traits::{GossipStore, PeerClient},
            wire::message::{PlaceQuery, Request, Response},
        },
        now,
    },
    stream::StreamKey,
};

/// What came of an attempt to decide.
pub(super) enum Decision {
    Placed(Record),
    Refused(BalancerError),
    Redirect(Address),
    NotServing,
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
        if let Some(ended) = self.node.with(|state, _| state.claims.end(self.stream)) {
            ended.cancel();
        }
    }
}

impl<B: GossipStore, P: PeerClient> Node<B, P> {
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
    pub(super) async fn decide(self: &Arc<Self>, query: &PlaceQuery) -> Decision {
        let deadline = now() + GRANT;
        loop {
            match self.with(|state, now| self.step(state, query, now)) {
                Step::Done(decision) => return decision,
                Step::Wait(ended) => {
                    if timeout_at(deadline.into(), ended.cancelled()).await.is_err() {
                        return Decision::NotServing;
                    }
                }
                Step::Claim(others) => return self.claim(query, others).await,
            }
        }
    }

    fn step(&self, state: &mut State, query: &PlaceQuery, now: Instant) -> Step {
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

    fn carry_out(state: &mut State, query: &PlaceQuery, verdict: &Verdict, home: bool, now: Instant) -> Decision {
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
        let patience = now() + self.settings.rpc / 4;
        loop {
            let answered = self.answered.notified();
            if !self.with(|state, _| state.claims.awaits_other(&stream, &from))
                || timeout_at(patience.into(), answered).await.is_err()
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
