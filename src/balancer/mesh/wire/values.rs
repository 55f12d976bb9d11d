//! What is posted, and what questions and answers are made of.

use std::{collections::BTreeMap, net::IpAddr};

use super::{
    WireError,
    bounds::{self, MAX_ENTRIES, MAX_REASON, invalid, list, present},
};
use crate::{
    balancer::{
        Intent,
        mesh::{
            model::member::{Address, NodeInfo, NodeState},
            model::origins::OriginFacts,
            model::record::{MAX_HISTORY, Record, Stamp},
            wire::message::Cursor,
            wire::proto::{self, cursor::Last},
        },
    },
    origin::{Endpoint, Origin, Protocol, is_host_name},
    stream::StreamKey,
};

/// The longest text of an origin, in bytes, as in its heartbeat.
const MAX_TEXT: usize = 256;
/// The longest name of an origin's software, in bytes.
const MAX_SOFTWARE: usize = 1024;
/// The most endpoints of one protocol, as in a heartbeat.
const MAX_ENDPOINTS: usize = 16;
/// The longest version, in bytes.
const MAX_VERSION: usize = 64;

impl From<&Record> for proto::Record {
    fn from(record: &Record) -> Self {
        Self {
            origin: record.origin.as_str().to_owned(),
            epoch: record.epoch,
            since: record.since.0,
            published: record.published,
            writer: record.writer.as_str().to_owned(),
            written: record.written.0,
            history: record
                .history
                .iter()
                .map(|(node, stamp)| proto::HistoryEntry { node: node.as_str().to_owned(), written: stamp.0 })
                .collect(),
        }
    }
}

impl TryFrom<proto::Record> for Record {
    type Error = WireError;

    fn try_from(record: proto::Record) -> Result<Self, WireError> {
        let entries = list("history", record.history, MAX_HISTORY, |entry| {
            Ok((bounds::node("history.node", entry.node)?, Stamp(entry.written)))
        })?;
        let count = entries.len();
        let history: BTreeMap<_, _> = entries.into_iter().collect();
        if history.len() < count {
            return Err(invalid("history", "names a node twice"));
        }
        Ok(Self {
            origin: bounds::origin_id("origin", record.origin)?,
            epoch: record.epoch,
            since: Stamp(record.since),
            published: record.published,
            writer: bounds::node("writer", record.writer)?,
            written: Stamp(record.written),
            history,
        })
    }
}

impl From<&OriginFacts> for proto::OriginFacts {
    fn from(facts: &OriginFacts) -> Self {
        Self {
            origin: Some((&facts.origin).into()),
            last_heartbeat: facts.last_heartbeat.0,
            failed: facts
                .failed
                .as_ref()
                .map(|(at, reason)| proto::Failure { at: at.0, reason: bounds::cut(reason, MAX_REASON) }),
            recovered_at: facts.recovered_at.0,
            replaced_at: facts.replaced_at.0,
        }
    }
}

impl TryFrom<proto::OriginFacts> for OriginFacts {
    type Error = WireError;

    fn try_from(facts: proto::OriginFacts) -> Result<Self, WireError> {
        let failed = facts
            .failed
            .map(|failure| {
                let reason = bounds::text("failed.reason", failure.reason, MAX_REASON)?;
                Ok((Stamp(failure.at), reason))
            })
            .transpose()?;
        Ok(Self {
            origin: present("origin", facts.origin)?.try_into()?,
            last_heartbeat: Stamp(facts.last_heartbeat),
            failed,
            recovered_at: Stamp(facts.recovered_at),
            replaced_at: Stamp(facts.replaced_at),
        })
    }
}

impl From<&Origin> for proto::Origin {
    fn from(origin: &Origin) -> Self {
        let endpoints = |protocol| origin.endpoints(protocol).iter().map(|e| e.as_str().to_owned()).collect();
        Self {
            server_id: origin.server_id.clone(),
            service_id: origin.service_id.clone(),
            pid: origin.pid.clone(),
            device_id: origin.device_id.clone(),
            ip: origin.ip.clone(),
            rtmp: endpoints(Protocol::Rtmp),
            http: endpoints(Protocol::Http),
            api: endpoints(Protocol::Api),
            srt: endpoints(Protocol::Srt),
            rtc: endpoints(Protocol::Rtc),
            software: bounds::cut(&origin.software, MAX_SOFTWARE),
            cpu: origin.cpu,
        }
    }
}

impl TryFrom<proto::Origin> for Origin {
    type Error = WireError;

    fn try_from(origin: proto::Origin) -> Result<Self, WireError> {
        let ip = bounds::name("ip", origin.ip, MAX_TEXT)?;
        let is_host = ip.parse::<IpAddr>().map_or_else(|_| is_host_name(&ip), |ip| !ip.is_unspecified());
        if !is_host {
            return Err(invalid("ip", "is neither an address nor a host name"));
        }
        if origin.cpu.is_some_and(|cpu| !(0.0..=1.0).contains(&cpu)) {
            return Err(invalid("cpu", "is not between 0 and 1"));
        }
        if origin.rtmp.is_empty() {
            return Err(invalid("rtmp", "is empty"));
        }
        Ok(Self {
            server_id: bounds::name("server_id", origin.server_id, MAX_TEXT)?,
            service_id: bounds::name("service_id", origin.service_id, MAX_TEXT)?,
            pid: bounds::name("pid", origin.pid, MAX_TEXT)?,
            device_id: bounds::text("device_id", origin.device_id, MAX_TEXT)?,
            ip,
            rtmp: endpoints("rtmp", origin.rtmp)?,
            http: endpoints("http", origin.http)?,
            api: endpoints("api", origin.api)?,
            srt: endpoints("srt", origin.srt)?,
            rtc: endpoints("rtc", origin.rtc)?,
            software: bounds::text("software", origin.software, MAX_SOFTWARE)?,
            cpu: origin.cpu,
        })
    }
}

fn endpoints(field: &'static str, texts: Vec<String>) -> Result<Vec<Endpoint>, WireError> {
    list(field, texts, MAX_ENDPOINTS, |text| {
        let text = bounds::text(field, text, MAX_TEXT)?;
        Endpoint::parse(&text).map_err(|error| invalid(field, error.to_string()))
    })
}

impl From<&NodeInfo> for proto::NodeInfo {
    fn from(info: &NodeInfo) -> Self {
        let state = match info.state {
            NodeState::Joining => proto::NodeState::Joining,
            NodeState::Serving => proto::NodeState::Serving,
            NodeState::Draining => proto::NodeState::Draining,
            NodeState::Left => proto::NodeState::Left,
        };
        Self { state: state.into(), grpc: info.grpc.clone(), view: info.view, version: info.version.clone() }
    }
}

impl TryFrom<proto::NodeInfo> for NodeInfo {
    type Error = WireError;

    fn try_from(info: proto::NodeInfo) -> Result<Self, WireError> {
        let state = match proto::NodeState::try_from(info.state) {
            Ok(proto::NodeState::Joining) => NodeState::Joining,
            Ok(proto::NodeState::Serving) => NodeState::Serving,
            Ok(proto::NodeState::Draining) => NodeState::Draining,
            Ok(proto::NodeState::Left) => NodeState::Left,
            Ok(proto::NodeState::Unspecified) | Err(_) => return Err(unknown("state", info.state)),
        };
        Ok(Self {
            state,
            grpc: bounds::address("grpc", info.grpc)?,
            view: info.view,
            version: bounds::text("version", info.version, MAX_VERSION)?,
        })
    }
}

impl From<&Address> for proto::NodeAddress {
    fn from(address: &Address) -> Self {
        Self { node: address.node.as_str().to_owned(), grpc: address.grpc.clone() }
    }
}

impl TryFrom<proto::NodeAddress> for Address {
    type Error = WireError;

    fn try_from(address: proto::NodeAddress) -> Result<Self, WireError> {
        Ok(Self { node: bounds::node("node", address.node)?, grpc: bounds::address("grpc", address.grpc)? })
    }
}

impl From<&Cursor> for proto::Cursor {
    fn from(cursor: &Cursor) -> Self {
        let last = match cursor {
            Cursor::Origin(id) => Last::Origin(id.as_str().to_owned()),
            Cursor::Stream(stream) => Last::Stream(key(stream)),
        };
        Self { last: Some(last) }
    }
}

impl TryFrom<proto::Cursor> for Cursor {
    type Error = WireError;

    fn try_from(cursor: proto::Cursor) -> Result<Self, WireError> {
        Ok(match present("last", cursor.last)? {
            Last::Origin(id) => Self::Origin(bounds::origin_id("origin", id)?),
            Last::Stream(stream) => Self::Stream(bounds::stream("stream", &stream)?),
        })
    }
}

/// A stream as it is on the wire.
pub(super) fn key(stream: &StreamKey) -> String {
    stream.as_str().to_owned()
}

fn unknown(field: &'static str, value: i32) -> WireError {
    invalid(field, format!("{value} is unknown"))
}

pub(super) fn protocol_to_wire(protocol: Protocol) -> i32 {
    match protocol {
        Protocol::Rtmp => proto::Protocol::Rtmp,
        Protocol::Http => proto::Protocol::Http,
        Protocol::Api => proto::Protocol::Api,
        Protocol::Srt => proto::Protocol::Srt,
        Protocol::Rtc => proto::Protocol::Rtc,
    }
    .into()
}

pub(super) fn protocol(field: &'static str, value: i32) -> Result<Protocol, WireError> {
    match proto::Protocol::try_from(value) {
        Ok(proto::Protocol::Rtmp) => Ok(Protocol::Rtmp),
        Ok(proto::Protocol::Http) => Ok(Protocol::Http),
        Ok(proto::Protocol::Api) => Ok(Protocol::Api),
        Ok(proto::Protocol::Srt) => Ok(Protocol::Srt),
        Ok(proto::Protocol::Rtc) => Ok(Protocol::Rtc),
        Ok(proto::Protocol::Unspecified) | Err(_) => Err(unknown(field, value)),
    }
}

pub(super) fn intent_to_wire(intent: Intent) -> i32 {
    match intent {
        Intent::Publish => proto::Intent::Publish,
        Intent::Play => proto::Intent::Play,
    }
    .into()
}

pub(super) fn intent(field: &'static str, value: i32) -> Result<Intent, WireError> {
    match proto::Intent::try_from(value) {
        Ok(proto::Intent::Publish) => Ok(Intent::Publish),
        Ok(proto::Intent::Play) => Ok(Intent::Play),
        Ok(proto::Intent::Unspecified) | Err(_) => Err(unknown(field, value)),
    }
}

pub(super) fn records_to_wire(records: &[(StreamKey, Record)]) -> proto::Records {
    let entry =
        |(stream, record): &(StreamKey, Record)| proto::Entry { stream: key(stream), record: Some(record.into()) };
    proto::Records { entries: records.iter().map(entry).collect() }
}

pub(super) fn records(
    field: &'static str,
    records: Option<proto::Records>,
) -> Result<Vec<(StreamKey, Record)>, WireError> {
    list(field, present(field, records)?.entries, MAX_ENTRIES, |entry| {
        Ok((bounds::stream("stream", &entry.stream)?, present("record", entry.record)?.try_into()?))
    })
}
