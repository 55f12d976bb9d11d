//! By what means a client has its stream, and in which role.

use crate::{balancer::Intent, origin::Protocol};

/// How a client sends or receives its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Delivery {
    /// RTMP.
    Rtmp,
    /// One endless HTTP answer: FLV, TS, AAC, MP3.
    Progressive,
    /// HLS playlists and segments.
    Hls,
    /// MPEG-DASH manifests and segments.
    Dash,
    /// WebRTC media.
    Webrtc,
    /// SRT.
    Srt,
}

impl Delivery {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Rtmp, Self::Progressive, Self::Hls, Self::Dash, Self::Webrtc, Self::Srt];
    /// Those that come and go in datagrams.
    pub const DATAGRAMS: [Self; 2] = [Self::Webrtc, Self::Srt];

    /// The word for metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rtmp => "rtmp",
            Self::Progressive => "progressive",
            Self::Hls => "hls",
            Self::Dash => "dash",
            Self::Webrtc => "webrtc",
            Self::Srt => "srt",
        }
    }

    /// What the client speaks, in the word for people.
    pub const fn spoken(self) -> &'static str {
        match self {
            Self::Rtmp => "rtmp",
            Self::Progressive | Self::Hls | Self::Dash => "http",
            Self::Webrtc => "webrtc",
            Self::Srt => "srt",
        }
    }

    /// The protocol in which an origin serves it.
    pub const fn protocol(self) -> Protocol {
        match self {
            Self::Rtmp => Protocol::Rtmp,
            Self::Progressive | Self::Hls | Self::Dash => Protocol::Http,
            Self::Webrtc => Protocol::Rtc,
            Self::Srt => Protocol::Srt,
        }
    }
}

/// What a client wants, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// To send a stream.
    Publish,
    /// To receive a stream.
    Play,
    /// It has not said so yet.
    Unknown,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Publish, Self::Play, Self::Unknown];

    /// The word for metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Play => "play",
            Self::Unknown => "unknown",
        }
    }
}

impl From<Intent> for Role {
    fn from(intent: Intent) -> Self {
        match intent {
            Intent::Publish => Self::Publish,
            Intent::Play => Self::Play,
        }
    }
}
