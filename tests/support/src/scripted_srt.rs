//! The SRT server of a node in this process, and origins and callers that say exactly what a test
//! tells them to.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use srs_proxy::{
    balancer::{Balancer, memory::MemoryBalancer},
    codec::srt::{
        self,
        extension::write_stream_id,
        handshake::{CONFIG, DATAGRAM, Handshake, MAGIC, OLD_VERSION, Reason, Stage, VERSION, peer_ip},
    },
    config::{self, BalancerType, Listen, keys},
    metrics::{Metrics, balancer::Measured, scrape::Sources},
    net::listen_udp_group,
    origin::{Endpoint, Origin as Registered},
    relay::{dial::Dialer, udp::Socket, workers::Workers},
    server::srt::{Context, serve},
    session::Sessions,
    stream::Vhosts,
};
use tokio::{
    net::{TcpSocket, UdpSocket},
    sync::{
        Mutex as AsyncMutex,
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    },
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// No wait in a test takes longer.
pub const LIMIT: Duration = Duration::from_secs(20);
/// How often a caller repeats what is not answered.
const RETRANSMIT: Duration = Duration::from_millis(250);
const LARGEST: usize = 2048;

pub async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    timeout(LIMIT, work).await.unwrap_or_else(|_| panic!("{what}: not within {LIMIT:?}"))
}

/// Waits until `condition` holds.
pub async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    within(what, async {
        while !condition().await {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// A node with the memory balancer and two workers.
pub struct Node {
    pub address: SocketAddr,
    pub balancer: Arc<MemoryBalancer>,
    pub sessions: Sessions,
    pub metrics: Metrics,
    /// Cancelled to begin a drain.
    pub draining: CancellationToken,
    /// Cancelled to end the drain's grace.
    pub closing: CancellationToken,
    pub tracker: TaskTracker,
    server: JoinHandle<()>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.draining.cancel();
        self.closing.cancel();
    }
}

impl Node {
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(adjust: impl FnOnce(&mut config::Srt)) -> Self {
        let listen = Listen { host: Some("127.0.0.1".into()), port: 0 };
        let mut settings = config::Srt {
            listen: listen.clone(),
            answer_timeout: Duration::from_secs(1),
            idle_timeout: LIMIT,
            max_sessions: 2000,
            max_sessions_per_ip: 2000,
        };
        adjust(&mut settings);
        let sockets = listen_udp_group(&listen, &keys::PROXY_SRT_SERVER.spec, 1 << 20, 2).await.unwrap();
        let address = sockets[0].local_addr().unwrap();
        let sockets = sockets.into_iter().map(|socket| Arc::new(Socket::new(socket).unwrap())).collect();
        let balancer = Arc::new(MemoryBalancer::new(&config::Balancer {
            max_origins: 10,
            max_streams: 3000,
            ..config::Balancer::default()
        }));
        let (sessions, metrics) = (Sessions::default(), Metrics::default());
        let (draining, closing, tracker) = (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());
        let context = Arc::new(Context {
            balancer: Arc::new(Measured::new(balancer.clone(), metrics.clone())),
            sessions: sessions.clone(),
            vhosts: Vhosts::any(),
            srt: settings,
            upstream: config::Upstream {
                connect_timeout: Duration::from_secs(2),
                answer_timeout: Duration::from_secs(2),
                max_attempts: 3,
                probe_interval: Duration::from_millis(50),
                http_keepalive: Duration::from_secs(15),
                http_max_idle: 8,
            },
            metrics: metrics.clone(),
            dialer: Dialer::default(),
            workers: Arc::new(Workers::start(Some(2)).unwrap()),
            closing: closing.clone(),
        });
        let server = tokio::spawn(serve(sockets, context, draining.clone(), tracker.clone()));
        Self { address, balancer, sessions, metrics, draining, closing, tracker, server }
    }

    /// Registers an origin, which nobody reaches by RTMP.
    pub async fn register(&self, name: &str, origin: &Origin) {
        let endpoint = |address: SocketAddr| vec![Endpoint::parse(&address.to_string()).unwrap()];
        let registered = Registered {
            server_id: name.into(),
            service_id: "run-1".into(),
            pid: "1".into(),
            device_id: String::new(),
            ip: "127.0.0.1".into(),
            rtmp: endpoint(origin.rtmp),
            http: Vec::new(),
            api: Vec::new(),
            srt: endpoint(origin.address),
            rtc: Vec::new(),
            software: String::new(),
            cpu: None,
        };
        self.balancer.register(registered).await.unwrap();
    }

    /// Waits until no session is left.
    pub async fn idle(&self) {
        eventually("all sessions freed", async || self.sessions.is_empty()).await;
    }

    /// Waits until the server has ended.
    pub async fn ended(&mut self) {
        within("the end of the server", &mut self.server).await.unwrap();
        self.tracker.close();
        within("the end of all tasks", self.tracker.wait()).await;
    }

    /// What a metric says.
    pub async fn metric(&self, series: &str) -> u64 {
        let sources = Sources {
            metrics: self.metrics.clone(),
            balancer: self.balancer.clone(),
            kind: BalancerType::Memory,
            sessions: self.sessions.clone(),
            ready: tokio::sync::watch::channel(true).1,
            draining: self.draining.clone(),
        };
        let text = sources.scrape().await.unwrap();
        let line = text.lines().find(|line| line.starts_with(series));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_else(|| panic!("no {series}"))
    }
}

/// What an origin does with callers.
#[derive(Clone, Copy)]
pub enum Manner {
    /// It takes them.
    Accept,
    /// It refuses them, for this reason.
    Reject(Reason),
    /// It says nothing at all.
    Silent,
}

/// A caller at an origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// The proxy's socket for it.
    pub leg: SocketAddr,
    /// The caller's socket.
    pub caller: u32,
    /// The origin's.
    pub socket: u32,
    pub conclusion: Vec<u8>,
}

impl Guest {
    pub fn stream_id(&self) -> String {
        Handshake::parse(&self.conclusion).unwrap().stream_id().unwrap().unwrap()
    }
}

pub struct Origin {
    pub address: SocketAddr,
    rtmp: SocketAddr,
    socket: Arc<UdpSocket>,
    guests: AsyncMutex<UnboundedReceiver<Guest>>,
    packets: AsyncMutex<UnboundedReceiver<(SocketAddr, Vec<u8>)>>,
    /// Packets that it takes no notice of before it takes notice of any.
    deaf: Arc<Mutex<usize>>,
    task: JoinHandle<()>,
    /// Takes the port of RTMP without listening there.
    _rtmp: TcpSocket,
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Origin {
    pub async fn start(manner: Manner) -> Self {
        Self::start_at("127.0.0.1:0", manner).await
    }

    pub async fn start_at(address: &str, manner: Manner) -> Self {
        let socket = Arc::new(UdpSocket::bind(address).await.unwrap());
        let tcp = TcpSocket::new_v4().unwrap();
        tcp.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let (guests, guests_received) = unbounded_channel();
        let (packets, packets_received) = unbounded_channel();
        let deaf = Arc::new(Mutex::new(0));
        let listening = listen(Arc::clone(&socket), manner, Arc::clone(&deaf), guests, packets);
        Self {
            address: socket.local_addr().unwrap(),
            rtmp: tcp.local_addr().unwrap(),
            guests: AsyncMutex::new(guests_received),
            packets: AsyncMutex::new(packets_received),
            deaf,
            task: tokio::spawn(listening),
            _rtmp: tcp,
            socket,
        }
    }

    /// Overhears the next `packets`.
    pub fn overhear(&self, packets: usize) {
        *self.deaf.lock().unwrap() = packets;
    }

    /// The next caller.
    pub async fn guest(&self) -> Guest {
        within("a caller at the origin", async { self.guests.lock().await.recv().await.unwrap() }).await
    }

    /// How many callers came besides those that were asked for.
    pub async fn more_guests(&self) -> usize {
        self.guests.lock().await.len()
    }

    /// The next packet that is no handshake, and where it came from.
    pub async fn packet(&self) -> (SocketAddr, Vec<u8>) {
        within("a packet at the origin", async { self.packets.lock().await.recv().await.unwrap() }).await
    }

    pub async fn send(&self, guest: &Guest, packet: &[u8]) {
        self.socket.send_to(packet, guest.leg).await.unwrap();
    }

    /// Ends all its sockets.
    pub async fn vanish(self) -> SocketAddr {
        let address = self.address;
        self.task.abort();
        let socket = Arc::clone(&self.socket);
        drop(self);
        eventually("the task to let go of the socket", async || Arc::strong_count(&socket) == 1).await;
        address
    }
}

async fn listen(
    socket: Arc<UdpSocket>,
    manner: Manner,
    deaf: Arc<Mutex<usize>>,
    guests: UnboundedSender<Guest>,
    packets: UnboundedSender<(SocketAddr, Vec<u8>)>,
) {
    let mut known: HashMap<SocketAddr, u32> = HashMap::new();
    let mut buffer = [0; LARGEST];
    loop {
        // A peer that is gone shows as an error of the next call.
        let Ok((len, from)) = socket.recv_from(&mut buffer).await else { continue };
        let packet = &buffer[..len];
        {
            let mut deaf = deaf.lock().unwrap();
            if *deaf > 0 {
                *deaf -= 1;
                continue;
            }
        }
        let Ok(handshake) = Handshake::parse(packet) else {
            let _ = packets.send((from, packet.to_vec()));
            continue;
        };
        let cookie = u32::from(from.port()) + 1;
        let answer = match (manner, handshake.stage) {
            (Manner::Silent, _) => continue,
            (_, Stage::Induction) => handshake.induction_answer(cookie, 0),
            (Manner::Reject(reason), _) => handshake.rejection(reason, 0),
            (Manner::Accept, _) => {
                assert_eq!((handshake.cookie, handshake.stage), (cookie, Stage::Conclusion));
                let next = 1000 + known.len() as u32;
                let is_new = !known.contains_key(&from);
                let own = *known.entry(from).or_insert(next);
                if is_new {
                    let (caller, conclusion) = (handshake.socket_id, packet.to_vec());
                    let _ = guests.send(Guest { leg: from, caller, socket: own, conclusion });
                }
                Handshake { destination: handshake.socket_id, socket_id: own, extension: 0, ..handshake }.fields()
            }
        };
        let _ = socket.send_to(&answer, from).await;
    }
}

/// A socket of a client. Several can have one port.
#[derive(Clone)]
pub struct Caller {
    pub udp: Arc<UdpSocket>,
    pub socket: u32,
    pub initial_sequence: u32,
}

impl Caller {
    pub async fn new(node: &Node, socket: u32) -> Self {
        Self::to(node.address, socket).await
    }

    pub async fn to(address: SocketAddr, socket: u32) -> Self {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        udp.connect(address).await.unwrap();
        Self { udp: Arc::new(udp), socket, initial_sequence: 7 }
    }

    /// Another socket with the same port.
    pub fn sibling(&self, socket: u32) -> Self {
        Self { socket, ..self.clone() }
    }

    fn handshake(&self, stage: Stage) -> Handshake<'static> {
        Handshake {
            timestamp: 1,
            destination: 0,
            version: OLD_VERSION,
            encryption: 0,
            extension: DATAGRAM,
            initial_sequence: self.initial_sequence,
            mtu: 1500,
            flow_window: 8192,
            stage,
            socket_id: self.socket,
            cookie: 0,
            peer_ip: peer_ip([127, 0, 0, 1].into()),
            extensions: &[],
        }
    }

    pub fn induction(&self) -> Vec<u8> {
        self.handshake(Stage::Induction).to_bytes()
    }

    pub fn conclusion(&self, cookie: u32, stream_id: &str) -> Vec<u8> {
        let mut extensions = Vec::new();
        write_stream_id(stream_id, &mut extensions);
        let fields = Handshake { version: VERSION, extension: CONFIG, cookie, ..self.handshake(Stage::Conclusion) };
        Handshake { extensions: &extensions, ..fields }.to_bytes()
    }

    /// Goes through the induction and gives the cookie.
    pub async fn induct(&self) -> u32 {
        let answer = self.ask(&self.induction()).await;
        let answer = Handshake::parse(&answer).unwrap();
        assert_eq!((answer.stage, answer.version, answer.extension), (Stage::Induction, VERSION, MAGIC));
        answer.cookie
    }

    /// Sends a packet until it is answered.
    pub async fn ask(&self, packet: &[u8]) -> Vec<u8> {
        let start = Instant::now();
        loop {
            assert!(start.elapsed() < LIMIT, "no answer");
            self.send(packet).await;
            if let Ok(answer) = timeout(RETRANSMIT, self.handshake_for_it()).await {
                return answer;
            }
        }
    }

    /// The next handshake for this socket. Who had the port before may still be told something.
    async fn handshake_for_it(&self) -> Vec<u8> {
        loop {
            let packet = self.receive().await;
            if srt::is_handshake(&packet) && srt::destination(&packet) == Some(self.socket) {
                return packet;
            }
        }
    }

    /// Connects; gives the origin's socket, or why not.
    pub async fn connect(&self, stream_id: &str) -> Result<u32, Reason> {
        let cookie = self.induct().await;
        let answer = self.ask(&self.conclusion(cookie, stream_id)).await;
        let answer = Handshake::parse(&answer).unwrap();
        assert_eq!((answer.destination, answer.cookie), (self.socket, cookie));
        match answer.stage {
            Stage::Conclusion => Ok(answer.socket_id),
            Stage::Rejected(reason) => Err(reason),
            other => panic!("{other:?}"),
        }
    }

    pub async fn send(&self, packet: &[u8]) {
        self.udp.send(packet).await.unwrap();
    }

    pub async fn receive(&self) -> Vec<u8> {
        let mut buffer = [0; LARGEST];
        let len = within("a packet at the client", self.udp.recv(&mut buffer)).await.unwrap();
        buffer[..len].to_vec()
    }

    /// The next packet that is no handshake.
    pub async fn packet(&self) -> Vec<u8> {
        loop {
            let packet = self.receive().await;
            if !srt::is_handshake(&packet) {
                return packet;
            }
        }
    }
}

/// A data packet.
pub fn data(destination: u32, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; srt::HEADER];
    packet[12..].copy_from_slice(&destination.to_be_bytes());
    packet.extend_from_slice(payload);
    packet
}
