//! Where offers are posted, and what they ask for there.

use percent_encoding::percent_decode_str;
use serde::Deserialize;

use super::{MAX_JSON, MAX_SDP, location::parameter};
use crate::{
    balancer::Intent,
    stream::{StreamError, StreamKey, Vhosts},
};

/// The stream of a request that names none, as in SRS.
const DEFAULT_APP: &str = "live";
const DEFAULT_STREAM: &str = "livestream";

/// A path of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// WHIP.
    Whip,
    /// WHEP.
    Whep,
    /// WHEP as older clients call it.
    WhipPlay,
    /// Publish, in JSON.
    Publish,
    /// Play, in JSON.
    Play,
}

/// What is posted in JSON; other fields are the origin's affair.
#[derive(Deserialize)]
struct Posted {
    streamurl: String,
    sdp: String,
}

/// What an offer is about.
#[derive(Debug)]
pub(super) struct Offer {
    pub stream: StreamKey,
    pub intent: Intent,
    /// The description, which may be none.
    pub sdp: Vec<u8>,
}

impl Endpoint {
    pub const ALL: [Self; 5] = [Self::Whip, Self::Whep, Self::WhipPlay, Self::Publish, Self::Play];

    pub const fn path(self) -> &'static str {
        match self {
            Self::Whip => "/rtc/v1/whip/",
            Self::Whep => "/rtc/v1/whep/",
            Self::WhipPlay => "/rtc/v1/whip-play/",
            Self::Publish => "/rtc/v1/publish/",
            Self::Play => "/rtc/v1/play/",
        }
    }

    /// The endpoint at `path`, which may lack the slash at its end.
    pub fn of(path: &str) -> Option<Self> {
        let path = path.strip_suffix('/').unwrap_or(path);
        Self::ALL.into_iter().find(|endpoint| endpoint.path().strip_suffix('/') == Some(path))
    }

    pub const fn is_json(self) -> bool {
        matches!(self, Self::Publish | Self::Play)
    }

    pub const fn media_type(self) -> &'static str {
        if self.is_json() { "application/json" } else { "application/sdp" }
    }

    pub const fn max_body(self) -> usize {
        if self.is_json() { MAX_JSON } else { MAX_SDP }
    }

    /// Whether a body of this type cannot be what is posted here. Players and tools say many things, or
    /// nothing, and SRS takes them all.
    pub fn refuses(self, media_type: &str) -> bool {
        let media_type = media_type.to_ascii_lowercase();
        let kind = media_type.split('/').next().unwrap_or_default();
        let others = ["application/sdp", "application/json", "application/xml", "text/html", "text/xml"];
        media_type != self.media_type()
            && (others.contains(&media_type.as_str())
                || matches!(kind, "audio" | "font" | "image" | "model" | "multipart" | "video"))
    }

    /// What an offer asks for. The error is for whoever sent it.
    pub fn read(self, host: &str, query: Option<&str>, body: &[u8], vhosts: &Vhosts) -> Result<Offer, String> {
        let query = query.unwrap_or_default();
        let intent = self.intent(query);
        if !self.is_json() {
            let stream = stream_of(host, query, vhosts).map_err(|error| error.to_string())?;
            return Ok(Offer { stream, intent, sdp: body.to_vec() });
        }
        // Not in serde's words, which may repeat what was sent.
        let posted: Posted = serde_json::from_slice(body)
            .map_err(|_| "the body is no JSON object with \"streamurl\" and \"sdp\", both texts".to_owned())?;
        let stream = StreamKey::from_rtmp(&posted.streamurl, "", "", vhosts)
            .map_err(|error| format!("\"streamurl\" names no stream: {error}"))?;
        Ok(Offer { stream, intent, sdp: posted.sdp.into_bytes() })
    }

    fn intent(self, query: &str) -> Intent {
        match self {
            Self::Publish => Intent::Publish,
            Self::Whep | Self::WhipPlay | Self::Play => Intent::Play,
            // As SRS has it: whatever is not to publish is to play.
            Self::Whip => match parameter(query, "action") {
                None | Some("" | "publish") => Intent::Publish,
                Some(_) => Intent::Play,
            },
        }
    }
}

/// The stream that a query names by `app` and `stream`.
pub(super) fn stream_of(host: &str, query: &str, vhosts: &Vhosts) -> Result<StreamKey, StreamError> {
    let value = |name: &str| parameter(query, name).filter(|value| !value.is_empty());
    let app = value("app").unwrap_or(DEFAULT_APP);
    let stream = value("stream").unwrap_or(DEFAULT_STREAM);
    // A name of slashes alone would leave the app to be taken for the stream.
    if percent_decode_str(stream).all(|byte| byte == b'/') {
        return Err(StreamError::NoStream);
    }
    StreamKey::new(host, &format!("{app}/{stream}"), &[query], vhosts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(endpoint: Endpoint, host: &str, query: &str, body: &str) -> Result<(String, Intent, String), String> {
        let offer = endpoint.read(host, Some(query), body.as_bytes(), &Vhosts::any())?;
        Ok((offer.stream.to_string(), offer.intent, String::from_utf8(offer.sdp).unwrap()))
    }

    #[test]
    fn a_path_is_known_with_its_last_slash_and_without() {
        for endpoint in Endpoint::ALL {
            let path = endpoint.path();
            assert_eq!(Endpoint::of(path), Some(endpoint));
            assert_eq!(Endpoint::of(path.trim_end_matches('/')), Some(endpoint));
            assert_eq!(Endpoint::of(&format!("{path}/")), None);
        }
        assert_eq!(Endpoint::of("/rtc/v1/nack/"), None);
    }

    #[test]
    fn sdp_is_for_the_stream_and_the_purpose_that_the_query_names() {
        for (endpoint, host, query, key, intent) in [
            (Endpoint::Whip, "10.0.0.1:1985", "app=a&stream=s", "__defaultVhost__/a/s", Intent::Publish),
            (Endpoint::Whip, "example.com", "app=a&stream=s", "example.com/a/s", Intent::Publish),
            (Endpoint::Whip, "x", "app=a&stream=s&vhost=b.com", "b.com/a/s", Intent::Publish),
            (Endpoint::Whip, "", "", "__defaultVhost__/live/livestream", Intent::Publish),
            (Endpoint::Whip, "", "app=&stream=", "__defaultVhost__/live/livestream", Intent::Publish),
            (Endpoint::Whip, "", "stream=s&stream=t&token=x", "__defaultVhost__/live/s", Intent::Publish),
            (Endpoint::Whip, "", "app=a%2Fb&stream=caf%C3%A9", "__defaultVhost__/a/b/café", Intent::Publish),
            (Endpoint::Whip, "", "stream=s&action=publish", "__defaultVhost__/live/s", Intent::Publish),
            (Endpoint::Whip, "", "stream=s&action=play", "__defaultVhost__/live/s", Intent::Play),
            (Endpoint::Whep, "", "stream=s&action=publish", "__defaultVhost__/live/s", Intent::Play),
            (Endpoint::WhipPlay, "", "stream=s", "__defaultVhost__/live/s", Intent::Play),
        ] {
            let read = read(endpoint, host, query, "v=0");
            assert_eq!(read, Ok((key.to_owned(), intent, "v=0".to_owned())), "{query}");
        }
        for query in ["stream=%0A", "stream=%2F", "stream=/"] {
            assert!(read(Endpoint::Whip, "", query, "v=0").is_err(), "{query}");
        }
    }

    #[test]
    fn json_names_its_stream_by_a_url() {
        for (url, key) in [
            ("webrtc://10.0.0.1/live/s", "__defaultVhost__/live/s"),
            ("webrtc://10.0.0.1:1990/live/s?token=a/b", "__defaultVhost__/live/s"),
            ("webrtc://example.com/live/s", "example.com/live/s"),
            ("webrtc://10.0.0.1/live/s?vhost=example.com", "example.com/live/s"),
            ("webrtc://10.0.0.1/a/b/s", "__defaultVhost__/a/b/s"),
        ] {
            let body = format!(r#"{{"api":"x","streamurl":"{url}","sdp":"v=0\r\n","tid":1}}"#);
            let read = read(Endpoint::Play, "ignored.example", "stream=ignored", &body);
            assert_eq!(read, Ok((key.to_owned(), Intent::Play, "v=0\r\n".to_owned())), "{url}");
        }
        for body in [
            "",
            "v=0",
            "[]",
            r#"{"sdp":"v=0"}"#,
            r#"{"streamurl":"webrtc://h/a/s"}"#,
            r#"{"streamurl":"webrtc://h/a/s","sdp":1}"#,
            r#"{"streamurl":"webrtc://h/s?token=s3cret","sdp":"v=0"}"#,
        ] {
            let error = read(Endpoint::Publish, "", "", body).unwrap_err();
            assert!(!error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn only_what_is_plainly_something_else_is_refused() {
        for accepted in ["", "application/sdp", "text/plain", "application/x-www-form-urlencoded", "odd", "text/sdp"] {
            assert!(!Endpoint::Whip.refuses(accepted), "{accepted}");
        }
        for refused in ["application/json", "Image/PNG", "video/mp4", "multipart/form-data", "text/html"] {
            assert!(Endpoint::Whip.refuses(refused), "{refused}");
        }
        assert!(!Endpoint::Play.refuses("Application/JSON") && Endpoint::Play.refuses("application/sdp"));
    }
}
