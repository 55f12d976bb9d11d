//! Answers on the wire.

use std::time::Duration;

use super::{
    WireError,
    bounds::{self, MAX_CANDIDATES, MAX_ENTRIES, MAX_REASON, list, present},
    values::{self, key, records_to_wire},
};
use crate::balancer::{
    BalancerError,
    mesh::{
        wire::message::Response,
        wire::proto::{
            self,
            refusal::{NoOrigin, Reason},
            response::Answer,
        },
    },
};

impl From<&Response> for proto::Response {
    fn from(response: &Response) -> Self {
        let answer = match response {
            Response::Placed { record, origin } => {
                Answer::Placed(proto::Placed { record: Some(record.into()), origin: Some(origin.as_ref().into()) })
            }
            Response::Redirect(node) => Answer::Redirect(node.into()),
            Response::Refused(error) => Answer::Refused(error.into()),
            Response::Claimed { known, min_epoch, held } => Answer::Claimed(proto::Claimed {
                known: known.iter().map(Into::into).collect(),
                min_epoch: *min_epoch,
                held: held.as_ref().map(Into::into),
            }),
            Response::Records(records) => Answer::Records(records_to_wire(records)),
            Response::Page { records, origins, min_epoch, next } => Answer::Page(proto::Page {
                records: Some(records_to_wire(records)),
                origins: origins
                    .iter()
                    .map(|(facts, age)| proto::AgedOrigin { facts: Some(facts.into()), age_ms: bounds::millis(*age) })
                    .collect(),
                min_epoch: *min_epoch,
                next: next.as_ref().map(Into::into),
            }),
            Response::StreamOfUfrag(stream) => Answer::Found(proto::Found { stream: stream.as_ref().map(key) }),
            Response::Done => Answer::Done(proto::Done {}),
            Response::NotServing => Answer::NotServing(proto::NotServing {}),
        };
        Self { answer: Some(answer) }
    }
}

impl TryFrom<proto::Response> for Response {
    type Error = WireError;

    fn try_from(response: proto::Response) -> Result<Self, WireError> {
        Ok(match present("answer", response.answer)? {
            Answer::Placed(placed) => Self::Placed {
                record: present("record", placed.record)?.try_into()?,
                origin: Box::new(present("origin", placed.origin)?.try_into()?),
            },
            Answer::Redirect(node) => Self::Redirect(node.try_into()?),
            Answer::Refused(refusal) => Self::Refused(refusal.try_into()?),
            Answer::Claimed(claimed) => Self::Claimed {
                known: list("known", claimed.known, MAX_CANDIDATES, TryInto::try_into)?,
                min_epoch: claimed.min_epoch,
                held: claimed.held.map(TryInto::try_into).transpose()?,
            },
            Answer::Records(records) => Self::Records(values::records("records", Some(records))?),
            Answer::Page(page) => Self::Page {
                records: values::records("records", page.records)?,
                origins: list("origins", page.origins, MAX_ENTRIES, |aged| {
                    Ok((present("facts", aged.facts)?.try_into()?, Duration::from_millis(aged.age_ms)))
                })?,
                min_epoch: page.min_epoch,
                next: page.next.map(TryInto::try_into).transpose()?,
            },
            Answer::Found(found) => {
                Self::StreamOfUfrag(found.stream.map(|key| bounds::stream("stream", &key)).transpose()?)
            }
            Answer::Done(_) => Self::Done,
            Answer::NotServing(_) => Self::NotServing,
        })
    }
}

impl From<&BalancerError> for proto::Refusal {
    fn from(error: &BalancerError) -> Self {
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

impl TryFrom<proto::Refusal> for BalancerError {
    type Error = WireError;

    fn try_from(refusal: proto::Refusal) -> Result<Self, WireError> {
        Ok(match present("reason", refusal.reason)? {
            Reason::NoOrigin(none) => Self::NoOrigin {
                protocol: values::protocol("protocol", none.protocol)?,
                registered: usize::try_from(none.registered).unwrap_or(usize::MAX),
            },
            Reason::Full(text) => Self::Full(bounds::text("full", text, MAX_REASON)?),
            Reason::Unavailable(text) => Self::Unavailable(bounds::text("unavailable", text, MAX_REASON)?),
        })
    }
}
