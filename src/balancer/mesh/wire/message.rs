//! What one node asks another, and the answers.

use std::time::Duration;

use crate::{
    balancer::{
        BalancerError, Intent, PlaceRequest,
        mesh::model::{
            member::Address,
            origins::OriginFacts,
            record::{NodeId, Record},
        },
    },
    origin::{OriginId, Protocol},
    stream::StreamKey,
};

/// Sessions of one node on one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewal {
    /// The stream.
    pub stream: StreamKey,
    /// The placement that they use, as the node knows it.
    pub record: Record,
    /// Publishers.
    pub publishers: u32,
    /// Players. Where both are zero, the last session has ended.
    pub players: u32,
}

/// A [`PlaceRequest`] on its way through the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlaceQuery {
    /// The stream to place.
    pub stream: StreamKey,
    /// The protocol in which the origin must serve it.
    pub protocol: Protocol,
    /// What the client wants with it.
    pub intent: Intent,
    /// Origins that the client has failed to reach.
    pub avoid: Vec<OriginId>,
    /// Nodes that the asking node cannot reach.
    pub unreachable: Vec<NodeId>,
    /// Whether the answer must be a decision, even if the asked node thinks that it is another's.
    pub force: bool,
}

impl PlaceQuery {
    /// As the balancer's policy takes it.
    pub fn request(&self) -> PlaceRequest<'_> {
        PlaceRequest { stream: &self.stream, protocol: self.protocol, intent: self.intent, avoid: &self.avoid }
    }
}

impl From<&PlaceRequest<'_>> for PlaceQuery {
    fn from(request: &PlaceRequest<'_>) -> Self {
        Self {
            stream: request.stream.clone(),
            protocol: request.protocol,
            intent: request.intent,
            avoid: request.avoid.to_vec(),
            unreachable: Vec::new(),
            force: false,
        }
    }
}

/// The last item of a page of a snapshot: origins come first, ordered by id, then records, ordered by
/// stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cursor {
    /// An origin.
    Origin(OriginId),
    /// A stream, with all records of it.
    Stream(StreamKey),
}

/// A question to another node.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// Where is this stream, or where shall it be?
    Place {
        /// What is asked.
        query: PlaceQuery,
        /// What the asking node knows of the stream.
        known: Vec<Record>,
        /// The highest epoch at which the asking node saw the stream end.
        min_epoch: u64,
    },
    /// I am about to decide on this stream: what do you know, and will you hold back?
    Claim {
        /// The stream.
        stream: StreamKey,
        /// What the asking node knows of it.
        known: Vec<Record>,
    },
    /// These are the sessions that I have.
    RenewLeases(Vec<Renewal>),
    /// These records are the latest: take note. `adopt` asks the node to be their home.
    PushRecords {
        /// The records.
        records: Vec<(StreamKey, Record)>,
        /// Whether the sender gives up its own.
        adopt: bool,
    },
    /// What do you know of these streams?
    GetRecords(Vec<StreamKey>),
    /// What do you know at all? Answered page by page.
    Snapshot {
        /// How far the pages before came.
        after: Option<Cursor>,
    },
    /// Keep a short-lived record.
    PutUfrag {
        /// Its id.
        id: String,
        /// The stream that it leads to.
        stream: StreamKey,
        /// For how long.
        ttl: Duration,
    },
    /// What stream does this record lead to?
    StreamOfUfrag {
        /// The record's id.
        id: String,
    },
}

impl Request {
    /// How long to wait for the answer, where a single step takes up to `step`: more where the asked
    /// node may have to ask others, or where the question is about thousands of streams.
    pub fn patience(&self, step: Duration) -> Duration {
        match self {
            Self::Place { .. } => step * 5 / 2,
            Self::RenewLeases(_) | Self::PushRecords { .. } | Self::GetRecords(_) | Self::Snapshot { .. } => step * 10,
            Self::Claim { .. } | Self::PutUfrag { .. } | Self::StreamOfUfrag { .. } => step,
        }
    }
}

/// The answer to a [`Request`].
#[derive(Debug, Clone, PartialEq)]
pub enum Response {
    /// To [`Request::Place`]: the placement, and the origin for a node that does not know it yet.
    Placed {
        /// The record.
        record: Record,
        /// Its origin.
        origin: Box<OriginFacts>,
    },
    /// To [`Request::Place`]: another node decides.
    Redirect(Address),
    /// To [`Request::Place`]: there is no placement.
    Refused(BalancerError),
    /// To [`Request::Claim`].
    Claimed {
        /// What the asked node knows of the stream.
        known: Vec<Record>,
        /// The highest epoch at which it saw the stream end.
        min_epoch: u64,
        /// Who goes before: the asked node itself, or one for which it held back until now. If
        /// nobody, the asked node holds back for the asking one for a while.
        held: Option<Address>,
    },
    /// To [`Request::RenewLeases`], [`Request::GetRecords`]: the records that the asking node may not know.
    Records(Vec<(StreamKey, Record)>),
    /// To [`Request::Snapshot`].
    Page {
        /// Records, ordered by stream; several of one stream if they conflict.
        records: Vec<(StreamKey, Record)>,
        /// Origins, ordered by id, each with its age: time since its heartbeat.
        origins: Vec<(OriginFacts, Duration)>,
        /// The highest epoch at which the asked node saw a stream end: at least that for all new ones.
        min_epoch: u64,
        /// Where the next page begins, if there is one.
        next: Option<Cursor>,
    },
    /// To [`Request::StreamOfUfrag`].
    StreamOfUfrag(Option<StreamKey>),
    /// To [`Request::PushRecords`] and [`Request::PutUfrag`].
    Done,
    /// The asked node does not decide or remember anything now, because it joins or ends.
    NotServing,
}

impl Response {
    /// Whether this may be the answer to `request`. Another one is a fault of the node that gives it.
    pub const fn answers(&self, request: &Request) -> bool {
        match self {
            Self::Placed { .. } | Self::Redirect(_) => matches!(request, Request::Place { .. }),
            Self::Refused(_) => matches!(request, Request::Place { .. } | Request::PutUfrag { .. }),
            Self::Claimed { .. } => matches!(request, Request::Claim { .. }),
            Self::Records(_) => matches!(request, Request::RenewLeases(_) | Request::GetRecords(_)),
            Self::Page { .. } => matches!(request, Request::Snapshot { .. }),
            Self::StreamOfUfrag(_) => matches!(request, Request::StreamOfUfrag { .. }),
            Self::Done => matches!(request, Request::PushRecords { .. } | Request::PutUfrag { .. }),
            Self::NotServing => true,
        }
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Nobody answered in time; the text says how that was seen.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// Somebody answered, but not as a node of this cluster does.
    #[error("refused: {0}")]
    Refused(String),
}
