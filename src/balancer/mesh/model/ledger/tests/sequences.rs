//! What holds after any sequence of steps.

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Assign { stream: u8, origin: u8 },
    Keep(u8),
    UsageReport { stream: u8, node: u8, publishers: u32, players: u32 },
    Merge { stream: u8, writer: u8, origin: u8, epoch: u64, knew: bool, posted: bool },
    Unposted { stream: u8, writer: u8 },
    Orphan(u8),
    Reclaim(u8),
    Adopt(u8),
    RaiseEpoch(u8),
    Resolve(u8),
    Reassert { stream: u8, origin: u8, epoch: u64 },
    Pass(u64),
    Expire,
}

fn step() -> impl Strategy<Value = Step> {
    let stream = 0..6u8;
    let writer = 1..4u8;
    let origin = 0..3u8;
    prop_oneof![
        3 => (stream.clone(), origin.clone()).prop_map(|(stream, origin)| Step::Assign { stream, origin }),
        1 => stream.clone().prop_map(Step::Keep),
        4 => (stream.clone(), 0..4u8, 0..2u32, 0..2u32).prop_map(|(stream, node, publishers, players)| Step::UsageReport {
            stream,
            node,
            publishers,
            players
        }),
        4 => (stream.clone(), writer.clone(), origin.clone(), 1..6u64, any::<bool>(), any::<bool>()).prop_map(
            |(stream, writer, origin, epoch, knew, posted)| Step::Merge { stream, writer, origin, epoch, knew, posted }
        ),
        1 => (stream.clone(), writer.clone()).prop_map(|(stream, writer)| Step::Unposted { stream, writer }),
        1 => writer.clone().prop_map(Step::Orphan),
        1 => writer.prop_map(Step::Reclaim),
        1 => stream.clone().prop_map(Step::Adopt),
        1 => stream.clone().prop_map(Step::RaiseEpoch),
        2 => stream.clone().prop_map(Step::Resolve),
        1 => (stream, origin, 1..6u64).prop_map(|(stream, origin, epoch)| Step::Reassert { stream, origin, epoch }),
        2 => (1..40u64).prop_map(Step::Pass),
        2 => Just(Step::Expire),
    ]
}

impl Scene {
    fn take(&mut self, step: &Step) {
        let stamp = self.stamp();
        let now = self.now;
        match *step {
            // Some are refused because there is no room.
            Step::Assign { stream: n, origin } => drop(self.assign(n, origin)),
            Step::Keep(n) => self.ledger.keep(&stream(n), now),
            Step::UsageReport { stream: n, node, publishers, players } => self.lease(n, node, publishers, players),
            Step::Merge { stream: n, writer, origin, epoch, knew, posted } => {
                let known = self.ledger.all(&stream(n));
                let mut history = Record::history_of(known.iter().filter(|_| knew));
                history.remove(&node(writer));
                let record = Record { history, ..record(writer, stamp.0, origin, epoch) };
                self.merge(n, &record, posted.then_some(1));
            }
            Step::Unposted { stream: n, writer } => self.ledger.unposted(&stream(n), &node(writer), now),
            Step::Orphan(n) => self.ledger.orphan(&node(n), now),
            Step::Reclaim(n) => self.ledger.reclaim(&Incarnation { node: node(n), generation: 1 }, now),
            Step::Adopt(n) => self.ledger.adopt(&stream(n), stamp, now),
            Step::RaiseEpoch(n) => self.ledger.raise_epoch(&stream(n), stamp, now),
            Step::Resolve(n) => drop(self.resolve(n)),
            Step::Reassert { stream, origin, epoch } => self.reassert(stream, origin, epoch),
            Step::Pass(seconds) => self.now += secs(seconds),
            Step::Expire => drop(self.ledger.expire(|| stamp, now, 2)),
        }
    }
}

fn assert_consistent(ledger: &Ledger) {
    let mut by_origin: HashMap<OriginId, usize> = HashMap::new();
    let mut due = BTreeSet::new();
    for (stream, entry) in &ledger.streams {
        *by_origin.entry(entry.records[0].record.origin.clone()).or_default() += 1;
        due.extend(entry.due.map(|due| (due, stream.clone())));
        assert_eq!(entry.due, entry.next_due(HOLD), "{entry:?}");
        let two_origins = entry.records.iter().any(|known| known.record.origin != entry.records[0].record.origin);
        assert_eq!(two_origins, ledger.conflicts.contains_key(stream), "{entry:?}");
        assert!(entry.records.iter().filter(|known| known.own).count() <= 1, "{entry:?}");
        assert!(entry.records.is_sorted_by(|a, b| a.record.compare(&b.record).is_gt()), "{entry:?}");
        for (i, a) in entry.records.iter().enumerate() {
            let others = entry.records.iter().enumerate().filter(|(j, _)| *j != i);
            assert!(!others.into_iter().any(|(_, b)| a.record.supersedes(&b.record)), "{entry:?}");
        }
    }
    assert_eq!(by_origin, ledger.by_origin);
    assert_eq!(due, ledger.due);
    assert!(ledger.conflicts.keys().all(|stream| ledger.streams.contains_key(stream)));
}

proptest! {
    #[test]
    fn all_that_is_kept_fits_together(steps in prop::collection::vec(step(), 1..60)) {
        let mut scene = Scene::new();
        for step in &steps {
            scene.take(step);
            assert_consistent(&scene.ledger);
        }
    }

    #[test]
    fn the_posts_are_exactly_the_records_of_this_node(steps in prop::collection::vec(step(), 1..60)) {
        let mut scene = Scene::new();
        let mut posts = BTreeMap::new();
        for step in &steps {
            scene.take(step);
            for effect in scene.ledger.take_effects() {
                match effect {
                    Effect::Post(stream, record) => {
                        prop_assert_eq!(&record.writer, &node(0));
                        prop_assert_ne!(posts.insert(stream, record.clone()), Some(record), "posted for nothing");
                    }
                    Effect::Unpost(stream) => prop_assert!(posts.remove(&stream).is_some()),
                    Effect::Resolved(..) | Effect::Unaccounted(_) => {}
                }
            }
            let own = scene.ledger.own_records().map(|(stream, record)| (stream.clone(), record.clone()));
            prop_assert_eq!(&posts, &own.collect::<BTreeMap<_, _>>());
        }
    }

    #[test]
    fn sessions_are_sent_away_only_by_a_record_that_takes_the_place_of_theirs(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut scene = Scene::new();
        for step in &steps {
            let before: BTreeMap<_, _> =
                scene.ledger.streams.keys().map(|stream| (stream.clone(), scene.ledger.all(stream))).collect();
            scene.take(step);
            let effects = scene.ledger.take_effects();
            // Where a record has just ended too, its sessions are asked for by that.
            let doubted = |stream: &StreamKey| effects.contains(&Effect::Unaccounted(stream.clone()));
            for effect in &effects {
                if let Effect::Resolved(stream, told) = effect
                    && !doubted(stream)
                {
                    let now_known = scene.ledger.all(stream);
                    for known in before.get(stream).into_iter().flatten() {
                        let replaced = now_known.iter().any(|record| record.supersedes(known));
                        prop_assert!(
                            told.origin == known.origin || replaced,
                            "{step:?}: {told:?} is told, and nothing took the place of {known:?}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn no_stream_is_placed_below_an_epoch_at_which_it_was(steps in prop::collection::vec(step(), 1..60)) {
        let mut scene = Scene::new();
        let mut highest: BTreeMap<StreamKey, u64> = BTreeMap::new();
        for step in &steps {
            let before = match step {
                Step::Assign { stream: n, .. } => scene.origins(*n),
                _ => Vec::new(),
            };
            if let Step::Assign { stream: n, origin: to } = step {
                if let Ok(placed) = scene.assign(*n, *to) {
                    let highest = highest.get(&stream(*n)).copied().unwrap_or(0);
                    let stays = !before.is_empty() && before.iter().all(|from| *from == origin(*to));
                    prop_assert!(placed.epoch > highest || (stays && placed.epoch == highest), "{placed:?} {highest}");
                }
            } else {
                scene.take(step);
            }
            for key in scene.ledger.streams.keys() {
                let highest = highest.entry(key.clone()).or_default();
                *highest = scene.ledger.highest(key).max(*highest);
            }
        }
    }

    #[test]
    fn nothing_that_is_unused_is_kept_for_ever(steps in prop::collection::vec(step(), 1..60)) {
        let mut scene = Scene::new();
        for step in &steps {
            scene.take(step);
        }
        for writer in 1..4 {
            scene.ledger.orphan(&node(writer), scene.now);
        }
        scene.now += CONNECTING + LEASE + HOLD;
        let stamp = scene.stamp();
        while scene.ledger.expire(|| stamp, scene.now, 3) > 0 {}
        prop_assert_eq!(scene.ledger.len(), 0);
        prop_assert!(scene.ledger.due.is_empty() && scene.ledger.by_origin.is_empty());
    }

    #[test]
    fn records_leave_the_same_behind_in_whatever_order_they_come(
        writes in prop::collection::vec((1..4u8, 0..3u8, 1..4u8), 1..20), seed in any::<u64>(),
    ) {
        use rand::{SeedableRng, seq::SliceRandom};

        // Nodes that place the stream now and then, and tell one other of it.
        let mut nodes: Vec<_> = (0..4).map(|n| Ledger { me: node(n), ..Scene::new().ledger }).collect();
        let now = Instant::now();
        let mut written = Vec::new();
        for (clock, (writer, to, hearer)) in (1..).zip(writes) {
            let record = nodes[usize::from(writer)].assign(&stream(1), &origin(to), Stamp(clock), now).unwrap();
            nodes[usize::from(hearer)].merge(&stream(1), &record, Some(1), now);
            written.push(record);
        }
        let read = |records: &[Record]| {
            let mut scene = Scene::new();
            records.iter().for_each(|record| scene.merge(1, record, Some(1)));
            scene.ledger.all(&stream(1))
        };
        let first = read(&written);
        for one in &written {
            let superseded = written.iter().any(|other| other != one && other.supersedes(one));
            prop_assert_eq!(first.contains(one), !superseded);
        }
        written.shuffle(&mut rand::rngs::StdRng::seed_from_u64(seed));
        prop_assert_eq!(read(&written), first);
    }
}
