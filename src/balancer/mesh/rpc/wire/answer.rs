//! Answers on the wire.

use std::time::Duration;

use super::{
    WireError,
    bounds::{self, MAX_CANDIDATES, MAX_ENTRIES, MAX_REASON, list, present},
    values,
};
use crate::balancer::{
    BalancerError,
    mesh::{
        message::{Address, Response},
        rpc::proto::{
            self, claim_response, done_response, place_error, place_response, records_response, snapshot_response,
            stream_of_ufrag_response,
        },
    },
};

/// An answer that is none to its question, which is a fault of the node that gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer does not belong to the question")]
pub struct Mismatch;

/// The field of every answer that says what came of the question.
const OUTCOME: &str = "outcome";

impl TryFrom<&Response> for proto::PlaceResponse {
    type Error = Mismatch;

    fn try_from(response: &Response) -> Result<Self, Mismatch> {
        use place_response::Outcome;
        let outcome = match response {
            Response::Placed { record, origin } => {
                Outcome::Placed(proto::Placed { record: Some(record.into()), origin: Some(origin.as_ref().into()) })
            }
            Response::Redirect(other) => Outcome::Redirect(other.into()),
            Response::Refused(error) => Outcome::Refused(error.into()),
            Response::NotServing => Outcome::NotServing(proto::NotServing {}),
            _ => return Err(Mismatch),
        };
        Ok(Self { outcome: Some(outcome) })
    }
}

impl TryFrom<proto::PlaceResponse> for Response {
    type Error = WireError;

    fn try_from(response: proto::PlaceResponse) -> Result<Self, WireError> {
        use place_response::Outcome;
        Ok(match present(OUTCOME, response.outcome)? {
            Outcome::Placed(placed) => Self::Placed {
                record: present("record", placed.record)?.try_into()?,
                origin: Box::new(present("origin", placed.origin)?.try_into()?),
            },
            Outcome::Redirect(other) => Self::Redirect(other.try_into()?),
            Outcome::Refused(error) => Self::Refused(error.try_into()?),
            Outcome::NotServing(_) => Self::NotServing,
        })
    }
}

impl From<&Address> for proto::Decider {
    fn from(address: &Address) -> Self {
        Self { node: address.node.as_str().to_owned(), grpc: address.grpc.clone() }
    }
}

impl TryFrom<proto::Decider> for Address {
    type Error = WireError;

    fn try_from(decider: proto::Decider) -> Result<Self, WireError> {
        Ok(Self { node: bounds::node("node", decider.node)?, grpc: bounds::address("grpc", decider.grpc)? })
    }
}

impl From<&BalancerError> for proto::PlaceError {
    fn from(error: &BalancerError) -> Self {
        use place_error::{NoOrigin, Reason};
        let reason = match error {
            BalancerError::NoOrigin { protocol, registered } => Reason::NoOrigin(NoOrigin {
                protocol: values::protocol_to_wire(*protocol),
                registered: *registered as u64,
            }),
            BalancerError::Full(text) => Reason::Full(bounds::cut(text, MAX_REASON)),
            BalancerError::Unavailable(text) => Reason::Unavailable(bounds::cut(text, MAX_REASON)),
        };
        Self { reason: Some(reason) }
    }
}

impl TryFrom<proto::PlaceError> for BalancerError {
    type Error = WireError;

    fn try_from(error: proto::PlaceError) -> Result<Self, WireError> {
        use place_error::Reason;
        Ok(match present("reason", error.reason)? {
            Reason::NoOrigin(none) => Self::NoOrigin {
                protocol: values::protocol("protocol", none.protocol)?,
                registered: usize::try_from(none.registered).unwrap_or(usize::MAX),
            },
            Reason::Full(text) => Self::Full(bounds::text("full", text, MAX_REASON)?),
            Reason::Unavailable(text) => Self::Unavailable(bounds::text("unavailable", text, MAX_REASON)?),
        })
    }
}

impl TryFrom<&Response> for proto::ClaimResponse {
    type Error = Mismatch;

    fn try_from(response: &Response) -> Result<Self, Mismatch> {
        use claim_response::Outcome;
        let outcome = match response {
            Response::Claimed { known, min_epoch, held } => Outcome::Claimed(proto::Claimed {
                known: known.iter().map(Into::into).collect(),
                min_epoch: *min_epoch,
                held: held.as_ref().map(Into::into),
            }),
            Response::NotServing => Outcome::NotServing(proto::NotServing {}),
            _ => return Err(Mismatch),
        };
        Ok(Self { outcome: Some(outcome) })
    }
}

impl TryFrom<proto::ClaimResponse> for Response {
    type Error = WireError;

    fn try_from(response: proto::ClaimResponse) -> Result<Self, WireError> {
        use claim_response::Outcome;
        Ok(match present(OUTCOME, response.outcome)? {
            Outcome::Claimed(claimed) => Self::Claimed {
                known: list("known", claimed.known, MAX_CANDIDATES, TryInto::try_into)?,
                min_epoch: claimed.min_epoch,
                held: claimed.held.map(TryInto::try_into).transpose()?,
            },
            Outcome::NotServing(_) => Self::NotServing,
        })
    }
}

impl TryFrom<&Response> for proto::RecordsResponse {
    type Error = Mismatch;

    fn try_from(response: &Response) -> Result<Self, Mismatch> {
        use records_response::Outcome;
        let outcome = match response {
            Response::Records(records) => Outcome::Records(values::records_to_wire(records)),
            Response::NotServing => Outcome::NotServing(proto::NotServing {}),
            _ => return Err(Mismatch),
        };
        Ok(Self { outcome: Some(outcome) })
    }
}

impl TryFrom<proto::RecordsResponse> for Response {
    type Error = WireError;

    fn try_from(response: proto::RecordsResponse) -> Result<Self, WireError> {
        use records_response::Outcome;
        Ok(match present(OUTCOME, response.outcome)? {
            Outcome::Records(records) => Self::Records(values::records("records", Some(records))?),
            Outcome::NotServing(_) => Self::NotServing,
        })
    }
}

impl TryFrom<&Response> for proto::DoneResponse {
    type Error = Mismatch;

    fn try_from(response: &Response) -> Result<Self, Mismatch> {
        use done_response::Outcome;
        let outcome = match response {
            Response::Done => Outcome::Done(proto::Done {}),
            Response::NotServing => Outcome::NotServing(proto::NotServing {}),
            _ => return Err(Mismatch),
        };
        Ok(Self { outcome: Some(outcome) })
    }
}

impl TryFrom<proto::DoneResponse> for Response {
    type Error = WireError;

    fn try_from(response: proto::DoneResponse) -> Result<Self, WireError> {
        use done_response::Outcome;
        Ok(match present(OUTCOME, response.outcome)? {
            Outcome::Done(_) => Self::Done,
            Outcome::NotServing(_) => Self::NotServing,
        })
    }
}

impl TryFrom<&Response> for proto::SnapshotResponse {
    type Error = Mismatch;

    fn try_from(response: &Response) -> Result<Self, Mismatch> {
        use snapshot_response::Outcome;
        let outcome = match response {
            Response::Page { records, origins, min_epoch, more } => Outcome::Page(proto::Page {
                records: Some(values::records_to_wire(records)),
                origins: origins
                    .iter()
                    .map(|(facts, age)| proto::AgedOrigin { facts: Some(facts.into()), age_ms: bounds::millis(*age) })
                    .collect(),
                min_epoch: *min_epoch,
                more: *more,
            }),
            Response::NotServing => Outcome::NotServing(proto::NotServing {}),
            _ => return Err(Mismatch),
        };
        Ok(Self { outcome: Some(outcome) })
    }
}

impl TryFrom<proto::SnapshotResponse> for Response {
    type Error = WireError;

    fn try_from(response: proto::SnapshotResponse) -> Result<Self, WireError> {
        use snapshot_response::Outcome;
        Ok(match present(OUTCOME, response.outcome)? {
            Outcome::Page(page) => Self::Page {
                records: values::records("records", page.records)?,
                origins: list("origins", page.origins, MAX_ENTRIES, |aged| {
                    Ok((present("facts", aged.facts)?.try_into()?, Duration::from_millis(aged.age_ms)))
                })?,
                min_epoch: page.min_epoch,
                more: page.more,
            },
            Outcome::NotServing(_) => Self::NotServing,
        })
    }
}

impl TryFrom<&Response> for proto::StreamOfUfragResponse {
    type Error = Mismatch;

    fn try_from(response: &Response) -> Result<Self, Mismatch> {
        use stream_of_ufrag_response::Outcome;
        let outcome = match response {
            Response::StreamOfUfrag(stream) => {
                Outcome::Found(proto::Found { stream: stream.as_ref().map(|key| key.as_str().to_owned()) })
            }
            Response::NotServing => Outcome::NotServing(proto::NotServing {}),
            _ => return Err(Mismatch),
        };
        Ok(Self { outcome: Some(outcome) })
    }
}

impl TryFrom<proto::StreamOfUfragResponse> for Response {
    type Error = WireError;

    fn try_from(response: proto::StreamOfUfragResponse) -> Result<Self, WireError> {
        use stream_of_ufrag_response::Outcome;
        Ok(match present(OUTCOME, response.outcome)? {
            Outcome::Found(found) => {
                Self::StreamOfUfrag(found.stream.map(|key| bounds::stream("stream", &key)).transpose()?)
            }
            Outcome::NotServing(_) => Self::NotServing,
        })
    }
}
