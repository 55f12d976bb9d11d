//! WebRTC through real nodes, between peers that really do ICE, DTLS and SRTP.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use rand::RngExt;
use srs_proxy_test_support::webrtc::{Client, Options, Origin, idle_offer, signal};
use srs_proxy_test_support::{LIMIT, Proxy, http, mesh::Mesh, redis::Redis, wait_for};

const STREAM: &str = "live/stream";

/// A node on its own before one origin.
fn alone(settings: &[(&str, &str)]) -> (Proxy, Origin) {
    let (proxy, origin) = (Proxy::start_with(settings), Origin::start());
    proxy.register_heartbeat(&origin.heartbeat());
    (proxy, origin)
}

/// Two origins, each registered at one node and known to all.
fn register(nodes: &[&Proxy]) -> [Origin; 2] {
    let origins = [Origin::start(), Origin::start()];
    for (node, origin) in nodes.iter().cycle().zip(&origins) {
        node.register_heartbeat(&origin.heartbeat());
    }
    wait_for("all nodes know both origins", LIMIT, || nodes.iter().all(|node| node.origins().len() == 2));
    origins
}

fn on_redis(redis: &Redis) -> Proxy {
    on_redis_with(redis, &[])
}

fn on_redis_with(redis: &Redis, settings: &[(&str, &str)]) -> Proxy {
    let port = redis.port().to_string();
    let redis = [("PROXY_LOAD_BALANCER_TYPE", "redis"), ("PROXY_REDIS_PORT", port.as_str())];
    let node = Proxy::start_with(&[&redis, settings].concat());
    wait_for("the node is ready", LIMIT, || http::get(node.api(), "/readyz").is_ok_and(|answer| answer.status == 200));
    node
}

/// The origin that has the publisher of a stream.
fn origin_of<'a>(origins: &'a [Origin], stream: &str) -> &'a Origin {
    let mut having = origins.iter().filter(|origin| origin.publisher(stream).is_some());
    let origin = having.next().expect("an origin with the stream");
    assert!(having.next().is_none(), "{stream} is on two origins");
    origin
}

fn wait_until_gone(node: &Proxy) {
    wait_for("the sessions are gone from the node", LIMIT, || node.sessions().is_empty());
}

/// Publishes one stream after the other until each origin has one. Gives the publisher, its stream and
/// its origin.
fn one_on_each(proxy: &Proxy, origins: [Origin; 2]) -> [(Client, String, Origin); 2] {
    let mut publishers: [Option<(Client, String)>; 2] = [None, None];
    for n in 0.. {
        let stream = format!("live/stream-{n}");
        let publisher = Client::publish(proxy.http_api(), &stream);
        let at = origins.iter().position(|origin| origin.publisher(&stream).is_some()).unwrap();
        publishers[at].get_or_insert((publisher, stream));
        if publishers.iter().all(Option::is_some) {
            break;
        }
    }
    let mut both = publishers.into_iter().flatten().zip(origins);
    std::array::from_fn(|_| {
        let ((publisher, stream), origin) = both.next().unwrap();
        origin.wait_until_published(&stream);
        (publisher, stream, origin)
    })
}

#[test]
fn what_is_published_plays_through_the_same_node() {
    let (proxy, origin) = alone(&[]);
    let publisher = Client::publish(proxy.http_api(), STREAM);
    origin.wait_until_published(STREAM);
    let player = Client::play(proxy.http_api(), STREAM);
    player.wait_for_pictures(60).assert_complete();

    for client in [&publisher, &player] {
        assert!(
            client.signalled.body.contains(&format!(" 127.0.0.1 {} ", proxy.webrtc().port())),
            "{:?}",
            client.signalled
        );
        assert!(!client.signalled.body.contains(&origin.media().port().to_string()), "{:?}", client.signalled);
    }
    let sessions = proxy.sessions();
    let intents: Vec<_> = sessions.iter().map(|session| session["intent"].as_str().unwrap()).collect();
    assert_eq!(intents, ["publish", "play"]);
    for session in &sessions {
        assert_eq!((session["protocol"].as_str(), session["origin"].as_str()), (Some("webrtc"), Some(&*origin.id())));
        assert_eq!(session["stream"], "__defaultVhost__/live/stream");
    }
    wait_for("both sessions have counted what they moved", LIMIT, || {
        let bytes = |n: usize, name: &str| proxy.sessions()[n][name].as_u64().unwrap();
        bytes(0, "bytes_from_client") > 60_000 && bytes(1, "bytes_from_origin") > 60_000
    });
}

#[test]
fn the_json_api_and_the_older_name_of_whep_lead_to_the_same_streams() {
    let (proxy, origin) = alone(&[]);
    let start = |how, stream| Client::start(proxy.http_api(), how, stream, Options::default());
    for (publish, play, stream) in [("publish", "whip-play", "live/a"), ("whip", "play", "live/b")] {
        let _publisher = start(publish, stream);
        origin.wait_until_published(stream);
        start(play, stream).wait_for_pictures(10).assert_complete();
    }
}

#[test]
fn what_is_published_through_one_node_on_redis_plays_through_another() {
    let redis = Redis::start();
    let nodes = [on_redis(&redis), on_redis(&redis)];
    let origins = register(&nodes.each_ref());
    let _publisher = Client::publish(nodes[0].http_api(), STREAM);
    origin_of(&origins, STREAM).wait_until_published(STREAM);
    Client::play(nodes[1].http_api(), STREAM).wait_for_pictures(60).assert_complete();
}

#[test]
fn what_is_published_through_one_node_of_a_mesh_plays_through_all_others() {
    let mesh = Mesh::start(3);
    let origins = register(&mesh.running().collect::<Vec<_>>());
    for n in 0..3 {
        let stream = format!("live/stream-{n}");
        let _publisher = Client::publish(mesh.node(n).http_api(), &stream);
        origin_of(&origins, &stream).wait_until_published(&stream);
        for other in (0..3).filter(|other| *other != n) {
            Client::play(mesh.node(other).http_api(), &stream).wait_for_pictures(10).assert_complete();
        }
    }
}

/// Signals at one node, and sends media to the other.
fn media_arrives_at_another_node(signalled: &Proxy, media: &Proxy, origins: &[Origin]) {
    let options = Options { candidate: Some(media.webrtc()), ..Options::default() };
    let publisher = Client::publish_with(signalled.http_api(), STREAM, options);
    let origin = origin_of(origins, STREAM);
    origin.wait_until_published(STREAM);
    let player = Client::play_with(signalled.http_api(), STREAM, options);
    player.wait_for_pictures(30).assert_complete();
    wait_for("the sessions are where their media are", LIMIT, || media.sessions().len() == 2);

    assert_eq!([publisher.delete_through(media.http_api()), player.delete_through(signalled.http_api())], [200, 200]);
    wait_for("the origin has no session", LIMIT, || origin.sessions().is_empty());
}

#[test]
fn media_that_arrive_at_another_node_than_their_offer_find_their_session_by_redis() {
    let redis = Redis::start();
    let nodes = [on_redis(&redis), on_redis(&redis)];
    let origins = register(&nodes.each_ref());
    media_arrives_at_another_node(&nodes[0], &nodes[1], &origins);
}

#[test]
fn media_that_arrive_at_another_node_than_their_offer_find_their_session_by_the_mesh() {
    let mesh = Mesh::start(3);
    let origins = register(&mesh.running().collect::<Vec<_>>());
    media_arrives_at_another_node(mesh.node(0), mesh.node(1), &origins);
}

/// The node of the offer forgets a client whose media never came to it; the others must not.
#[test]
fn a_session_is_found_as_long_as_it_lasts_and_not_only_as_long_as_the_node_of_its_offer_waits() {
    let redis = Redis::start();
    let nodes: [Proxy; 3] = std::array::from_fn(|_| on_redis_with(&redis, &[("PROXY_WEBRTC_IDLE_TIMEOUT", "2s")]));
    let origins = register(&nodes.each_ref());
    let options = Options { candidate: Some(nodes[1].webrtc()), ..Options::default() };
    let publisher = Client::publish_with(nodes[0].http_api(), STREAM, options);
    let origin = origin_of(&origins, STREAM);
    origin.wait_until_published(STREAM);
    wait_until_gone(&nodes[0]);
    publisher.send_through(nodes[2].webrtc());
    wait_for("the session is at the third node", LIMIT, || nodes[2].sessions().len() == 1);
    let before = origin.publisher(STREAM).unwrap().packets;
    wait_for("the origin gets more", LIMIT, || origin.publisher(STREAM).unwrap().packets > before + 30);
}

#[test]
fn a_client_whose_datagrams_suddenly_go_to_another_node_goes_on_there() {
    let mesh = Mesh::start(2);
    let origins = register(&mesh.running().collect::<Vec<_>>());
    let publisher = Client::publish(mesh.node(0).http_api(), STREAM);
    origin_of(&origins, STREAM).wait_until_published(STREAM);
    let player = Client::play(mesh.node(0).http_api(), STREAM);
    player.wait_for_pictures(10);

    publisher.send_through(mesh.node(1).webrtc());
    player.send_through(mesh.node(1).webrtc());
    wait_for("the sessions are at the other node", LIMIT, || mesh.node(1).sessions().len() == 2);
    player.wait_for_more();
    player.received().assert_in_order();
}

#[test]
fn a_client_that_moves_to_another_port_is_followed() {
    let (proxy, origin) = alone(&[]);
    let publisher = Client::publish(proxy.http_api(), STREAM);
    origin.wait_until_published(STREAM);
    let player = Client::play(proxy.http_api(), STREAM);
    player.wait_for_pictures(10);
    for client in [&publisher, &player] {
        client.move_to_another_port();
        player.wait_for_more();
    }
    player.received().assert_in_order();
    assert_eq!(proxy.sessions().len(), 2);
}

#[test]
fn delete_ends_a_session_at_the_origin_and_at_the_node() {
    let (proxy, origin) = alone(&[]);
    let publisher = Client::publish(proxy.http_api(), STREAM);
    origin.wait_until_published(STREAM);
    assert_eq!(publisher.delete(), 200);
    assert_eq!(origin.sessions(), []);
    wait_until_gone(&proxy);
    // Its datagrams go on and lead nowhere.
    let _next = Client::publish(proxy.http_api(), STREAM);
    origin.wait_until_published(STREAM);
    assert_eq!((origin.sessions().len(), proxy.sessions().len()), (1, 1));
}

#[test]
fn a_silent_client_is_forgotten_and_others_are_not() {
    let (proxy, origin) = alone(&[("PROXY_WEBRTC_IDLE_TIMEOUT", "2s")]);
    let publisher = Client::publish(proxy.http_api(), STREAM);
    origin.wait_until_published(STREAM);
    let players = [Client::play(proxy.http_api(), STREAM), Client::play(proxy.http_api(), STREAM)];
    players.iter().for_each(|player| drop(player.wait_for_pictures(10)));
    assert_eq!(proxy.sessions().len(), 3);
    players[0].fall_silent();
    wait_for("the silent player is forgotten", LIMIT, || proxy.sessions().len() == 2);
    players[1].wait_for_more();
    players[1].received().assert_complete();
    drop(publisher);
    // A player sends signs of life by itself.
    wait_for("the publisher is forgotten", LIMIT, || {
        let sessions = proxy.sessions();
        sessions.len() == 1 && sessions[0]["intent"] == "play"
    });
}

/// The client is in one address family, the origin in the other.
fn families(client: IpAddr, origin: IpAddr) {
    let any = SocketAddr::from((client, 0)).to_string();
    let proxy = Proxy::start_with(&[("PROXY_HTTP_API", &any), ("PROXY_WEBRTC_SERVER", &any)]);
    let origin = Origin::start_on(origin);
    proxy.register_heartbeat(&origin.heartbeat());
    let options = Options { local: client, ..Options::default() };
    let _publisher = Client::publish_with(proxy.http_api(), STREAM, options);
    origin.wait_until_published(STREAM);
    Client::play_with(proxy.http_api(), STREAM, options).wait_for_pictures(30).assert_complete();
}

#[test]
fn clients_by_ipv4_reach_an_origin_by_ipv6() {
    families(Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
}

#[test]
fn clients_by_ipv6_reach_an_origin_by_ipv4() {
    families(Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into());
}

#[test]
fn a_node_that_listens_on_all_addresses_serves_both_families() {
    let (proxy, origin) = alone(&[("PROXY_HTTP_API", "0"), ("PROXY_WEBRTC_SERVER", "0")]);
    let api = |ip: IpAddr| SocketAddr::from((ip, proxy.http_api().port()));
    let (v4, v6): (IpAddr, IpAddr) = (Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
    let _publisher = Client::publish_with(api(v6), STREAM, Options { local: v6, ..Options::default() });
    origin.wait_until_published(STREAM);
    Client::play_with(api(v4), STREAM, Options::default()).wait_for_pictures(30).assert_complete();
}

#[test]
fn after_the_death_of_its_origin_a_stream_is_published_at_another() {
    let proxy = Proxy::start();
    let [(publisher, stream, dead), (_other, _, alive)] = one_on_each(&proxy, register(&[&proxy]));
    drop((publisher, dead));
    let _publisher = Client::publish(proxy.http_api(), &stream);
    alive.wait_until_published(&stream);
    Client::play(proxy.http_api(), &stream).wait_for_pictures(30).assert_complete();
}

#[test]
fn an_offer_is_refused_in_the_origins_words_and_without_an_origin_in_the_nodes() {
    let (proxy, origin) = alone(&[]);
    let offer = idle_offer();
    for status in [401, 403, 409] {
        origin.refuse(Some(status));
        assert_eq!(signal(proxy.http_api(), "whip", STREAM, &offer).status, status);
    }
    origin.refuse(None);
    let bad = signal(proxy.http_api(), "whip", STREAM, "v=0\r\nnothing more");
    assert_eq!(bad.status, 400, "{bad:?}");
    wait_until_gone(&proxy);
    let none = signal(Proxy::start().http_api(), "whep", STREAM, &offer);
    assert_eq!(none.status, 503, "{none:?}");
}

#[test]
fn a_frozen_origin_costs_only_its_own_sessions() {
    let proxy = Proxy::start_with(&[("PROXY_WEBRTC_ANSWER_TIMEOUT", "1s")]);
    let [(_first, _, frozen), (_publisher, stream, running)] = one_on_each(&proxy, register(&[&proxy]));
    let player = Client::play(proxy.http_api(), &stream);
    player.wait_for_pictures(10);
    frozen.freeze();
    // Some of these are placed on the frozen origin first.
    let _others: Vec<_> = (0..6).map(|n| Client::publish(proxy.http_api(), &format!("live/fresh-{n}"))).collect();
    (0..6).for_each(|n| running.wait_until_published(&format!("live/fresh-{n}")));
    player.wait_for_more();
    player.received().assert_complete();
    frozen.thaw();
}

/// Datagrams that a parser may stumble over; those of the issue among them.
fn malformed(username: &str) -> Vec<Vec<u8>> {
    let header = |kind: u16, length: u16| {
        let mut bytes = [kind.to_be_bytes(), length.to_be_bytes()].concat();
        bytes.extend([0x21, 0x12, 0xA4, 0x42]);
        bytes.extend(*b"transaction!");
        bytes
    };
    let attribute = |kind: u16, length: u16, value: &[u8]| [&kind.to_be_bytes(), &length.to_be_bytes(), value].concat();
    let request = |attributes: &[u8]| [header(1, attributes.len() as u16), attributes.to_vec()].concat();
    let name = username.as_bytes();
    let whole = request(&attribute(6, name.len() as u16, name));
    let mut all = vec![
        Vec::new(),
        vec![0],
        vec![1],
        vec![0x80],
        header(1, 0),
        header(1, 4),
        header(1, 0xFFFC),
        // An attribute cut short: in its header, in its value, and to nothing.
        request(&[0, 6]),
        request(&[0, 6, 0]),
        request(&attribute(6, 9, b"abc:d")),
        request(&attribute(6, 0xFFFF, b"abc:defg")),
        request(&attribute(6, 0, b"")),
        // Without padding: three bytes and the end, and three bytes and more.
        request(&attribute(6, 3, b"a:b")),
        request(&[attribute(6, 3, b"a:b"), attribute(8, 20, &[0; 20])].concat()),
        request(&attribute(6, 4, &[0xFF, 0xFE, b':', 0])),
        request(&attribute(6, 4, b"::::")),
        request(&attribute(6, 1_200, &[b'a'; 1_200])),
        // DTLS, RTP and RTCP from nobody.
        [&[22, 254, 253], &[0xFF; 60][..]].concat(),
        [&[0x80, 96], &[0; 10][..]].concat(),
        [&[0x80, 200], &[0xFF; 26][..]].concat(),
    ];
    // That of somebody real, cut at every length.
    all.extend((0..whole.len()).map(|length| whole[..length].to_vec()));
    all
}

#[test]
fn malformed_datagrams_do_not_disturb_a_session() {
    const DATAGRAMS: usize = 100_000;
    const AT_ONCE: usize = 1_000;
    let (mut proxy, origin) = alone(&[]);
    let _publisher = Client::publish(proxy.http_api(), STREAM);
    origin.wait_until_published(STREAM);
    let player = Client::play(proxy.http_api(), STREAM);
    player.wait_for_pictures(10);

    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let send = |datagram: &[u8]| drop(socket.send_to(datagram, proxy.webrtc()));
    let username = origin.publisher(STREAM).unwrap().username;
    malformed(&username).iter().for_each(|datagram| send(datagram));
    let mut random = rand::rng();
    let mut garbage = vec![0_u8; 1_500];
    for _ in 0..DATAGRAMS / AT_ONCE {
        for _ in 0..AT_ONCE {
            random.fill(&mut garbage[..]);
            let mut length = random.random_range(0..1_500);
            // Half of them look like STUN for as far as anybody looks before the attributes.
            if random.random() {
                length = length.max(20);
                garbage[..2].copy_from_slice(&[0, 1]);
                garbage[2..4].copy_from_slice(&((length - 20) as u16).to_be_bytes());
                garbage[4..8].copy_from_slice(&[0x21, 0x12, 0xA4, 0x42]);
            }
            send(&garbage[..length]);
        }
        // No faster than the node reads, or the system drops what is the session's.
        player.wait_for_pictures(player.received().pictures.len() + 1);
    }
    player.wait_for_more();
    player.received().assert_complete();
    proxy.process.assert_running();
    assert_eq!(proxy.sessions().len(), 2);
    socket.set_nonblocking(true).unwrap();
    let answered = std::iter::from_fn(|| socket.recv(&mut garbage).ok()).count();
    assert_eq!(answered, 0, "answers to an address that nobody has proven");
}

#[test]
fn a_thousand_abandoned_sessions_are_all_freed() {
    const SESSIONS: usize = 1_000;
    let (proxy, origin) = alone(&[("PROXY_WEBRTC_IDLE_TIMEOUT", "4s")]);
    let _publisher = Client::publish(proxy.http_api(), "live/stays");
    origin.wait_until_published("live/stays");
    let player = Client::play(proxy.http_api(), "live/stays");
    player.wait_for_pictures(10);
    let (files, offer) = (proxy.files(), idle_offer());
    for n in 0..SESSIONS {
        let signalled = signal(proxy.http_api(), "whip", &format!("live/abandoned-{}", n % 100), &offer);
        assert_eq!(signalled.status, 201, "{signalled:?}");
    }
    wait_for("only the two that are used are left", Duration::from_secs(30), || proxy.sessions().len() == 2);
    wait_for("their sockets are closed", LIMIT, || proxy.files() <= files + 10);
    player.wait_for_more();
    player.received().assert_in_order();
}
