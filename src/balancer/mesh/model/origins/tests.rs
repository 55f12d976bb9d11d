use proptest::prelude::*;

use super::*;

const TTL: Duration = Duration::from_mins(5);
const CAPACITY: usize = 4;
const MOMENT: Duration = Duration::from_millis(1);

/// A moment before a time.
fn before(time: Duration) -> Duration {
    time.saturating_sub(MOMENT)
}

fn origin(server: &str, pid: u64, address: &str) -> Origin {
    let (ip, port) = address.rsplit_once(':').unwrap();
    let body = format!(r#"{{"ip":"{ip}","server":"{server}","service":"s","pid":"{pid}","rtmp":["{port}"]}}"#);
    Origin::from_heartbeat(body.as_bytes(), "").unwrap()
}

/// A node, and its clock.
struct Scene {
    origins: Origins,
    start: Instant,
    now: Instant,
    stamp: u64,
}

impl Scene {
    fn new(ttl: Duration) -> Self {
        let start = Instant::now();
        Self { origins: Origins::new(ttl, CAPACITY), start, now: start, stamp: 0 }
    }

    fn at(&mut self, time: Duration) -> &mut Self {
        self.now = self.start + time;
        self
    }

    fn beat(&mut self, origin: Origin) {
        self.stamp += 1;
        self.origins.heartbeat(origin, Stamp(self.stamp), self.now, &mut Vec::new()).unwrap();
    }

    fn report(&mut self, id: &str, seen: Reachability) {
        self.stamp += 1;
        self.origins.report(&id.into(), seen, Stamp(self.stamp), self.now, &mut Vec::new());
    }

    fn learn(&mut self, told: &[OriginFacts], age: Duration) {
        for facts in told {
            self.origins.learn(facts, age, self.now, &mut Vec::new());
            self.stamp = self.stamp.max(facts.last_heartbeat.0);
        }
    }

    fn all(&self, now: Instant) -> Vec<(OriginFacts, Duration)> {
        self.origins.iter_after(None, now).map(|(facts, age)| (facts.clone(), age)).collect()
    }

    fn posts(&mut self) -> Vec<OriginFacts> {
        self.origins.take_unposted(self.now)
    }

    fn expire(&mut self) -> Vec<OriginId> {
        self.origins.expire(self.now, &mut Vec::new())
    }

    /// Who is registered, and who of them is suspect.
    fn registered(&self) -> BTreeMap<String, OriginState> {
        self.origins.registry().iter().map(|(id, entry)| (id.to_string(), entry.state())).collect()
    }

    fn state(&self, id: &str) -> Option<OriginState> {
        self.registered().get(id).copied()
    }
}

fn failed() -> Reachability {
    Reachability::Failed("refused".into())
}

/// What is known of one of three origins. What a heartbeat said is told by when it came.
fn any_facts() -> impl Strategy<Value = OriginFacts> {
    let stamp = 0..12u64;
    (0..3u8, 1..12u64, prop::option::of(stamp.clone()), stamp.clone(), stamp).prop_map(
        |(n, beat, failed, cleared, retired)| OriginFacts {
            origin: origin(&format!("a{n}"), 1, &format!("10.0.{beat}.{n}:1935")),
            last_heartbeat: Stamp(beat),
            failed: failed.map(|at| (Stamp(at), format!("failed at {at}"))),
            recovered_at: Stamp(cleared),
            replaced_at: Stamp(retired),
        },
    )
}

proptest! {
    #[test]
    fn facts_give_the_same_origins_in_any_order_and_however_they_are_joined_before(
        facts in prop::collection::vec(any_facts(), 1..12), seed in any::<u64>(), told_first in any::<prop::sample::Index>(),
    ) {
        use rand::{SeedableRng, seq::SliceRandom};

        let mut one = Scene::new(TTL);
        one.learn(&facts, Duration::ZERO);

        let mut shuffled = facts.clone();
        shuffled.shuffle(&mut rand::rngs::StdRng::seed_from_u64(seed));
        let mut other = Scene::new(TTL);
        other.learn(&shuffled, Duration::ZERO);

        // A node in between has joined some of them, and tells of the rest one by one.
        let (joined, rest) = shuffled.split_at(told_first.index(shuffled.len() + 1));
        let mut between = Scene::new(TTL);
        between.learn(joined, Duration::ZERO);
        let joined: Vec<_> = between.all(between.now).into_iter().map(|(facts, _)| facts).collect();
        let mut third = Scene::new(TTL);
        third.learn(rest, Duration::ZERO);
        third.learn(&joined, Duration::ZERO);
        third.learn(&facts, Duration::ZERO);

        for scene in [&other, &third] {
            prop_assert_eq!(scene.registered(), one.registered());
            prop_assert_eq!(scene.all(scene.now), one.all(one.now));
            for (id, entry) in one.origins.registry().iter() {
                prop_assert_eq!(&scene.origins.registry().get(id).unwrap().origin, &entry.origin);
            }
        }
        for (known, _) in one.all(one.now) {
            let expected = (known.last_heartbeat > known.replaced_at).then(|| {
                let suspect = known.failed.as_ref().is_some_and(|(at, _)| *at > known.recovered_at);
                if suspect { OriginState::Suspect } else { OriginState::Live }
            });
            prop_assert_eq!(one.state(known.origin.id().as_str()), expected);
        }
    }
}

#[test]
fn an_origin_that_was_replaced_and_beats_again_is_back_for_all() {
    let (mut one, mut other) = (Scene::new(TTL), Scene::new(TTL));
    one.beat(origin("a", 1, "10.0.0.1:1935"));
    other.learn(&one.posts(), Duration::ZERO);
    one.beat(origin("a", 2, "10.0.0.2:1935"));
    let posts = one.posts();
    assert_eq!(posts.len(), 2, "the new one, and that the old one is gone");
    other.learn(&posts, Duration::ZERO);
    for scene in [&one, &other] {
        assert_eq!(scene.registered().into_keys().collect::<Vec<_>>(), ["a-s-2"]);
    }
    one.beat(origin("a", 1, "10.0.0.1:1935"));
    let posts = one.posts();
    assert_eq!(posts.len(), 1, "at once, though its last heartbeat was told a moment ago");
    other.learn(&posts, Duration::ZERO);
    for scene in [&one, &other] {
        assert_eq!(scene.registered().into_keys().collect::<Vec<_>>(), ["a-s-1", "a-s-2"]);
    }
}

#[test]
fn the_age_of_a_heartbeat_that_is_told_counts() {
    let mut teller = Scene::new(TTL);
    teller.beat(origin("a", 1, "10.0.0.1:1935"));
    let later = teller.start + Duration::from_mins(4);
    let (facts, age) = teller.all(later).remove(0);
    assert_eq!(age, Duration::from_mins(4));

    let mut scene = Scene::new(TTL);
    scene.learn(std::slice::from_ref(&facts), age);
    assert_eq!(scene.all(scene.now)[0].1, age);
    assert!(scene.at(before(Duration::from_mins(1))).expire().is_empty());
    assert!(scene.state("a-s-1").is_some());
    scene.at(Duration::from_mins(1)).expire();
    assert!(scene.state("a-s-1").is_none());

    let mut scene = Scene::new(TTL);
    scene.learn(&[facts], TTL);
    assert!(scene.state("a-s-1").is_none(), "it is over already");
}

#[test]
fn heartbeats_without_news_are_told_now_and_then() {
    for (ttl, period) in [(TTL, 15), (Duration::from_secs(50), 5)] {
        let mut scene = Scene::new(ttl);
        let mut told = Vec::new();
        for second in 0..40 {
            scene.at(Duration::from_secs(second)).beat(origin("a", 1, "10.0.0.1:1935"));
            if !scene.posts().is_empty() {
                told.push(second);
            }
        }
        let expected: Vec<_> = (0..40).step_by(period).collect();
        assert_eq!(told, expected, "{ttl:?}");
    }
}

#[test]
fn what_is_new_in_a_heartbeat_is_told_at_once() {
    let mut scene = Scene::new(TTL);
    scene.beat(origin("a", 1, "10.0.0.1:1935"));
    scene.posts();
    scene.beat(origin("a", 1, "10.0.0.1:1936"));
    assert_eq!(scene.posts().len(), 1);
    assert!(scene.posts().is_empty());
}

#[test]
fn what_one_node_sees_of_an_origin_counts_for_the_others() {
    let (mut one, mut other) = (Scene::new(TTL), Scene::new(TTL));
    one.beat(origin("a", 1, "10.0.0.1:1935"));
    other.learn(&one.posts(), Duration::ZERO);
    other.report("a-s-1", failed());
    let posts = other.posts();
    assert_eq!(posts.len(), 1);
    other.report("a-s-1", failed());
    assert!(other.posts().is_empty(), "nothing new");
    one.learn(&posts, Duration::ZERO);
    assert_eq!(one.state("a-s-1"), Some(OriginState::Suspect));

    one.stamp += 10;
    one.beat(origin("a", 1, "10.0.0.1:1935"));
    other.learn(&one.posts(), Duration::ZERO);
    assert_eq!(other.state("a-s-1"), Some(OriginState::Live), "it sent a heartbeat to another node");

    other.report("a-s-1", failed());
    one.learn(&other.posts(), Duration::ZERO);
    other.report("a-s-1", Reachability::Reached);
    one.learn(&other.posts(), Duration::ZERO);
    assert_eq!(one.state("a-s-1"), Some(OriginState::Live), "another node has reached it");
}

#[test]
fn a_refresh_of_the_configured_backend_clears_no_suspicion_anywhere() {
    let backend = || origin("default-x", 1, "127.0.0.1:1935");
    let (mut one, mut other) = (Scene::new(TTL), Scene::new(TTL));
    one.beat(backend());
    one.report("default-x-s-1", failed());
    other.learn(&one.posts(), Duration::ZERO);
    for refresh in 1..4 {
        one.at(MAX_UNTOLD * refresh).beat(backend());
        let posts = one.posts();
        assert_eq!(posts.len(), 1);
        other.learn(&posts, Duration::ZERO);
        for scene in [&one, &other] {
            assert_eq!(scene.state("default-x-s-1"), Some(OriginState::Suspect));
        }
    }
    // Nor does that of a node which has the same backend.
    other.stamp += 10;
    other.beat(backend());
    one.learn(&other.posts(), Duration::ZERO);
    assert_eq!(one.state("default-x-s-1"), Some(OriginState::Suspect));
}

#[test]
fn an_origin_that_a_record_names_is_posted_once() {
    let (mut one, mut other) = (Scene::new(TTL), Scene::new(TTL));
    one.beat(origin("a", 1, "10.0.0.1:1935"));
    other.learn(&one.posts(), Duration::ZERO);
    let id = OriginId::from("a-s-1");
    assert!(other.posts().is_empty(), "it was learned");
    other.origins.ensure_posted(&id);
    other.origins.ensure_posted(&OriginId::from("nobody"));
    assert_eq!(other.posts().len(), 1);
    other.origins.ensure_posted(&id);
    assert!(other.posts().is_empty());
}

#[test]
fn what_is_known_of_an_origin_outlives_it_and_ends() {
    let mut scene = Scene::new(TTL);
    scene.beat(origin("a", 1, "10.0.0.1:1935"));
    let id = OriginId::from("a-s-1");
    let kept = TTL * 2 + MAX_UNTOLD;
    assert!(scene.at(before(kept)).expire().is_empty());
    assert!(scene.registered().is_empty() && scene.origins.facts(&id).is_some());
    assert_eq!(scene.at(kept).expire(), std::slice::from_ref(&id));
    assert!(scene.origins.facts(&id).is_none() && scene.posts().is_empty());
}

#[test]
fn what_others_tell_of_is_bounded() {
    let mut scene = Scene::new(TTL);
    let told = |n: u64| OriginFacts {
        origin: origin(&format!("a{n}"), 1, "10.0.0.1:1935"),
        last_heartbeat: Stamp(n + 1),
        failed: None,
        recovered_at: Stamp(0),
        replaced_at: Stamp(0),
    };
    scene.learn(&(0..100).map(told).collect::<Vec<_>>(), Duration::ZERO);
    assert_eq!((scene.origins.facts.len(), scene.registered().len()), (CAPACITY * 2, CAPACITY));
}
