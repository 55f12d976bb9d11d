//! Where a stream is placed: this node's question, the home's answer, and the claim where it is not
//! settled whose answer counts (rules 3, 6, 7 and 8).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Node, home::Decision, state::State};
use crate::{
    balancer::{
        BalancerError, PlaceRequest, Placement,
        mesh::{
            model::claims::GRANT,
            model::member::Address,
            model::record::{NodeId, Record},
            traits::{GossipStore, PeerClient},
            wire::message::{PlaceQuery, Request, Response},
        },
        now,
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
        let deadline = now() + self.settings.rpc * 6 + GRANT / 2;
        for _ in 0..MAX_STEPS {
            if now() >= deadline {
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

    fn route(&self, state: &State, query: &PlaceQuery, redirect: Option<Address>, now: Instant) -> Route {
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
                    let State { origins, changes, .. } = state;
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
}
