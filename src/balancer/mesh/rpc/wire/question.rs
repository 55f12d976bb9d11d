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
    Renew(proto::RenewRequest),
    Tell(proto::TellRequest),
    Lookup(proto::LookupRequest),
    Snapshot(proto::SnapshotRequest),
    PutSession(proto::PutSessionRequest),
    Session(proto::SessionRequest),
}

impl Question {
    /// The size of the message, in bytes.
    pub fn encoded_len(&self) -> usize {
        match self {
            Self::Place(message) => message.encoded_len(),
            Self::Claim(message) => message.encoded_len(),
            Self::Renew(message) => message.encoded_len(),
            Self::Tell(message) => message.encoded_len(),
            Self::Lookup(message) => message.encoded_len(),
            Self::Snapshot(message) => message.encoded_len(),
            Self::PutSession(message) => message.encoded_len(),
            Self::Session(message) => message.encoded_len(),
        }
    }
}

impl From<&Request> for Question {
    fn from(request: &Request) -> Self {
        let key = |stream: &StreamKey| stream.as_str().to_owned();
        match request {
            Request::Place { stream, protocol, intent, avoid, known, floor, unreachable, insist } => {
                Self::Place(proto::PlaceRequest {
                    stream: key(stream),
                    protocol: values::protocol_to_wire(*protocol),
                    intent: values::intent_to_wire(*intent),
                    avoid: avoid.iter().map(|id| id.as_str().to_owned()).collect(),
                    known: known.iter().map(Into::into).collect(),
                    floor: *floor,
                    unreachable: unreachable.iter().map(|node| node.as_str().to_owned()).collect(),
                    insist: *insist,
                })
            }
            Request::Claim { stream, known } => {
                Self::Claim(proto::ClaimRequest { stream: key(stream), known: known.iter().map(Into::into).collect() })
            }
            Request::Renew(renewals) => {
                Self::Renew(proto::RenewRequest { renewals: renewals.iter().map(Into::into).collect() })
            }
            Request::Tell { records, adopt } => {
                Self::Tell(proto::TellRequest { records: Some(values::records_to_wire(records)), adopt: *adopt })
            }
            Request::Lookup(streams) => {
                Self::Lookup(proto::LookupRequest { streams: streams.iter().map(key).collect() })
            }
            Request::Snapshot { after } => Self::Snapshot(proto::SnapshotRequest { after: after.as_ref().map(key) }),
            Request::PutSession { id, stream, ttl } => Self::PutSession(proto::PutSessionRequest {
                id: id.clone(),
                stream: key(stream),
                ttl_ms: bounds::millis(*ttl),
            }),
            Request::Session { id } => Self::Session(proto::SessionRequest { id: id.clone() }),
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
            floor: request.floor,
            unreachable: list("unreachable", request.unreachable, MAX_CANDIDATES, |id| {
                bounds::node("unreachable", id)
            })?,
            insist: request.insist,
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

impl TryFrom<proto::RenewRequest> for Request {
    type Error = WireError;

    fn try_from(request: proto::RenewRequest) -> Result<Self, WireError> {
        let renewals = list("renewals", request.renewals, MAX_ENTRIES, |renewal| {
            Ok(Renewal {
                stream: bounds::stream("stream", &renewal.stream)?,
                record: present("record", renewal.record)?.try_into()?,
                publishers: renewal.publishers,
                players: renewal.players,
            })
        })?;
        Ok(Self::Renew(renewals))
    }
}

impl TryFrom<proto::TellRequest> for Request {
    type Error = WireError;

    fn try_from(request: proto::TellRequest) -> Result<Self, WireError> {
        Ok(Self::Tell { records: values::records("records", request.records)?, adopt: request.adopt })
    }
}

impl TryFrom<proto::LookupRequest> for Request {
    type Error = WireError;

    fn try_from(request: proto::LookupRequest) -> Result<Self, WireError> {
        let stream = |key: String| bounds::stream("streams", &key);
        Ok(Self::Lookup(list("streams", request.streams, MAX_ENTRIES, stream)?))
    }
}

impl TryFrom<proto::SnapshotRequest> for Request {
    type Error = WireError;

    fn try_from(request: proto::SnapshotRequest) -> Result<Self, WireError> {
        let after = request.after.map(|key| bounds::stream("after", &key)).transpose()?;
        Ok(Self::Snapshot { after })
    }
}

impl TryFrom<proto::PutSessionRequest> for Request {
    type Error = WireError;

    fn try_from(request: proto::PutSessionRequest) -> Result<Self, WireError> {
        Ok(Self::PutSession {
            id: bounds::session_id("id", request.id)?,
            stream: bounds::stream("stream", &request.stream)?,
            ttl: Duration::from_millis(request.ttl_ms),
        })
    }
}

impl TryFrom<proto::SessionRequest> for Request {
    type Error = WireError;

    fn try_from(request: proto::SessionRequest) -> Result<Self, WireError> {
        Ok(Self::Session { id: bounds::session_id("id", request.id)? })
    }
}
