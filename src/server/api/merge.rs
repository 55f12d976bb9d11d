//! Lists of several origins, merged into those that one SRS would give. Pure: JSON in, JSON out.
//!
//! Items are ordered by their origin's id, then as the origin gave them. Each has `origin` besides what
//! SRS gives, and its ids, and those that it refers to, name one thing in the whole cluster
//! ([`id`]): following one leads to the same item on every node.
//!
//! A vhost that several origins have is one item, as it is one vhost for whoever plays from it:
//! `clients`, `streams`, `send_bytes`, `recv_bytes` and `kbps` are summed, `enabled` says whether any
//! of them has it enabled. `origins` names all of them, and `origin` the first, as which it shows the
//! rest (`hls`).

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{id, number};
use crate::{balancer::Page, stream::DEFAULT_VHOST};

/// What can be listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum List {
    /// Streams that are or were published.
    Streams,
    /// Publishers and players.
    Clients,
    /// Vhosts that were used.
    Vhosts,
}

/// What one origin gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// The origin's id.
    pub origin: String,
    /// The origin's tag.
    pub tag: String,
    /// The object, or the items as an array of objects.
    pub value: Value,
}

/// What the body of an answer says.
#[derive(Debug, Clone, PartialEq)]
pub enum Reading {
    /// What was asked for.
    Found(Value),
    /// There is no such thing.
    Missing,
}

/// What is looked for in the body of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// An object under this name.
    Object(&'static str),
    /// An array of objects under this name.
    Array(&'static str),
    /// Nothing but success.
    Done,
}

impl List {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Streams, Self::Clients, Self::Vhosts];

    /// The last part of the path, and the name of the list in the answer.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Streams => "streams",
            Self::Clients => "clients",
            Self::Vhosts => "vhosts",
        }
    }

    /// The name of one item in the answer.
    pub const fn item(self) -> &'static str {
        match self {
            Self::Streams => "stream",
            Self::Clients => "client",
            Self::Vhosts => "vhost",
        }
    }

    /// The code, in an answer with status 200, by which SRS says that there is no such item.
    pub const fn missing(self) -> i64 {
        match self {
            Self::Vhosts => 2014,
            Self::Streams => 2048,
            Self::Clients => 2049,
        }
    }
}

/// Reads the body of an answer. The error says what is wrong with it. `missing` are the codes by which
/// an origin says that there is no such thing.
pub fn read(body: &[u8], shape: Shape, missing: &[i64]) -> Result<Reading, String> {
    // serde_json refuses what is nested too deeply.
    let mut body: Map<String, Value> =
        serde_json::from_slice(body).map_err(|error| format!("its answer is no JSON object: {error}"))?;
    match body.get("code").and_then(Value::as_i64) {
        Some(0) => {}
        Some(code) if missing.contains(&code) => return Ok(Reading::Missing),
        Some(code) => return Err(format!("it answers code {code}")),
        None => return Err("its answer has no code".to_owned()),
    }
    let field = match shape {
        Shape::Object(field) | Shape::Array(field) => field,
        Shape::Done => return Ok(Reading::Found(Value::Null)),
    };
    match (shape, body.remove(field)) {
        (Shape::Object(_), Some(value @ Value::Object(_))) => Ok(Reading::Found(value)),
        (Shape::Array(_), Some(Value::Array(items))) if items.iter().all(Value::is_object) => {
            Ok(Reading::Found(items.into()))
        }
        (_, Some(_)) => Err(format!("{field:?} in its answer is not what SRS has there")),
        (_, None) => Err(format!("its answer has no {field:?}")),
    }
}

/// Merges the lists of origins, ordered by id, into one page. `None` stands for all vhosts.
pub fn list(list: List, parts: Vec<Part>, page: Option<Page>) -> Vec<Value> {
    let all = match list {
        List::Vhosts => vhosts(parts),
        List::Streams | List::Clients => {
            let items = |part: Part| {
                let Part { origin, tag, value } = part;
                let items = if let Value::Array(items) = value { items } else { Vec::new() };
                items.into_iter().map(move |value| (origin.clone(), tag.clone(), value))
            };
            let page = page.unwrap_or(Page { start: 0, count: usize::MAX });
            let items = parts.into_iter().flat_map(items).skip(page.start).take(page.count);
            return items.map(|(origin, tag, value)| item(list, Part { origin, tag, value })).collect();
        }
    };
    match page {
        Some(page) => all.into_iter().skip(page.start).take(page.count).collect(),
        None => all,
    }
}

/// One stream or client, with the ids that it has in the cluster.
pub fn item(list: List, part: Part) -> Value {
    let Part { origin, tag, mut value } = part;
    let Value::Object(item) = &mut value else { return value };
    let vhost = item.get("url").and_then(Value::as_str).and_then(vhost_of).map(id::vhost);
    let mut tag_id = |field: &str| {
        if let Some(Value::String(id)) = item.get_mut(field)
            && !id.is_empty()
        {
            *id = id::tagged(id, &tag);
        }
    };
    tag_id("id");
    if vhost.is_none() {
        tag_id("vhost");
    }
    match list {
        List::Clients => tag_id("stream"),
        List::Streams => {
            if let Some(Value::String(id)) = item.get_mut("publish").and_then(|publish| publish.get_mut("cid"))
                && !id.is_empty()
            {
                *id = id::tagged(id, &tag);
            }
        }
        List::Vhosts => {}
    }
    if let (Some(vhost), Some(Value::String(id))) = (vhost, item.get_mut("vhost")) {
        *id = vhost;
    }
    item.insert("origin".into(), origin.into());
    value
}

/// The name of the vhost in the `url` that SRS shows, such as `ts.example.com/live/tsstream`; the
/// default one is left out there.
fn vhost_of(url: &str) -> Option<&str> {
    match url.split_once('/')? {
        ("", _) => Some(DEFAULT_VHOST),
        (scheme, _) if scheme.ends_with(':') => None,
        (vhost, _) => Some(vhost),
    }
}

/// The vhost that is meant by `id`: the cluster's id for it, or the one of an origin, with its tag or
/// without.
pub fn vhost(parts: Vec<Part>, id: &str) -> Option<Value> {
    let (plain, tag) = id::split(id);
    let mut meant = None;
    for part in &parts {
        let known = part.value.as_array().into_iter().flatten().find(|item| {
            let own = tag.is_none_or(|tag| tag == part.tag) && item["id"] == plain;
            own || item["name"].as_str().is_some_and(|name| id::vhost(name) == id)
        });
        if let Some(known) = known {
            meant = known["name"].as_str().map(id::vhost);
            break;
        }
    }
    let meant = meant?;
    vhosts(parts).into_iter().find(|vhost| vhost["id"] == meant.as_str())
}

/// The numbers of a vhost that are summed.
const SUMMED: [&str; 6] = ["/clients", "/streams", "/send_bytes", "/recv_bytes", "/kbps/recv_30s", "/kbps/send_30s"];

fn vhosts(parts: Vec<Part>) -> Vec<Value> {
    // By place, so that vhosts keep the order in which they were first seen.
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    let mut groups: Vec<(Value, Vec<String>, Vec<Value>)> = Vec::new();
    for Part { origin, value, .. } in parts {
        let Value::Array(items) = value else { continue };
        for mut item in items {
            let Some(name) = item["name"].as_str() else { continue };
            if let Some(&place) = places.get(name) {
                let (_, origins, others) = &mut groups[place];
                if origins.last() != Some(&origin) {
                    origins.push(origin.clone());
                }
                others.push(item);
            } else {
                places.insert(name.to_owned(), groups.len());
                item["id"] = id::vhost(name).into();
                groups.push((item, vec![origin.clone()], Vec::new()));
            }
        }
    }
    let merged = groups.into_iter().map(|(mut vhost, origins, others)| {
        if !others.is_empty() {
            for field in SUMMED {
                let values: Vec<_> =
                    std::iter::once(&vhost).chain(&others).filter_map(|item| item.pointer(field)).collect();
                let sum = number::sum(values.into_iter());
                if let (Some(sum), Some(field)) = (sum, vhost.pointer_mut(field)) {
                    *field = sum;
                }
            }
            if others.iter().any(|item| item["enabled"] == true) {
                vhost["enabled"] = true.into();
            }
        }
        vhost["origin"] = origins.first().cloned().into();
        vhost["origins"] = origins.into();
        vhost
    });
    merged.collect()
}

#[cfg(test)]
mod tests;
