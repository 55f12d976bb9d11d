//! Several nodes that act as one: clients of any of them meet on the same origin, and nodes come and
//! go.

use std::time::Duration;

use srs_proxy_test_support as support;
use srs_proxy_test_support::{
    LIMIT, Nginx, Process, ffmpeg,
    ffmpeg::Player,
    media::{self, Recording},
    mesh::{Mesh, placed},
    wait_for, wait_for_some,
};

/// Three nodes and two origins, which register through different nodes.
fn start() -> (Mesh, [Nginx; 2]) {
    let mesh = Mesh::start(3);
    let origins = [Nginx::start(), Nginx::start()];
    for (n, origin) in origins.iter().enumerate() {
        mesh.node(n).register(origin);
    }
    wait_for("all nodes know both origins", LIMIT, || mesh.running().all(|node| node.origins().len() == 2));
    (mesh, origins)
}

/// Publishes through one node, and waits until an origin has it. Gives the origin's index.
fn publish(mesh: &Mesh, origins: &[Nginx], n: usize, name: &str) -> (Process, usize) {
    let publisher = ffmpeg::publish(&mesh.node(n).url(&format!("live/{name}")));
    let origin = wait_for_some(&format!("live/{name} is on an origin"), LIMIT, || {
        origins.iter().position(|origin| origin.is_published("live", name))
    });
    (publisher, origin)
}

fn play(mesh: &Mesh, n: usize, name: &str) -> Player {
    let mut player = ffmpeg::play(&mesh.node(n).url(&format!("live/{name}")));
    player.wait_for_video(5);
    player
}

/// Panics if the player missed anything, or if the publisher was interrupted.
fn assert_undisturbed(publisher: &mut Process, player: &mut Player) {
    publisher.assert_running();
    player.wait_for_more();
    player.recording().assert_is_part_of(&Recording::of_file(&media::sample()));
}

#[test]
fn a_stream_published_through_one_node_plays_through_all_others_at_once() {
    let (mesh, origins) = start();
    for n in 0..3 {
        let name = format!("stream-{n}");
        let (_publisher, origin) = publish(&mesh, &origins, n, &name);
        for other in (0..3).filter(|other| *other != n) {
            play(&mesh, other, &name);
        }
        assert!(!origins[1 - origin].streams().iter().any(|stream| stream.name == name), "{name} is on both origins");
    }
}

#[test]
fn a_killed_node_takes_only_its_own_sessions_with_it() {
    let (mut mesh, origins) = start();
    let mut streams: Vec<_> = (0..4)
        .map(|n| {
            let name = format!("before-{n}");
            let (publisher, origin) = publish(&mesh, &origins, 0, &name);
            (publisher, play(&mesh, 2, &name), origin, name)
        })
        .collect();

    mesh.kill(1);
    // Some of these have the dead node for their home.
    for n in 0..4 {
        let name = format!("after-{n}");
        let (_publisher, _) = publish(&mesh, &origins, 2, &name);
        play(&mesh, 0, &name);
    }
    for (publisher, player, origin, name) in &mut streams {
        assert_undisturbed(publisher, player);
        let id = origins[*origin].id();
        mesh.wait_until_placed(&format!("live/{name}"), &id, LIMIT);
        play(&mesh, 2, name);
    }
    mesh.wait_until_settled();
}

#[test]
fn a_draining_node_hands_its_streams_over_and_serves_its_sessions_meanwhile() {
    let (mut mesh, origins) = start();
    let (mut publisher, origin) = publish(&mesh, &origins, 0, "stays");
    let mut player = play(&mesh, 2, "stays");
    let (mut on_it, _) = publish(&mesh, &origins, 1, "on-it");
    let mut through_another = play(&mesh, 0, "on-it");

    mesh.node(1).terminate();
    // Long before anybody could take the node for dead.
    wait_for("the others know that it drains", Duration::from_secs(3), || {
        let cluster = mesh.node(0).get("/api/v1/proxy/cluster");
        let members = cluster["members"].as_array().expect("members");
        members.iter().any(|member| member["node"] == "node-1" && member["state"] == "draining")
    });
    assert_undisturbed(&mut on_it, &mut through_another);
    for n in 0..3 {
        let name = format!("meanwhile-{n}");
        let (_publisher, _) = publish(&mesh, &origins, 0, &name);
        play(&mesh, 2, &name);
    }

    let status = mesh.node_mut(1).wait_exit(LIMIT);
    assert_eq!(status.code(), Some(0), "{status}");
    mesh.kill(1);
    mesh.wait_until_settled();
    assert_undisturbed(&mut publisher, &mut player);
    mesh.wait_until_placed("live/stays", &origins[origin].id(), LIMIT);
}

#[test]
fn a_node_that_restarts_under_its_name_knows_what_the_others_know() {
    let (mut mesh, origins) = start();
    let (mut publisher, origin) = publish(&mesh, &origins, 0, "stays");
    let mut player = play(&mesh, 2, "stays");

    mesh.kill(1);
    mesh.start_node(1);
    wait_for("the node is ready again", LIMIT, || {
        support::http::get(mesh.node(1).api(), "/readyz").is_ok_and(|answer| answer.status == 200)
    });
    assert_eq!(placed(mesh.node(1), "live/stays").as_deref(), Some(origins[origin].id().as_str()));
    play(&mesh, 1, "stays");
    let (_publisher, _) = publish(&mesh, &origins, 1, "fresh");
    play(&mesh, 0, "fresh");
    mesh.wait_until_settled();
    assert_undisturbed(&mut publisher, &mut player);
}
