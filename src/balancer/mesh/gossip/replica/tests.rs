use std::collections::HashSet;

use chitchat::{ChitchatConfig, DeletionStatus, FailureDetectorConfig, ProtocolVersion, VersionedValue};
use tokio::sync::watch;

use super::{
    super::events::{EventReceiver, channel},
    *,
};
use crate::balancer::mesh::traits::GossipEvent;

fn id(node: &str, generation: u64) -> ChitchatId {
    ChitchatId::new(node, generation, ([127, 0, 0, 1], 1).into())
}

struct Bench {
    chitchat: Chitchat,
    replica: Replica,
    feed: EventReceiver,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        let config = ChitchatConfig {
            chitchat_id: id("me", 1),
            cluster_id: "test".into(),
            gossip_interval: Duration::from_secs(1),
            listen_addr: ([127, 0, 0, 1], 1).into(),
            seed_nodes: Vec::new(),
            failure_detector_config: FailureDetectorConfig::default(),
            marked_for_deletion_grace_period: Duration::from_secs(60),
            catchup_callback: None,
            extra_liveness_predicate: None,
            protocol_version: ProtocolVersion::V1,
        };
        let (_, seeds) = watch::channel(HashSet::new());
        let (sender, feed) = channel();
        Self {
            chitchat: Chitchat::with_chitchat_id_and_seeds(config, seeds, Vec::new()),
            replica: Replica::new("me".into(), sender),
            feed,
            now: Instant::now(),
        }
    }

    /// A node now has these posts and no others, of versions from 1; older ones than `collected` were
    /// forgotten.
    fn holds(&mut self, id: &ChitchatId, posts: &[(&str, &str)], version: u64, collected: u64) {
        let posts = posts.iter().enumerate().map(|(index, (key, value))| {
            let version = index as u64 + 1;
            ((*key).to_owned(), VersionedValue { value: (*value).to_owned(), version, status: DeletionStatus::Set })
        });
        self.chitchat.reset_node_state_if_update(id, posts, version, collected);
    }

    /// What is told after some time.
    fn told(&mut self, after: Duration) -> Vec<String> {
        self.now += after;
        self.replica.compare(&self.chitchat, self.now);
        std::iter::from_fn(|| self.feed.try_recv())
            .map(|news| match news {
                GossipEvent::Set { from, key, value } => {
                    format!("{}/{} {key}={}", from.node, from.generation, String::from_utf8_lossy(&value))
                }
                GossipEvent::Deleted { from, key } => format!("{}/{} {key} gone", from.node, from.generation),
                other => format!("{other:?}"),
            })
            .collect()
    }
}

#[test]
fn posts_are_told_once_in_the_order_in_which_they_were_made() {
    let mut bench = Bench::new();
    bench.holds(&id("a", 1), &[("z", "=1"), ("b", "=2"), ("n", "=3")], 3, 0);
    assert_eq!(bench.told(Duration::ZERO), ["a/1 z=1", "a/1 b=2", "a/1 n=3"]);
    bench.replica.post(&id("a", 1), "z", "=1", bench.now);
    assert!(bench.told(COMPARE_INTERVAL).is_empty());
    bench.replica.post(&id("a", 1), "z", "=4", bench.now);
    bench.replica.post(&id("a", 1), "b", value::DELETED, bench.now);
    bench.replica.post(&id("a", 1), "never there", value::DELETED, bench.now);
    bench.replica.post(&id("me", 1), "z", "=4", bench.now);
    assert_eq!(bench.told(Duration::ZERO), ["a/1 z=4", "a/1 b gone"]);
}

#[test]
fn posts_that_are_away_only_while_a_node_is_sent_anew_do_not_look_deleted() {
    let mut bench = Bench::new();
    let all = [("a", "=1"), ("b", "=2")];
    bench.holds(&id("x", 1), &all, 2, 0);
    bench.told(Duration::ZERO);
    // Everything is sent anew, and the first part is there.
    bench.holds(&id("x", 1), &all[..1], 5, 10);
    for _ in 0..10 {
        assert!(bench.told(COMPARE_INTERVAL).is_empty(), "what was sent anew is not complete");
    }
    bench.holds(&id("x", 1), &all[..1], 11, 10);
    assert!(bench.told(COMPARE_INTERVAL).is_empty());
    bench.holds(&id("x", 1), &all, 12, 10);
    for _ in 0..3 {
        assert!(bench.told(COMPARE_INTERVAL).is_empty());
    }
}

#[test]
fn posts_that_stay_away_are_gone() {
    let mut bench = Bench::new();
    bench.holds(&id("x", 1), &[("a", "=1"), ("b", "=2")], 2, 0);
    bench.told(Duration::ZERO);
    bench.holds(&id("x", 1), &[("a", "=1")], 11, 10);
    assert!(bench.told(COMPARE_INTERVAL).is_empty());
    assert_eq!(bench.told(COMPARE_INTERVAL.max(ABSENT_FOR)), ["x/1 b gone"]);
}

#[test]
fn a_later_run_takes_the_place_of_an_earlier_one_and_of_all_that_it_posted() {
    let mut bench = Bench::new();
    bench.holds(&id("x", 5), &[("a", "=1")], 1, 0);
    assert_eq!(bench.told(Duration::ZERO), ["x/5 a=1"]);
    bench.holds(&id("x", 4), &[("a", "=0")], 1, 0);
    assert!(bench.told(Duration::ZERO).is_empty(), "an earlier run counts for nothing");
    bench.holds(&id("x", 6), &[("b", "=2")], 1, 0);
    bench.replica.post(&id("x", 6), "b", "=2", bench.now);
    assert_eq!(bench.told(Duration::ZERO), ["x/6 b=2"]);
    bench.replica.post(&id("x", 5), "a", "=3", bench.now);
    assert!(bench.told(Duration::ZERO).is_empty());
}

#[test]
fn what_no_node_of_ours_posts_is_not_told() {
    let mut bench = Bench::new();
    bench.holds(&id("x", 1), &[("a", "no mark"), ("b", "=\u{100}"), ("c", "=ok")], 3, 0);
    assert_eq!(bench.told(Duration::ZERO), ["x/1 c=ok"]);
}
