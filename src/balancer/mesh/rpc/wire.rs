//! How questions, answers and posts look on the wire (`proto/mesh.proto`). What comes from there is
//! checked before anything uses it: an error names the field.

mod answer;
mod bounds;
mod question;
#[cfg(test)]
mod tests;
mod values;

use prost::Message;

pub use self::{
    answer::Mismatch,
    bounds::{MAX_CANDIDATES, MAX_ENTRIES, MAX_REASON},
};
pub(super) use self::{bounds::node, question::Question};
use super::proto;
use crate::{
    balancer::mesh::{
        message::{NodeInfo, OriginFacts, Request, Response},
        record::Record,
    },
    stream::StreamKey,
};

/// The largest message, in bytes.
pub const MAX_MESSAGE: usize = 4 << 20;

/// What is around an item of a list, and its share of what is around the list, in bytes at the most.
const FRAME: usize = 16;

/// Why bytes are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// They are not a protobuf message of this type.
    #[error("not a valid message: {0}")]
    Protobuf(String),
    /// They are, but a field breaks a rule.
    #[error("field {field}: {reason}")]
    Field {
        /// The field's name in `mesh.proto`.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

/// The kinds of questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// [`Request::Place`].
    Place,
    /// [`Request::Claim`].
    Claim,
    /// [`Request::RenewLeases`].
    RenewLeases,
    /// [`Request::PushRecords`].
    PushRecords,
    /// [`Request::GetRecords`].
    GetRecords,
    /// [`Request::Snapshot`].
    Snapshot,
    /// [`Request::PutUfrag`].
    PutUfrag,
    /// [`Request::StreamOfUfrag`].
    StreamOfUfrag,
}

impl Method {
    /// All kinds.
    pub const ALL: [Self; 8] = [
        Self::Place,
        Self::Claim,
        Self::RenewLeases,
        Self::PushRecords,
        Self::GetRecords,
        Self::Snapshot,
        Self::PutUfrag,
        Self::StreamOfUfrag,
    ];

    /// The kind of a question.
    pub const fn of(request: &Request) -> Self {
        match request {
            Request::Place { .. } => Self::Place,
            Request::Claim { .. } => Self::Claim,
            Request::RenewLeases(_) => Self::RenewLeases,
            Request::PushRecords { .. } => Self::PushRecords,
            Request::GetRecords(_) => Self::GetRecords,
            Request::Snapshot { .. } => Self::Snapshot,
            Request::PutUfrag { .. } => Self::PutUfrag,
            Request::StreamOfUfrag { .. } => Self::StreamOfUfrag,
        }
    }
}

/// A record as it is posted.
pub fn encode_record(record: &Record) -> Vec<u8> {
    proto::Record::from(record).encode_to_vec()
}

/// Reads what [`encode_record`] wrote.
pub fn decode_record(bytes: &[u8]) -> Result<Record, WireError> {
    decode::<proto::Record>(bytes)?.try_into()
}

/// What is known of an origin as it is posted. A failure's reason is cut to [`MAX_REASON`].
pub fn encode_origin(facts: &OriginFacts) -> Vec<u8> {
    proto::OriginFacts::from(facts).encode_to_vec()
}

/// Reads what [`encode_origin`] wrote.
pub fn decode_origin(bytes: &[u8]) -> Result<OriginFacts, WireError> {
    decode::<proto::OriginFacts>(bytes)?.try_into()
}

/// What a node says of itself as it is posted.
pub fn encode_node(info: &NodeInfo) -> Vec<u8> {
    proto::NodeInfo::from(info).encode_to_vec()
}

/// Reads what [`encode_node`] wrote.
pub fn decode_node(bytes: &[u8]) -> Result<NodeInfo, WireError> {
    decode::<proto::NodeInfo>(bytes)?.try_into()
}

/// The message of a question, without gRPC's framing.
pub fn encode_request(request: &Request) -> Vec<u8> {
    match Question::from(request) {
        Question::Place(message) => message.encode_to_vec(),
        Question::Claim(message) => message.encode_to_vec(),
        Question::RenewLeases(message) => message.encode_to_vec(),
        Question::PushRecords(message) => message.encode_to_vec(),
        Question::GetRecords(message) => message.encode_to_vec(),
        Question::Snapshot(message) => message.encode_to_vec(),
        Question::PutUfrag(message) => message.encode_to_vec(),
        Question::StreamOfUfrag(message) => message.encode_to_vec(),
    }
}

/// Reads what [`encode_request`] wrote.
pub fn decode_request(method: Method, bytes: &[u8]) -> Result<Request, WireError> {
    match method {
        Method::Place => decode::<proto::PlaceRequest>(bytes)?.try_into(),
        Method::Claim => decode::<proto::ClaimRequest>(bytes)?.try_into(),
        Method::RenewLeases => decode::<proto::RenewLeasesRequest>(bytes)?.try_into(),
        Method::PushRecords => decode::<proto::PushRecordsRequest>(bytes)?.try_into(),
        Method::GetRecords => decode::<proto::GetRecordsRequest>(bytes)?.try_into(),
        Method::Snapshot => decode::<proto::SnapshotRequest>(bytes)?.try_into(),
        Method::PutUfrag => decode::<proto::PutUfragRequest>(bytes)?.try_into(),
        Method::StreamOfUfrag => decode::<proto::StreamOfUfragRequest>(bytes)?.try_into(),
    }
}

/// The message of an answer to a question of the kind `method`, without gRPC's framing.
pub fn encode_response(method: Method, response: &Response) -> Result<Vec<u8>, Mismatch> {
    Ok(match method {
        Method::Place => proto::PlaceResponse::try_from(response)?.encode_to_vec(),
        Method::Claim => proto::ClaimResponse::try_from(response)?.encode_to_vec(),
        Method::RenewLeases | Method::GetRecords => proto::RecordsResponse::try_from(response)?.encode_to_vec(),
        Method::PushRecords | Method::PutUfrag => proto::DoneResponse::try_from(response)?.encode_to_vec(),
        Method::Snapshot => proto::SnapshotResponse::try_from(response)?.encode_to_vec(),
        Method::StreamOfUfrag => proto::StreamOfUfragResponse::try_from(response)?.encode_to_vec(),
    })
}

/// Reads what [`encode_response`] wrote.
pub fn decode_response(method: Method, bytes: &[u8]) -> Result<Response, WireError> {
    match method {
        Method::Place => decode::<proto::PlaceResponse>(bytes)?.try_into(),
        Method::Claim => decode::<proto::ClaimResponse>(bytes)?.try_into(),
        Method::RenewLeases | Method::GetRecords => decode::<proto::RecordsResponse>(bytes)?.try_into(),
        Method::PushRecords | Method::PutUfrag => decode::<proto::DoneResponse>(bytes)?.try_into(),
        Method::Snapshot => decode::<proto::SnapshotResponse>(bytes)?.try_into(),
        Method::StreamOfUfrag => decode::<proto::StreamOfUfragResponse>(bytes)?.try_into(),
    }
}

/// How much of a message a record of a stream takes at most, in bytes, a renewal's counts included. A
/// message takes as many as come to no more than [`MAX_MESSAGE`], and at most [`MAX_ENTRIES`].
pub fn entry_len(stream: &StreamKey, record: &Record) -> usize {
    let counted = proto::Renewal {
        stream: stream.as_str().to_owned(),
        record: Some(record.into()),
        publishers: u32::MAX,
        players: u32::MAX,
    };
    counted.encoded_len() + FRAME
}

/// How much of a page an origin takes at most, in bytes.
pub fn origin_len(facts: &OriginFacts) -> usize {
    proto::AgedOrigin { facts: Some(facts.into()), age_ms: u64::MAX }.encoded_len() + FRAME
}

fn decode<M: Message + Default>(bytes: &[u8]) -> Result<M, WireError> {
    M::decode(bytes).map_err(|error| WireError::Protobuf(error.to_string()))
}
