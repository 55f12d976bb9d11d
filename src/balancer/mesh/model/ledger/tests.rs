use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

mod sequences;

const HOLD: Duration = Duration::from_secs(10);
const CONNECTING: Duration = Duration::from_secs(30);
const LEASE: Duration = Duration::from_secs(15);
const CAPACITY: usize = 4;
const MOMENT: Duration = Duration::from_millis(1);

/// A moment before a time.
fn before(time: Duration) -> Duration {
    time.saturating_sub(MOMENT)
}

fn stream(n: u8) -> StreamKey {
    StreamKey::from_shared(&format!("v/app/{n}")).unwrap()
}

fn origin(n: u8) -> OriginId {
    format!("o{n}").as_str().into()
}

fn node(n: u8) -> NodeId {
    format!("n{n}").as_str().into()
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A record that node `writer` wrote at `written`, and that knows of no other.
fn record(writer: u8, written: u64, origin_number: u8, epoch: u64) -> Record {
    Record {
        origin: origin(origin_number),
        epoch,
        since: Stamp(written),
        published: false,
        writer: node(writer),
        written: Stamp(written),
        history: BTreeMap::new(),
    }
}

/// The ledger of node 0 at a time.
struct Scene {
    ledger: Ledger,
    start: Instant,
    now: Instant,
    stamp: u64,
}

impl Scene {
    fn new() -> Self {
        let times = Times { hold: HOLD, connecting: CONNECTING, lease: LEASE };
        let start = Instant::now();
        Self { ledger: Ledger::new(node(0), times, CAPACITY), start, now: start, stamp: 100 }
    }

    fn stamp(&mut self) -> Stamp {
        self.stamp += 1;
        Stamp(self.stamp)
    }

    /// Goes to a time, which is reckoned from the start, and ends what is over then.
    fn at(&mut self, time: Duration) -> &mut Self {
        self.now = self.start + time;
        let stamp = self.stamp();
        while self.ledger.expire(|| stamp, self.now, 100) == 100 {}
        self
    }

    fn assign(&mut self, n: u8, origin_number: u8) -> Result<Record, BalancerError> {
        let stamp = self.stamp();
        self.ledger.assign(&stream(n), &origin(origin_number), stamp, self.now)
    }

    fn lease(&mut self, n: u8, from: u8, publishers: u32, players: u32) {
        let stamp = self.stamp();
        if let Some(record) = self.ledger.get(&stream(n)).cloned() {
            self.ledger.lease(&stream(n), &node(from), &record, (publishers, players), stamp, self.now);
        }
    }

    fn merge(&mut self, n: u8, record: &Record, posted: Option<u64>) {
        self.ledger.merge(&stream(n), record, posted, self.now);
    }

    fn resolve(&mut self, n: u8) -> bool {
        let stamp = self.stamp();
        self.ledger.resolve(&stream(n), stamp, self.now)
    }

    fn reassert(&mut self, n: u8, origin_number: u8, epoch: u64) {
        let stamp = self.stamp();
        self.ledger.reassert(&stream(n), &origin(origin_number), epoch, stamp, self.now);
    }

    fn knows(&self, n: u8) -> bool {
        self.ledger.get(&stream(n)).is_some()
    }

    fn origins(&self, n: u8) -> Vec<OriginId> {
        self.ledger.all(&stream(n)).into_iter().map(|record| record.origin).collect()
    }

    /// What sessions are told of since the last call, and whether there is doubt.
    fn told(&mut self) -> (Vec<OriginId>, bool) {
        let effects = self.ledger.take_effects();
        let doubt = effects.iter().any(|effect| matches!(effect, Effect::Unaccounted(_)));
        let known = effects.into_iter().filter_map(|effect| match effect {
            Effect::Resolved(_, record) => Some(record.origin),
            _ => None,
        });
        (known.collect(), doubt)
    }
}

#[test]
fn a_placement_waits_for_the_client_that_asked_for_it() {
    let mut scene = Scene::new();
    scene.assign(1, 1).unwrap();
    assert!(scene.at(before(CONNECTING)).knows(1));
    scene.ledger.keep(&stream(1), scene.now);
    assert!(scene.at(before(before(CONNECTING * 2))).knows(1), "another asked for it");
    assert!(!scene.at(before(CONNECTING * 2)).knows(1));
}

#[test]
fn a_client_that_asked_is_waited_for_though_sessions_of_others_end_meanwhile() {
    let mut scene = Scene::new();
    scene.assign(1, 1).unwrap();
    scene.lease(1, 2, 0, 0);
    assert!(scene.at(before(CONNECTING)).knows(1), "it was never used");
    scene.lease(1, 1, 1, 0);
    scene.ledger.keep(&stream(1), scene.now);
    let asked = before(CONNECTING);
    scene.at(asked + secs(1)).lease(1, 1, 1, 0);
    scene.at(asked + secs(2)).lease(1, 1, 0, 0);
    assert!(scene.at(before(asked + CONNECTING)).knows(1));
    assert!(!scene.at(asked + CONNECTING).knows(1));
}

#[test]
fn a_placement_outlives_its_last_session_by_the_hold() {
    let mut scene = Scene::new();
    scene.assign(1, 1).unwrap();
    scene.lease(1, 1, 1, 0);
    scene.lease(1, 2, 0, 1);
    scene.at(secs(14)).lease(1, 2, 0, 1);
    scene.at(secs(14)).lease(1, 1, 0, 0);
    assert!(scene.at(secs(28)).knows(1), "node 2 still has a player");
    scene.lease(1, 2, 0, 0);
    assert!(scene.at(before(secs(28) + HOLD)).knows(1));
    assert!(!scene.at(secs(28) + HOLD).knows(1));
}

#[test]
fn a_lease_that_is_not_renewed_ended_when_it_lapsed_however_late_that_is_noticed() {
    for noticed in [LEASE, before(LEASE + HOLD)] {
        let mut scene = Scene::new();
        scene.assign(1, 1).unwrap();
        scene.at(secs(1)).lease(1, 1, 0, 1);
        scene.at(secs(2)).lease(1, 1, 0, 1);
        assert!(scene.at(noticed).knows(1));
        assert!(scene.at(before(secs(2) + LEASE + HOLD)).knows(1), "{noticed:?}");
        assert!(!scene.at(secs(2) + LEASE + HOLD).knows(1), "{noticed:?}");
    }
}

#[test]
fn a_stream_has_a_publisher_for_as_long_as_a_lease_says_so() {
    let mut scene = Scene::new();
    scene.assign(1, 1).unwrap();
    let published = |scene: &Scene| scene.ledger.own(&stream(1)).unwrap().published;
    scene.lease(1, 1, 1, 0);
    assert!(published(&scene));
    scene.lease(1, 2, 0, 1);
    assert!(published(&scene));
    scene.at(before(LEASE)).lease(1, 2, 0, 1);
    assert!(published(&scene));
    assert!(!published(scene.at(LEASE)), "its node did not renew");
    scene.lease(1, 2, 1, 1);
    assert!(published(&scene));
    scene.lease(1, 2, 0, 1);
    assert!(!published(&scene));
}

#[test]
fn epochs_grow_when_a_stream_moves_and_when_it_comes_again_and_not_when_it_stays() {
    let mut scene = Scene::new();
    let first = scene.assign(1, 1).unwrap();
    let stays = scene.assign(1, 1).unwrap();
    assert_eq!((stays.epoch, stays.since), (first.epoch, first.since));
    let moved = scene.assign(1, 2).unwrap();
    assert!(moved.epoch > first.epoch && moved.since > first.since);
    assert!(!scene.at(CONNECTING).knows(1));
    assert!(scene.assign(1, 1).unwrap().epoch > moved.epoch);
    // One that ended elsewhere, and one that another node took over since.
    scene.ledger.raise_min_epoch(&stream(2), 40);
    assert!(scene.assign(2, 1).unwrap().epoch > 40);
    scene.ledger.raise_min_epochs(90);
    assert!(scene.assign(3, 1).unwrap().epoch > 90);
}

#[test]
fn a_stream_that_stays_is_lifted_above_the_epochs_at_which_it_ended() {
    let mut scene = Scene::new();
    scene.merge(1, &record(1, 1, 1, 3), Some(1));
    scene.ledger.raise_min_epoch(&stream(1), 7);
    let stamp = scene.stamp();
    scene.ledger.raise_epoch(&stream(1), stamp, scene.now);
    let lifted = scene.ledger.own(&stream(1)).cloned().unwrap();
    assert_eq!((lifted.epoch, lifted.origin, lifted.since), (8, origin(1), Stamp(1)));
    let stamp = scene.stamp();
    scene.ledger.raise_epoch(&stream(1), stamp, scene.now);
    assert_eq!(scene.ledger.highest(&stream(1)), 8, "it is above already");
}

#[test]
fn what_a_lost_node_wrote_counts_for_as_long_as_its_sessions_may() {
    let kept = CONNECTING + LEASE;
    let run = |generation| Incarnation { node: node(1), generation };
    for (seen_again, stays) in [(None, false), (Some(run(7)), true), (Some(run(8)), false)] {
        let mut scene = Scene::new();
        scene.merge(1, &record(1, 1, 1, 1), Some(7));
        scene.merge(2, &record(2, 1, 1, 1), Some(7));
        assert!(scene.at(kept * 10).knows(1), "its writer keeps it posted");
        scene.ledger.orphan(&node(1), scene.now);
        assert!(scene.at(before(kept * 11)).knows(1));
        if let Some(run) = &seen_again {
            scene.ledger.reclaim(run, scene.now);
        }
        assert_eq!(scene.at(kept * 11).knows(1), stays, "{seen_again:?}");
        assert!(scene.knows(2), "that of another node");
    }
}

#[test]
fn a_record_that_is_known_by_hearsay_counts_until_it_should_have_been_posted() {
    let mut scene = Scene::new();
    let said = record(1, 1, 1, 1);
    scene.merge(1, &said, None);
    scene.merge(2, &said, None);
    scene.merge(2, &said, Some(1));
    assert!(scene.at(before(UNPOSTED)).knows(1));
    scene.merge(1, &said, None);
    assert!(!scene.at(UNPOSTED).knows(1), "to be told twice makes it no truer");
    assert!(scene.knows(2), "its writer has it on the board");
}

#[test]
fn a_record_that_is_taken_back_sends_no_session_away() {
    let mut scene = Scene::new();
    scene.assign(1, 1).unwrap();
    scene.merge(1, &record(1, 1, 2, 1), Some(1));
    assert_eq!(scene.origins(1).len(), 2);
    scene.told();
    scene.ledger.unposted(&stream(1), &node(1), scene.now);
    assert_eq!(scene.told(), (vec![], true), "sessions on origin 2 are to be accounted for");
    assert_eq!(scene.origins(1), [origin(1)]);

    // One of the same origin says nothing else than what is left.
    scene.merge(1, &record(1, 2, 1, 9), Some(1));
    scene.told();
    scene.ledger.unposted(&stream(1), &node(1), scene.now);
    assert_eq!(scene.told(), (vec![origin(1)], false));
}

#[test]
fn a_record_that_ends_sends_no_session_away() {
    let mut scene = Scene::new();
    scene.merge(1, &record(1, 1, 1, 1), Some(1));
    scene.merge(1, &record(2, 1, 2, 5), Some(1));
    scene.ledger.orphan(&node(2), scene.now);
    scene.told();
    scene.at(CONNECTING + LEASE);
    assert_eq!(scene.told(), (vec![], true));
    assert_eq!(scene.origins(1), [origin(1)]);
}

#[test]
fn a_record_that_takes_the_place_of_another_moves_its_sessions() {
    let mut scene = Scene::new();
    scene.merge(1, &record(1, 1, 1, 1), Some(1));
    scene.told();
    let knew = Record { history: [(node(1), Stamp(1))].into(), ..record(2, 2, 2, 2) };
    scene.merge(1, &knew, Some(1));
    assert_eq!(scene.told(), (vec![origin(2)], false));
    assert_eq!(scene.origins(1), [origin(2)]);
    scene.merge(1, &record(1, 1, 1, 1), Some(1));
    assert_eq!(scene.told(), (vec![], false), "it comes late");
    assert_eq!(scene.origins(1), [origin(2)]);
}

#[test]
fn records_that_contradict_each_other_send_nobody_away_until_that_is_settled() {
    let mut scene = Scene::new();
    scene.assign(1, 1).unwrap();
    scene.told();
    scene.merge(1, &Record { published: true, ..record(1, 1, 2, 4) }, Some(1));
    assert_eq!(scene.told(), (vec![], false));
    assert!(scene.ledger.agreed(&stream(1)).is_none());
    assert_eq!(scene.ledger.conflicts().count(), 1);

    assert!(scene.resolve(1));
    assert_eq!(scene.told(), (vec![origin(2)], false));
    let settled = scene.ledger.agreed(&stream(1)).unwrap();
    assert_eq!((&settled.origin, settled.epoch, settled.published), (&origin(2), 5, true));
    assert!(settled.history.contains_key(&node(1)));
    assert!(!scene.resolve(1), "there is nothing left to settle");
}

#[test]
fn records_that_agree_on_the_origin_are_settled_without_a_move() {
    let mut scene = Scene::new();
    scene.merge(1, &record(1, 1, 1, 3), Some(1));
    scene.merge(1, &record(2, 2, 1, 4), Some(1));
    assert!(!scene.resolve(1), "nobody has to move");
    let settled = scene.ledger.agreed(&stream(1)).unwrap();
    assert_eq!((&settled.origin, settled.epoch), (&origin(1), 4));
}

#[test]
fn a_conflict_is_settled_above_the_epochs_at_which_the_stream_ended() {
    let mut scene = Scene::new();
    scene.ledger.raise_min_epoch(&stream(1), 7);
    scene.merge(1, &record(1, 1, 1, 1), Some(1));
    scene.merge(1, &record(2, 2, 2, 2), Some(1));
    assert!(scene.resolve(1));
    assert_eq!(scene.ledger.agreed(&stream(1)).unwrap().epoch, 8);
}

#[test]
fn sessions_that_no_record_names_make_a_conflict_and_override_nobody() {
    let mut scene = Scene::new();
    scene.reassert(1, 1, 3);
    let restored = scene.ledger.agreed(&stream(1)).unwrap();
    assert_eq!((&restored.origin, restored.epoch), (&origin(1), 3), "nobody says otherwise");

    scene.merge(2, &record(1, 1, 2, 3), Some(1));
    scene.reassert(2, 1, 3);
    assert!(scene.ledger.agreed(&stream(2)).is_none());
    assert_eq!(scene.origins(2).len(), 2);

    scene.merge(3, &record(1, 1, 2, 4), Some(1));
    scene.reassert(3, 1, 3);
    assert_eq!(scene.origins(3), [origin(2)], "the stream has moved since");
    scene.reassert(3, 2, 9);
    assert_eq!(scene.ledger.all(&stream(3)).len(), 1, "they are accounted for");
}

#[test]
fn sessions_that_this_node_itself_placed_elsewhere_are_sent_there() {
    let mut scene = Scene::new();
    scene.assign(1, 1).unwrap();
    scene.reassert(1, 2, 6);
    let own = scene.ledger.agreed(&stream(1)).unwrap();
    assert_eq!((&own.origin, own.epoch), (&origin(1), 7));
}

#[test]
fn a_home_takes_over_what_is_known_and_moves_nothing() {
    let mut scene = Scene::new();
    let foreign = Record { published: true, ..record(1, 1, 1, 3) };
    scene.merge(1, &foreign, Some(1));
    let stamp = scene.stamp();
    scene.ledger.adopt(&stream(1), stamp, scene.now);
    let own = scene.ledger.own(&stream(1)).cloned().unwrap();
    assert!(own.supersedes(&foreign) && scene.ledger.is_own(&stream(1)));
    assert_eq!((&own.origin, own.epoch, own.since), (&foreign.origin, foreign.epoch, foreign.since));
    assert!(own.published, "until nodes renew, what the former home said holds");

    scene.merge(2, &foreign, Some(1));
    scene.merge(2, &record(2, 1, 2, 3), Some(1));
    let stamp = scene.stamp();
    scene.ledger.adopt(&stream(2), stamp, scene.now);
    assert!(scene.ledger.own(&stream(2)).is_none(), "a conflict is not for adoption to settle");
}

#[test]
fn a_full_ledger_refuses_while_all_is_in_use_and_makes_room_by_what_was_unused_longest() {
    let mut scene = Scene::new();
    for n in 0..4 {
        scene.at(secs(n.into())).assign(n, 1).unwrap();
        scene.lease(n, 1, 1, 0);
    }
    let refused = scene.assign(9, 1).unwrap_err();
    assert!(refused.to_string().contains("PROXY_MAX_STREAMS"), "{refused}");
    assert!(scene.assign(0, 2).is_ok(), "it has its place already");

    scene.lease(2, 1, 0, 0);
    scene.at(secs(4)).lease(1, 1, 0, 0);
    scene.assign(9, 1).unwrap();
    assert_eq!((scene.knows(1), scene.knows(2), scene.ledger.len()), (true, false, CAPACITY));
}

#[test]
fn a_ledger_that_others_have_filled_forgets_nothing_for_a_stream_that_it_refuses() {
    let mut scene = Scene::new();
    scene.assign(0, 1).unwrap();
    for n in 1..5 {
        scene.merge(n, &record(1, 1, 1, 1), Some(1));
    }
    assert!(scene.assign(9, 1).is_err());
    assert!(scene.knows(0));
}

#[test]
fn what_others_tell_of_is_bounded() {
    let mut scene = Scene::new();
    for n in 0..100 {
        scene.merge(n, &record(1, 1, 1, 1), Some(1));
    }
    assert_eq!(scene.ledger.len(), CAPACITY * FOREIGN_FACTOR);
    scene.merge(0, &record(1, 2, 2, 2), Some(1));
    assert_eq!(scene.origins(0), [origin(2)], "what is known goes on being told");
}

#[test]
fn no_more_streams_are_ended_at_a_time_than_allowed() {
    let mut scene = Scene::new();
    for n in 0..4 {
        scene.assign(n, 1).unwrap();
    }
    scene.now += CONNECTING;
    let ended: Vec<_> = (0..3).map(|_| scene.ledger.expire(|| Stamp(999), scene.now, 3)).collect();
    assert_eq!(ended, [3, 1, 0]);
    assert_eq!((scene.ledger.len(), scene.ledger.count(&origin(1))), (0, 0));
}
