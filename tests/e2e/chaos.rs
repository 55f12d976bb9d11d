//! Clients that misbehave cost their own connection and nothing else.

use std::time::{Duration, Instant};

use rand::{Rng, RngExt};
use srs_proxy_test_support::{
    LIMIT, Nginx, Process, Proxy, ffmpeg,
    ffmpeg::Player,
    media::{self, Recording},
    raw::{self, Raw},
    wait_for,
};

/// A real stream that must not notice anything.
struct Bystander {
    publisher: Process,
    player: Player,
    start: Instant,
    frames_before: usize,
}

impl Bystander {
    fn start(proxy: &Proxy, origin: &Nginx) -> Self {
        let url = proxy.url("live/bystander");
        let publisher = ffmpeg::publish(&url);
        origin.wait_until_published("live", "bystander");
        let mut player = ffmpeg::play(&url);
        let frames_before = player.wait_for_video(15).video.len();
        Self { publisher, player, start: Instant::now(), frames_before }
    }

    /// Panics if a byte was lost or the stream came more than a second late.
    fn assert_untouched(&mut self) {
        let seconds = self.start.elapsed().as_secs_f64();
        let frames = (self.player.recording().video.len() - self.frames_before) as f64;
        assert!(frames > 15.0 * (seconds - 1.0), "{frames} frames in {seconds:.1} s");
        self.publisher.assert_running();
        self.player.wait_for_more();
        self.player.recording().assert_is_part_of(&Recording::of_file(&media::sample()));
    }
}

/// A thousand connections that stop amid the handshake, each somewhere else.
fn half_handshakes(proxy: &Proxy) -> Vec<Raw> {
    let c0_and_c1 = [3; 1537];
    (0..1000)
        .map(|n| {
            let mut connection = Raw::connect(proxy.rtmp());
            connection.send(&c0_and_c1[..[0, 1, 800, 1536, 1537][n % 5]]);
            connection
        })
        .collect()
}

#[test]
fn half_handshakes_are_gone_after_the_timeout_and_leave_no_memory_behind() {
    rlimit::increase_nofile_limit(8192).unwrap();
    let origin = Nginx::start();
    let settings = [
        ("PROXY_RTMP_HANDSHAKE_TIMEOUT", "2s"),
        ("PROXY_RTMP_MAX_CONNECTIONS_PER_IP", "2000"),
        // With an arena for each thread, memory goes up and down by more than a leak that matters.
        ("MALLOC_ARENA_MAX", "1"),
    ];
    let proxy = Proxy::start_before(&[&origin], &settings);
    let mut bystander = Bystander::start(&proxy, &origin);

    let before = proxy.memory();
    let mut after_first_round = None;
    for _ in 0..2 {
        let mut connections = half_handshakes(&proxy);
        assert!(raw::open(&mut connections) > 900, "the connections were closed before the timeout");
        wait_for("all half handshakes are closed", Duration::from_secs(6), || raw::open(&mut connections) == 0);
        wait_for("the sessions are those of the bystander", LIMIT, || proxy.sessions().len() == 2);
        let growth = proxy.memory().saturating_sub(before);
        assert!(growth < 24 << 20, "1,000 half handshakes took {growth} bytes");
        let first = *after_first_round.get_or_insert(growth);
        let more = growth.saturating_sub(first);
        assert!(more < 4 << 20, "a further round leaves {more} bytes behind");
    }
    bystander.assert_untouched();
}

#[test]
fn random_bytes_cost_only_their_own_connection() {
    let origin = Nginx::start();
    let settings = [("PROXY_RTMP_HANDSHAKE_TIMEOUT", "1s"), ("PROXY_RTMP_COMMAND_TIMEOUT", "1s")];
    let mut proxy = Proxy::start_before(&[&origin], &settings);
    let mut bystander = Bystander::start(&proxy, &origin);

    let mut random = rand::rng();
    let mut connections: Vec<Raw> = (0..60)
        .map(|n| {
            let mut connection = Raw::connect(proxy.rtmp());
            let mut bytes = vec![0; random.random_range(1..20_000)];
            random.fill_bytes(&mut bytes);
            match n % 3 {
                // Not even the version is right.
                0 => bytes[0] |= 4,
                // The version and C1 pass, for they may hold anything; C2 is not checked either.
                1 => bytes[0] = 3,
                // Nonsense after a proper handshake.
                _ => connection.handshake(),
            }
            connection.send(&bytes);
            connection
        })
        .collect();
    wait_for("all of them are closed", LIMIT, || raw::open(&mut connections) == 0);
    proxy.process.assert_running();
    bystander.assert_untouched();
}

#[test]
fn a_flood_of_connections_from_one_address_is_refused() {
    let origin = Nginx::start();
    let proxy = Proxy::start_before(&[&origin], &[("PROXY_RTMP_MAX_CONNECTIONS_PER_IP", "10")]);
    let mut bystander = Bystander::start(&proxy, &origin);

    let mut connections: Vec<Raw> = (0..100).map(|_| Raw::connect(proxy.rtmp())).collect();
    // The publisher and the player are two of the ten.
    wait_for("all but eight are closed", LIMIT, || raw::open(&mut connections) == 8);
    bystander.assert_untouched();

    drop(connections);
    wait_for("the sessions are those of the bystander", LIMIT, || proxy.sessions().len() == 2);
    ffmpeg::play(&proxy.url("live/bystander")).wait_for_video(5);
}
