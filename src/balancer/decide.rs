//! The decision on one stream, the same whatever the nodes agree through. Pure: what is known comes
//! in, a verdict comes out.

use std::sync::Arc;

use rand::Rng;

use super::{
    BalancerError, Intent, OriginState, PlaceRequest, policy,
    registry::{Entry, Registry},
};
use crate::{
    config::Policy,
    origin::{Origin, OriginId},
};

/// Where a stream is placed before the decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Current {
    pub origin: OriginId,
    /// Whether a publisher sends it there.
    pub published: bool,
}

/// Where a stream is to be.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Verdict {
    /// Where it is.
    Keep(Arc<Origin>),
    /// On this origin from now on.
    Assign(Arc<Origin>),
}

/// Decides where the stream of `request` is to be. `streams` tells how many are placed on an origin.
///
/// A stream stays for as long as its origin is live, serves the protocol and is not to be avoided.
/// Live origins come before suspect ones, and the suspect one that has the stream before others.
pub(super) fn decide<R: Rng + ?Sized>(
    origins: &Registry,
    streams: impl Fn(&OriginId) -> usize,
    current: Option<&Current>,
    request: &PlaceRequest<'_>,
    policy: Policy,
    rng: &mut R,
) -> Result<Verdict, BalancerError> {
    let PlaceRequest { protocol, avoid, .. } = *request;
    let none = BalancerError::NoOrigin { protocol, registered: origins.len() };
    let mut last_resort = None;
    if let Some(Current { origin, published }) = current
        && !avoid.contains(origin)
        && let Some(entry) = origins.get(origin)
    {
        match (entry.state(), entry.origin.serves(protocol)) {
            (OriginState::Live, true) => return Ok(Verdict::Keep(Arc::clone(&entry.origin))),
            (OriginState::Suspect, true) => last_resort = Some(Verdict::Keep(Arc::clone(&entry.origin))),
            // To move the stream would take it from its publisher and give the player nothing.
            (OriginState::Live, false) if *published && request.intent == Intent::Play => return Err(none),
            (_, false) => {}
        }
    }

    let usable = |(id, entry): &(&OriginId, &Entry)| entry.origin.serves(protocol) && !avoid.contains(id);
    let mut choose = |state: OriginState| {
        let candidates: Vec<_> = origins.iter().filter(usable).filter(|(_, entry)| entry.state() == state).collect();
        let loads: Vec<_> =
            candidates.iter().map(|(id, entry)| policy::Load { streams: streams(id), cpu: entry.origin.cpu }).collect();
        policy::choose(&loads, policy, rng).map(|chosen| Verdict::Assign(Arc::clone(&candidates[chosen].1.origin)))
    };
    choose(OriginState::Live).or(last_resort).or_else(|| choose(OriginState::Suspect)).ok_or(none)
}
