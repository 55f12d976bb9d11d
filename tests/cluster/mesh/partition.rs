//! Nodes with addresses of their own: the network between them breaks, and they come back elsewhere.
//! Needs root, for network namespaces.

use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

use srs_proxy_test_support::{
    LIMIT, Nginx,
    dnsmasq::{self, Dnsmasq},
    ffmpeg,
    media::{self, Recording},
    mesh::{Mesh, placed},
    netns::{self, Namespace, Network},
    wait_for,
};

/// A network whose hub this thread is in; none, with a word, where that is impossible.
fn network() -> Option<Network> {
    if let Some(reason) = netns::unavailable() {
        println!("SKIPPED: {reason}");
        return None;
    }
    let network = Network::new();
    network.enter();
    Some(network)
}

#[test]
fn after_a_partition_one_of_two_publishers_is_left_and_its_players_notice_nothing() {
    let Some(network) = network() else { return };
    let spaces: Vec<_> = (10..13).map(|host| network.add(host)).collect();
    let mesh = Mesh::start_in(&spaces);
    network.split(&spaces[2..]);
    mesh.wait_until_alone(&[0, 1]);
    mesh.wait_until_alone(&[2]);

    // Each side knows an origin of its own, so that the two cannot agree by chance.
    let origins = [0, 2].map(|n| {
        let origin = Nginx::start_on(network.hub().edge());
        mesh.node(n).register(&origin);
        origin
    });
    wait_for("node 1 knows the origin", LIMIT, || mesh.node(1).origins().len() == 1);
    let mut sides: Vec<_> = [(0, 1), (2, 2)]
        .into_iter()
        .zip(&origins)
        .map(|((one, other), origin)| {
            let publisher = ffmpeg::publish(&mesh.node(one).url("live/torn"));
            origin.wait_until_published("live", "torn");
            let mut player = ffmpeg::play(&mesh.node(other).url("live/torn"));
            player.wait_for_video(5);
            (publisher, player)
        })
        .collect();

    network.heal(&spaces[2..]);
    wait_for("the stream is on one origin only", Duration::from_secs(5), || {
        origins.iter().filter(|origin| origin.is_published("live", "torn")).count() == 1
    });
    let winner = usize::from(origins[1].is_published("live", "torn"));
    mesh.wait_until_placed("live/torn", &origins[winner].id(), LIMIT);
    assert!(!sides[1 - winner].0.wait_exit(LIMIT).success(), "the losing publisher was content");
    let (publisher, player) = &mut sides[winner];
    publisher.assert_running();
    player.wait_for_more();
    player.recording().assert_is_part_of(&Recording::of_file(&media::sample()));
    for n in 0..3 {
        ffmpeg::play(&mesh.node(n).url("live/torn")).wait_for_video(5);
    }
}

#[test]
fn a_node_that_comes_back_at_another_address_is_found_by_its_name() {
    const SERVICE: &str = "mesh.test";
    let Some(network) = network() else { return };
    if !dnsmasq::is_installed() {
        println!("SKIPPED: dnsmasq is not installed");
        return;
    }
    let mut next = 10..;
    let mut add = || {
        let namespace = network.add(next.next().expect("a host"));
        namespace.resolve_at(network.hub().mesh());
        namespace
    };
    let mut spaces: Vec<_> = (0..3).map(|_| add()).collect();
    let dns = Dnsmasq::start(&network.hub(), &names(SERVICE, &spaces));
    let mut mesh = Mesh::start_named(&spaces, SERVICE);
    let origin = Nginx::start_on(network.hub().edge());
    mesh.node(0).register(&origin);
    wait_for("all nodes know the origin", LIMIT, || mesh.running().all(|node| node.origins().len() == 1));
    let mut publisher = ffmpeg::publish(&mesh.node(0).url("live/stays"));
    origin.wait_until_published("live", "stays");
    let mut player = ffmpeg::play(&mesh.node(2).url("live/stays"));
    player.wait_for_video(5);

    mesh.kill(1);
    spaces[1] = add();
    dns.set(&names(SERVICE, &spaces));
    mesh.move_node(1, &spaces[1]);
    mesh.start_node(1);
    mesh.wait_until_settled();

    assert_eq!(placed(mesh.node(1), "live/stays").as_deref(), Some(origin.id().as_str()));
    ffmpeg::play(&mesh.node(1).url("live/stays")).wait_for_video(5);
    let _fresh = ffmpeg::publish(&mesh.node(1).url("live/fresh"));
    origin.wait_until_published("live", "fresh");
    ffmpeg::play(&mesh.node(0).url("live/fresh")).wait_for_video(5);
    publisher.assert_running();
    player.wait_for_more();
    player.recording().assert_is_part_of(&Recording::of_file(&media::sample()));
}

/// What DNS says of a headless service and of its nodes.
fn names(service: &str, spaces: &[Namespace]) -> BTreeMap<String, Vec<Ipv4Addr>> {
    let all = spaces.iter().map(Namespace::mesh).collect();
    let each = spaces.iter().enumerate().map(|(n, space)| (format!("node-{n}.{service}"), vec![space.mesh()]));
    each.chain([(service.to_owned(), all)]).collect()
}
