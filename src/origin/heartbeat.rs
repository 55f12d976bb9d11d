//! The heartbeat by which an origin registers: `POST /api/v1/srs/register`.

use std::net::IpAddr;

use serde_json::{Map, Value};

use super::{Endpoint, Origin, Protocol, is_host_name};

/// The longest text field, in bytes.
const MAX_TEXT: usize = 256;
/// The most endpoints of one protocol.
const MAX_ENDPOINTS: usize = 16;

/// Why a heartbeat was not accepted. The message names the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeartbeatError {
    /// The body is not JSON.
    #[error("the body is not valid JSON: {0}")]
    Json(String),
    /// The body is JSON, but not an object.
    #[error("the body is not a JSON object")]
    NotAnObject,
    /// A mandatory field is missing or empty.
    #[error("field {0:?} is missing or empty")]
    Missing(&'static str),
    /// A field has the wrong type or an impossible value.
    #[error("field {field:?}: {reason}")]
    Invalid {
        /// The field's name.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

impl Origin {
    /// Reads a heartbeat. `software` is the request's `User-Agent`. Unknown fields are ignored;
    /// `ip`, `server`, `service`, `pid` and `rtmp` are mandatory.
    pub fn from_heartbeat(body: &[u8], software: &str) -> Result<Self, HeartbeatError> {
        let value: Value = serde_json::from_slice(body).map_err(|e| HeartbeatError::Json(e.to_string()))?;
        let Value::Object(fields) = value else { return Err(HeartbeatError::NotAnObject) };
        let mandatory = |name| {
            text(&fields, name).and_then(|t| if t.is_empty() { Err(HeartbeatError::Missing(name)) } else { Ok(t) })
        };

        let origin = Self {
            ip: host(&mandatory("ip")?)?,
            server_id: mandatory("server")?,
            service_id: mandatory("service")?,
            pid: mandatory("pid")?,
            device_id: text(&fields, "device_id")?,
            rtmp: endpoints(&fields, Protocol::Rtmp)?,
            http: endpoints(&fields, Protocol::Http)?,
            api: endpoints(&fields, Protocol::Api)?,
            srt: endpoints(&fields, Protocol::Srt)?,
            rtc: endpoints(&fields, Protocol::Rtc)?,
            software: software.chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect(),
            cpu: cpu(&fields),
        };
        if origin.rtmp.is_empty() {
            return Err(HeartbeatError::Missing("rtmp"));
        }
        Ok(origin)
    }
}

fn text(fields: &Map<String, Value>, field: &'static str) -> Result<String, HeartbeatError> {
    let invalid = |reason: String| HeartbeatError::Invalid { field, reason };
    match fields.get(field) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) if text.len() > MAX_TEXT => Err(invalid(format!("longer than {MAX_TEXT} bytes"))),
        Some(Value::String(text)) if text.chars().any(char::is_control) => {
            Err(invalid("holds a control character".into()))
        }
        Some(Value::String(text)) => Ok(text.trim().to_owned()),
        Some(_) => Err(invalid("expected a string".into())),
    }
}

fn host(ip: &str) -> Result<String, HeartbeatError> {
    let bare = ip.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(ip);
    match bare.parse::<IpAddr>() {
        Ok(address) if !address.is_unspecified() => Ok(address.to_string()),
        Err(_) if is_host_name(bare) => Ok(bare.to_owned()),
        _ => Err(HeartbeatError::Invalid {
            field: "ip",
            reason: "expected the address or host name by which the proxy reaches this origin".into(),
        }),
    }
}

fn endpoints(fields: &Map<String, Value>, protocol: Protocol) -> Result<Vec<Endpoint>, HeartbeatError> {
    let field = protocol.as_str();
    let invalid = |reason: String| HeartbeatError::Invalid { field, reason };
    match fields.get(field) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(list)) if list.len() > MAX_ENDPOINTS => {
            Err(invalid(format!("more than {MAX_ENDPOINTS} endpoints")))
        }
        Some(Value::Array(list)) => list
            .iter()
            .map(|item| match item {
                Value::String(text) => Endpoint::parse(text).map_err(|e| invalid(e.to_string())),
                _ => Err(invalid("expected a list of strings".into())),
            })
            .collect(),
        Some(_) => Err(invalid("expected a list of strings".into())),
    }
}

/// `summaries.data.system.cpu_percent`, which SRS gives as a fraction of 1.
fn cpu(fields: &Map<String, Value>) -> Option<f32> {
    let percent = fields.get("summaries")?.pointer("/data/system/cpu_percent")?.as_f64()?;
    Some(percent.clamp(0.0, 1.0) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIXTURE: &[u8] = include_bytes!("../../tests/fixtures/srs/heartbeat.json");

    #[test]
    fn the_heartbeat_of_a_real_srs_is_understood() {
        let origin = Origin::from_heartbeat(FIXTURE, "SRS/7.0.18(Hang)").unwrap();
        assert_eq!(origin.id().as_str(), "vid-548182a-w4cc4303-8789");
        assert_eq!(origin.address(Protocol::Rtmp), Some(("10.98.0.2", 19351)));
        assert_eq!(origin.address(Protocol::Srt), Some(("10.98.0.2", 10081)));
        assert_eq!(origin.device_id, "origin1");
        assert_eq!(origin.cpu, Some(0.03));
        assert!(origin.is_srs());
    }

    #[test]
    fn a_field_that_is_wrong_is_named_in_the_error() {
        let good = r#"{"ip":"10.0.0.1","server":"a","service":"b","pid":"1","rtmp":["1935"]}"#;
        assert!(Origin::from_heartbeat(good.as_bytes(), "").is_ok());
        for (from, to, error) in [
            (r#""ip":"10.0.0.1""#, r#""ip":"""#, r#"field "ip" is missing or empty"#),
            (r#""ip":"10.0.0.1","#, "", r#"field "ip" is missing or empty"#),
            ("10.0.0.1", "0.0.0.0", r#"field "ip": expected the address"#),
            ("10.0.0.1", "a b", r#"field "ip": expected the address"#),
            (r#""server":"a""#, r#""server":7"#, r#"field "server": expected a string"#),
            (r#""pid":"1""#, r#""pid":"a\nb""#, r#"field "pid": holds a control character"#),
            (r#"["1935"]"#, r#"["notaport"]"#, r#"field "rtmp": "notaport" is not an endpoint"#),
            (r#"["1935"]"#, "[1935]", r#"field "rtmp": expected a list of strings"#),
            (r#"["1935"]"#, "[]", r#"field "rtmp" is missing or empty"#),
            (r#"["1935"]"#, "null", r#"field "rtmp" is missing or empty"#),
            (r#"["1935"]"#, r#"["1935"],"http":"8080""#, r#"field "http": expected a list of strings"#),
            (good, "[1]", "the body is not a JSON object"),
            (good, "{", "the body is not valid JSON"),
            (good, "", "the body is not valid JSON"),
        ] {
            let body = good.replace(from, to);
            let got = Origin::from_heartbeat(body.as_bytes(), "").unwrap_err().to_string();
            assert!(got.starts_with(error), "{body}: {got}");
        }
    }

    #[test]
    fn hosts_may_be_names_and_ipv6_addresses() {
        for (ip, host) in [("::1", "::1"), ("[2001:db8::1]", "2001:db8::1"), ("origin-0.srs", "origin-0.srs")] {
            let body = format!(r#"{{"ip":"{ip}","server":"a","service":"b","pid":"1","rtmp":["1935"]}}"#);
            let origin = Origin::from_heartbeat(body.as_bytes(), "").unwrap();
            assert_eq!(origin.address(Protocol::Rtmp), Some((host, 1935)));
        }
    }
}
