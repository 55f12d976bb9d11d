//! The gRPC service: reads a question, has it answered, writes the answer.

use std::{net::SocketAddr, sync::Arc};

use tonic::{Request as Call, Response as Reply, Status};

use super::{
    Membership, metadata,
    refusals::{Refusal, Refusals},
};
use crate::balancer::mesh::{
    traits::RequestHandler,
    wire::{
        message::Request,
        proto::{self, mesh_server::Mesh},
    },
};

/// Answers the calls of one connection.
pub(super) struct Service {
    pub membership: Arc<Membership>,
    pub handler: Arc<dyn RequestHandler>,
    pub refusals: Arc<Refusals>,
    pub peer: SocketAddr,
}

impl Service {
    fn refuse(&self, refusal: Refusal, status: Status) -> Status {
        self.refusals.add(refusal, self.peer, status.message());
        status
    }
}

#[tonic::async_trait]
impl Mesh for Service {
    async fn call(&self, call: Call<proto::Request>) -> Result<Reply<proto::Response>, Status> {
        let said = metadata::Call::read(call.metadata())
            .map_err(|error| self.refuse(Refusal::Metadata, Status::invalid_argument(error)))?;
        if said.cluster != self.membership.cluster {
            return Err(self.refuse(Refusal::Cluster, Status::permission_denied("this is another cluster")));
        }
        if said.to != self.membership.node {
            let status = Status::permission_denied(format!("this is node {}", self.membership.node));
            return Err(self.refuse(Refusal::Node, status));
        }
        let request = Request::try_from(call.into_inner())
            .map_err(|error| self.refuse(Refusal::Message, Status::invalid_argument(error.to_string())))?;
        let (clock, response) = self.handler.handle(said.from, said.clock, request).await;
        let mut reply = Reply::new(proto::Response::from(&response));
        metadata::write_clock(clock, reply.metadata_mut());
        Ok(reply)
    }
}
