//! How questions, answers and gossip values look on the wire (`proto/mesh.proto`). What comes from there is
//! checked before anything uses it: an error names the field.

mod bounds;
pub mod message;
mod request;
mod response;
#[cfg(test)]
mod tests;
mod values;

use prost::Message;

pub(super) use self::bounds::node;
pub use self::bounds::{MAX_CANDIDATES, MAX_ENTRIES, MAX_REASON};
use crate::{
    balancer::mesh::{
        model::member::NodeInfo,
        model::origins::OriginFacts,
        model::record::Record,
        wire::message::{Request, Response},
    },
    stream::StreamKey,
};

/// Generated from `proto/mesh.proto`, where everything is documented.
#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::unwrap_used, clippy::expect_used)]
pub(super) mod proto {
    tonic::include_proto!("srs_proxy.mesh.v1");
}

/// The largest message, in bytes.
pub const MAX_MESSAGE: usize = 4 << 20;

/// How much a list fills of a message, in bytes: a receiver works on one at a time, and others wait.
pub const MAX_BATCH: usize = 1 << 20;
/// How many items such a list has at most. They are gathered and taken in under the lock of a node.
const MAX_BATCH_ENTRIES: usize = 1_000;

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

/// A question, without gRPC's framing.
pub fn encode_request(request: &Request) -> Vec<u8> {
    proto::Request::from(request).encode_to_vec()
}

/// Reads what [`encode_request`] wrote.
pub fn decode_request(bytes: &[u8]) -> Result<Request, WireError> {
    decode::<proto::Request>(bytes)?.try_into()
}

/// An answer, without gRPC's framing.
pub fn encode_response(response: &Response) -> Vec<u8> {
    proto::Response::from(response).encode_to_vec()
}

/// Reads what [`encode_response`] wrote.
pub fn decode_response(bytes: &[u8]) -> Result<Response, WireError> {
    decode::<proto::Response>(bytes)?.try_into()
}

/// How much of [`MAX_BATCH`] is left in a message that is being filled.
#[derive(Debug)]
pub struct Budget {
    bytes: usize,
    entries: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { bytes: MAX_BATCH, entries: MAX_BATCH_ENTRIES }
    }
}

impl Budget {
    /// Takes `entries` of `bytes` in all, if there is room for all of them. An empty message has room
    /// for whatever is to be sent, so that nothing is left behind for ever: the largest stream, with the
    /// most records, is far below [`MAX_MESSAGE`].
    pub fn take(&mut self, entries: usize, bytes: usize) -> bool {
        let is_empty = self.bytes == MAX_BATCH;
        let (Some(left), Some(entries)) = (self.bytes.checked_sub(bytes), self.entries.checked_sub(entries)) else {
            if is_empty {
                *self = Self { bytes: 0, entries: 0 };
            }
            return is_empty;
        };
        *self = Self { bytes: left, entries };
        true
    }
}

/// Cuts a list into those of one message each; `len` is the size of an item in bytes at the most.
pub fn batches<T>(items: impl IntoIterator<Item = T>, len: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let mut batches: Vec<Vec<T>> = Vec::new();
    let mut budget = Budget { bytes: 0, entries: 0 };
    for item in items {
        let len = len(&item);
        match batches.last_mut() {
            Some(batch) if budget.take(1, len) => batch.push(item),
            _ => {
                budget = Budget::default();
                budget.take(1, len);
                batches.push(vec![item]);
            }
        }
    }
    batches
}

/// How much of a message a record of a stream takes at most, in bytes, a renewal's counts included.
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
