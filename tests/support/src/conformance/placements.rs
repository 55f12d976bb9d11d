//! How long placements live, who learns of their moves, and what happens when many ask at once.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use srs_proxy::{
    balancer::{Intent, Lease, OriginState, Page, Reachability},
    origin::OriginId,
    stream::StreamKey,
};
use tokio::task::JoinSet;

use super::{ALL, Cluster, Fixture, LIMIT, eventually, origin, place, request, stream};

pub async fn a_placed_stream_stays_on_its_origin_for_all_nodes<F: Fixture>() {
    let cluster = Cluster::<F>::with_origins(5).await;
    for i in 0..20 {
        let first = place(cluster.node(i), &stream(&format!("s{i}"))).await;
        cluster.assert_placed(&first).await;
    }
}

pub async fn a_released_placement_is_kept_for_the_hold_time_and_then_forgotten<F: Fixture>() {
    let cluster = Cluster::<F>::with_origins(3).await;
    let hold = cluster.fixture.placement_hold();
    let first = place(cluster.node(0), &stream("s")).await;
    let lease = Lease::new(Arc::clone(cluster.node(0)), first.clone(), Intent::Publish);
    cluster.fixture.elapse(hold * 2).await;
    drop(lease);
    cluster.fixture.elapse(hold * 3 / 4).await;
    for node in &cluster.nodes {
        assert_eq!(node.placements(ALL).await.unwrap().1, 1);
    }
    cluster.fixture.elapse(hold / 2).await;
    cluster.until_placements(0).await;
}

pub async fn a_placement_that_was_never_held_is_forgotten<F: Fixture>() {
    let cluster = Cluster::<F>::with_origins(3).await;
    place(cluster.node(0), &stream("s")).await;
    cluster.until_placements(1).await;
    cluster.fixture.elapse(cluster.fixture.placement_hold() * 5 / 4).await;
    cluster.until_placements(0).await;
    cluster.until("no origin counts it", |origins| origins.iter().all(|o| o.streams == 0)).await;
}

pub async fn a_held_placement_does_not_expire<F: Fixture>() {
    let cluster = Cluster::<F>::with_origins(3).await;
    place(cluster.node(0), &stream("s")).await;
    let first = place(cluster.node(1), &stream("s")).await;
    let lease = Lease::new(Arc::clone(cluster.node(1)), first.clone(), Intent::Play);
    cluster.fixture.elapse(cluster.fixture.placement_hold() * 4).await;
    cluster.until_placements(1).await;
    assert_eq!(lease.placement().epoch, first.epoch);
    cluster.assert_placed(&first).await;
}

pub async fn a_placement_held_by_one_session_survives_the_end_of_another<F: Fixture>() {
    let cluster = Cluster::<F>::with_origins(3).await;
    let first = place(cluster.node(0), &stream("s")).await;
    let _publisher = Lease::new(Arc::clone(cluster.node(0)), first.clone(), Intent::Publish);
    cluster.assert_placed(&first).await;
    for i in 0..3 {
        drop(Lease::new(Arc::clone(cluster.node(i)), first.clone(), Intent::Play));
        drop(Lease::new(Arc::clone(cluster.node(i)), first.clone(), Intent::Publish));
    }
    cluster.fixture.elapse(cluster.fixture.placement_hold() * 3 / 2).await;
    cluster.until_placements(1).await;
    cluster.assert_placed(&first).await;
}

pub async fn a_release_without_a_hold_changes_nothing<F: Fixture>() {
    let cluster = Cluster::<F>::with_origins(3).await;
    let first = place(cluster.node(0), &stream("s")).await;
    let _publisher = Lease::new(Arc::clone(cluster.node(0)), first.clone(), Intent::Publish);
    cluster.node(0).release(&first.stream, Intent::Play);
    cluster.node(0).release(&stream("unknown"), Intent::Play);
    cluster.fixture.elapse(cluster.fixture.placement_hold() * 3 / 2).await;
    cluster.assert_placed(&first).await;
}

pub async fn an_epoch_never_goes_back_even_when_the_placement_was_forgotten<F: Fixture>() {
    let cluster = Cluster::<F>::with_origins(3).await;
    let key = stream("s");
    let mut last = 0;
    for i in 0..4 {
        let fresh = place(cluster.node(i), &key).await;
        assert!(fresh.epoch > last, "epoch {} after {last}", fresh.epoch);
        let avoid = [fresh.origin.id()];
        let moved = cluster.node(i + 1).place(request(&key, &avoid)).await.unwrap();
        assert!(moved.epoch > fresh.epoch);
        last = moved.epoch;
        cluster.fixture.elapse(cluster.fixture.placement_hold() * 5 / 4).await;
        cluster.until_placements(0).await;
    }
}

pub async fn those_who_hold_a_placement_learn_that_it_moved<F: Fixture>() {
    let cluster = Cluster::<F>::with_origins(3).await;
    let first = place(cluster.node(0), &stream("s")).await;
    let other = place(cluster.node(0), &stream("other")).await;
    cluster.assert_placed(&first).await;
    let mut leases = Vec::new();
    for node in &cluster.nodes {
        leases.push(Lease::new(Arc::clone(node), first.clone(), Intent::Publish));
        leases.push(Lease::new(Arc::clone(node), first.clone(), Intent::Play));
    }
    let mut unmoved = Lease::new(Arc::clone(cluster.node(0)), other, Intent::Play);
    cluster.assert_placed(&first).await;
    for lease in &mut leases {
        let early = tokio::time::timeout(Duration::from_millis(1), lease.moved()).await;
        assert!(early.is_err(), "told of a move before there was one");
    }

    let avoid = [first.origin.id()];
    let last = cluster.nodes.len() - 1;
    let second = cluster.node(last).place(request(&first.stream, &avoid)).await.unwrap();
    assert!(second.epoch > first.epoch);
    for lease in &mut leases {
        tokio::time::timeout(LIMIT, lease.moved()).await.expect("everyone is told");
    }
    assert!(tokio::time::timeout(Duration::from_millis(1), unmoved.moved()).await.is_err(), "another stream's move");

    // The move is noticed once: whoever holds the new placement is not told of it again.
    let mut renewed = Lease::new(Arc::clone(cluster.node(0)), second, Intent::Play);
    drop(leases);
    assert!(tokio::time::timeout(Duration::from_millis(1), renewed.moved()).await.is_err());
}

pub async fn a_hold_on_a_placement_that_has_moved_already_says_so<F: Fixture>() {
    let cluster = Cluster::<F>::with_origins(2).await;
    let first = place(cluster.node(0), &stream("s")).await;
    let avoid = [first.origin.id()];
    cluster.node(0).place(request(&first.stream, &avoid)).await.unwrap();
    for node in &cluster.nodes {
        let mut late = Lease::new(Arc::clone(node), first.clone(), Intent::Play);
        tokio::time::timeout(LIMIT, late.moved()).await.expect("told at once");
    }
}

pub async fn the_first_placement_has_one_winner_however_many_ask<F: Fixture>() {
    let cluster = Cluster::<F>::with_origins(4).await;
    one_winner(&cluster, (0..20).map(|i| (stream(&format!("s{i}")), Vec::new())).collect()).await;
}

pub async fn the_next_placement_after_a_failure_has_one_winner_however_many_ask<F: Fixture>() {
    let cluster = Cluster::<F>::with_origins(4).await;
    let mut asked = Vec::new();
    for i in 0..20 {
        let first = place(cluster.node(i), &stream(&format!("s{i}"))).await;
        asked.push((first.stream, vec![first.origin.id()]));
    }
    one_winner(&cluster, asked).await;
}

/// Asks all nodes for each stream many times at once.
async fn one_winner<F: Fixture>(cluster: &Cluster<F>, asked: Vec<(StreamKey, Vec<OriginId>)>) {
    let mut tasks = JoinSet::new();
    for (key, avoid) in asked {
        for node in &cluster.nodes {
            for _ in 0..8 {
                let (node, key, avoid) = (Arc::clone(node), key.clone(), avoid.clone());
                tasks.spawn(async move { node.place(request(&key, &avoid)).await.unwrap() });
            }
        }
    }
    let mut winners: HashMap<StreamKey, HashSet<(OriginId, u64)>> = HashMap::new();
    for placement in tasks.join_all().await {
        winners.entry(placement.stream.clone()).or_default().insert((placement.origin.id(), placement.epoch));
    }
    for (stream, winners) in winners {
        assert_eq!(winners.len(), 1, "{stream} was placed as {winners:?}");
    }
}

pub async fn session_records_lead_any_node_to_the_stream_until_they_expire<F: Fixture>() {
    let cluster = Cluster::<F>::start().await;
    let ttl = Duration::from_secs(2);
    cluster.node(0).put_ufrag("ufrag", &stream("a"), ttl).await.unwrap();
    cluster.node(0).put_ufrag("other", &stream("b"), ttl * 1000).await.unwrap();
    for node in &cluster.nodes {
        let found = async || node.stream_of_ufrag("ufrag").await.unwrap() == Some(stream("a"));
        eventually("the record is known", found).await;
        assert_eq!(node.stream_of_ufrag("unknown").await.unwrap(), None);
    }
    cluster.fixture.elapse(ttl * 5 / 4).await;
    for node in &cluster.nodes {
        assert_eq!(node.stream_of_ufrag("ufrag").await.unwrap(), None);
        assert_eq!(node.stream_of_ufrag("other").await.unwrap(), Some(stream("b")));
    }
    cluster.node(0).put_ufrag("other", &stream("c"), ttl).await.unwrap();
    for node in &cluster.nodes {
        let found = async || node.stream_of_ufrag("other").await.unwrap() == Some(stream("c"));
        eventually("the later record is known", found).await;
    }
}

pub async fn placements_are_listed_in_order_page_by_page<F: Fixture>() {
    const STREAMS: usize = 10_000;
    let cluster = Cluster::<F>::with_origins(3).await;
    let mut leases = Vec::new();
    let mut expected = Vec::new();
    for batch in (0..STREAMS).collect::<Vec<_>>().chunks(100) {
        let mut tasks = JoinSet::new();
        for i in batch {
            let node = Arc::clone(cluster.node(*i));
            let key = stream(&format!("s{i}"));
            expected.push(key.clone());
            tasks.spawn(async move {
                let placement = place(&node, &key).await;
                Lease::new(node, placement, Intent::Play)
            });
        }
        leases.extend(tasks.join_all().await);
    }
    expected.sort();
    cluster.until_placements(STREAMS).await;

    let node = cluster.node(1);
    let page = async |start, count| {
        let (page, total) = node.placements(Page { start, count }).await.unwrap();
        // A machine that is busy may miss the time for which a placement is held, which is short here; its
        // user brings it back.
        (total == STREAMS).then_some(page)
    };
    eventually("all are listed, page by page", async || {
        let mut listed = Vec::new();
        while listed.len() < STREAMS {
            let Some(page) = page(listed.len(), 999).await else { return false };
            assert_eq!(page.len(), 999.min(STREAMS - listed.len()));
            listed.extend(page.into_iter().map(|status| status.placement.stream));
        }
        assert!(listed == expected, "the pages are not the ordered whole");
        for (start, count) in [(STREAMS, 10), (usize::MAX, usize::MAX), (5, 0)] {
            let Some(page) = page(start, count).await else { return false };
            assert_eq!(page.len(), 0);
        }
        true
    })
    .await;
}

pub async fn placements_count_their_users<F: Fixture>() {
    let cluster = Cluster::<F>::with_origins(1).await;
    let first = place(cluster.node(0), &stream("s")).await;
    let lease = |intent| Lease::new(Arc::clone(cluster.node(0)), first.clone(), intent);
    let (publisher, _player, player) = (lease(Intent::Publish), lease(Intent::Play), lease(Intent::Play));
    let users = async || {
        let (listed, _) = cluster.node(0).placements(ALL).await.unwrap();
        (listed[0].publishers, listed[0].players)
    };
    assert_eq!(users().await, (1, 2));
    drop(player);
    assert_eq!(users().await, (1, 1));
    drop(publisher);
    assert_eq!(users().await, (0, 1));
}

/// Which origin each stream had at each epoch, as anyone saw it.
type History = Mutex<HashMap<(StreamKey, u64), OriginId>>;

pub async fn any_mix_of_calls_leaves_one_origin_for_each_epoch<F: Fixture>() {
    const STREAMS: usize = 12;
    let cluster = Cluster::<F>::with_origins(4).await;
    let history: Arc<History> = Arc::default();
    let mut tasks = JoinSet::new();
    for task in 0..8 * cluster.nodes.len() {
        let (node, history) = (Arc::clone(cluster.node(task)), Arc::clone(&history));
        tasks.spawn(async move {
            let mut rng = StdRng::seed_from_u64(task as u64);
            let mut latest = [0; STREAMS];
            let mut leases = Vec::new();
            for _ in 0..300 {
                let n = rng.random_range(1..=4);
                let failed = Reachability::Failed("refused".into());
                match rng.random_range(0..10) {
                    0 => node.report(&origin(n).id(), failed).await,
                    1 => node.report(&origin(n).id(), Reachability::Reached).await,
                    2 => node.register(origin(n)).await.unwrap(),
                    3 => leases.clear(),
                    _ => {
                        let i = rng.random_range(0..STREAMS);
                        let key = stream(&format!("s{i}"));
                        let avoid = if rng.random_bool(0.2) { vec![origin(n).id()] } else { Vec::new() };
                        let placed = node.place(request(&key, &avoid)).await.unwrap();
                        assert!(!avoid.contains(&placed.origin.id()));
                        assert!(placed.epoch >= latest[i], "{key} went back to epoch {}", placed.epoch);
                        latest[i] = placed.epoch;
                        let id = placed.origin.id();
                        let first = history.lock().unwrap().entry((key, placed.epoch)).or_insert(id.clone()).clone();
                        assert_eq!(first, id, "two origins at one epoch");
                        let intent = if rng.random_bool(0.3) { Intent::Publish } else { Intent::Play };
                        leases.push(Lease::new(Arc::clone(&node), placed, intent));
                    }
                }
                tokio::task::yield_now().await;
            }
        });
    }
    tasks.join_all().await;

    for n in 1..=4 {
        cluster.node(0).register(origin(n)).await.unwrap();
        cluster.until_state(&origin(n).id(), OriginState::Live).await;
    }
    for i in 0..STREAMS {
        let placed = place(cluster.node(i), &stream(&format!("s{i}"))).await;
        cluster.assert_placed(&placed).await;
    }
    cluster.until_placements(STREAMS).await;
    for node in &cluster.nodes {
        let (listed, _) = node.placements(ALL).await.unwrap();
        assert!(listed.iter().all(|status| status.publishers == 0 && status.players == 0), "{listed:?}");
    }
    cluster
        .until("origins count what is placed on them", |origins| {
            origins.iter().map(|o| o.streams).sum::<usize>() == STREAMS
        })
        .await;
}
