//! Why a connection is refused.

use std::fmt;

/// The reason of a rejection: on the wire it stands as 1000 more (libsrt, handshake.h).
///
/// Up to 999 they are those of the library (draft-sharabayko-srt table 7; libsrt, srt.h), from 1000
/// on those of applications, made after the codes of HTTP (libsrt, access_control.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reason(pub u32);

impl Reason {
    /// A system function failed (srt.h).
    pub const SYSTEM: Self = Self(1);
    /// The peer refused (srt.h).
    pub const PEER: Self = Self(2);
    /// Resources are lacking (srt.h).
    pub const RESOURCE: Self = Self(3);
    /// The handshake makes no sense (srt.h).
    pub const ROGUE: Self = Self(4);
    /// The listener is going away (srt.h).
    pub const CLOSE: Self = Self(7);
    /// The version is too old (srt.h).
    pub const VERSION: Self = Self(8);
    /// The passphrase is wrong (srt.h).
    pub const BAD_SECRET: Self = Self(10);
    /// A passphrase is there and not wanted, or wanted and not there (srt.h).
    pub const UNSECURE: Self = Self(11);

    /// The stream id makes no sense (access_control.h).
    pub const BAD_REQUEST: Self = Self(1400);
    /// Authentication failed (access_control.h).
    pub const UNAUTHORIZED: Self = Self(1401);
    /// Too much load, or too many connections (access_control.h).
    pub const OVERLOAD: Self = Self(1402);
    /// Access is denied (access_control.h).
    pub const FORBIDDEN: Self = Self(1403);
    /// There is no such stream now (access_control.h).
    pub const NOT_FOUND: Self = Self(1404);
    /// The mode of the stream id is not known (access_control.h).
    pub const BAD_MODE: Self = Self(1405);
    /// The stream is in use (access_control.h).
    pub const CONFLICT: Self = Self(1409);
    /// An unexpected error within the server (access_control.h).
    pub const INTERNAL: Self = Self(1500);
    /// This is a gateway, and what is behind it failed (access_control.h).
    pub const GATEWAY: Self = Self(1502);
    /// The service is not there for the moment (access_control.h).
    pub const DOWN: Self = Self(1503);

    /// What the code stands for, in a few words; empty if it is not one of these.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::SYSTEM => "a system function failed",
            Self::PEER => "refused",
            Self::RESOURCE => "resources are lacking",
            Self::ROGUE => "the handshake makes no sense",
            Self::CLOSE => "the listener is going away",
            Self::VERSION => "the version is too old",
            Self::BAD_SECRET => "the passphrase is wrong",
            Self::UNSECURE => "a passphrase is required, or is not expected",
            Self::BAD_REQUEST => "bad request",
            Self::UNAUTHORIZED => "unauthorized",
            Self::OVERLOAD => "overload",
            Self::FORBIDDEN => "forbidden",
            Self::NOT_FOUND => "not found",
            Self::BAD_MODE => "bad mode",
            Self::CONFLICT => "conflict",
            Self::INTERNAL => "internal error",
            Self::GATEWAY => "bad gateway",
            Self::DOWN => "service down",
            _ => "",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.meaning();
        if text.is_empty() { write!(f, "{}", self.0) } else { write!(f, "{} {text}", self.0) }
    }
}
