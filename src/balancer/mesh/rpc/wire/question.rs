//! Questions on the wire.

use std::time::Duration;

use prost::Message;

use super::{
    WireError,
    bounds::{self, MAX_CANDIDATES, MAX_ENTRIES, list, present},
    values,
};
use crate::{
    balancer::mesh::{
        message::{Renewal, Request},
        rpc::proto,
    },
    stream::StreamKey,
};

/// The message of a question, by its kind.
#[derive(Debug, Clone)]
pub(in super::super) enum Question {
    Place(proto::PlaceRequest),
    Claim(proto::ClaimRequest),
    RenewLeases(proto::RenewLeasesRequest),
    PushRecords(proto::PushRecordsRequest),
    GetRecords(proto::GetRecordsRequest),
    Snapshot(proto::SnapshotRequest),
    PutUfrag(proto::PutUfragRequest),
    StreamOfUfrag(proto::StreamOfUfragRequest),
}

impl Question {
    /// The size of the message, in bytes.
    pub fn encoded_len(&self) -> usize {
        match self {
            Self::Place(message) => message.encoded_len(),
            Self::Claim(message) => message.encoded_len(),
            Self::RenewLeases(message) => message.encoded_len(),
            Self::PushRecords(message) => message.encoded_len(),
            Self::GetRecords(message) => message.encoded_len(),
            Self::Snapshot(message) => message.encoded_len(),
            Self::PutUfrag(message) => message.encoded_len(),
            Self::StreamOfUfrag(message) => message.encoded_len(),
        }
    }
}

impl From<&Request> for Question {
    fn from(request: &Request) -> Self {
        let key = |stream: &StreamKey| stream.as_str().to_owned();
        match request {
            Request::Place { stream, protocol, intent, avoid, known, min_epoch, unreachable, force } => {
                Self::Place(proto::PlaceRequest {
                    stream: key(stream),
                    protocol: values::protocol_to_wire(*protocol),
                    intent: values::intent_to_wire(*intent),
                    avoid: avoid.iter().map(|id| id.as_str().to_owned()).collect(),
                    known: known.iter().map(Into::into).collect(),
                    min_epoch: *min_epoch,
                    unreachable: unreachable.iter().map(|node| node.as_str().to_owned()).collect(),
                    force: *force,
                })
            }
            Request::Claim { stream, known } => {
                Self::Claim(proto::ClaimRequest { stream: key(stream), known: known.iter().map(Into::into).collect() })
            }
            Request::RenewLeases(renewals) => {
                Self::RenewLeases(proto::RenewLeasesRequest { renewals: renewals.iter().map(Into::into).collect() })
            }
            Request::PushRecords { records, adopt } => Self::PushRecords(proto::PushRecordsRequest {
                records: Some(values::records_to_wire(records)),
                adopt: *adopt,
            }),
            Request::GetRecords(streams) => {
                Self::GetRecords(proto::GetRecordsRequest { streams: streams.iter().map(key).collect() })
            }
            Request::Snapshot { after } => Self::Snapshot(proto::SnapshotRequest { after: after.as_ref().map(key) }),
            Request::PutUfrag { id, stream, ttl } => Self::PutUfrag(proto::PutUfragRequest {
                id: id.clone(),
                stream: key(stream),
                ttl_ms: bounds::millis(*ttl),
            }),
            Request::StreamOfUfrag { id } => Self::StreamOfUfrag(proto::StreamOfUfragRequest { id: id.clone() }),
        }
    }
}

impl TryFrom<proto::PlaceRequest> for Request {
    type Error = WireError;

    fn try_from(request: proto::PlaceRequest) -> Result<Self, WireError> {
        Ok(Self::Place {
            stream: bounds::stream("stream", &request.stream)?,
            protocol: values::protocol("protocol", request.protocol)?,
            intent: values::intent("intent", request.intent)?,
            avoid: list("avoid", request.avoid, MAX_CANDIDATES, |id| bounds::origin_id("avoid", id))?,
            known: list("known", request.known, MAX_CANDIDATES, TryInto::try_into)?,
            min_epoch: request.min_epoch,
            unreachable: list("unreachable", request.unreachable, MAX_CANDIDATES, |id| {
                bounds::node("unreachable", id)
            })?,
            force: request.force,
        })
    }
}

impl TryFrom<proto::ClaimRequest> for Request {
    type Error = WireError;

    fn try_from(request: proto::ClaimRequest) -> Result<Self, WireError> {
        Ok(Self::Claim {
            stream: bounds::stream("stream", &request.stream)?,
            known: list("known", request.known, MAX_CANDIDATES, TryInto::try_into)?,
        })
    }
}

impl From<&Renewal> for proto::Renewal {
    fn from(renewal: &Renewal) -> Self {
        Self {
            stream: renewal.stream.as_str().to_owned(),
            record: Some((&renewal.record).into()),
            publishers: renewal.publishers,
            players: renewal.players,
        }
    }
}

impl TryFrom<proto::RenewLeasesRequest> for Request {
    type Error = WireError;

    fn try_from(request: proto::RenewLeasesRequest) -> Result<Self, WireError> {
        let renewals = list("renewals", request.renewals, MAX_ENTRIES, |renewal| {
            Ok(Renewal {
                stream: bounds::stream("stream", &renewal.stream)?,
                record: present("record", renewal.record)?.try_into()?,
                publishers: renewal.publishers,
                players: renewal.players,
            })
        })?;
        Ok(Self::RenewLeases(renewals))
    }
}

impl TryFrom<proto::PushRecordsRequest> for Request {
    type Error = WireError;

    fn try_from(request: proto::PushRecordsRequest) -> Result<Self, WireError> {
        Ok(Self::PushRecords { records: values::records("records", request.records)?, adopt: request.adopt })
    }
}

impl TryFrom<proto::GetRecordsRequest> for Request {
    type Error = WireError;

    fn try_from(request: proto::GetRecordsRequest) -> Result<Self, WireError> {
        let stream = |key: String| bounds::stream("streams", &key);
        Ok(Self::GetRecords(list("streams", request.streams, MAX_ENTRIES, stream)?))
    }
}

impl TryFrom<proto::SnapshotRequest> for Request {
    type Error = WireError;

    fn try_from(request: proto::SnapshotRequest) -> Result<Self, WireError> {
        let after = request.after.map(|key| bounds::stream("after", &key)).transpose()?;
        Ok(Self::Snapshot { after })
    }
}

impl TryFrom<proto::PutUfragRequest> for Request {
    type Error = WireError;

    fn try_from(request: proto::PutUfragRequest) -> Result<Self, WireError> {
        Ok(Self::PutUfrag {
            id: bounds::session_id("id", request.id)?,
            stream: bounds::stream("stream", &request.stream)?,
            ttl: Duration::from_millis(request.ttl_ms),
        })
    }
}

impl TryFrom<proto::StreamOfUfragRequest> for Request {
    type Error = WireError;

    fn try_from(request: proto::StreamOfUfragRequest) -> Result<Self, WireError> {
        Ok(Self::StreamOfUfrag { id: bounds::session_id("id", request.id)? })
    }
}
