//! A node of the mesh: what it does with questions, news and time. It reaches the world only through
//! [`GossipStore`] and [`PeerClient`], so that the simulation runs this very code.

mod conflicts;
mod events;
mod home;
mod maintenance;
mod membership;
mod place;
mod renewals;
mod requests;
mod state;
mod status;
mod ufrags;

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::sync::{Notify, watch};

use self::state::State;
use super::{
    model::clock::WallClock,
    model::member::{Address, Incarnation, NodeState},
    model::record::{NodeId, Record},
    traits::{GossipStore, PeerClient},
    wire::message::{CallError, Request, Response},
};
use crate::sync::lock;
use crate::{
    balancer::{
        BalancerError, Intent, OriginStatus, Page, Placement, PlacementStatus, Reachability, now, registry::Change,
    },
    config::Policy,
    origin::{Origin, OriginId},
    stream::StreamKey,
};

/// How a node is set up.
#[derive(Clone)]
pub struct Settings {
    /// This run of the node.
    pub me: Incarnation,
    /// Where it answers gRPC, as `host:port` that the others reach.
    pub grpc: String,
    /// Its wall clock.
    pub wall: WallClock,
    /// What its random choices begin with.
    pub seed: u64,
    /// How an origin is chosen.
    pub policy: Policy,
    /// How long an origin counts as registered after its last heartbeat.
    pub origin_ttl: Duration,
    /// How long a placement outlives its last session.
    pub hold: Duration,
    /// How long a placement waits at the least for the client that asked for it.
    pub connecting: Duration,
    /// Registered origins at once.
    pub max_origins: usize,
    /// Placed streams at once.
    pub max_streams: usize,
    /// How often sessions are told to the homes of their streams. They count for three times as long.
    pub renew: Duration,
    /// How long another node may take to answer.
    pub rpc: Duration,
    /// How long a first node looks for others before it serves alone.
    pub join: Duration,
    /// How long a node counts as heard of after a sign of life.
    pub fresh: Duration,
    /// Whether there may be other nodes at all.
    pub expects_others: bool,
}

/// A node.
pub struct Node<B, P> {
    settings: Settings,
    board: B,
    peers: P,
    state: Mutex<State>,
    /// Sessions of this node that their streams' homes do not know of yet.
    renewals: Notify,
    /// An answer that was awaited has come.
    answered: Notify,
    phase: watch::Sender<NodeState>,
}

impl<B: GossipStore, P: PeerClient> Node<B, P> {
    /// A node that joins once [`Self::run`] runs.
    pub fn new(settings: Settings, board: B, peers: P) -> Arc<Self> {
        let node = Self {
            state: Mutex::new(State::new(&settings)),
            board,
            peers,
            renewals: Notify::new(),
            answered: Notify::new(),
            phase: watch::channel(NodeState::Joining).0,
            settings,
        };
        node.with(|_, _| ());
        Arc::new(node)
    }

    /// Runs `work` on the state, and does what follows from it: posts, and tells sessions of moves.
    ///
    /// The posts are made under the lock, so that they stand on the board in the order of the changes.
    fn with<T>(&self, work: impl FnOnce(&mut State, Instant) -> T) -> T {
        let (result, changes) = {
            let mut state = lock(&self.state);
            let now = now();
            let result = work(&mut state, now);
            if state.settle(&self.board, now) {
                self.renewals.notify_one();
            }
            (result, std::mem::take(&mut state.changes))
        };
        changes.iter().for_each(Change::log);
        result
    }

    /// Asks another node, and takes note of its clock and of whether it answered.
    async fn call(&self, to: &Address, request: Request) -> Result<Response, CallError> {
        let clock = self.with(|state, _| state.clock.now());
        let answer = self.peers.call(to, clock, request).await;
        self.with(|state, now| {
            state.view.answered(&to.node, !matches!(answer, Err(CallError::Unreachable(_))), now);
            if let Ok((clock, _)) = &answer {
                state.clock.observe(*clock);
            }
        });
        answer.map(|(_, response)| response)
    }

    /// This node's name.
    pub fn id(&self) -> &NodeId {
        &self.settings.me.node
    }

    fn address(&self) -> Address {
        Address { node: self.id().clone(), grpc: self.settings.grpc.clone() }
    }

    /// What the node does, to watch.
    pub fn phase(&self) -> watch::Receiver<NodeState> {
        self.phase.subscribe()
    }

    /// Takes an origin's heartbeat.
    pub fn register(&self, origin: Origin) -> Result<(), BalancerError> {
        self.with(|state, now| {
            let stamp = state.clock.now();
            let State { origins, changes, .. } = state;
            origins.heartbeat(origin, stamp, now, changes)
        })
    }

    /// Takes what the data path saw of an origin.
    pub fn report(&self, origin: &OriginId, seen: Reachability) {
        self.with(|state, now| {
            let stamp = state.clock.now();
            let State { origins, changes, .. } = state;
            origins.report(origin, seen, stamp, now, changes);
        });
    }

    /// The registered origins, ordered by id.
    pub fn origins(&self) -> Vec<OriginStatus> {
        self.with(|state, now| {
            state.expire_origins(&self.board, now);
            state.origin_statuses(now)
        })
    }

    /// Notes that a session of this node uses the placement.
    pub fn acquire(&self, placement: &Placement, intent: Intent) -> watch::Receiver<u64> {
        self.with(|state, now| {
            let Placement { stream, origin, epoch } = placement;
            let stamp = state.clock.now();
            // Its time was over before its client had connected. The client is on that origin now,
            // so that is where the stream is.
            state.ledger.reassert(stream, &origin.id(), *epoch, stamp, now);
            let epoch = state.usage.acquire(placement, intent);
            if let Some(Record { origin, epoch, .. }) = state.ledger.agreed(stream) {
                state.usage.moved(stream, origin, *epoch);
            }
            state.to_renew.insert(stream.clone());
            epoch
        })
    }

    /// Undoes one [`Self::acquire`].
    pub fn release(&self, stream: &StreamKey, intent: Intent) {
        self.with(|state, _| {
            if state.usage.release(stream, intent).is_some() {
                state.to_renew.insert(stream.clone());
            }
        });
    }

    /// The placements, ordered by stream, and how many there are in all.
    pub fn placements(&self, page: Page) -> (Vec<PlacementStatus>, usize) {
        self.with(|state, now| {
            state.expire_origins(&self.board, now);
            state.expire_records(usize::MAX, now);
            state.page(page)
        })
    }

    /// Whether the node can place streams.
    pub fn ready(&self) -> Result<(), BalancerError> {
        match *self.phase.borrow() {
            NodeState::Serving | NodeState::Draining => Ok(()),
            NodeState::Joining => {
                Err(BalancerError::Unavailable("this node is joining the mesh; it is ready in a moment".into()))
            }
            NodeState::Left => Err(BalancerError::Unavailable("this node has left the mesh".into())),
        }
    }
}

#[cfg(test)]
mod tests;
