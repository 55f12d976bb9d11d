//! How Redis learns which placements the sessions of this node use, and how these learn of moves
//! that no event announced.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::{Shared, scripts};
use crate::{balancer::Intent, origin::OriginId, stream::StreamKey};

/// The longest time between two renewals.
const MAX_PERIOD: Duration = Duration::from_secs(10);
/// Placements that are renewed at once.
const BATCH: usize = 256;

/// What is to be said of a placement: whether it is released, and if so, which it was.
pub(super) type Released = Option<(OriginId, u64)>;

struct LeaseUpdate {
    stream: StreamKey,
    origin: OriginId,
    epoch: u64,
    /// None if it is released.
    published: Option<bool>,
}

impl Shared {
    /// Tells Redis of holds and releases as they come, and renews all from time to time, for ever.
    pub async fn keep_leases(&self) {
        let mut ticks = interval((self.lease / 3).min(MAX_PERIOD));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.leases_changed.notified() => {}
                _ = ticks.tick() => self.renew_all(),
            }
            self.flush_leases().await;
        }
    }

    /// Has all held placements renewed soon.
    pub fn renew_all(&self) {
        self.with(|state, _, _| {
            let held: Vec<_> = state.usage.streams().cloned().collect();
            state.pending_lease_updates.extend(held.into_iter().map(|stream| (stream, None)));
        });
        self.leases_changed.notify_one();
    }

    /// Says what has not been said yet.
    pub async fn flush_leases(&self) {
        let work = self.with(|state, _, _| {
            let pending_lease_updates = std::mem::take(&mut state.pending_lease_updates);
            let work = |(stream, released): (StreamKey, Released)| {
                if let Some(held) = state.usage.get(&stream) {
                    let (origin, epoch) = (held.origin.clone(), held.epoch);
                    let published = state.usage.users(&stream).publishers > 0;
                    return Some(LeaseUpdate { stream, origin, epoch, published: Some(published) });
                }
                released.map(|(origin, epoch)| LeaseUpdate { stream, origin, epoch, published: None })
            };
            pending_lease_updates.into_iter().filter_map(work).collect::<Vec<_>>()
        });
        if !self.link.is_up() {
            // Releases take care of themselves by expiry, holds are renewed when Redis is back.
            return;
        }
        for work in work.chunks(BATCH) {
            let scripts = self.scripts();
            let call = |work: &LeaseUpdate| {
                let LeaseUpdate { stream, origin, epoch, published } = work;
                match published {
                    Some(published) => scripts.renew(stream, origin, *epoch, *published, self.lease),
                    None => scripts.release(stream, origin, *epoch, self.config.placement_hold),
                }
            };
            let calls: Vec<_> = work.iter().map(call).collect();
            match self.link.calls(&calls).await {
                Ok(answers) => {
                    for (work, answer) in work.iter().zip(answers) {
                        match answer {
                            Ok(answer) if work.published.is_some() => self.renewed(work, &answer).await,
                            Ok(_) => {}
                            Err(error) => tracing::debug!(stream = %work.stream, %error, "placement not renewed"),
                        }
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "placements not renewed");
                    return;
                }
            }
        }
    }

    async fn renewed(&self, work: &LeaseUpdate, answer: &redis::Value) {
        let (done, Some(found)) = scripts::outcome(answer) else { return };
        if !done && self.keys.server_id(&found.value).is_none() {
            // Somebody wrote what is no server; the stream is where its sessions are.
            self.foreign_data.warn(&self.keys.url(&work.stream));
            let assign = self.scripts().assign(&work.stream, Some(&found), &work.origin, self.lease);
            if let Ok(answer) = self.link.call(&assign).await
                && let (_, Some(found)) = scripts::outcome(&answer)
            {
                self.saw(&work.stream, &found);
            }
            return;
        }
        self.saw(&work.stream, &found);
    }

    /// Notes one more user of a placement.
    pub fn acquire(&self, placement: &crate::balancer::Placement, intent: Intent) -> tokio::sync::watch::Receiver<u64> {
        let (watch, news) = self.with(|state, now, _| {
            let stream = &placement.stream;
            let before = state.usage.users(stream);
            let news = match intent {
                Intent::Publish => before.publishers == 0,
                Intent::Play => before.publishers + before.players == 0,
            };
            let watch = state.usage.acquire(placement, intent);
            state.last_seen.put(stream, &placement.origin.id(), placement.epoch, now);
            if news {
                state.pending_lease_updates.insert(stream.clone(), None);
            }
            (watch, news)
        });
        if news {
            self.leases_changed.notify_one();
        }
        watch
    }

    /// Notes one user less.
    pub fn release(&self, stream: &StreamKey, intent: Intent) {
        let news = self.with(|state, _, _| {
            let held = state.usage.get(stream).map(|held| (held.origin.clone(), held.epoch));
            let Some(left) = state.usage.release(stream, intent) else { return false };
            if left.publishers + left.players == 0 {
                state.pending_lease_updates.insert(stream.clone(), held);
                return true;
            }
            let news = intent == Intent::Publish && left.publishers == 0;
            if news {
                state.pending_lease_updates.insert(stream.clone(), None);
            }
            news
        });
        if news {
            self.leases_changed.notify_one();
        }
    }
}
