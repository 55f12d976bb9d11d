//! One error for everything that can go wrong with a session: which side failed, how, and whether
//! another origin may be tried.

use std::fmt;

/// The side of the proxy on which something failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The publisher or player that connected to this node.
    Client,
    /// The media server that holds the stream.
    Origin,
    /// This node itself: placement, resources, shutdown.
    Internal,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Origin => "origin",
            Self::Internal => "internal",
        })
    }
}

/// What kind of failure it was. The kinds are few, so that they can label a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The connection could not be made: refused, unreachable, name not resolved.
    Connect,
    /// Nothing happened for as long as the named limit allows.
    Timeout,
    /// The peer closed or reset the connection.
    Closed,
    /// The bytes break the protocol.
    Protocol,
    /// A configured limit was reached.
    Limit,
    /// The peer refused what was asked, and said so.
    Refused,
    /// No origin can take the stream.
    Unavailable,
    /// This node is shutting down, or was told to end the session.
    Shutdown,
}

impl Kind {
    /// A short word for logs, metrics and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::Closed => "closed",
            Self::Protocol => "protocol",
            Self::Limit => "limit",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
            Self::Shutdown => "shutdown",
        }
    }
}

/// What a peer itself said when it refused, to be repeated to the other side as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The code, in the terms of the protocol.
    pub code: String,
    /// The description, for people.
    pub description: String,
}

/// Why a session, or an attempt at one, failed.
#[derive(Debug, thiserror::Error)]
#[error("{side} {kind}: {message}", kind = .kind.as_str())]
pub struct Error {
    side: Side,
    kind: Kind,
    message: String,
    status: Option<Box<Status>>,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error on `side`; `message` says what failed and, where there is something, what to do.
    pub fn new(side: Side, kind: Kind, message: impl Into<String>) -> Self {
        Self { side, kind, message: message.into(), status: None, source: None }
    }

    /// An error of the client's side.
    pub fn client(kind: Kind, message: impl Into<String>) -> Self {
        Self::new(Side::Client, kind, message)
    }

    /// An error of the origin's side.
    pub fn origin(kind: Kind, message: impl Into<String>) -> Self {
        Self::new(Side::Origin, kind, message)
    }

    /// An error of this node.
    pub fn internal(kind: Kind, message: impl Into<String>) -> Self {
        Self::new(Side::Internal, kind, message)
    }

    /// An I/O error on `side` while doing `what`: a vanished peer is [`Kind::Closed`].
    pub fn io(side: Side, what: &str, source: std::io::Error) -> Self {
        use std::io::ErrorKind as E;
        let kind = match source.kind() {
            E::ConnectionReset | E::ConnectionAborted | E::BrokenPipe | E::UnexpectedEof => Kind::Closed,
            E::TimedOut => Kind::Timeout,
            _ => Kind::Connect,
        };
        Self { side, kind, message: format!("{what}: {source}"), status: None, source: Some(Box::new(source)) }
    }

    /// A peer's refusal in its own words.
    pub fn refused(side: Side, status: Status) -> Self {
        let message = format!("{} {}", status.code, status.description);
        Self { status: Some(Box::new(status)), ..Self::new(side, Kind::Refused, message) }
    }

    /// What the peer itself said, if it refused with a status.
    pub fn status(&self) -> Option<&Status> {
        self.status.as_deref()
    }

    /// The side that failed.
    pub const fn side(&self) -> Side {
        self.side
    }

    /// How it failed.
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// The message alone, without side and kind.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether another origin may be tried: the origin itself failed, and did not refuse.
    pub fn is_retryable(&self) -> bool {
        self.side == Side::Origin && self.kind != Kind::Refused
    }
}

/// A result whose error says which side failed.
pub type Result<T, E = Error> = std::result::Result<T, E>;
