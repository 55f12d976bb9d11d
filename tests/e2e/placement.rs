//! Streams are spread over the origins, stay where they are, and are listed.

use std::collections::BTreeMap;

use srs_proxy_test_support::{LIMIT, Nginx, Proxy, ffmpeg, wait_for};

#[test]
fn streams_are_spread_over_the_origins_and_players_find_them() {
    let origins = [Nginx::start(), Nginx::start()];
    let proxy = Proxy::start_before(&[&origins[0], &origins[1]], &[]);
    let names = ["one", "two", "three", "four"];
    let _publishers: Vec<_> = names.iter().map(|name| ffmpeg::publish(&proxy.url(&format!("live/{name}")))).collect();
    let published = |origin: &Nginx| origin.streams().iter().filter(|s| s.published).count();
    wait_for("all streams are published", LIMIT, || origins.iter().map(published).sum::<usize>() == names.len());
    assert_eq!(origins.each_ref().map(published), [2, 2]);

    let mut players: Vec<_> = names.iter().map(|name| ffmpeg::play(&proxy.url(&format!("live/{name}")))).collect();
    for player in &mut players {
        player.wait_for_video(5);
    }
    for origin in &origins {
        for stream in origin.streams() {
            assert_eq!((stream.published, stream.clients), (true, 2), "{stream:?}");
        }
    }
}

#[test]
fn origins_streams_and_sessions_are_listed() {
    let origin = Nginx::start();
    let proxy = Proxy::start();
    assert!(proxy.origins().is_empty());
    proxy.register(&origin);
    proxy.register(&origin);
    let origins = proxy.origins();
    assert_eq!(origins.len(), 1, "{origins:?}");
    assert_eq!(origins[0]["id"], origin.id());
    assert_eq!(origins[0]["state"], "live");

    let url = proxy.url("live/stream");
    let _publisher = ffmpeg::publish(&url);
    origin.wait_until_published("live", "stream");
    let mut player = ffmpeg::play(&url);
    player.wait_for_video(5);

    let streams = proxy.streams();
    assert_eq!(streams.len(), 1, "{streams:?}");
    assert_eq!(streams[0]["stream"], "__defaultVhost__/live/stream");
    assert_eq!(streams[0]["origin"], origin.id());
    assert_eq!((&streams[0]["publishers"], &streams[0]["players"]), (&1.into(), &1.into()));

    let sessions = proxy.sessions();
    let roles: BTreeMap<_, _> = sessions.iter().map(|s| (s["intent"].as_str(), s)).collect();
    assert_eq!(roles.keys().copied().collect::<Vec<_>>(), [Some("play"), Some("publish")], "{sessions:?}");
    for session in &sessions {
        assert_eq!(session["stream"], "__defaultVhost__/live/stream");
        assert_eq!(session["origin"], origin.id());
        assert_eq!(session["protocol"], "rtmp");
    }
}
