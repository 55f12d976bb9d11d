//! A network that loses datagrams.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rand::RngExt;

/// How long it waits for a datagram before it looks whether it is still wanted.
const TURN: Duration = Duration::from_millis(50);

/// Passes datagrams on to a server and back, but for some. It ends when this is dropped.
pub struct Lossy {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    server: SocketAddr,
    /// The share of datagrams that are lost, from 0 to 1.
    share: f64,
    lost: AtomicU64,
    stopped: AtomicBool,
}

impl Lossy {
    /// Loses that share of the datagrams to `server`, and of those from it.
    pub fn before(server: SocketAddr, share: f64) -> Self {
        let socket = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        let address = socket.local_addr().unwrap();
        let (lost, stopped) = (AtomicU64::default(), AtomicBool::default());
        let shared = Arc::new(Shared { server, share, lost, stopped });
        let thread = thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.run(&socket)
        });
        Self { address, shared, thread: Some(thread) }
    }

    /// Where clients send to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many datagrams are lost so far.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(SeqCst)
    }
}

impl Drop for Lossy {
    fn drop(&mut self) {
        self.shared.stopped.store(true, SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn run(self: &Arc<Self>, front: &Arc<UdpSocket>) {
        let mut clients: HashMap<SocketAddr, (Arc<UdpSocket>, JoinHandle<()>)> = HashMap::new();
        self.pass(front, |client, datagram| {
            let (back, _) = clients.entry(client).or_insert_with(|| {
                let back = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
                let thread = thread::spawn({
                    let (shared, front, back) = (Arc::clone(self), Arc::clone(front), Arc::clone(&back));
                    move || shared.pass(&back, |_, datagram| drop(front.send_to(datagram, client)))
                });
                (back, thread)
            });
            let _ = back.send_to(datagram, self.server);
        });
        clients.into_values().for_each(|(_, thread)| drop(thread.join()));
    }

    fn pass(&self, socket: &UdpSocket, mut on: impl FnMut(SocketAddr, &[u8])) {
        socket.set_read_timeout(Some(TURN)).unwrap();
        let mut buffer = [0; 2_000];
        while !self.stopped.load(SeqCst) {
            let Ok((length, source)) = socket.recv_from(&mut buffer) else { continue };
            if rand::rng().random_bool(self.share) {
                self.lost.fetch_add(1, SeqCst);
            } else {
                on(source, &buffer[..length]);
            }
        }
    }
}
