//! The JSON of the Go proxy, and our own beside it. What cannot be read is no error here: somebody
//! else wrote it, and it is left out.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    origin::{Endpoint, Origin, Protocol},
    stream::StreamKey,
};

/// A server as the Go proxy writes it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Server {
    pub origin: Origin,
    /// When its last heartbeat came, by the clock of the node that took it. Only compared for
    /// equality: it tells one heartbeat from another.
    pub updated: String,
}

/// What a heartbeat says beyond that.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Extras {
    pub software: String,
    pub cpu: Option<f32>,
}

/// Why a server is suspect.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Suspicion {
    pub reason: String,
    /// [`Server::updated`] of the heartbeat after which it failed; a later one clears the suspicion.
    pub after: String,
}

/// A WebRTC session as the Go proxy writes it.
#[derive(Debug, Serialize)]
pub(super) struct UfragRecord {
    pub stream_url: String,
    pub ufrag: String,
}

impl Server {
    /// A server whose heartbeat has come now.
    pub fn now(origin: Origin) -> Self {
        Self { origin, updated: humantime::format_rfc3339_nanos(SystemTime::now()).to_string() }
    }

    /// The JSON, fields and their order as in the Go proxy, which leaves out what is empty.
    pub fn to_json(&self) -> String {
        let origin = &self.origin;
        let mut fields = Map::new();
        for (name, text) in [
            ("ip", &origin.ip),
            ("device_id", &origin.device_id),
            ("server_id", &origin.server_id),
            ("service_id", &origin.service_id),
            ("pid", &origin.pid),
        ] {
            if !text.is_empty() {
                fields.insert(name.into(), text.as_str().into());
            }
        }
        for protocol in Protocol::ALL {
            let endpoints = origin.endpoints(protocol);
            if !endpoints.is_empty() {
                fields.insert(protocol.as_str().into(), endpoints.iter().map(Endpoint::as_str).collect());
            }
        }
        fields.insert("update_at".into(), self.updated.as_str().into());
        Value::Object(fields).to_string()
    }

    /// Reads a server; `extras` is its JSON beside it, if there is any.
    pub fn parse(json: &[u8], extras: Option<&[u8]>) -> Option<Self> {
        let Value::Object(mut fields) = serde_json::from_slice(json).ok()? else { return None };
        let updated = fields.get("update_at").and_then(Value::as_str).unwrap_or_default().to_owned();
        // The heartbeat has the same fields under other names, and its reader knows all the rules.
        for (go, heartbeat) in [("server_id", "server"), ("service_id", "service")] {
            if let Some(value) = fields.remove(go) {
                fields.insert(heartbeat.into(), value);
            }
        }
        let extras: Extras = extras.and_then(|json| serde_json::from_slice(json).ok()).unwrap_or_default();
        let heartbeat = Value::Object(fields).to_string();
        let mut origin = Origin::from_heartbeat(heartbeat.as_bytes(), &extras.software).ok()?;
        origin.cpu = extras.cpu.filter(|cpu| cpu.is_finite());
        Some(Self { origin, updated })
    }
}

impl Extras {
    pub fn of(origin: &Origin) -> Self {
        Self { software: origin.software.clone(), cpu: origin.cpu }
    }
}

/// The stream that a record of the Go proxy names, a session's or that of a player of HLS.
pub(super) fn stream_of(json: &[u8]) -> Option<StreamKey> {
    #[derive(Deserialize)]
    struct Record {
        stream_url: String,
    }
    let record: Record = serde_json::from_slice(json).ok()?;
    StreamKey::from_shared(&record.stream_url).ok()
}

/// Writes what [`serde`] can always write.
pub(super) fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Go's encoder wrote it.
    const GO: &str = r#"{"ip":"10.0.0.1","device_id":"origin1","server_id":"vid-1","service_id":"s1","pid":"77","rtmp":["tcp://0.0.0.0:1935"],"http":["8080"],"api":["1985"],"srt":["10080"],"rtc":["udp://0.0.0.0:8000"],"update_at":"2024-09-01T10:20:30.123456789+08:00"}"#;

    #[test]
    fn what_go_wrote_is_read_and_written_again_as_it_was() {
        let server = Server::parse(GO.as_bytes(), None).unwrap();
        assert_eq!(server.origin.id().as_str(), "vid-1-s1-77");
        assert_eq!(server.origin.address(Protocol::Rtmp), Some(("10.0.0.1", 1935)));
        assert_eq!(server.updated, "2024-09-01T10:20:30.123456789+08:00");
        let again: Value = serde_json::from_str(&server.to_json()).unwrap();
        assert_eq!(again, serde_json::from_str::<Value>(GO).unwrap());
    }

    #[test]
    fn what_we_write_is_read_again_with_all_that_a_heartbeat_says() {
        let mut origin = Server::parse(GO.as_bytes(), None).unwrap().origin;
        origin.cpu = Some(0.25);
        origin.software = "SRS/7.0.18".into();
        origin.device_id = String::new();
        origin.srt.clear();
        let server = Server::now(origin.clone());
        assert!(!server.to_json().contains("device_id") && !server.to_json().contains("srt"), "{server:?}");
        let extras = to_json(&Extras::of(&origin));
        assert_eq!(Server::parse(server.to_json().as_bytes(), Some(extras.as_bytes())), Some(server));
    }

    #[test]
    fn what_is_no_server_is_left_out() {
        for json in ["", "{", "[]", "null", "{}", r#"{"ip":"10.0.0.1","server_id":"a","service_id":"b","pid":"1"}"#] {
            assert!(Server::parse(json.as_bytes(), None).is_none(), "{json}");
        }
        assert!(Server::parse(&[0xff, 0xfe], None).is_none());
        assert!(Server::parse(GO.as_bytes(), Some(b"garbage")).is_some(), "bad extras harm nobody");
    }

    #[test]
    fn records_of_go_lead_to_their_streams() {
        let ufrag = br#"{"stream_url":"__defaultVhost__/live/s","ufrag":"abc"}"#;
        let spbhid = br#"{"spbhid":"x","stream_url":"__defaultVhost__/live/s","full_url":"http://h/live/s.m3u8"}"#;
        for json in [&ufrag[..], spbhid] {
            assert_eq!(stream_of(json).unwrap().as_str(), "__defaultVhost__/live/s");
        }
        assert_eq!(stream_of(br#"{"stream_url":"x"}"#), None);
    }
}
