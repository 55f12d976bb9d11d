//! Boards of a mesh on loopback: what is posted reaches all, and who is alive is seen.

use std::time::Duration;

use srs_proxy::{
    balancer::mesh::{gossip::Reason, traits::GossipStore},
    config::{Listen, Mesh, Seed},
};
use srs_proxy_test_support::boards::{Node, Seen, all_live, mesh, others, settings, wait_for};
use tokio::time::Instant;

#[tokio::test]
async fn what_one_posts_all_see_and_what_it_takes_back_is_gone() {
    for count in [3, 5] {
        let nodes = mesh(count).await;
        for node in &nodes {
            node.board.set("origin/a", b"\x00\xff");
            node.board.set("node", node.me.node.as_str().as_bytes());
            node.board.push();
        }
        for node in &nodes {
            for other in others(&nodes, node) {
                let text = other.me.node.as_str().as_bytes();
                node.sees("the posts", |seen| {
                    seen.value(&other.me, "node") == Some(text)
                        && seen.value(&other.me, "origin/a") == Some(b"\x00\xff")
                })
                .await;
            }
        }
        for node in &nodes {
            node.board.delete("origin/a");
            node.board.delete("never there");
            node.board.push();
        }
        for node in &nodes {
            let gone = |seen: &Seen| seen.posts.values().all(|posts| posts.keys().eq(["node"]));
            node.sees("that posts were taken back", gone).await;
            assert!(node.seen.borrow().lost.is_empty());
        }
    }
}

#[tokio::test]
async fn a_push_is_there_before_the_next_interval() {
    let nodes = mesh(3).await;
    let mut took = Vec::new();
    for round in 0..20_u32 {
        let value = round.to_be_bytes();
        let begin = Instant::now();
        nodes[0].board.set("k", &value);
        nodes[0].board.push();
        for node in &nodes[1..] {
            node.sees("the value", |seen| seen.value(&nodes[0].me, "k") == Some(&value)).await;
        }
        took.push(begin.elapsed());
    }
    took.sort();
    println!("push to both others: median {:?}, longest {:?}", took[10], took[19]);
    assert!(took[10] < Duration::from_millis(100), "{took:?}");
}

#[tokio::test]
async fn a_node_that_is_killed_is_no_longer_alive_within_three_seconds() {
    for count in [3, 5] {
        let mut nodes = mesh(count).await;
        let mut killed = nodes.remove(0);
        killed.kill();
        let begin = Instant::now();
        for node in &nodes {
            node.sees("that one is dead", |seen| !seen.live.contains(&killed.me)).await;
            let took = begin.elapsed();
            println!("of {count} nodes, {} saw it after {took:?}", node.me.node);
            assert!((Duration::from_millis(1200)..Duration::from_secs(5)).contains(&took), "{took:?}");
        }
    }
}

#[tokio::test]
async fn a_node_that_restarts_comes_as_a_new_run_without_its_old_posts() {
    let mut nodes = mesh(3).await;
    let mut old = nodes.pop().unwrap();
    for key in ["node", "place/old", "place/both"] {
        old.board.set(key, b"old");
    }
    for node in &nodes {
        node.sees("the old posts", |seen| seen.posts.get(&old.me).is_some_and(|posts| posts.len() == 3)).await;
    }
    old.kill();
    let new = Node::start(&settings(old.me.node.as_str(), &[nodes[0].address])).await;
    assert!(new.me.generation > old.me.generation);
    for key in ["node", "place/both"] {
        new.board.set(key, b"new");
    }
    for node in &nodes {
        node.sees("the new run and its posts alone", |seen| {
            let posts = seen
                .posts
                .get(&new.me)
                .is_some_and(|posts| posts.len() == 2 && posts.values().all(|value| value == b"new"));
            posts && seen.live.contains(&new.me) && !seen.live.contains(&old.me) && !seen.posts.contains_key(&old.me)
        })
        .await;
    }
    new.sees("the others, and not itself", |seen| {
        seen.live.len() == 2 && seen.live.iter().all(|run| run.node != new.me.node)
    })
    .await;
}

#[tokio::test]
async fn the_last_posts_of_a_node_that_leaves_reach_all_at_once() {
    let mut nodes = mesh(3).await;
    let leaving = nodes.pop().unwrap();
    let me = leaving.me.clone();
    for index in 0..3000 {
        leaving.board.set(&format!("place/{index}"), b"handed over");
    }
    leaving.board.set("node", b"left");
    let begin = Instant::now();
    leaving.leave().await;
    let took = begin.elapsed();
    println!("left with 3000 posts in {took:?}");
    assert!(took < Duration::from_secs(3), "{took:?}");
    for node in &nodes {
        // Not in its turn: nobody gossips for it any more.
        let seen = node.seen.borrow();
        assert_eq!(seen.value(&me, "node"), Some(&b"left"[..]));
        assert_eq!(seen.posts[&me].len(), 3001);
    }
}

#[tokio::test]
async fn nodes_find_each_other_over_ipv6_by_name_and_through_a_listener_on_all_addresses() {
    let six = Listen { host: Some("::1".into()), port: 0 };
    let first = Node::start(&Mesh { gossip_listen: six.clone(), ..settings("a", &[]) }).await;
    let second = Node::start(&Mesh { gossip_listen: six, ..settings("b", &[first.address]) }).await;
    all_live(&[first, second]).await;

    let all = Listen { host: None, port: 0 };
    let advertise_host = Some("127.0.0.1".into());
    let first = Node::start(&Mesh { gossip_listen: all, advertise_host, ..settings("a", &[]) }).await;
    let seeds = vec![
        Seed { host: "no-such-host.invalid".into(), port: 1 },
        Seed { host: "localhost".into(), port: first.address.port() },
    ];
    let second = Node::start(&Mesh { seeds, ..settings("b", &[]) }).await;
    all_live(&[first, second]).await;
}

#[tokio::test]
async fn a_mesh_without_a_key_works_and_sees_no_other_cluster() {
    let open = |name: &str, cluster_id: &str, seeds: &[_]| Mesh {
        key: None,
        cluster_id: cluster_id.into(),
        ..settings(name, seeds)
    };
    let first = Node::start(&open("a", "one", &[])).await;
    let other = Node::start(&open("c", "another", &[first.address])).await;
    let second = Node::start(&open("b", "one", &[first.address])).await;
    let big = vec![b'x'; 20_000];
    second.board.set("big", &big);
    first.sees("the post", |seen| seen.value(&second.me, "big") == Some(&big[..])).await;
    wait_for("packets of the other cluster", || first.counters.dropped(Reason::ForeignCluster) > 3).await;
    assert!(other.seen.borrow().live.is_empty());
    all_live(&[first, second]).await;
}

#[tokio::test]
async fn what_was_posted_before_the_state_of_the_node_is_seen_before_it() {
    let nodes = mesh(3).await;
    let (writer, reader) = (&nodes[0], &nodes[1]);
    for round in 1..=20_u8 {
        let (old, new) = (format!("place/{}", round - 1), format!("place/{round}"));
        writer.board.set(&new, &[round]);
        writer.board.delete(&old);
        writer.board.set("node", &[round]);
        writer.board.push();
        reader
            .sees("the round", |seen| {
                if seen.value(&writer.me, "node") != Some(&[round]) {
                    return false;
                }
                let posts: Vec<_> = seen.posts[&writer.me].keys().collect();
                assert_eq!(posts, ["node", &new]);
                true
            })
            .await;
    }
}

#[tokio::test]
async fn ten_thousand_posts_of_each_node_reach_all() {
    let nodes = mesh(3).await;
    let all = |seen: &Seen, of: &Node| seen.posts.get(&of.me).is_some_and(|posts| posts.len() == 10_000);
    let begin = Instant::now();
    for node in &nodes {
        for index in 0..10_000_u32 {
            node.board.set(&format!("place/__defaultVhost__%2Flive%2Fstream-{index}"), &[index as u8; 80]);
        }
        node.board.push();
    }
    for node in &nodes {
        node.sees("all posts", |seen| others(&nodes, node).all(|other| all(seen, other))).await;
    }
    println!("3 times 10,000 posts reached all in {:?}", begin.elapsed());

    let begin = Instant::now();
    let joined = Node::start(&settings("late", &[nodes[0].address])).await;
    joined.sees("all posts", |seen| nodes.iter().all(|node| all(seen, node))).await;
    println!("a newcomer had all 30,000 after {:?}", begin.elapsed());
    assert!(nodes.iter().all(|node| node.seen.borrow().lost.is_empty()), "somebody seemed dead meanwhile");
}

#[tokio::test]
async fn three_hundred_restarts_of_one_node_leave_the_others_healthy() {
    let nodes = mesh(3).await;
    for node in &nodes {
        node.board.set("node", b"serving");
    }
    let begin = Instant::now();
    let mut last = None;
    for round in 0..300_u32 {
        let mut node = Node::start(&settings("crashing", &[nodes[0].address])).await;
        node.board.set("node", &round.to_be_bytes());
        // Once it has an answer, it is known to the others and leaves a trace.
        wait_for("an answer", || node.counters.received() > 0).await;
        node.kill();
        last = Some(node.me.clone());
    }
    println!("300 restarts in {:?}", begin.elapsed());
    let node = Node::start(&settings("crashing", &[nodes[0].address])).await;
    node.board.set("node", b"well");
    let last = last.unwrap();
    assert!(node.me.generation > last.generation);
    for other in &nodes {
        other
            .sees("the last run", |seen| seen.live.contains(&node.me) && seen.value(&node.me, "node") == Some(b"well"))
            .await;
        node.sees("the others", |seen| seen.value(&other.me, "node") == Some(b"serving")).await;
        assert!(other.seen.borrow().lost.iter().all(|run| run.node == node.me.node), "a healthy node seemed dead");
        let runs = other.seen.borrow().posts.keys().filter(|run| run.node == node.me.node).count();
        assert_eq!(runs, 1);
    }
    nodes[1].board.set("still", b"here");
    nodes[1].board.push();
    nodes[2].sees("what others post", |seen| seen.value(&nodes[1].me, "still") == Some(b"here")).await;
}
