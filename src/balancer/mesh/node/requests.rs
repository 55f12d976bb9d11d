//! Which part of a node answers what another node asks.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Node, maintenance::TICK_RECORDS};
use crate::balancer::mesh::{
    model::{
        member::NodeState,
        record::{NodeId, Stamp},
    },
    traits::{GossipStore, PeerClient, RequestHandler},
    wire::{
        Budget,
        message::{Request, Response},
    },
};

#[async_trait]
impl<B: GossipStore, P: PeerClient> RequestHandler for Arc<Node<B, P>> {
    async fn handle(&self, from: NodeId, clock: Stamp, request: Request) -> (Stamp, Response) {
        self.with(|state, _| state.clock.observe(clock));
        let response = self.handle_request(from, request).await;
        (self.with(|state, _| state.clock.now()), response)
    }
}

impl<B: GossipStore, P: PeerClient> Node<B, P> {
    /// Answers what another node asks.
    async fn handle_request(self: &Arc<Self>, from: NodeId, request: Request) -> Response {
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
}
