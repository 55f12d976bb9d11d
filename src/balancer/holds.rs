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

/// A placement that is in use.
#[derive(Debug)]
pub(super) struct Held {
    pub users: Users,
    /// The origin, as the newest placement has it that anybody here holds or was told of.
    pub origin: OriginId,
    /// The epoch of that placement.
    pub epoch: u64,
    moved: watch::Sender<u64>,
}

/// All placements that are in use, at most one for each session.
#[derive(Debug, Default)]
pub(super) struct Holds {
    streams: HashMap<StreamKey, Held>,
}

impl Holds {
    /// Notes one more user; gives the epoch to watch, which exceeds the placement's if the stream has
    /// moved to another origin.
    pub fn hold(&mut self, placement: &Placement, intent: Intent) -> watch::Receiver<u64> {
        let Placement { stream, origin, epoch } = placement;
        self.moved(stream, &origin.id(), *epoch);
        let held = self.streams.entry(stream.clone()).or_insert_with(|| Held {
            users: Users::default(),
            origin: origin.id(),
            epoch: *epoch,
            moved: watch::channel(*epoch).0,
        });
        *held.users.of(intent) += 1;
        held.moved.subscribe()
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
    /// now. Of two placements at one epoch, as nodes make them that do not see each other, the one that
    /// is told last counts.
    pub fn moved(&mut self, stream: &StreamKey, origin: &OriginId, epoch: u64) {
        let Some(held) = self.streams.get_mut(stream).filter(|held| held.epoch <= epoch) else { return };
        if held.origin != *origin {
            let before = std::mem::replace(&mut held.moved, watch::channel(epoch).0);
            before.send_replace(epoch.max(held.epoch + 1));
            held.origin = origin.clone();
        }
        held.epoch = epoch;
    }

    pub fn get(&self, stream: &StreamKey) -> Option<&Held> {
        self.streams.get(stream)
    }

    pub fn users(&self, stream: &StreamKey) -> Users {
        self.get(stream).map_or_else(Users::default, |held| held.users)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&StreamKey, &Held)> {
        self.streams.iter()
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
        let mut holds = Holds::default();
        let placed = placement(1, 1);
        holds.hold(&placed, Intent::Publish);
        holds.hold(&placed, Intent::Play);
        assert_eq!(holds.release(&placed.stream, Intent::Play), Some(Users { publishers: 1, players: 0 }));
        assert_eq!(holds.release(&placed.stream, Intent::Play), None);
        assert_eq!(holds.users(&placed.stream).publishers, 1);
        assert_eq!(holds.release(&placed.stream, Intent::Publish), Some(Users::default()));
        assert_eq!(holds.iter().count(), 0);
    }

    #[test]
    fn only_those_on_another_origin_are_told_of_a_move() {
        let mut holds = Holds::default();
        let watch = holds.hold(&placement(1, 3), Intent::Play);
        let stream = placement(1, 3).stream;
        holds.moved(&stream, &placement(2, 0).origin.id(), 2);
        assert_eq!(*watch.borrow(), 3, "news from the past");
        holds.moved(&stream, &placement(1, 0).origin.id(), 4);
        assert_eq!(*watch.borrow(), 3, "a new epoch on the same origin");
        holds.moved(&stream, &placement(2, 0).origin.id(), 5);
        assert_eq!(*watch.borrow(), 5);
    }

    #[test]
    fn of_two_origins_at_one_epoch_the_last_counts_and_those_on_the_other_are_told() {
        let mut holds = Holds::default();
        let first = holds.hold(&placement(1, 3), Intent::Play);
        let second = holds.hold(&placement(2, 3), Intent::Play);
        assert!(*first.borrow() > 3);
        assert_eq!(*second.borrow(), 3);
        holds.moved(&placement(1, 3).stream, &placement(1, 3).origin.id(), 3);
        assert!(*second.borrow() > 3);
        assert_eq!(*holds.hold(&placement(1, 3), Intent::Play).borrow(), 3, "whoever is there is not sent away");
    }

    #[test]
    fn a_session_that_arrives_with_a_newer_placement_tells_those_before_it() {
        let mut holds = Holds::default();
        let before = holds.hold(&placement(1, 3), Intent::Play);
        let after = holds.hold(&placement(2, 4), Intent::Play);
        assert_eq!((*before.borrow(), *after.borrow()), (4, 4));
        let late = holds.hold(&placement(1, 3), Intent::Play);
        assert!(*late.borrow() > 3);
    }
}
