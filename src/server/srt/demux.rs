//! Where a worker's datagrams arrive: each goes to its session's origin, is answered, or is dropped.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{interval, sleep},
};
use tracing::{debug, warn};

use super::{
    Shared,
    session::{self, EndReason, Event, PendingSession, SessionHandle},
    table::{Connection, Table, Verdict},
};
use crate::{
    balancer::Intent,
    codec::srt::{
        self,
        handshake::{Handshake, Reason},
        stream_id::{DEFAULT, Mode, StreamId, StreamIdError},
    },
    error::Side,
    metrics::{
        Metrics,
        label::{Dropped, UdpListener},
    },
    net::canonical,
    relay::udp::{Path, Reader, Received, Socket},
    session::Delivery,
    stream::{StreamKey, Vhosts},
};

/// How long reading pauses after an error that is not a client's.
const PAUSE: Duration = Duration::from_millis(100);
/// How often callers are forgotten whose sessions ended a while ago, if nothing else happens.
const TIDY: Duration = Duration::from_secs(1);
/// How many of these are remembered at the most.
const MAX_ENDED: usize = 16 * 1024;

/// One worker's socket and sessions.
struct Demux {
    socket: Arc<Socket>,
    shared: Arc<Shared>,
    table: Table<Arc<SessionHandle>>,
    /// For sessions, to reach this demux: each sends two of them at the most.
    events: mpsc::UnboundedSender<Event>,
}

/// Serves the clients of `socket` until no session is left anywhere and none may begin.
pub(super) async fn run(socket: Arc<Socket>, shared: Arc<Shared>) -> io::Result<()> {
    let reader = Reader::new(Arc::clone(&socket))?;
    let table = Table::new(Arc::clone(&shared.cookies), MAX_ENDED, Instant::now());
    let (events, mut received) = mpsc::unbounded_channel();
    // A task of its own: what it waits for is not looked at for each batch.
    let mut reminder = JoinSet::new();
    reminder.spawn(remind(events.clone(), Arc::clone(&shared)));
    let mut demux = Demux { socket, shared, table, events };
    loop {
        tokio::select! {
            biased;
            Some(event) = received.recv() => match event {
                Event::Stop => return Ok(()),
                event => demux.settle(event),
            },
            result = reader.receive(|received| demux.receive(received)) => {
                if let Err(error) = result {
                    warn!(%error, "receiving from SRT clients");
                    sleep(PAUSE).await;
                }
            }
        }
    }
}

/// Tells a demux of time that has passed, and when it is no longer needed.
async fn remind(demux: mpsc::UnboundedSender<Event>, shared: Arc<Shared>) {
    let over = async {
        shared.stop.cancelled().await;
        shared.sessions.close();
        shared.sessions.wait().await;
    };
    let tidy = async {
        let mut tidy = interval(TIDY);
        loop {
            tidy.tick().await;
            let _ = demux.send(Event::Tidy);
        }
    };
    tokio::select! {
        () = over => {}
        () = tidy => {}
    }
    let _ = demux.send(Event::Stop);
}

impl Demux {
    fn receive(&mut self, received: Received<'_>) {
        let (path, now) = (received.path, Instant::now());
        let peer = canonical(path.peer);
        for datagram in received.datagrams() {
            match self.table.take(peer, datagram, now) {
                Verdict::Relay(session) => relay(session, datagram, &self.shared.context.metrics),
                Verdict::Answer(answer) => self.send(&answer, path),
                Verdict::Repeated { session, answer } => {
                    if let Some(session) = session {
                        session.count(Side::Client, 1, datagram.len() as u64);
                    }
                    if let Some(answer) = answer {
                        send(&self.socket, answer, path, &self.shared.context.metrics);
                    }
                }
                Verdict::Drop(reason) => self.shared.context.metrics.dropped(UdpListener::Srt, reason, 1),
                Verdict::Wanted { connection, conclusion, replaced } => {
                    if let Some(session) = replaced {
                        session.end(EndReason::Replaced);
                    }
                    if let Err(reason) = self.begin(connection, path, datagram, &conclusion) {
                        self.send(&self.table.refuse(&conclusion, reason, now), path);
                    }
                }
            }
        }
    }

    /// Begins a session, or says why not.
    fn begin(
        &mut self,
        connection: Connection,
        path: Path,
        packet: &[u8],
        conclusion: &Handshake<'_>,
    ) -> Result<(), Reason> {
        let peer = connection.caller.peer;
        let (intent, stream) = wanted(conclusion, &self.shared.context.vhosts).inspect_err(|reason| {
            debug!(%peer, %reason, "an SRT caller is refused for its stream id");
        })?;
        if self.shared.stop.is_cancelled() {
            return Err(Reason::DOWN);
        }
        let permit = self.shared.admission.admit(peer.ip()).ok_or(Reason::OVERLOAD)?;
        let Ok(turn) = Arc::clone(&self.shared.opening).try_acquire_owned() else {
            self.shared.context.metrics.dropped(UdpListener::Srt, Dropped::Limit, 1);
            return Err(Reason::OVERLOAD);
        };
        let session = self.shared.context.sessions.start(Delivery::Srt, peer);
        session.set_role(intent, stream);
        session.count(Side::Client, 1, packet.len() as u64);
        let live = Arc::new(SessionHandle::new(session));
        self.table.begin(connection, Arc::clone(&live));
        let opening = PendingSession {
            connection,
            path,
            conclusion: packet.into(),
            live,
            turn,
            permit,
            out: Arc::clone(&self.socket),
            demux: self.events.clone(),
        };
        let session = session::run(opening, Arc::clone(&self.shared.context));
        tokio::spawn(self.shared.sessions.track_future(session));
        Ok(())
    }

    fn settle(&mut self, event: Event) {
        match event {
            Event::Accepted { connection, path, route, answer, done } => {
                let accepted = self.table.accept(connection, route, &answer);
                if accepted {
                    self.send(&answer, path);
                }
                let _ = done.send(accepted);
            }
            Event::Ended { connection, path, refusal } => {
                self.table.end(connection, refusal.as_deref(), Instant::now());
                if let Some(refusal) = refusal {
                    self.send(&refusal, path);
                }
            }
            Event::Tidy => self.table.forget_ended(Instant::now()),
            Event::Stop => {}
        }
    }

    fn send(&self, datagram: &[u8], path: Path) {
        send(&self.socket, datagram, path, &self.shared.context.metrics);
    }
}

fn send(socket: &Socket, datagram: &[u8], path: Path, metrics: &Metrics) {
    if socket.send_to(datagram, path).is_err() {
        metrics.dropped(UdpListener::Srt, Dropped::Unsent, 1);
    }
}

/// Passes a client's packet on to the origin.
fn relay(session: &SessionHandle, packet: &[u8], metrics: &Metrics) {
    session.count(Side::Client, 1, packet.len() as u64);
    match session.send(packet) {
        Ok(()) if srt::is_shutdown(packet) => session.end(EndReason::Closed),
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => session.end(EndReason::OriginGone),
        Err(_) => metrics.dropped(UdpListener::Srt, Dropped::Unsent, 1),
    }
}

/// What a conclusion asks for. One without a stream id asks for what SRS takes it for.
fn wanted(conclusion: &Handshake<'_>, vhosts: &Vhosts) -> Result<(Intent, StreamKey), Reason> {
    let id = conclusion.stream_id().map_err(|_| Reason::BAD_REQUEST)?;
    let id = StreamId::parse(id.as_deref().filter(|id| !id.is_empty()).unwrap_or(DEFAULT)).map_err(|e| match e {
        StreamIdError::NoStream => Reason::BAD_REQUEST,
        StreamIdError::Mode => Reason::BAD_MODE,
    })?;
    let queries: Vec<_> = id.queries.iter().map(String::as_str).collect();
    let stream = StreamKey::new(&id.host, &id.path, &queries, vhosts).map_err(|_| Reason::BAD_REQUEST)?;
    let intent = match id.mode {
        Mode::Publish => Intent::Publish,
        Mode::Request => Intent::Play,
    };
    Ok((intent, stream))
}
