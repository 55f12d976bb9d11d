//! The gRPC service: reads a question, has it answered, writes the answer.

use std::{net::SocketAddr, sync::Arc};

use tonic::{Request as Call, Response as Reply, Status};

use super::{
    Membership, metadata,
    proto::{self, mesh_server::Mesh},
    refusals::{Refusal, Refusals},
    wire::{Mismatch, WireError},
};
use crate::balancer::mesh::{
    message::{Request, Response},
    traits::RequestHandler,
};

/// Answers the calls of one connection.
pub(super) struct Service {
    pub membership: Arc<Membership>,
    pub handler: Arc<dyn RequestHandler>,
    pub refusals: Arc<Refusals>,
    pub peer: SocketAddr,
}

impl Service {
    async fn ask<Q, A>(&self, call: Call<Q>) -> Result<Reply<A>, Status>
    where
        Q: Send,
        Request: TryFrom<Q, Error = WireError>,
        A: for<'a> TryFrom<&'a Response, Error = Mismatch>,
    {
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
        let mut reply = Reply::new(A::try_from(&response).map_err(|error| Status::internal(error.to_string()))?);
        metadata::write_clock(clock, reply.metadata_mut());
        Ok(reply)
    }

    fn refuse(&self, refusal: Refusal, status: Status) -> Status {
        self.refusals.add(refusal, self.peer, status.message());
        status
    }
}

#[tonic::async_trait]
impl Mesh for Service {
    async fn place(&self, call: Call<proto::PlaceRequest>) -> Result<Reply<proto::PlaceResponse>, Status> {
        self.ask(call).await
    }

    async fn claim(&self, call: Call<proto::ClaimRequest>) -> Result<Reply<proto::ClaimResponse>, Status> {
        self.ask(call).await
    }

    async fn renew_leases(
        &self,
        call: Call<proto::RenewLeasesRequest>,
    ) -> Result<Reply<proto::RecordsResponse>, Status> {
        self.ask(call).await
    }

    async fn push_records(&self, call: Call<proto::PushRecordsRequest>) -> Result<Reply<proto::DoneResponse>, Status> {
        self.ask(call).await
    }

    async fn get_records(&self, call: Call<proto::GetRecordsRequest>) -> Result<Reply<proto::RecordsResponse>, Status> {
        self.ask(call).await
    }

    async fn snapshot(&self, call: Call<proto::SnapshotRequest>) -> Result<Reply<proto::SnapshotResponse>, Status> {
        self.ask(call).await
    }

    async fn put_ufrag(&self, call: Call<proto::PutUfragRequest>) -> Result<Reply<proto::DoneResponse>, Status> {
        self.ask(call).await
    }

    async fn stream_of_ufrag(
        &self,
        call: Call<proto::StreamOfUfragRequest>,
    ) -> Result<Reply<proto::StreamOfUfragResponse>, Status> {
        self.ask(call).await
    }
}
