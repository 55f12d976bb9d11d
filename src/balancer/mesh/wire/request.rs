//! Questions on the wire.

use std::time::Duration;

use super::{
    WireError,
    bounds::{self, MAX_CANDIDATES, MAX_ENTRIES, list, present},
    values::{self, key, records_to_wire},
};
use crate::balancer::mesh::{
    wire::message::{PlaceQuery, Renewal, Request},
    wire::proto::{self, request::Question},
};

impl From<&Request> for proto::Request {
    fn from(request: &Request) -> Self {
        let question = match request {
            Request::Place { query, known, min_epoch } => Question::Place(proto::Place {
                stream: key(&query.stream),
                protocol: values::protocol_to_wire(query.protocol),
                intent: values::intent_to_wire(query.intent),
                avoid: query.avoid.iter().map(|id| id.as_str().to_owned()).collect(),
                known: known.iter().map(Into::into).collect(),
                min_epoch: *min_epoch,
                unreachable: query.unreachable.iter().map(|node| node.as_str().to_owned()).collect(),
                force: query.force,
            }),
            Request::Claim { stream, known } => {
                Question::Claim(proto::Claim { stream: key(stream), known: known.iter().map(Into::into).collect() })
            }
            Request::RenewLeases(renewals) => {
                Question::RenewLeases(proto::RenewLeases { renewals: renewals.iter().map(Into::into).collect() })
            }
            Request::PushRecords { records, adopt } => {
                Question::PushRecords(proto::PushRecords { records: Some(records_to_wire(records)), adopt: *adopt })
            }
            Request::GetRecords(streams) => {
                Question::GetRecords(proto::GetRecords { streams: streams.iter().map(key).collect() })
            }
            Request::Snapshot { after } => {
                Question::Snapshot(proto::Snapshot { after: after.as_ref().map(Into::into) })
            }
            Request::PutUfrag { id, stream, ttl } => Question::PutUfrag(proto::PutUfrag {
                id: id.clone(),
                stream: key(stream),
                ttl_ms: bounds::millis(*ttl),
            }),
            Request::StreamOfUfrag { id } => Question::StreamOfUfrag(proto::StreamOfUfrag { id: id.clone() }),
        };
        Self { question: Some(question) }
    }
}

impl TryFrom<proto::Request> for Request {
    type Error = WireError;

    fn try_from(request: proto::Request) -> Result<Self, WireError> {
        Ok(match present("question", request.question)? {
            Question::Place(place) => Self::Place {
                query: PlaceQuery {
                    stream: bounds::stream("stream", &place.stream)?,
                    protocol: values::protocol("protocol", place.protocol)?,
                    intent: values::intent("intent", place.intent)?,
                    avoid: list("avoid", place.avoid, MAX_CANDIDATES, |id| bounds::origin_id("avoid", id))?,
                    unreachable: list("unreachable", place.unreachable, MAX_CANDIDATES, |id| {
                        bounds::node("unreachable", id)
                    })?,
                    force: place.force,
                },
                known: list("known", place.known, MAX_CANDIDATES, TryInto::try_into)?,
                min_epoch: place.min_epoch,
            },
            Question::Claim(claim) => Self::Claim {
                stream: bounds::stream("stream", &claim.stream)?,
                known: list("known", claim.known, MAX_CANDIDATES, TryInto::try_into)?,
            },
            Question::RenewLeases(renew) => {
                Self::RenewLeases(list("renewals", renew.renewals, MAX_ENTRIES, TryInto::try_into)?)
            }
            Question::PushRecords(push) => {
                Self::PushRecords { records: values::records("records", push.records)?, adopt: push.adopt }
            }
            Question::GetRecords(get) => {
                let stream = |key: String| bounds::stream("streams", &key);
                Self::GetRecords(list("streams", get.streams, MAX_ENTRIES, stream)?)
            }
            Question::Snapshot(snapshot) => {
                Self::Snapshot { after: snapshot.after.map(TryInto::try_into).transpose()? }
            }
            Question::PutUfrag(put) => Self::PutUfrag {
                id: bounds::ufrag_id("id", put.id)?,
                stream: bounds::stream("stream", &put.stream)?,
                ttl: Duration::from_millis(put.ttl_ms),
            },
            Question::StreamOfUfrag(query) => Self::StreamOfUfrag { id: bounds::ufrag_id("id", query.id)? },
        })
    }
}

impl From<&Renewal> for proto::Renewal {
    fn from(renewal: &Renewal) -> Self {
        Self {
            stream: key(&renewal.stream),
            record: Some((&renewal.record).into()),
            publishers: renewal.publishers,
            players: renewal.players,
        }
    }
}

impl TryFrom<proto::Renewal> for Renewal {
    type Error = WireError;

    fn try_from(renewal: proto::Renewal) -> Result<Self, WireError> {
        Ok(Self {
            stream: bounds::stream("stream", &renewal.stream)?,
            record: present("record", renewal.record)?.try_into()?,
            publishers: renewal.publishers,
            players: renewal.players,
        })
    }
}
