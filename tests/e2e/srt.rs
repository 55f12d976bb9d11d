//! SRT through real nodes, with libsrt at both ends.

use std::time::Duration;

use rustix::process::Signal;
use srs_proxy_test_support::{
    LIMIT, Process, Proxy, http,
    lossy::Lossy,
    media::Recording,
    mesh::Mesh,
    process::timed,
    srt::{self, Listener, Settings, crowd, play, publish, record, refused, transmit},
    wait_for,
};

const PUBLISH: &str = "#!::r=live/stream,m=publish";
const PLAY: &str = "#!::r=live/stream,m=request";
/// What a caller waits who is not told anything.
const UNTOLD: Duration = Duration::from_secs(3);

const ENCRYPTED: Settings<'_> = Settings { passphrase: Some("as everybody knows"), ..PLAIN };
const PLAIN: Settings<'_> = Settings { passphrase: None, latency: None, port: None };

/// A node before one origin.
fn before(origin: &Listener) -> Proxy {
    let proxy = Proxy::start();
    proxy.register_heartbeat(&origin.heartbeat());
    proxy
}

fn sample() -> Recording {
    Recording::of_file(&srt::sample())
}

type Publish = fn(std::net::SocketAddr, &str, Settings<'_>) -> Process;

/// Publishes through a node, and looks at what arrives.
fn publishes(how: Publish, settings: Settings<'_>) {
    let origin = Listener::receiving(settings);
    let proxy = before(&origin);
    let mut publisher = how(proxy.srt(), PUBLISH, settings);
    let mut player = origin.into_player();
    let arrived = player.wait_for_video(20);
    assert_eq!(arrived.codecs, ["h264", "aac"]);
    arrived.assert_is_part_of(&sample());
    publisher.assert_running();
    let sessions = proxy.sessions();
    assert_eq!(sessions.len(), 1);
    assert_eq!((&sessions[0]["protocol"], &sessions[0]["intent"]), (&"srt".into(), &"publish".into()));
}

/// Plays through a node, and looks at what arrives.
fn plays(settings: Settings<'_>) {
    let origin = Listener::serving(settings);
    let proxy = before(&origin);
    let mut player = play(proxy.srt(), PLAY, settings);
    player.wait_for_video(1);
    let recorder = record(proxy.srt(), PLAY, settings);
    player.wait_for_video(20).assert_is_part_of(&sample());
    recorder.finish_with_video(20).assert_is_part_of(&sample());
}

#[test]
fn ffmpeg_publishes() {
    publishes(publish, PLAIN);
}

#[test]
fn srt_live_transmit_publishes() {
    publishes(transmit, PLAIN);
}

#[test]
fn ffmpeg_and_srt_live_transmit_play() {
    plays(PLAIN);
}

#[test]
fn encrypted_streams_pass() {
    publishes(publish, ENCRYPTED);
    publishes(transmit, ENCRYPTED);
    plays(ENCRYPTED);
}

#[test]
fn streams_of_low_and_of_high_latency_pass() {
    for latency in [20, 2000] {
        let settings = Settings { latency: Some(latency), ..PLAIN };
        publishes(publish, settings);
        plays(settings);
    }
}

/// The kernel's netem is not everywhere; the loss is the same.
#[test]
fn what_is_lost_on_the_way_is_sent_again() {
    let settings = Settings { latency: Some(2000), ..PLAIN };
    let origin = Listener::receiving(settings);
    let proxy = before(&origin);
    let network = Lossy::before(proxy.srt(), 0.05);
    let _publisher = publish(network.address(), PUBLISH, settings);
    let mut player = origin.into_player();
    player.wait_until("thirty losses", |_| network.lost() >= 30);
    player.wait_for_more();
    player.recording().assert_is_part_of(&sample());

    let origin = Listener::serving(settings);
    let proxy = before(&origin);
    let network = Lossy::before(proxy.srt(), 0.05);
    let mut player = play(network.address(), PLAY, settings);
    player.wait_until("thirty losses", |_| network.lost() >= 30);
    player.wait_for_more();
    player.recording().assert_is_part_of(&sample());
}

#[test]
fn a_wrong_passphrase_is_refused_by_the_origin_and_the_caller_is_told() {
    let origin = Listener::receiving(ENCRYPTED);
    let proxy = before(&origin);
    let wrong = Settings { passphrase: Some("which is another"), ..PLAIN };
    let direct = refused(publish(origin.address, PUBLISH, wrong));
    for caller in [publish(proxy.srt(), PUBLISH, wrong), transmit(proxy.srt(), PUBLISH, wrong)] {
        assert_eq!(refused(caller), direct);
    }
    wait_for("the node has no session", LIMIT, || proxy.sessions().is_empty());
    // A refusal is a sign of life.
    let _publisher = publish(proxy.srt(), PUBLISH, ENCRYPTED);
    origin.into_player().wait_for_video(5);
}

#[test]
fn every_form_of_a_stream_id_leads_to_its_stream_and_reaches_the_origin_as_it_was_sent() {
    for (id, stream) in [
        ("#!::h=video.example,r=live/stream,m=publish", "video.example/live/stream"),
        ("#!::m=publish,r=live/stream", "__defaultVhost__/live/stream"),
        ("#!::r=/live/stream,m=publish,token=a/b", "__defaultVhost__/live/stream"),
        ("#!::h=video.example/live/stream,m=publish", "video.example/live/stream"),
        ("%23!::h=video.example,r=live%2Fstream,m=publish", "video.example/live/stream"),
        ("live/stream", "__defaultVhost__/live/stream"),
    ] {
        let origin = Listener::receiving(PLAIN);
        let proxy = before(&origin);
        let _publisher = publish(proxy.srt(), id, PLAIN);
        wait_for(&format!("the origin has {id}"), LIMIT, || origin.stream_id().is_some());
        assert_eq!(origin.stream_id().as_deref(), Some(id));
        wait_for(&format!("the session of {id} is listed"), LIMIT, || proxy.sessions().len() == 1);
        assert_eq!(proxy.sessions()[0]["stream"], stream, "{id}");
    }
}

#[test]
fn a_bad_stream_id_or_no_origin_is_told_to_the_caller_at_once() {
    let origin = Listener::serving(PLAIN);
    let (served, alone) = (before(&origin), Proxy::start());
    for (proxy, id) in
        [(&served, "#!::m=publish"), (&served, "#!::r=live/stream,m=bidirectional"), (&served, "/"), (&alone, PLAY)]
    {
        for caller in [play(proxy.srt(), id, PLAIN).process, publish(proxy.srt(), id, PLAIN)] {
            let (reason, took) = timed(|| refused(caller));
            assert!(reason.starts_with("Application-defined"), "{id}: {reason}");
            assert!(took < UNTOLD, "{id}: {took:?}");
        }
    }
    assert!(served.sessions().is_empty() && alone.sessions().is_empty());
}

#[test]
fn a_caller_that_crashed_comes_back_from_the_same_port() {
    let origin = Listener::serving(PLAIN);
    let proxy = before(&origin);
    let settings = Settings { port: Some(srt::free().port()), ..PLAIN };
    for _ in 0..3 {
        // Killed when it has enough, so that nobody hears of its end.
        record(proxy.srt(), PLAY, settings).finish_with_video(10).assert_is_part_of(&sample());
    }
}

#[test]
fn players_of_a_killed_origin_are_told_so() {
    let mut origin = Listener::serving(PLAIN);
    let proxy = before(&origin);
    let mut player = play(proxy.srt(), PLAY, PLAIN);
    player.wait_for_video(5);
    origin.process.kill();
    // Without a word a caller waits five seconds.
    player.process.wait_exit(Duration::from_secs(4));
    wait_for("the session is gone from the node", LIMIT, || proxy.sessions().is_empty());
}

#[test]
fn a_publisher_that_ends_is_gone_from_its_origin_and_from_the_node() {
    let origin = Listener::receiving(PLAIN);
    let proxy = before(&origin);
    let publisher = publish(proxy.srt(), PUBLISH, PLAIN);
    let mut player = origin.into_player();
    player.wait_for_video(5);
    publisher.signal(Signal::TERM);
    player.process.wait_exit(Duration::from_secs(4));
    wait_for("the session is gone from the node", LIMIT, || proxy.sessions().is_empty());
}

#[test]
fn a_frozen_origin_costs_only_its_own_callers() {
    let (running, frozen) = (Listener::serving(PLAIN), Listener::serving(PLAIN));
    let proxy = before(&running);
    let mut player = play(proxy.srt(), PLAY, PLAIN);
    player.wait_for_video(5);
    proxy.register_heartbeat(&frozen.heartbeat());
    frozen.process.signal(Signal::STOP);
    // Some of these are placed on the frozen origin first.
    for n in 0..6 {
        play(proxy.srt(), &format!("live/fresh-{n}"), PLAIN).wait_for_video(5);
    }
    player.wait_for_more();
    player.recording().assert_is_part_of(&sample());
    assert_eq!(proxy.origin_state(&running.id()).as_deref(), Some("live"));
    frozen.process.signal(Signal::CONT);
}

#[test]
fn a_stream_is_on_the_same_origin_through_every_node_of_a_mesh() {
    let mesh = Mesh::start(3);
    let origins = [Listener::serving(PLAIN), Listener::serving(PLAIN)];
    for (n, origin) in origins.iter().enumerate() {
        mesh.node(n).register_heartbeat(&origin.heartbeat());
    }
    wait_for("all nodes know both origins", LIMIT, || mesh.running().all(|node| node.origins().len() == 2));
    let _players: Vec<_> = mesh
        .running()
        .map(|node| {
            // One after the other, because the listener refuses a second caller amid the handshake.
            let mut player = play(node.srt(), PLAY, PLAIN);
            player.wait_for_video(10);
            player
        })
        .collect();
    let mut used: Vec<_> =
        mesh.running().flat_map(Proxy::sessions).map(|session| session["origin"].to_string()).collect();
    assert_eq!(used.len(), 3);
    used.dedup();
    assert_eq!(used.len(), 1, "{used:?}");
}

#[test]
fn two_hundred_players_at_once_are_served_and_let_go() {
    const PROCESSES: usize = 4;
    const EACH: usize = 50;
    let origin = Listener::serving(PLAIN);
    let proxy = before(&origin);
    let sessions = || {
        let answer = http::get(proxy.api(), "/api/v1/proxy/sessions?count=1000").unwrap();
        let list: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        list["sessions"].as_array().unwrap().clone()
    };
    let crowds: Vec<_> = (0..PROCESSES)
        .map(|process| {
            let ids: Vec<_> = (0..EACH).map(|n| format!("live/stream-{process}-{n}")).collect();
            crowd(proxy.srt(), &ids)
        })
        .collect();
    wait_for("all of them get the stream", Duration::from_secs(60), || {
        let served = |session: &&serde_json::Value| session["bytes_from_origin"].as_u64() > Some(50_000);
        sessions().iter().filter(served).count() == PROCESSES * EACH
    });
    drop(crowds);
    wait_for("all of them are gone", Duration::from_secs(30), || sessions().is_empty());
}
