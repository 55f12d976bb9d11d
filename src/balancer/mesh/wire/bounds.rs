//! What a field may be at most, and the checks for it.

use std::{net::IpAddr, time::Duration};

use super::WireError;
use crate::{
    balancer::mesh::model::record::NodeId,
    origin::{OriginId, is_host_name},
    stream::StreamKey,
};

/// The most streams or records that one message is about.
pub const MAX_ENTRIES: usize = 10_000;
/// The most records, origins or nodes that one message names for a single stream.
pub const MAX_CANDIDATES: usize = 256;
/// The longest text that says why something failed, in bytes. Longer ones are cut when they are sent.
pub const MAX_REASON: usize = 512;

/// The longest name of a node, in bytes.
const MAX_NODE: usize = 256;
/// The longest id of an origin or of a session record, in bytes.
const MAX_ID: usize = 1024;
/// The longest `host:port`, in bytes.
const MAX_ADDRESS: usize = 300;

pub(super) fn invalid(field: &'static str, reason: impl Into<String>) -> WireError {
    WireError::Field { field, reason: reason.into() }
}

/// A mandatory message.
pub(super) fn present<T>(field: &'static str, value: Option<T>) -> Result<T, WireError> {
    value.ok_or_else(|| invalid(field, "is missing"))
}

/// A text that is printable and not too long; it may be empty.
pub(super) fn text(field: &'static str, text: String, max: usize) -> Result<String, WireError> {
    if text.len() > max {
        return Err(invalid(field, format!("has {} bytes; the limit is {max}", text.len())));
    }
    if text.chars().any(char::is_control) {
        return Err(invalid(field, "holds a control character"));
    }
    Ok(text)
}

/// A text that is also not empty.
pub(super) fn name(field: &'static str, name: String, max: usize) -> Result<String, WireError> {
    if name.is_empty() {
        return Err(invalid(field, "is empty"));
    }
    text(field, name, max)
}

/// What [`text`] takes of `text`: without control characters, and cut to `max` bytes.
pub(super) fn cut(text: &str, max: usize) -> String {
    let mut short: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    short.truncate(short.floor_char_boundary(max));
    short
}

/// The name of a node.
pub(in super::super) fn node(field: &'static str, node: String) -> Result<NodeId, WireError> {
    Ok(NodeId::from(name(field, node, MAX_NODE)?.as_str()))
}

pub(super) fn origin_id(field: &'static str, id: String) -> Result<OriginId, WireError> {
    Ok(OriginId::from(name(field, id, MAX_ID)?.as_str()))
}

pub(super) fn ufrag_id(field: &'static str, id: String) -> Result<String, WireError> {
    if id.len() > MAX_ID {
        return Err(invalid(field, format!("has {} bytes; the limit is {MAX_ID}", id.len())));
    }
    Ok(id)
}

pub(super) fn stream(field: &'static str, key: &str) -> Result<StreamKey, WireError> {
    StreamKey::from_shared(key).map_err(|error| invalid(field, error.to_string()))
}

/// `host:port`, where the host may be a name, an IPv4 address or an IPv6 address in brackets.
pub(super) fn address(field: &'static str, address: String) -> Result<String, WireError> {
    let address = name(field, address, MAX_ADDRESS)?;
    let is_address = address.rsplit_once(':').is_some_and(|(host, port)| {
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_host = bracketed.map_or_else(|| is_host_name(host), |v6| v6.parse::<IpAddr>().is_ok());
        is_host && port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if is_address { Ok(address) } else { Err(invalid(field, "is not host:port")) }
}

/// A list that is not too long, each item of which is right.
pub(super) fn list<T, U>(
    field: &'static str,
    items: Vec<T>,
    max: usize,
    convert: impl FnMut(T) -> Result<U, WireError>,
) -> Result<Vec<U>, WireError> {
    if items.len() > max {
        return Err(invalid(field, format!("has {} items; the limit is {max}", items.len())));
    }
    items.into_iter().map(convert).collect()
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
