//! A media server for WebRTC that answers as SRS 7 does, and forwards each publisher's packets to the
//! players of the same stream.

use std::{
    collections::{BTreeMap, HashMap},
    io::Write,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rand::RngExt;
use serde_json::{Value, json};
use str0m::{
    Candidate, Event, IceCreds, Input,
    change::SdpOffer,
    media::{KeyframeRequest, MediaKind, Mid},
    rtp::{RtpPacket, RtpWrite, SeqNo},
};

use super::{
    webrtc_peer::{Peer, config, receive},
    webrtc_request::{Request, read},
};
use crate::{LIMIT, wait_for};

/// How long the media thread waits for a datagram before it looks at the clock.
const TURN: Duration = Duration::from_millis(3);
/// How long a request may take to arrive.
const REQUEST: Duration = Duration::from_secs(5);
/// The lowest sequence number that a player sees.
const FIRST_SEQUENCE: u64 = 1_000;

static STARTED: AtomicU32 = AtomicU32::new(0);

/// A running origin. All of it is gone when this is dropped, as after `kill -9`.
pub struct Origin {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// Takes connections and says nothing: clients of these tests speak no RTMP.
    rtmp: TcpListener,
    name: String,
}

/// A session as the origin sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// `app/stream`.
    pub stream: String,
    pub publishes: bool,
    /// ICE and DTLS are through.
    pub connected: bool,
    /// Packets of media from the client.
    pub packets: u64,
    /// `LOCAL:REMOTE`, as in the USERNAME of a binding request to the origin.
    pub username: String,
    /// Where its datagrams come from.
    pub source: Option<SocketAddr>,
}

struct Shared {
    http: SocketAddr,
    media: SocketAddr,
    stopped: AtomicBool,
    frozen: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    last: u64,
    sessions: BTreeMap<u64, Session>,
    by_source: HashMap<SocketAddr, u64>,
    requests: Vec<Request>,
    /// The status with which every offer is refused.
    refusal: Option<u16>,
}

struct Session {
    peer: Peer,
    seen: Seen,
    token: String,
    mids: Vec<(MediaKind, Mid)>,
    /// Of each medium, the sequence number of the publisher's packet that this player got first.
    first: HashMap<Mid, u64>,
}

impl Origin {
    /// Starts an origin on 127.0.0.1.
    pub fn start() -> Self {
        Self::start_on(Ipv4Addr::LOCALHOST.into())
    }

    /// Starts an origin on an address of this machine.
    pub fn start_on(ip: IpAddr) -> Self {
        let http = TcpListener::bind((ip, 0)).unwrap();
        let media = UdpSocket::bind((ip, 0)).unwrap();
        media.set_read_timeout(Some(TURN)).unwrap();
        // A thousand clients may come at once.
        let _ = socket2::SockRef::from(&media).set_recv_buffer_size(4 << 20);
        let shared = Arc::new(Shared {
            http: http.local_addr().unwrap(),
            media: media.local_addr().unwrap(),
            stopped: AtomicBool::new(false),
            frozen: AtomicBool::new(false),
            state: Mutex::default(),
        });
        let threads = vec![
            thread::spawn({
                let shared = Arc::clone(&shared);
                move || shared.serve_http(&http)
            }),
            thread::spawn({
                let shared = Arc::clone(&shared);
                move || shared.serve_media(&media)
            }),
        ];
        let name = format!("rtc-{}-{}", std::process::id(), STARTED.fetch_add(1, SeqCst));
        Self { shared, threads, rtmp: TcpListener::bind((ip, 0)).unwrap(), name }
    }

    /// Where it takes offers.
    pub fn http(&self) -> SocketAddr {
        self.shared.http
    }

    /// Where it takes media.
    pub fn media(&self) -> SocketAddr {
        self.shared.media
    }

    /// The id by which the proxy knows it.
    pub fn id(&self) -> String {
        format!("{}-run-1", self.name)
    }

    /// The heartbeat that SRS would send in its place.
    pub fn heartbeat(&self) -> String {
        let [rtmp, api, rtc] = [self.rtmp.local_addr().unwrap(), self.shared.http, self.shared.media];
        json!({
            "ip": api.ip().to_string(), "server": self.name, "service": "run", "pid": "1",
            "rtmp": [rtmp.port().to_string()], "api": [api.port().to_string()],
            "rtc": [format!("udp://0.0.0.0:{}", rtc.port())],
        })
        .to_string()
    }

    /// The sessions that it has.
    pub fn sessions(&self) -> Vec<Seen> {
        self.shared.lock().sessions.values().map(|session| session.seen.clone()).collect()
    }

    /// The publisher of a stream, if there is one.
    pub fn publisher(&self, stream: &str) -> Option<Seen> {
        self.sessions().into_iter().find(|seen| seen.publishes && seen.stream == stream)
    }

    /// Waits until it has media from the publisher of a stream.
    pub fn wait_until_published(&self, stream: &str) {
        wait_for(&format!("the origin has media of {stream}"), LIMIT, || {
            self.publisher(stream).is_some_and(|seen| seen.packets > 0)
        });
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.lock().requests.clone()
    }

    /// Refuses offers with this status from now on; takes them again after `None`.
    pub fn refuse(&self, status: Option<u16>) {
        self.shared.lock().refusal = status;
    }

    /// Stops it: the system still takes connections and datagrams, but nothing answers them.
    pub fn freeze(&self) {
        self.shared.frozen.store(true, SeqCst);
    }

    /// Lets it run again.
    pub fn thaw(&self) {
        self.shared.frozen.store(false, SeqCst);
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.stopped.store(true, SeqCst);
        // Wakes the accept, which has no time limit of its own.
        let _ = TcpStream::connect(self.shared.http);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn stopped(&self) -> bool {
        self.stopped.load(SeqCst)
    }

    /// Waits while the origin is frozen.
    fn thawed(&self) {
        while self.frozen.load(SeqCst) && !self.stopped() {
            thread::sleep(TURN);
        }
    }

    fn serve_http(self: &Arc<Self>, listener: &TcpListener) {
        for stream in listener.incoming() {
            if self.stopped() {
                break;
            }
            let (shared, Ok(stream)) = (Arc::clone(self), stream) else { continue };
            thread::spawn(move || shared.answer(&stream));
        }
    }

    /// Answers one request; what breaks off is no request.
    fn answer(&self, mut stream: &TcpStream) -> Option<()> {
        stream.set_read_timeout(Some(REQUEST)).ok()?;
        let request = read(stream)?;
        self.thawed();
        if self.stopped() {
            return None;
        }
        let (status, headers, body) = self.lock().respond(&request, self.media);
        let head = format!(
            "HTTP/1.1 {status} -\r\nConnection: close\r\nAccess-Control-Allow-Origin: *\r\n\
             Access-Control-Allow-Methods: GET, POST, HEAD, PUT, DELETE, OPTIONS\r\nAccess-Control-Allow-Headers: *\r\n\
             Access-Control-Expose-Headers: *\r\n{headers}Content-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).ok()
    }

    fn serve_media(&self, socket: &UdpSocket) {
        let mut buffer = vec![0; 2_000];
        while !self.stopped() {
            self.thawed();
            let received = receive(socket, self.media, None, &mut buffer);
            let mut state = self.lock();
            if let Some((source, datagram)) = received {
                state.receive(source, datagram, socket);
            }
            for id in state.sessions.keys().copied().collect::<Vec<_>>() {
                state.tick(id, socket);
            }
        }
    }
}

/// A status, further headers and a body.
type Response = (u16, String, String);

impl State {
    fn respond(&mut self, request: &Request, media: SocketAddr) -> Response {
        self.requests.push(request.clone());
        let bare = |status| (status, String::new(), String::new());
        let publishes = !request.path().contains("whep") && !request.path().contains("play");
        match (request.method.as_str(), request.path()) {
            ("OPTIONS", _) => bare(200),
            ("DELETE", "/rtc/v1/whip/") => bare(self.delete(request)),
            ("PATCH", _) => bare(204),
            ("POST", _) if self.refusal.is_some() => bare(self.refusal.unwrap_or_default()),
            ("POST", "/rtc/v1/whip/" | "/rtc/v1/whep/" | "/rtc/v1/whip-play/") => {
                let app = request.parameter("app").unwrap_or_else(|| "live".into());
                let stream = request.parameter("stream").unwrap_or_else(|| "livestream".into());
                let Some((session, sdp)) =
                    self.offered(&request.body, &format!("{app}/{stream}"), publishes, request, media)
                else {
                    return bare(400);
                };
                let (token, username) = (&session.token, &session.seen.username);
                let headers = format!(
                    "Content-Type: application/sdp\r\nLocation: /rtc/v1/whip/?action=delete&token={token}&app={app}\
                     &stream={stream}&session={username}\r\n"
                );
                (201, headers, sdp)
            }
            ("POST", "/rtc/v1/publish/" | "/rtc/v1/play/") => {
                let answer = self.json_api(request, publishes, media).unwrap_or(json!({"code": 400}));
                (200, "Content-Type: application/json\r\n".into(), answer.to_string())
            }
            _ => bare(404),
        }
    }

    /// Ends the session that the request names; one that is not there is no failure, as in SRS.
    fn delete(&mut self, request: &Request) -> u16 {
        let (username, token) = (request.parameter("session"), request.parameter("token"));
        let found = self.sessions.iter().find(|(_, session)| Some(&session.seen.username) == username.as_ref());
        let Some((id, session)) = found else { return 200 };
        if token.as_ref() != Some(&session.token) {
            return 400;
        }
        let id = *id;
        self.sessions.remove(&id);
        200
    }

    fn json_api(&mut self, request: &Request, publishes: bool, media: SocketAddr) -> Option<Value> {
        let body: Value = serde_json::from_str(&request.body).ok()?;
        let (_, path) = body["streamurl"].as_str()?.split_once("://")?;
        let (_, stream) = path.split('?').next()?.split_once('/')?;
        let (session, sdp) = self.offered(body["sdp"].as_str()?, stream, publishes, request, media)?;
        let username = &session.seen.username;
        Some(json!({"code": 0, "server": "vid-1", "service": "run", "pid": "1", "sdp": sdp, "sessionid": username}))
    }

    /// Answers an offer.
    fn offered(
        &mut self,
        offer: &str,
        stream: &str,
        publishes: bool,
        request: &Request,
        media: SocketAddr,
    ) -> Option<(&Session, String)> {
        let remote = offer.lines().find_map(|line| line.strip_prefix("a=ice-ufrag:"))?.trim();
        let mut config = config().set_ice_lite(true).set_rtp_mode(true);
        if let (Some(ufrag), Some(pass)) = (request.parameter("ice-ufrag"), request.parameter("ice-pwd")) {
            config = config.set_local_ice_credentials(IceCreds { ufrag, pass });
        }
        let mut rtc = config.build(std::time::Instant::now());
        rtc.add_local_candidate(Candidate::host(media, "udp").ok()?);
        let answer = rtc.sdp_api().accept_offer(SdpOffer::from_sdp_string(offer).ok()?).ok()?;
        let username = format!("{}:{remote}", rtc.direct_api().local_ice_credentials().ufrag);
        let (stream, token) = (stream.to_owned(), format!("{:08x}", rand::rng().random::<u32>()));
        let seen = Seen { stream, publishes, connected: false, packets: 0, username, source: None };
        self.last += 1;
        let session = Session { peer: Peer::new(rtc), seen, token, mids: Vec::new(), first: HashMap::new() };
        let session = self.sessions.entry(self.last).or_insert(session);
        Some((session, answer.to_sdp_string()))
    }

    fn receive(&mut self, source: SocketAddr, datagram: Input<'_>, socket: &UdpSocket) {
        let takes = |session: &Session| session.peer.accepts(&datagram);
        let known = self.by_source.get(&source).copied();
        let id = known.filter(|id| self.sessions.get(id).is_some_and(takes));
        let found = id.or_else(|| self.sessions.iter().find(|(_, session)| takes(session)).map(|(id, _)| *id));
        let Some(id) = found else { return };
        self.by_source.insert(source, id);
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.seen.source = Some(source);
        session.peer.input(datagram);
        self.act(id, socket);
    }

    fn tick(&mut self, id: u64, socket: &UdpSocket) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.peer.tick();
        self.act(id, socket);
        if self.sessions.get(&id).is_some_and(|session| !session.peer.rtc.is_alive()) {
            self.sessions.remove(&id);
        }
    }

    /// Sends what a session has to send, and passes on what it has received.
    fn act(&mut self, id: u64, socket: &UdpSocket) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        // To where the client was heard last, as SRS does. Whoever is gone does not receive; that is no
        // failure of this end.
        let heard = session.seen.source;
        let events = session.peer.drain(&mut |to, datagram| drop(socket.send_to(datagram, heard.unwrap_or(to))));
        for event in events {
            let Some(session) = self.sessions.get_mut(&id) else { return };
            match event {
                Event::Connected => session.seen.connected = true,
                Event::MediaAdded(added) => session.mids.push((added.kind, added.mid)),
                Event::RtpPacket(packet) => {
                    session.seen.packets += 1;
                    self.forward(id, &packet, socket);
                }
                Event::KeyframeRequest(request) => self.ask_publisher(id, &request, socket),
                _ => {}
            }
        }
    }

    fn forward(&mut self, from: u64, packet: &RtpPacket, socket: &UdpSocket) {
        let publisher = self.sessions.get_mut(&from).expect("the publisher is there");
        let Some(mid) = publisher.peer.rtc.direct_api().stream_rx(&packet.header.ssrc).map(|stream| stream.mid())
        else {
            return;
        };
        let (stream, kind) = (publisher.seen.stream.clone(), publisher.kind(mid));
        let players: Vec<u64> = self
            .sessions
            .iter()
            .filter(|(_, session)| !session.seen.publishes && session.seen.connected && session.seen.stream == stream)
            .map(|(id, _)| *id)
            .collect();
        for id in players {
            let player = self.sessions.get_mut(&id).expect("the player is there");
            if player.write(kind, packet).is_some() {
                self.act(id, socket);
            }
        }
    }

    fn ask_publisher(&mut self, player: u64, request: &KeyframeRequest, socket: &UdpSocket) {
        let stream = self.sessions[&player].seen.stream.clone();
        let mut all = self.sessions.iter_mut();
        let Some((id, publisher)) = all.find(|(_, other)| other.seen.publishes && other.seen.stream == stream) else {
            return;
        };
        let Some((_, mid)) = publisher.mids.iter().find(|(kind, _)| kind.is_video()) else { return };
        if let Some(stream) = publisher.peer.rtc.direct_api().stream_rx_by_mid(*mid, None) {
            stream.request_keyframe(request.kind);
        }
        let id = *id;
        self.act(id, socket);
    }
}

impl Session {
    fn kind(&self, mid: Mid) -> MediaKind {
        self.mids.iter().find(|(_, known)| *known == mid).map_or(MediaKind::Video, |(kind, _)| *kind)
    }

    /// Sends a publisher's packet to this player.
    fn write(&mut self, kind: MediaKind, packet: &RtpPacket) -> Option<()> {
        let mid = self.mids.iter().find(|(known, _)| *known == kind)?.1;
        let pt = self.peer.params(kind)?.pt();
        let sequence = *packet.seq_no;
        // SRTP counts turns of the sequence number from the first packet on, and both sides alike.
        let first = *self.first.entry(mid).or_insert(sequence);
        let sequence: SeqNo = (FIRST_SEQUENCE + sequence).checked_sub(first)?.into();
        let header = &packet.header;
        let write = RtpWrite::new(pt, sequence, header.timestamp, packet.timestamp, packet.payload.clone())
            .marker(header.marker)
            .ext_vals(header.ext_vals.clone())
            .nackable(kind.is_video());
        self.peer.rtc.direct_api().stream_tx_by_mid(mid, None)?.write_rtp(write);
        Some(())
    }
}
