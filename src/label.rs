//! Labels whose values are few and known beforehand, and tables of metrics by them. Every series is
//! there from the start, and no stream, client or origin ever adds one.

use std::marker::PhantomData;

use crate::{
    balancer::Intent,
    delivery::{Delivery, Role},
    error::{Kind, Side},
};

/// A label.
pub trait Label: Copy + 'static {
    /// Its name.
    const NAME: &'static str;
    /// Its values, in the order of [`Self::index`].
    const VALUES: &'static [&'static str];

    /// Where its value stands in [`Self::VALUES`].
    fn index(self) -> usize;
}

/// A set of labels.
pub trait Labels: Copy + 'static {
    /// How many values the set can have.
    const COUNT: usize;

    /// The number of this value, below [`Self::COUNT`].
    fn index(self) -> usize;

    /// The names and values of the set whose number is `index`.
    fn pairs(index: usize) -> Pairs;
}

/// Names and values of labels.
pub type Pairs = Vec<(&'static str, &'static str)>;

impl<A: Label> Labels for (A,) {
    const COUNT: usize = A::VALUES.len();

    fn index(self) -> usize {
        self.0.index()
    }

    fn pairs(index: usize) -> Pairs {
        vec![(A::NAME, A::VALUES[index])]
    }
}

impl<A: Label, B: Labels> Labels for (A, B) {
    const COUNT: usize = A::VALUES.len() * B::COUNT;

    fn index(self) -> usize {
        self.0.index() * B::COUNT + self.1.index()
    }

    fn pairs(index: usize) -> Pairs {
        let mut pairs = vec![(A::NAME, A::VALUES[index / B::COUNT])];
        pairs.extend(B::pairs(index % B::COUNT));
        pairs
    }
}

/// One metric for each value of `L`.
#[derive(Debug, Clone)]
pub struct Table<L, M> {
    cells: Vec<M>,
    labels: PhantomData<fn(L)>,
}

impl<L: Labels, M> Table<L, M> {
    /// A table of what `make` makes.
    pub fn new(make: impl Fn() -> M) -> Self {
        Self { cells: (0..L::COUNT).map(|_| make()).collect(), labels: PhantomData }
    }

    /// The metric of `labels`.
    pub fn at(&self, labels: L) -> &M {
        &self.cells[labels.index()]
    }

    /// The metric of `labels`, to change.
    pub fn at_mut(&mut self, labels: L) -> &mut M {
        &mut self.cells[labels.index()]
    }

    /// All metrics with their labels, in the order of the labels.
    pub fn iter(&self) -> impl Iterator<Item = (Pairs, &M)> {
        self.cells.iter().enumerate().map(|(index, metric)| (L::pairs(index), metric))
    }
}

impl<L: Labels, M: Default> Default for Table<L, M> {
    fn default() -> Self {
        Self::new(M::default)
    }
}

/// Defines a label with its values.
macro_rules! label {
    ($(#[$doc:meta])* $type:ident as $name:literal { $($(#[$variant_doc:meta])* $variant:ident = $value:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $type {
            $($(#[$variant_doc])* $variant,)+
        }

        impl Label for $type {
            const NAME: &'static str = $name;
            const VALUES: &'static [&'static str] = &[$($value,)+];

            fn index(self) -> usize {
                self as usize
            }
        }
    };
}

label! {
    /// A listener that takes connections, or sessions by UDP.
    Listener as "listener" {
        /// `PROXY_RTMP_SERVER`.
        Rtmp = "rtmp",
        /// `PROXY_HTTP_SERVER`.
        Streams = "streams",
        /// `PROXY_HTTP_API`.
        Api = "api",
        /// `PROXY_SYSTEM_API`.
        System = "system",
        /// `PROXY_EXPORTER_LISTEN`.
        Exporter = "exporter",
        /// `PROXY_WEBRTC_SERVER`.
        Webrtc = "webrtc",
        /// `PROXY_SRT_SERVER`.
        Srt = "srt",
    }
}

label! {
    /// A listener that takes datagrams.
    UdpListener as "listener" {
        /// `PROXY_WEBRTC_SERVER`.
        Webrtc = "webrtc",
        /// `PROXY_SRT_SERVER`.
        Srt = "srt",
    }
}

label! {
    /// Why a datagram was dropped.
    Dropped as "reason" {
        /// It belongs to no session.
        Unknown = "unknown",
        /// It breaks its protocol.
        Malformed = "malformed",
        /// Nobody has proven yet that he receives at the address that it was for.
        Unproven = "unproven",
        /// A limit is reached.
        Limit = "limit",
        /// The system did not take it: its buffer is full, or it knows no way.
        Unsent = "unsent",
    }
}

label! {
    /// A listener that serves HTTP.
    HttpListener as "listener" {
        /// `PROXY_HTTP_SERVER`.
        Streams = "streams",
        /// `PROXY_HTTP_API`.
        Api = "api",
        /// `PROXY_SYSTEM_API`.
        System = "system",
        /// `PROXY_EXPORTER_LISTEN`.
        Exporter = "exporter",
    }
}

label! {
    /// The limit at which a connection was refused.
    Limit as "limit" {
        /// Connections of the listener in all.
        Total = "total",
        /// Connections from one address.
        Address = "address",
    }
}

label! {
    /// The class of an HTTP status (RFC 9110, 15).
    Class as "class" {
        /// 100 to 199.
        Informational = "1xx",
        /// 200 to 299.
        Successful = "2xx",
        /// 300 to 399.
        Redirection = "3xx",
        /// 400 to 499.
        ClientError = "4xx",
        /// 500 and more.
        ServerError = "5xx",
    }
}

label! {
    /// How this node speaks to an origin.
    Upstream as "protocol" {
        /// The origin's leg of an RTMP session.
        Rtmp = "rtmp",
        /// A request of HTTP, for a stream or to the API.
        Http = "http",
        /// The handshake of an SRT session.
        Srt = "srt",
    }
}

label! {
    /// What became of a playlist that an origin sent.
    Playlist as "outcome" {
        /// It went to the client, its URIs rewritten.
        Rewritten = "rewritten",
        /// It was refused: too large.
        TooLarge = "too_large",
        /// It was refused: no playlist, or not UTF-8.
        Invalid = "invalid",
    }
}

label! {
    /// What came of the question where a stream is.
    Place as "outcome" {
        /// An origin was given.
        Ok = "ok",
        /// No origin may be used.
        NoOrigin = "no_origin",
        /// A bound was reached.
        Full = "full",
        /// What the nodes agree through cannot be reached, or does not answer in time.
        Unavailable = "unavailable",
    }
}

label! {
    /// What became of an origin's heartbeat.
    Heartbeat as "outcome" {
        /// It was taken.
        Taken = "taken",
        /// It came without the token that it needs.
        Unauthorized = "unauthorized",
        /// It made no sense.
        Invalid = "invalid",
        /// The balancer could not take it.
        Unavailable = "unavailable",
    }
}

label! {
    /// A part of a scrape that others have to be asked for.
    Part as "part" {
        /// Whether the balancer can place streams.
        Ready = "ready",
        /// The registered origins.
        Origins = "origins",
        /// The placed streams.
        Placements = "placements",
        /// What the system knows of the process.
        Process = "process",
    }
}

label! {
    /// What the data path saw of an origin.
    Seen as "seen" {
        /// It answered.
        Reached = "reached",
        /// It did not.
        Failed = "failed",
    }
}

label! {
    /// Where bytes came from.
    Direction as "direction" {
        /// From the client.
        FromClient = "from_client",
        /// From the origin.
        FromOrigin = "from_origin",
    }
}

/// What came of something that an origin was asked for: success, or the kind of the failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome(pub Option<Kind>);

impl Label for Outcome {
    const NAME: &'static str = "outcome";
    const VALUES: &'static [&'static str] =
        &["ok", "connect", "timeout", "closed", "protocol", "limit", "refused", "unavailable", "shutdown"];

    fn index(self) -> usize {
        self.0.map_or(0, |kind| kind as usize + 1)
    }
}

impl Label for Intent {
    const NAME: &'static str = "intent";
    const VALUES: &'static [&'static str] = &["publish", "play"];

    fn index(self) -> usize {
        self as usize
    }
}

impl Label for Role {
    const NAME: &'static str = "role";
    const VALUES: &'static [&'static str] = &["publish", "play", "unknown"];

    fn index(self) -> usize {
        self as usize
    }
}

impl Label for Delivery {
    const NAME: &'static str = "protocol";
    const VALUES: &'static [&'static str] = &["rtmp", "progressive", "hls", "dash", "webrtc", "srt"];

    fn index(self) -> usize {
        self as usize
    }
}

/// Who ended a session, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End(pub Option<(Side, Kind)>);

impl Labels for End {
    const COUNT: usize = 1 + SIDES.len() * KINDS.len();

    fn index(self) -> usize {
        self.0.map_or(0, |(side, kind)| 1 + side as usize * KINDS.len() + kind as usize)
    }

    fn pairs(index: usize) -> Pairs {
        let (side, kind) = match index.checked_sub(1) {
            Some(index) => (SIDES[index / KINDS.len()], KINDS[index % KINDS.len()]),
            None => ("none", "complete"),
        };
        vec![("side", side), ("kind", kind)]
    }
}

const SIDES: &[&str] = &["client", "origin", "internal"];
const KINDS: &[&str] = &["connect", "timeout", "closed", "protocol", "limit", "refused", "unavailable", "shutdown"];

#[cfg(test)]
mod tests {
    use super::*;

    const ALL_KINDS: [Kind; 8] = [
        Kind::Connect,
        Kind::Timeout,
        Kind::Closed,
        Kind::Protocol,
        Kind::Limit,
        Kind::Refused,
        Kind::Unavailable,
        Kind::Shutdown,
    ];

    #[test]
    fn labels_say_what_logs_say() {
        for (kind, value) in ALL_KINDS.iter().zip(KINDS) {
            assert_eq!(kind.as_str(), *value);
            assert_eq!(Outcome::VALUES[Outcome(Some(*kind)).index()], kind.as_str());
            for side in [Side::Client, Side::Origin, Side::Internal] {
                let pairs = End::pairs(End(Some((side, *kind))).index());
                assert_eq!(pairs, [("side", SIDES[side as usize]), ("kind", kind.as_str())]);
                assert_eq!(side.to_string(), SIDES[side as usize]);
            }
        }
        assert_eq!(End::pairs(End(None).index()), [("side", "none"), ("kind", "complete")]);
        assert_eq!(Outcome::VALUES[Outcome(None).index()], "ok");
        for intent in [Intent::Publish, Intent::Play] {
            assert_eq!(Intent::VALUES[intent.index()], intent.as_str());
        }
        for delivery in Delivery::ALL {
            assert_eq!(Delivery::VALUES[delivery.index()], delivery.as_str());
        }
        for role in [Role::Publish, Role::Play, Role::Unknown] {
            assert_eq!(Role::VALUES[role.index()], role.as_str());
        }
    }

    #[test]
    fn every_set_of_labels_has_a_cell_of_its_own() {
        type Both = (Delivery, (Role, End));
        let mut seen: Vec<Pairs> = (0..Both::COUNT).map(Both::pairs).collect();
        assert_eq!(seen.len(), 6 * 3 * 25);
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), Both::COUNT);
        let end = End(Some((Side::Origin, Kind::Timeout)));
        let index = (Delivery::Dash, (Role::Play, end)).index();
        let expected = [("protocol", "dash"), ("role", "play"), ("side", "origin"), ("kind", "timeout")];
        assert_eq!(Both::pairs(index), expected);
    }
}
