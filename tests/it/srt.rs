//! SRT callers reach the origin of their stream, and nothing that they or an origin do harms another.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use srs_proxy::{
    balancer::{Balancer, Intent, Page},
    codec::srt::{
        handshake::{Handshake, LEN, Reason, Stage, peer_ip},
        is_shutdown, shutdown,
    },
    session::Delivery,
};
use srs_proxy_test_support::scripted_srt::{Caller, LIMIT, Manner, Node, Origin, data, eventually, within};
use tokio::{
    net::UdpSocket,
    task::JoinSet,
    time::{Instant, timeout},
};

const PUBLISH: &str = "#!::h=a.com,r=live/s,m=publish";
const PLAY: &str = "#!::h=a.com,r=live/s,m=request";

async fn node_and_origin() -> (Node, Origin) {
    let (node, origin) = (Node::start().await, Origin::start(Manner::Accept).await);
    node.register("origin", &origin).await;
    (node, origin)
}

#[tokio::test]
async fn a_publisher_and_a_player_of_one_stream_reach_its_origin_and_their_packets_pass_untouched() {
    let node = Node::start().await;
    let origins = [Origin::start(Manner::Accept).await, Origin::start(Manner::Accept).await];
    node.register("a", &origins[0]).await;
    node.register("b", &origins[1]).await;

    let publisher = Caller::new(&node, 5).await;
    let route = publisher.connect(PUBLISH).await.unwrap();
    let (mut first, mut second) = (origins[0].more_guests().await, origins[1].more_guests().await);
    assert_eq!(first + second, 1);
    let origin = &origins[second];
    let guest = origin.guest().await;
    assert_eq!((guest.caller, guest.socket, guest.stream_id()), (5, route, PUBLISH.to_owned()));

    let player = Caller::new(&node, 6).await;
    let route_of_player = player.connect(PLAY).await.unwrap();
    let watcher = origin.guest().await;
    assert_eq!(watcher.stream_id(), PLAY);

    for n in 0..50u8 {
        let packet = data(route, &vec![n; 1 + usize::from(n) * 25]);
        publisher.send(&packet).await;
        assert_eq!(origin.packet().await, (guest.leg, packet));
        let packet = data(6, &vec![n; 1300]);
        origin.send(&watcher, &packet).await;
        assert_eq!(player.receive().await, packet);
    }
    // Both ways, for both.
    origin.send(&guest, &data(5, b"ack")).await;
    assert_eq!(publisher.receive().await, data(5, b"ack"));
    player.send(&data(route_of_player, b"ack")).await;
    assert_eq!(origin.packet().await, (watcher.leg, data(route_of_player, b"ack")));

    let (sessions, count) = node.sessions.page(Page { start: 0, count: 10 });
    assert_eq!(count, 2);
    let roles: Vec<_> = sessions.iter().filter_map(|s| s.role()).map(|(i, s)| (*i, s.to_string())).collect();
    assert_eq!(roles, [(Intent::Publish, "a.com/live/s".to_owned()), (Intent::Play, "a.com/live/s".to_owned())]);
    assert!(sessions.iter().all(|s| s.delivery == Delivery::Srt && s.origin().is_some()));
    eventually("packets counted", async || sessions[1].packets() == (2, 50)).await;
    assert_eq!(sessions[1].bytes().1, 50 * 1316);
    (first, second) = (origins[0].more_guests().await, origins[1].more_guests().await);
    assert_eq!((first, second), (0, 0));
}

#[tokio::test]
async fn the_origin_hears_the_callers_own_conclusion_and_the_caller_its_own_address() {
    let (node, origin) = node_and_origin().await;
    let caller = Caller::new(&node, 5).await;
    let cookie = caller.induct().await;
    let sent = caller.conclusion(cookie, PLAY);
    let answer = caller.ask(&sent).await;
    let guest = origin.guest().await;
    let (ours, theirs) = (Handshake::parse(&sent).unwrap(), Handshake::parse(&guest.conclusion).unwrap());
    assert_eq!(theirs, Handshake { cookie: theirs.cookie, ..ours });
    assert_ne!(theirs.cookie, cookie);
    let answer = Handshake::parse(&answer).unwrap();
    assert_eq!((answer.stage, answer.peer_ip), (Stage::Conclusion, peer_ip(Ipv4Addr::LOCALHOST.into())));
}

#[tokio::test]
async fn a_client_of_one_address_family_reaches_an_origin_of_the_other() {
    let (node, origin) = (Node::start().await, Origin::start_at("[::1]:0", Manner::Accept).await);
    node.register("origin", &origin).await;
    let caller = Caller::new(&node, 5).await;
    let cookie = caller.induct().await;
    let answer = caller.ask(&caller.conclusion(cookie, PLAY)).await;
    let answer = Handshake::parse(&answer).unwrap();
    let guest = origin.guest().await;
    let heard = Handshake::parse(&guest.conclusion).unwrap();
    assert_eq!(heard.peer_ip, peer_ip(Ipv6Addr::LOCALHOST.into()));
    assert_eq!(answer.peer_ip, peer_ip(Ipv4Addr::LOCALHOST.into()));
    caller.send(&data(answer.socket_id, b"up")).await;
    assert_eq!(origin.packet().await, (guest.leg, data(guest.socket, b"up")));
    origin.send(&guest, &data(5, b"down")).await;
    assert_eq!(caller.receive().await, data(5, b"down"));
}

#[tokio::test]
async fn a_repeated_conclusion_asks_no_origin_again_and_gets_the_same_answer() {
    let (node, origin) = node_and_origin().await;
    let caller = Caller::new(&node, 5).await;
    let cookie = caller.induct().await;
    let conclusion = caller.conclusion(cookie, PLAY);
    let answer = caller.ask(&conclusion).await;
    for _ in 0..3 {
        caller.send(&conclusion).await;
        assert_eq!(caller.receive().await, answer);
    }
    origin.guest().await;
    assert_eq!((origin.more_guests().await, node.sessions.len()), (0, 1));
}

#[tokio::test]
async fn what_an_origin_overhears_is_sent_again() {
    let (node, origin) = node_and_origin().await;
    origin.overhear(2);
    let caller = Caller::new(&node, 5).await;
    caller.connect(PLAY).await.unwrap();
    assert_eq!(origin.guest().await.caller, 5);
}

#[tokio::test]
async fn an_origins_rejection_reaches_the_caller_as_it_is() {
    let (node, origin) = (Node::start().await, Origin::start(Manner::Reject(Reason::UNAUTHORIZED)).await);
    node.register("origin", &origin).await;
    let caller = Caller::new(&node, 5).await;
    assert_eq!(caller.connect(PLAY).await, Err(Reason::UNAUTHORIZED));
    node.idle().await;
    let (placed, _) = node.balancer.placements(Page { start: 0, count: 10 }).await.unwrap();
    assert!(placed.iter().all(|p| p.players == 0));
}

#[tokio::test]
async fn a_refusal_that_was_lost_is_repeated_without_asking_anew() {
    let node = Node::start().await;
    let caller = Caller::new(&node, 5).await;
    let cookie = caller.induct().await;
    let conclusion = caller.conclusion(cookie, PLAY);
    let refusal = caller.ask(&conclusion).await;
    node.idle().await;
    let started = node.sessions.totals().ends.iter().map(|(_, n)| n).sum::<u64>();
    caller.send(&conclusion).await;
    assert_eq!(caller.receive().await, refusal);
    assert_eq!(node.sessions.totals().ends.iter().map(|(_, n)| n).sum::<u64>(), started);
}

#[tokio::test]
async fn without_an_origin_the_caller_hears_that_the_service_is_down() {
    let node = Node::start().await;
    assert_eq!(Caller::new(&node, 5).await.connect(PLAY).await, Err(Reason::DOWN));
    node.idle().await;
}

#[tokio::test]
async fn a_stream_id_that_makes_no_sense_is_a_bad_request_and_starts_no_session() {
    let (node, origin) = node_and_origin().await;
    let caller = Caller::new(&node, 5).await;
    assert_eq!(caller.connect("#!::h=a.com,m=publish").await, Err(Reason::BAD_REQUEST));
    assert_eq!(caller.connect("#!::r=live/s,m=watch").await, Err(Reason::BAD_MODE));
    // An extension of 1 to 3 bytes.
    let cookie = caller.induct().await;
    let conclusion = caller.conclusion(cookie, PLAY);
    for len in 1..4 {
        let answer = caller.ask(&conclusion[..LEN + len]).await;
        assert_eq!(Handshake::parse(&answer).unwrap().stage, Stage::Rejected(Reason::BAD_REQUEST));
    }
    assert_eq!((origin.more_guests().await, node.sessions.totals().ends.iter().map(|(_, n)| n).sum()), (0, 0u64));
}

#[tokio::test]
async fn malformed_datagrams_are_counted_and_everybody_else_is_served() {
    let (node, origin) = node_and_origin().await;
    let stranger = Caller::new(&node, 9).await;
    let conclusion = stranger.conclusion(0x1234, PLAY);
    // Without induction; each length that a handshake can be cut to; to nobody; to a socket unknown.
    stranger.send(&conclusion).await;
    for len in 0..LEN {
        stranger.send(&conclusion[..len]).await;
    }
    stranger.send(&shutdown(0, 0)).await;
    stranger.send(&data(77, b"lost")).await;

    let caller = Caller::new(&node, 5).await;
    let route = caller.connect(PLAY).await.unwrap();
    caller.send(&data(route, b"here")).await;
    assert_eq!(origin.packet().await.1, data(route, b"here"));
    let dropped = async |reason| {
        node.metric(&format!("srs_proxy_datagrams_dropped_total{{listener=\"srt\",reason=\"{reason}\"}}")).await
    };
    eventually("all counted", async || {
        (dropped("malformed").await, dropped("unknown").await, dropped("unproven").await) == (LEN as u64 + 1, 1, 1)
    })
    .await;
    let nothing = timeout(Duration::from_millis(1), stranger.udp.recv(&mut [0; 100])).await;
    assert!(nothing.is_err(), "an address that has proven nothing is answered");
}

#[tokio::test]
async fn a_frozen_origin_costs_only_its_own_callers() {
    let node = Node::with(|srt| srt.answer_timeout = Duration::from_millis(500)).await;
    let frozen = Origin::start(Manner::Silent).await;
    node.register("frozen", &frozen).await;
    // While there is only this one, its callers wait for it.
    let waiting: Vec<_> = {
        let mut waiting = Vec::new();
        for n in 0..20 {
            let caller = Caller::new(&node, 100 + n).await;
            let cookie = caller.induct().await;
            caller.send(&caller.conclusion(cookie, &format!("#!::r=frozen/{n}"))).await;
            waiting.push(caller);
        }
        waiting
    };
    eventually("all of them wait", async || node.sessions.len() == 20).await;

    let healthy = Origin::start(Manner::Accept).await;
    node.register("healthy", &healthy).await;
    let origins = node.balancer.origins().await.unwrap();
    let frozen_id = origins.iter().find(|o| o.origin.server_id == "frozen").unwrap().origin.id();
    let failed = srs_proxy::balancer::Reachability::Failed("frozen".into());
    node.balancer.report(&frozen_id, failed).await;

    let start = Instant::now();
    for n in 0..20 {
        let caller = Caller::new(&node, 5 + n).await;
        let route = caller.connect(&format!("#!::r=live/{n}")).await.unwrap();
        caller.send(&data(route, b"hello")).await;
        assert_eq!(healthy.packet().await.1, data(route, b"hello"));
    }
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    // The others go to the next origin, or hear why there is none.
    for caller in waiting {
        let answer = Handshake::parse(&caller.receive().await).unwrap().stage;
        assert!(matches!(answer, Stage::Conclusion | Stage::Rejected(Reason::GATEWAY)), "{answer:?}");
    }
}

#[tokio::test]
async fn an_origin_at_which_nobody_listens_is_passed_over_for_the_next() {
    let node = Node::start().await;
    let gone = Origin::start(Manner::Accept).await;
    node.register("gone", &gone).await;
    gone.vanish().await;
    let caller = Caller::new(&node, 4).await;
    assert_eq!(caller.connect("#!::r=live/other").await, Err(Reason::GATEWAY));

    let origin = Origin::start(Manner::Accept).await;
    node.register("origin", &origin).await;
    for n in 0..10 {
        Caller::new(&node, 5).await.connect(&format!("#!::r=live/{n}")).await.unwrap();
    }
    assert_eq!(origin.more_guests().await, 10);
}

#[tokio::test]
async fn two_sockets_of_one_port_have_sessions_of_their_own() {
    let (node, origin) = node_and_origin().await;
    let a = Caller::new(&node, 5).await;
    let b = a.sibling(6);
    let route_a = a.connect("#!::r=live/a").await.unwrap();
    let route_b = b.connect("#!::r=live/b").await.unwrap();
    assert_ne!(route_a, route_b);
    let (guest_a, guest_b) = (origin.guest().await, origin.guest().await);
    for (caller, route, guest) in [(&a, route_a, &guest_a), (&b, route_b, &guest_b)] {
        let packet = data(route, b"up");
        caller.send(&packet).await;
        assert_eq!(origin.packet().await, (guest.leg, packet));
        let packet = data(caller.socket, b"down");
        origin.send(guest, &packet).await;
        assert_eq!(caller.receive().await, packet);
    }
    // The end of one is not the end of the other.
    a.send(&shutdown(route_a, 0)).await;
    eventually("one has ended", async || node.sessions.len() == 1).await;
    b.send(&data(route_b, b"still here")).await;
    assert_eq!(origin.packet().await, (guest_a.leg, shutdown(route_a, 0).to_vec()));
    assert_eq!(origin.packet().await.1, data(route_b, b"still here"));
}

#[tokio::test]
async fn a_client_connects_again_with_the_same_port() {
    let (node, origin) = node_and_origin().await;
    let first = Caller::new(&node, 5).await;
    let route = first.connect(PLAY).await.unwrap();
    origin.guest().await;
    first.send(&shutdown(route, 0)).await;
    node.idle().await;

    // As libsrt does it: another socket. And as others may: the same one.
    for mut again in [first.sibling(4), first.sibling(5)] {
        again.initial_sequence = 900 + again.socket;
        let route = again.connect(PLAY).await.unwrap();
        let guest = origin.guest().await;
        assert_eq!((guest.caller, guest.socket), (again.socket, route));
    }
    // And without the end of the old one.
    let mut anew = first.sibling(5);
    anew.initial_sequence = 1000;
    let route = anew.connect(PLAY).await.unwrap();
    let guest = origin.guest().await;
    eventually("the old one has ended", async || node.sessions.len() == 2).await;
    anew.send(&data(route, b"new")).await;
    let at_origin = within("the packet", async {
        loop {
            let (leg, packet) = origin.packet().await;
            if !is_shutdown(&packet) {
                break (leg, packet);
            }
        }
    });
    assert_eq!(at_origin.await, (guest.leg, data(route, b"new")));
}

#[tokio::test]
async fn a_shutdown_of_either_side_reaches_the_other_and_frees_the_session() {
    let (node, origin) = node_and_origin().await;
    let caller = Caller::new(&node, 5).await;
    let route = caller.connect(PUBLISH).await.unwrap();
    let guest = origin.guest().await;
    caller.send(&shutdown(route, 3)).await;
    assert_eq!(origin.packet().await, (guest.leg, shutdown(route, 3).to_vec()));
    node.idle().await;

    let caller = Caller::new(&node, 6).await;
    caller.connect(PUBLISH).await.unwrap();
    let guest = origin.guest().await;
    origin.send(&guest, &shutdown(6, 4)).await;
    assert_eq!(caller.receive().await, shutdown(6, 4));
    node.idle().await;
    let (placed, _) = node.balancer.placements(Page { start: 0, count: 10 }).await.unwrap();
    assert!(placed.iter().all(|p| p.publishers + p.players == 0), "{placed:?}");
}

#[tokio::test]
async fn a_client_whose_origin_is_gone_is_told() {
    let (node, origin) = node_and_origin().await;
    let caller = Caller::new(&node, 5).await;
    let route = caller.connect(PUBLISH).await.unwrap();
    origin.vanish().await;
    let told = within("the shutdown", async {
        loop {
            caller.send(&data(route, b"anybody?")).await;
            if let Ok(packet) = timeout(Duration::from_millis(20), caller.receive()).await {
                break packet;
            }
        }
    })
    .await;
    assert!(is_shutdown(&told) && told[12..16] == [0, 0, 0, 5]);
    node.idle().await;
}

#[tokio::test]
async fn a_session_whose_client_or_origin_falls_silent_ends_on_both_sides() {
    let idle = Duration::from_millis(400);
    let node = Node::with(|srt| srt.idle_timeout = idle).await;
    let origin = Origin::start(Manner::Accept).await;
    node.register("origin", &origin).await;
    for silent_client in [true, false] {
        let caller = Caller::new(&node, 5 + u32::from(silent_client)).await;
        let route = caller.connect(PLAY).await.unwrap();
        let guest = origin.guest().await;
        let start = Instant::now();
        let told = within("the end", async {
            loop {
                if silent_client {
                    origin.send(&guest, &data(caller.socket, b"going on")).await;
                } else {
                    caller.send(&data(route, b"going on")).await;
                }
                if let Ok(packet) = timeout(Duration::from_millis(10), caller.receive()).await
                    && is_shutdown(&packet)
                {
                    break packet;
                }
            }
        });
        assert_eq!(told.await[12..16], caller.socket.to_be_bytes());
        assert!(start.elapsed() >= idle / 2, "{:?}", start.elapsed());
        loop {
            let (leg, packet) = origin.packet().await;
            if is_shutdown(&packet) {
                assert_eq!((leg, &packet[12..16]), (guest.leg, &route.to_be_bytes()[..]));
                break;
            }
        }
        node.idle().await;
    }
}

#[tokio::test]
async fn inductions_from_many_addresses_leave_nothing_behind_and_get_no_more_than_they_sent() {
    let (node, origin) = node_and_origin().await;
    for n in 0..1000u32 {
        let [_, _, a, b] = n.to_be_bytes();
        let udp = UdpSocket::bind((Ipv4Addr::new(127, 7, a, b), 0)).await.unwrap();
        udp.connect(node.address).await.unwrap();
        let caller = Caller { udp: udp.into(), socket: 5, initial_sequence: 7 };
        let answer = caller.ask(&caller.induction()).await;
        assert!(answer.len() <= caller.induction().len());
    }
    assert!(node.sessions.is_empty());
    Caller::new(&node, 5).await.connect(PLAY).await.unwrap();
    origin.guest().await;
}

#[tokio::test]
async fn two_hundred_sessions_at_once_each_get_their_own_packets() {
    let (node, origin) = node_and_origin().await;
    let mut callers = JoinSet::new();
    for n in 0..200u32 {
        let address = node.address;
        callers.spawn(async move {
            let caller = Caller::to(address, 5 + n).await;
            let route = caller.connect(&format!("#!::r=live/{n}")).await.unwrap();
            (caller, route)
        });
    }
    let callers = callers.join_all().await;
    assert_eq!(node.sessions.len(), 200);
    for (caller, route) in &callers {
        caller.send(&data(*route, &caller.socket.to_be_bytes())).await;
    }
    let mut guests = std::collections::HashMap::new();
    for _ in 0..200 {
        let guest = origin.guest().await;
        guests.insert(guest.leg, guest);
    }
    for _ in 0..200 {
        let (leg, packet) = origin.packet().await;
        let guest = &guests[&leg];
        assert_eq!(packet, data(guest.socket, &guest.caller.to_be_bytes()));
        origin.send(guest, &data(guest.caller, &guest.socket.to_be_bytes())).await;
    }
    for (caller, route) in &callers {
        assert_eq!(caller.packet().await, data(caller.socket, &route.to_be_bytes()));
    }
}

#[tokio::test]
async fn sessions_that_are_abandoned_are_all_freed() {
    let node = Node::with(|srt| srt.idle_timeout = Duration::from_secs(1)).await;
    let origin = Origin::start(Manner::Accept).await;
    node.register("origin", &origin).await;
    let mut callers = JoinSet::new();
    for n in 0..1000u32 {
        let address = node.address;
        callers.spawn(async move {
            Caller::to(address, 5 + n).await.connect(&format!("#!::r=live/{n}")).await.unwrap();
        });
        if callers.len() >= 100 {
            callers.join_next().await.unwrap().unwrap();
        }
    }
    callers.join_all().await;
    node.idle().await;
    let (placed, _) = node.balancer.placements(Page { start: 0, count: 2000 }).await.unwrap();
    assert!(placed.iter().all(|p| p.publishers + p.players == 0));
    assert_eq!(node.metric("srs_proxy_connections{listener=\"srt\"}").await, 0);
    let ends = node.sessions.totals().ends.iter().map(|(_, n)| n).sum::<u64>();
    assert_eq!(ends, 1000);
}

#[tokio::test]
async fn beyond_the_limit_callers_hear_that_there_are_too_many() {
    let node = Node::with(|srt| (srt.max_sessions, srt.max_sessions_per_ip) = (8, 2)).await;
    let origin = Origin::start(Manner::Accept).await;
    node.register("origin", &origin).await;
    let mut held = Vec::new();
    for n in 0..2 {
        let caller = Caller::new(&node, 5 + n).await;
        held.push((caller.connect(PLAY).await.unwrap(), caller));
    }
    assert_eq!(Caller::new(&node, 9).await.connect(PLAY).await, Err(Reason::OVERLOAD));
    let (route, caller) = held.remove(0);
    caller.send(&shutdown(route, 0)).await;
    eventually("room", async || node.sessions.len() == 1).await;
    eventually("a place", async || Caller::new(&node, 9).await.connect(PLAY).await.is_ok()).await;
}

#[tokio::test]
async fn those_who_wait_for_a_frozen_origin_are_bounded() {
    let node = Node::with(|srt| srt.max_sessions = 16).await;
    let frozen = Origin::start(Manner::Silent).await;
    node.register("frozen", &frozen).await;
    let mut waiting = Vec::new();
    for n in 0..4 {
        let caller = Caller::new(&node, 5 + n).await;
        let cookie = caller.induct().await;
        caller.send(&caller.conclusion(cookie, PLAY)).await;
        waiting.push(caller);
    }
    eventually("four wait", async || node.sessions.len() == 4).await;
    assert_eq!(Caller::new(&node, 50).await.connect(PLAY).await, Err(Reason::OVERLOAD));
}

#[tokio::test]
async fn a_caller_that_gives_up_leaves_no_session_behind() {
    let node = Node::with(|srt| srt.answer_timeout = LIMIT * 10).await;
    let frozen = Origin::start(Manner::Silent).await;
    node.register("frozen", &frozen).await;
    let caller = Caller::new(&node, 5).await;
    let cookie = caller.induct().await;
    caller.send(&caller.conclusion(cookie, PLAY)).await;
    eventually("it waits", async || node.sessions.len() == 1).await;
    node.idle().await;
}

#[tokio::test]
async fn while_the_node_drains_sessions_go_on_and_new_callers_hear_that_it_is_down() {
    let (mut node, origin) = node_and_origin().await;
    let caller = Caller::new(&node, 5).await;
    let route = caller.connect(PLAY).await.unwrap();
    let guest = origin.guest().await;
    node.draining.cancel();
    assert_eq!(Caller::new(&node, 6).await.connect(PLAY).await, Err(Reason::DOWN));
    caller.send(&data(route, b"still")).await;
    assert_eq!(origin.packet().await, (guest.leg, data(route, b"still")));

    node.closing.cancel();
    assert_eq!(caller.packet().await[12..16], shutdown(5, 0)[12..16]);
    assert!(is_shutdown(&origin.packet().await.1));
    node.ended().await;
}

#[tokio::test]
async fn a_session_whose_stream_moves_is_ended_so_that_the_client_connects_to_the_new_origin() {
    let (node, origin) = node_and_origin().await;
    let caller = Caller::new(&node, 5).await;
    caller.connect(PLAY).await.unwrap();
    origin.guest().await;
    // A restart of the origin ends its placements.
    let elsewhere = Origin::start(Manner::Accept).await;
    node.register("elsewhere", &elsewhere).await;
    let origins = node.balancer.origins().await.unwrap();
    let old = origins.iter().find(|o| o.origin.server_id == "origin").unwrap();
    let mut restarted = srs_proxy::origin::Origin::clone(&old.origin);
    restarted.service_id = "run-2".into();
    node.balancer.register(restarted).await.unwrap();
    // Somebody asks for the stream again.
    let mut moved = Caller::new(&node, 6).await;
    moved.initial_sequence = 8;
    moved.connect(PLAY).await.unwrap();
    assert!(is_shutdown(&caller.packet().await));
    eventually("only the new one is left", async || node.sessions.len() == 1).await;
}
