//! Clients that publish by WHIP and play by WHEP.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, MutexGuard,
        mpsc::{self, Receiver, Sender, TryRecvError},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use str0m::{
    Candidate, Event,
    change::{SdpAnswer, SdpPendingOffer},
    media::{Direction, Frequency, MediaData, MediaKind, MediaTime, Mid},
};

use super::{
    webrtc_content::{picture, picture_number, sound, sound_number},
    webrtc_peer::{Peer, config, receive},
};
use crate::{LIMIT, http, wait_for};

/// How long the thread waits for a datagram before it looks at the clock.
const TURN: Duration = Duration::from_millis(2);
/// From one picture to the next.
const PICTURE: Duration = Duration::from_millis(33);
/// From one sound to the next.
const SOUND: Duration = Duration::from_millis(20);

/// How a client differs from the usual one.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The address from which it sends.
    pub local: IpAddr,
    /// Where it sends, in place of the candidates in the answer.
    pub candidate: Option<SocketAddr>,
}

impl Default for Options {
    fn default() -> Self {
        Self { local: Ipv4Addr::LOCALHOST.into(), candidate: None }
    }
}

/// What came of an offer.
#[derive(Debug, Clone)]
pub struct Signalled {
    pub status: u16,
    pub location: Option<String>,
    pub body: String,
}

/// Sends an offer to `server` by `whip`, `whep` or `whip-play`, or by `publish` or `play` of the JSON
/// API.
pub fn signal(server: SocketAddr, how: &str, stream: &str, offer: &str) -> Signalled {
    if ["publish", "play"].contains(&how) {
        return signal_json(server, how, stream, offer);
    }
    let (app, name) = stream.rsplit_once('/').expect("app/stream");
    let target = format!("/rtc/v1/{how}/?app={app}&stream={name}");
    let answer = http::send(server, "POST", &target, "application/sdp", offer).unwrap();
    let location = answer.header("location").map(str::to_owned);
    Signalled { status: answer.status, location, body: answer.body }
}

fn signal_json(server: SocketAddr, how: &str, stream: &str, offer: &str) -> Signalled {
    let target = format!("/rtc/v1/{how}/");
    let api = format!("http://{server}{target}");
    let question = json!({"api": api, "streamurl": format!("webrtc://{}/{stream}", server.ip()), "sdp": offer});
    let answer = http::post(server, &target, &question.to_string()).unwrap();
    let body: Value = serde_json::from_str(&answer.body).unwrap_or_else(|e| panic!("{e}: {answer:?}"));
    // The JSON API tells failures in its code only.
    let status = if body["code"] == 0 { 201 } else { answer.status };
    Signalled { status, location: None, body: body["sdp"].as_str().unwrap_or(&answer.body).to_owned() }
}

/// An offer of somebody who will never send media.
pub fn idle_offer() -> String {
    Offer::new(Direction::SendOnly, &UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).sdp
}

/// A client that runs until it is dropped. It does not say goodbye then.
pub struct Client {
    server: SocketAddr,
    /// What the offer's answer was.
    pub signalled: Signalled,
    commands: Sender<Command>,
    state: Arc<Mutex<State>>,
    thread: Option<JoinHandle<()>>,
}

enum Command {
    Move,
    SendThrough(SocketAddr),
    FallSilent,
}

#[derive(Debug, Default)]
struct State {
    connected: bool,
    alive: bool,
    local: Option<SocketAddr>,
    sent: u64,
    received: Received,
}

/// What a player got.
#[derive(Debug, Default, Clone)]
pub struct Received {
    /// The numbers of the pictures, as they came.
    pub pictures: Vec<u64>,
    /// The numbers of the sounds, as they came.
    pub sounds: Vec<u64>,
    /// Pictures and sounds in which a byte was wrong.
    pub broken: u64,
}

impl Received {
    /// Panics unless everything arrived whole, in order, and nothing in between is missing.
    pub fn assert_complete(&self) {
        self.assert_in_order();
        for (kind, numbers) in [("picture", &self.pictures), ("sound", &self.sounds)] {
            assert!(!numbers.is_empty(), "no {kind}");
            let gap = numbers.windows(2).find(|pair| pair[1] != pair[0] + 1);
            assert_eq!(gap, None, "a {kind} is missing");
        }
    }

    /// Panics unless everything that arrived is whole and in order.
    pub fn assert_in_order(&self) {
        assert_eq!(self.broken, 0, "broken on the way");
        for (kind, numbers) in [("picture", &self.pictures), ("sound", &self.sounds)] {
            let turn = numbers.windows(2).find(|pair| pair[1] <= pair[0]);
            assert_eq!(turn, None, "a {kind} came twice or late");
        }
    }
}

impl Client {
    /// Publishes `stream` by WHIP.
    pub fn publish(server: SocketAddr, stream: &str) -> Self {
        Self::publish_with(server, stream, Options::default())
    }

    pub fn publish_with(server: SocketAddr, stream: &str, options: Options) -> Self {
        Self::start(server, "whip", stream, options)
    }

    /// Plays `stream` by WHEP.
    pub fn play(server: SocketAddr, stream: &str) -> Self {
        Self::play_with(server, stream, Options::default())
    }

    pub fn play_with(server: SocketAddr, stream: &str, options: Options) -> Self {
        Self::start(server, "whep", stream, options)
    }

    /// Signals as [`signal`] does, and goes on with what is answered.
    pub fn start(server: SocketAddr, how: &str, stream: &str, options: Options) -> Self {
        let socket = UdpSocket::bind((options.local, 0)).unwrap();
        let direction = if ["whip", "publish"].contains(&how) { Direction::SendOnly } else { Direction::RecvOnly };
        let offer = Offer::new(direction, &socket);
        let signalled = signal(server, how, stream, &offer.sdp);
        assert_eq!(signalled.status, 201, "{how} {stream}: {signalled:?}");
        let (peer, mids) = offer.answered(&signalled.body, options.candidate);

        let (commands, orders) = mpsc::channel();
        let state = Arc::new(Mutex::new(State { alive: true, local: socket.local_addr().ok(), ..State::default() }));
        let running = Running::new(peer, mids, socket, direction, orders, Arc::clone(&state));
        let thread = Some(thread::spawn(move || running.run()));
        Self { server, signalled, commands, state, thread }
    }

    /// Goes on from another port, as after a change of the network or of a NAT's mapping.
    pub fn move_to_another_port(&self) {
        let before = self.local();
        self.commands.send(Command::Move).unwrap();
        wait_for("the client has moved", LIMIT, || self.local() != before);
    }

    /// Sends to this address from now on, without knowing: as after a load balancer's change of mind.
    pub fn send_through(&self, address: SocketAddr) {
        self.commands.send(Command::SendThrough(address)).unwrap();
    }

    /// Sends nothing from now on.
    pub fn fall_silent(&self) {
        self.commands.send(Command::FallSilent).unwrap();
    }

    /// Deletes its session through a server; gives the status.
    pub fn delete_through(&self, server: SocketAddr) -> u16 {
        let location = self.signalled.location.as_deref().expect("a Location");
        // It may be relative, or name the server that gave it.
        let target = location.split_once("://").map_or(location, |(_, rest)| &rest[rest.find('/').unwrap_or(0)..]);
        http::send(server, "DELETE", target, "", "").unwrap().status
    }

    /// Deletes its session where it was signalled; gives the status.
    pub fn delete(&self) -> u16 {
        self.delete_through(self.server)
    }

    /// Where it sends from.
    pub fn local(&self) -> Option<SocketAddr> {
        self.state().local
    }

    pub fn is_connected(&self) -> bool {
        self.state().connected
    }

    /// Whether the other end is still there, as far as ICE and DTLS know.
    pub fn is_alive(&self) -> bool {
        self.state().alive
    }

    /// What a player got so far.
    pub fn received(&self) -> Received {
        self.state().received.clone()
    }

    /// Pictures that a publisher has sent.
    pub fn sent(&self) -> u64 {
        self.state().sent
    }

    pub fn wait_until_connected(&self) {
        wait_for("ICE and DTLS are through", LIMIT, || self.is_connected());
    }

    /// Waits until a player has so many pictures in all.
    pub fn wait_for_pictures(&self, count: usize) -> Received {
        wait_for(&format!("{count} pictures"), LIMIT, || self.state().received.pictures.len() >= count);
        self.received()
    }

    /// Waits until a player has got another second of pictures.
    pub fn wait_for_more(&self) {
        self.wait_for_pictures(self.received().pictures.len() + 30);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // The thread ends when nobody can order anything any more.
        self.commands = mpsc::channel().0;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Offer {
    peer: Peer,
    mids: Vec<(MediaKind, Mid)>,
    pending: SdpPendingOffer,
    sdp: String,
}

impl Offer {
    fn new(direction: Direction, socket: &UdpSocket) -> Self {
        let mut rtc = config().build(Instant::now());
        rtc.add_local_candidate(Candidate::host(socket.local_addr().unwrap(), "udp").unwrap());
        let mut change = rtc.sdp_api();
        let mids = [MediaKind::Audio, MediaKind::Video]
            .map(|kind| (kind, change.add_media(kind, direction, None, None, None)))
            .to_vec();
        let (offer, pending) = change.apply().expect("something to offer");
        Self { peer: Peer::new(rtc), mids, pending, sdp: offer.to_sdp_string() }
    }

    fn answered(mut self, answer: &str, candidate: Option<SocketAddr>) -> (Peer, Vec<(MediaKind, Mid)>) {
        let offered = answer.lines().filter(|line| candidate.is_none() || !line.starts_with("a=candidate:"));
        let answer = offered.fold(String::new(), |sdp, line| sdp + line + "\r\n");
        let parsed = SdpAnswer::from_sdp_string(&answer).unwrap_or_else(|e| panic!("{e}: {answer}"));
        let rtc = &mut self.peer.rtc;
        rtc.sdp_api().accept_answer(self.pending, parsed).unwrap_or_else(|e| panic!("{e}: {answer}"));
        if let Some(candidate) = candidate {
            rtc.add_remote_candidate(Candidate::host(candidate, "udp").unwrap());
        }
        (self.peer, self.mids)
    }
}

/// The client as its thread has it.
struct Running {
    peer: Peer,
    socket: UdpSocket,
    /// Where it sends from, as far as ICE knows: a NAT's other side is not seen from here.
    local: SocketAddr,
    /// Where it sends to, as far as ICE knows, and where its datagrams really go if that is not it.
    remote: Option<SocketAddr>,
    through: Option<SocketAddr>,
    orders: Receiver<Command>,
    state: Arc<Mutex<State>>,
    mids: Vec<(MediaKind, Mid)>,
    silent: bool,
    publishing: Option<Publishing>,
}

/// What comes next of picture and sound.
struct Publishing {
    start: Option<Instant>,
    pictures: u64,
    sounds: u64,
}

impl Running {
    fn new(
        peer: Peer,
        mids: Vec<(MediaKind, Mid)>,
        socket: UdpSocket,
        direction: Direction,
        orders: Receiver<Command>,
        state: Arc<Mutex<State>>,
    ) -> Self {
        socket.set_read_timeout(Some(TURN)).unwrap();
        let local = socket.local_addr().unwrap();
        let publishing = direction.is_sending().then_some(Publishing { start: None, pictures: 0, sounds: 0 });
        Self { peer, socket, local, remote: None, through: None, orders, state, mids, silent: false, publishing }
    }

    fn run(mut self) {
        let mut buffer = vec![0; 2_000];
        loop {
            match self.orders.try_recv() {
                Ok(Command::Move) => self.move_to_another_port(),
                Ok(Command::SendThrough(address)) => self.through = Some(address),
                Ok(Command::FallSilent) => self.silent = true,
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => break,
            }
            let source = self.through.and(self.remote);
            let received = receive(&self.socket, self.local, source, &mut buffer);
            if let Some((_, datagram)) = received.filter(|_| !self.silent) {
                self.peer.input(datagram);
                self.act();
            }
            self.peer.tick();
            self.act();
            while self.publish().is_some() {
                self.act();
            }
        }
    }

    fn move_to_another_port(&mut self) {
        // The old socket stays until there is a new one, so that it cannot get the same port.
        self.socket = UdpSocket::bind((self.local.ip(), 0)).unwrap();
        self.socket.set_read_timeout(Some(TURN)).unwrap();
        self.state.lock().unwrap().local = self.socket.local_addr().ok();
    }

    fn act(&mut self) {
        let events = self.peer.drain(&mut |to, datagram| {
            if !self.silent {
                // Whoever is gone does not receive; that is no failure of this end.
                let _ = self.socket.send_to(datagram, self.through.unwrap_or(to));
                self.remote = Some(to);
            }
        });
        let mut state = self.state.lock().unwrap();
        state.alive = self.peer.rtc.is_alive();
        for event in events {
            match event {
                Event::Connected => state.connected = true,
                Event::MediaData(data) => state.received.add(&data),
                _ => {}
            }
        }
        if let (true, Some(publishing)) = (state.connected, &mut self.publishing) {
            publishing.start.get_or_insert_with(Instant::now);
            state.sent = publishing.pictures;
        }
    }

    /// Hands over the next picture or sound if it is time.
    fn publish(&mut self) -> Option<()> {
        if self.silent || !self.peer.rtc.is_alive() {
            return None;
        }
        let publishing = self.publishing.as_mut()?;
        let elapsed = publishing.start?.elapsed();
        let (kind, number, every) = if PICTURE * publishing.pictures as u32 <= elapsed {
            publishing.pictures += 1;
            (MediaKind::Video, publishing.pictures - 1, PICTURE)
        } else if SOUND * publishing.sounds as u32 <= elapsed {
            publishing.sounds += 1;
            (MediaKind::Audio, publishing.sounds - 1, SOUND)
        } else {
            return None;
        };
        let (frame, rate) = match kind {
            MediaKind::Video => (picture(number), Frequency::NINETY_KHZ),
            MediaKind::Audio => (sound(number), Frequency::FORTY_EIGHT_KHZ),
        };
        let time = MediaTime::from(every * number as u32).rebase(rate);
        let mid = self.mids.iter().find(|(known, _)| *known == kind)?.1;
        let pt = self.peer.params(kind)?.pt();
        self.peer.rtc.writer(mid)?.write(pt, Instant::now(), time, frame).ok()
    }
}

impl Received {
    fn add(&mut self, data: &MediaData) {
        let (numbers, number) = if data.params.spec().codec.is_video() {
            (&mut self.pictures, picture_number(&data.data))
        } else {
            (&mut self.sounds, sound_number(&data.data))
        };
        match number {
            Some(number) => numbers.push(number),
            None => self.broken += 1,
        }
    }
}
