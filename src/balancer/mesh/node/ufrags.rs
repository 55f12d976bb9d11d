//! Short-lived records that lead from a WebRTC ufrag to a stream: kept by the nodes that rank first for
//! the ufrag.

use std::time::Duration;

use futures_util::future::join_all;

use super::Node;
use crate::{
    balancer::{
        BalancerError,
        mesh::{
            model::record::NodeId,
            traits::{GossipStore, PeerClient},
            wire::message::{Request, Response},
        },
    },
    stream::StreamKey,
};

/// How many nodes keep a short-lived record, and how many are asked for it.
const COPIES: usize = 2;
const QUERIED_NODES: usize = 3;

impl<B: GossipStore, P: PeerClient> Node<B, P> {
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
