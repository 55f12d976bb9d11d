//! Which placements the sessions of this node use, and how they learn that one has moved.

use std::collections::{HashMap, hash_map::Entry};

use tokio::sync::watch;

use super::{Intent, Placement};
use crate::{origin::OriginId, stream::StreamKey};

/// How many sessions of this node use a placement.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Users {
    pub publishers: usize,
    pub players: usize,
}

impl Users {
    fn of(&mut self, intent: Intent) -> &mut usize {
        match intent {
            Intent::Publish => &mut self.publishers,
            Intent::Play => &mut self.players,
        }
    }
}

/// A placement that sessions of this node use.
#[derive(Debug)]
pub(super) struct InUse {
    pub origin: OriginId,
    /// The epoch of the newest placement on this origin that anybody here holds or was told of.
    pub epoch: u64,
    /// Those who were told of a move have it no longer.
    moved: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Stream {
    users: Users,
    /// One for each origin, the newest last. There are several only while it is not settled where the
    /// stream is.
    held: Vec<InUse>,
}

/// All placements that are in use, at most one for each session.
#[derive(Debug, Default)]
pub(super) struct Usage {
    streams: HashMap<StreamKey, Stream>,
}

impl Usage {
    /// Notes one more user; gives the epoch to watch, which exceeds the placement's if the stream has
    /// moved to another origin.
    pub fn acquire(&mut self, placement: &Placement, intent: Intent) -> watch::Receiver<u64> {
        let Placement { stream, origin, epoch } = placement;
        let (id, epoch) = (origin.id(), *epoch);
        let stream = self.streams.entry(stream.clone()).or_default();
        *stream.users.of(intent) += 1;
        if let Some(later) = stream.held.iter().find(|held| held.origin != id && held.epoch > epoch) {
            return later.moved.subscribe();
        }
        stream.moved(&id, epoch, |held| held.epoch < epoch);
        stream.at(&id, epoch).moved.subscribe()
    }

    /// Notes one user less; says who is left, or nothing if there was no such user.
    pub fn release(&mut self, stream: &StreamKey, intent: Intent) -> Option<Users> {
        let Entry::Occupied(mut entry) = self.streams.entry(stream.clone()) else { return None };
        let users = &mut entry.get_mut().users;
        *users.of(intent) = users.of(intent).checked_sub(1)?;
        let left = *users;
        if left == Users::default() {
            entry.remove();
        }
        Some(left)
    }

    /// Tells those who hold a placement on another origin, which is not later, that the stream is there
    /// now.
    pub fn moved(&mut self, stream: &StreamKey, origin: &OriginId, epoch: u64) {
        let Some(stream) = self.streams.get_mut(stream) else { return };
        if stream.held.iter().all(|held| held.epoch <= epoch) {
            stream.moved(origin, epoch, |held| held.epoch <= epoch);
            stream.at(origin, epoch);
        }
    }

    /// The newest placement of a stream that is in use.
    pub fn get(&self, stream: &StreamKey) -> Option<&InUse> {
        self.streams.get(stream)?.held.last()
    }

    pub fn users(&self, stream: &StreamKey) -> Users {
        self.streams.get(stream).map_or_else(Users::default, |stream| stream.users)
    }

    /// The streams that are in use.
    pub fn streams(&self) -> impl Iterator<Item = &StreamKey> {
        self.streams.keys()
    }
}

impl Stream {
    /// Tells those on other origins whom `earlier` names. Nobody is left to tell where all have gone.
    fn moved(&mut self, origin: &OriginId, epoch: u64, earlier: impl Fn(&InUse) -> bool) {
        self.held.retain(|held| {
            let told = held.origin != *origin && earlier(held);
            if told {
                held.moved.send_replace(epoch.max(held.epoch + 1));
            }
            !told && (held.origin == *origin || held.moved.receiver_count() > 0)
        });
    }

    fn at(&mut self, origin: &OriginId, epoch: u64) -> &InUse {
        let mut held = match self.held.iter().position(|held| held.origin == *origin) {
            Some(place) => self.held.remove(place),
            None => InUse { origin: origin.clone(), epoch, moved: watch::channel(epoch).0 },
        };
        held.epoch = held.epoch.max(epoch);
        let place = self.held.iter().position(|other| other.epoch > held.epoch).unwrap_or(self.held.len());
        self.held.insert(place, held);
        &self.held[place]
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::origin::Origin;

    fn placement(origin: u8, epoch: u64) -> Placement {
        let body = format!(r#"{{"ip":"h","server":"{origin}","service":"s","pid":"1","rtmp":["1935"]}}"#);
        let origin = Arc::new(Origin::from_heartbeat(body.as_bytes(), "").unwrap());
        Placement { stream: StreamKey::from_shared("v/app/s").unwrap(), origin, epoch }
    }

    #[test]
    fn users_are_counted_until_the_last_has_gone() {
        let mut holds = Usage::default();
        let placed = placement(1, 1);
        holds.acquire(&placed, Intent::Publish);
        holds.acquire(&placed, Intent::Play);
        assert_eq!(holds.release(&placed.stream, Intent::Play), Some(Users { publishers: 1, players: 0 }));
        assert_eq!(holds.release(&placed.stream, Intent::Play), None);
        assert_eq!(holds.users(&placed.stream).publishers, 1);
        assert_eq!(holds.release(&placed.stream, Intent::Publish), Some(Users::default()));
        assert_eq!(holds.streams().count(), 0);
    }

    #[test]
    fn only_those_on_another_origin_are_told_of_a_move() {
        let mut holds = Usage::default();
        let watch = holds.acquire(&placement(1, 3), Intent::Play);
        let stream = placement(1, 3).stream;
        holds.moved(&stream, &placement(2, 0).origin.id(), 2);
        assert_eq!(*watch.borrow(), 3, "news from the past");
        holds.moved(&stream, &placement(1, 0).origin.id(), 4);
        assert_eq!(*watch.borrow(), 3, "a new epoch on the same origin");
        holds.moved(&stream, &placement(2, 0).origin.id(), 5);
        assert_eq!(*watch.borrow(), 5);
    }

    #[test]
    fn of_two_origins_at_one_epoch_none_is_told_until_it_is_settled() {
        for settled in [1, 2] {
            let mut holds = Usage::default();
            let watches = [1, 2].map(|origin| holds.acquire(&placement(origin, 3), Intent::Play));
            assert_eq!(watches.clone().map(|watch| *watch.borrow()), [3, 3]);
            let placed = placement(settled, 3);
            holds.moved(&placed.stream, &placed.origin.id(), 3);
            let told = watches.map(|watch| *watch.borrow() > 3);
            assert_eq!(told, [settled != 1, settled != 2]);
            assert_eq!(*holds.acquire(&placed, Intent::Play).borrow(), 3, "whoever is there is not sent away");
        }
    }

    #[test]
    fn a_session_that_arrives_with_a_newer_placement_tells_those_before_it() {
        let mut holds = Usage::default();
        let before = holds.acquire(&placement(1, 3), Intent::Play);
        let after = holds.acquire(&placement(2, 4), Intent::Play);
        assert_eq!((*before.borrow(), *after.borrow()), (4, 4));
        let late = holds.acquire(&placement(1, 3), Intent::Play);
        assert!(*late.borrow() > 3);
    }
}
